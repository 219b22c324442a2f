"""Where ratings are kept: one SQLite file, append-only, at most one rating per person and item, chained by digests.
It also counts which harmful texts each person chose to see.

Tokens are kept as SHA-256 only: who reads the file cannot rate in someone's name.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from aifeedback.errors import InputError, JournalError
from aifeedback.records import Rating, content_id
from aifeedback.storage import make_folder

_SCHEMA = """
CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS secret (one INTEGER PRIMARY KEY CHECK (one = 1), key TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS ratings (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL, rater TEXT NOT NULL, record TEXT NOT NULL,
  digest TEXT NOT NULL, UNIQUE (item_id, rater));
CREATE TABLE IF NOT EXISTS exposures (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL, rater TEXT NOT NULL, at TEXT NOT NULL,
  UNIQUE (item_id, rater));
CREATE TRIGGER IF NOT EXISTS ratings_stay BEFORE UPDATE ON ratings BEGIN SELECT RAISE(ABORT, 'append-only'); END;
CREATE TRIGGER IF NOT EXISTS ratings_keep BEFORE DELETE ON ratings BEGIN SELECT RAISE(ABORT, 'append-only'); END;
"""


class RatingBook:
    """Safe for several threads and processes; every rating is on disk before ``add`` returns."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        make_folder(self.path.parent)
        self._lock = threading.Lock()
        try:
            self._db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as cause:
            raise JournalError(f"{self.path}: cannot be opened as a rating book: {cause}") from None
        self._db.execute("INSERT OR IGNORE INTO secret VALUES (1, ?)", (secrets.token_hex(32),))

    def close(self) -> None:
        self._db.close()

    def invite(self, raters: Sequence[str], *, keep: Mapping[str, str] | None = None) -> dict[str, str]:
        """A secret token for each rater; an earlier one stops working. Raises InputError for bad names.

        ``keep`` has tokens of an earlier start, by name: one that still opens the page stays as it is.
        """
        for name in raters:
            if not name.strip() or len(name) > 80 or not name.isprintable():
                raise InputError(f"{name!r} is no name for a rater", key="raters", fix="1 to 80 printable characters")
        if len(set(raters)) < len(raters):
            raise InputError("two raters have the same name", key="raters", fix="give every person an own name")
        kept = {name: token for name, token in (keep or {}).items() if self.rater_of(token) == name}
        tokens = {name: kept.get(name) or secrets.token_urlsafe(32) for name in raters}
        with self._lock:
            for name, token in tokens.items():
                self._db.execute("INSERT OR REPLACE INTO raters VALUES (?, ?)", (name, _digest(token)))
        return tokens

    def rater_of(self, token: str | None) -> str | None:
        """Whose token this is; None for nobody's."""
        if not token:
            return None
        with self._lock:
            row = self._db.execute("SELECT name FROM raters WHERE token_sha256 = ?", (_digest(token),)).fetchone()
        return row[0] if row else None

    def add(self, rating: Rating) -> bool:
        """Stores a rating; False where this person has rated this item before (the first one stays)."""
        record = rating.model_dump_json()
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                known = self._db.execute(
                    "SELECT 1 FROM ratings WHERE item_id = ? AND rater = ?", (rating.item_id, rating.rater)
                ).fetchone()
                if known is None:
                    last = self._db.execute("SELECT digest FROM ratings ORDER BY seq DESC LIMIT 1").fetchone()
                    digest = content_id(last[0] if last else "", record)
                    self._db.execute(
                        "INSERT INTO ratings (item_id, rater, record, digest) VALUES (?, ?, ?, ?)",
                        (rating.item_id, rating.rater, record, digest),
                    )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return known is None

    def ratings(self) -> list[Rating]:
        """All of them in the order given. Raises JournalError where one was changed or taken out by hand."""
        with self._lock:
            rows = self._db.execute("SELECT record, digest FROM ratings ORDER BY seq").fetchall()
        found, previous = [], ""
        for number, (record, digest) in enumerate(rows, 1):
            if content_id(previous, record) != digest:
                raise JournalError(
                    f"{self.path}: rating {number} was changed after it was given, or one before it was removed"
                )
            previous = digest
            found.append(Rating.model_validate_json(record))
        return found

    def rated_by(self, rater: str) -> set[str]:
        """Ids of the items that this person has rated."""
        with self._lock:
            rows = self._db.execute("SELECT item_id FROM ratings WHERE rater = ?", (rater,)).fetchall()
        return {row[0] for row in rows}

    def expose(self, rater: str, item_id: str, at: str, *, most: int | None) -> bool:
        """Notes that this person asks to see a harmful item; False, and nothing noted, where ``most`` are used up."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                seen = [row[0] for row in self._db.execute("SELECT item_id FROM exposures WHERE rater = ?", (rater,))]
                may = item_id in seen or most is None or len(seen) < most
                if may:
                    self._db.execute(
                        "INSERT OR IGNORE INTO exposures (item_id, rater, at) VALUES (?, ?, ?)", (item_id, rater, at)
                    )
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
        return may

    def exposed_to(self, rater: str) -> set[str]:
        """Ids of the harmful items whose texts this person has seen."""
        with self._lock:
            rows = self._db.execute("SELECT item_id FROM exposures WHERE rater = ?", (rater,)).fetchall()
        return {row[0] for row in rows}

    def sign(self, *parts: object) -> str:
        """A signature that only this book can make; binds a form to its rater, item, order and time."""
        with self._lock:
            key = self._db.execute("SELECT key FROM secret").fetchone()[0]
        return hmac.new(bytes.fromhex(key), repr(parts).encode(), hashlib.sha256).hexdigest()

    def is_signed(self, signature: str, *parts: object) -> bool:
        return hmac.compare_digest(signature.encode("utf-8", "replace"), self.sign(*parts).encode())


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
