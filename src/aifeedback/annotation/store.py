"""The store of ratings: append-only, chained by digests, one rating per rater, item and revision.

A SQLite file, or a PostgreSQL database by its URL (``database.py``). It also keeps skipped items, drafts, and which
harmful texts each rater chose to see. Tokens are kept as SHA-256 only: reading the store does not let anyone rate in
another's name. Readers never wait for a writer; a write that cannot be done within ``patience_s`` raises
StoreUnavailable and leaves nothing behind.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

from aifeedback.annotation.database import Connection, database, shown
from aifeedback.annotation.database import Unavailable as StoreUnavailable
from aifeedback.errors import InputError, JournalError
from aifeedback.types import Rating, content_id

__all__ = ["RatingStore", "StoreUnavailable"]


class RatingStore:
    """Safe for several threads and processes; every rating is on disk before ``add`` returns."""

    def __init__(self, path: str | PathLike[str], *, patience_s: float = 5.0) -> None:
        """``path`` is a file, or a URL: ``postgresql://user@host/database``."""
        self.path, self.patience_s = path, patience_s
        self._base = database(path, patience_s)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        try:
            self._db = self._base.connect()
            self._base.prepare(self._db)
            self._db.execute("INSERT INTO secret VALUES (1, ?) ON CONFLICT DO NOTHING", (secrets.token_hex(32),))
            self._key = bytes.fromhex(self._db.execute("SELECT key FROM secret").fetchone()[0])
        except (sqlite3.DatabaseError, *self._base.passing) as cause:
            raise JournalError(f"{shown(path)}: cannot be opened as a store of ratings: {cause}") from None

    def close(self) -> None:
        for connection in (self._db, *self._idle):
            connection.close()
        self._idle.clear()

    def invite(self, raters: Sequence[str], *, keep: Mapping[str, str] | None = None) -> dict[str, str]:
        """Make a secret token for each rater; an earlier one stops working. Raises InputError for bad names.

        ``keep`` has tokens of an earlier start, by name: one that still opens the page stays as it is.
        """
        for name in raters:
            if not name.strip() or len(name) > 80 or not name.isprintable():
                raise InputError(f"{name!r} cannot name a rater", key="raters", fix="1 to 80 printable characters")
        if len(set(raters)) < len(raters):
            raise InputError("two raters have the same name", key="raters", fix="names must be unique")
        kept = {name: token for name, token in (keep or {}).items() if self.rater_of(token) == name}
        tokens = {name: kept.get(name) or secrets.token_urlsafe(32) for name in raters}
        with self._writing() as db:
            for name, token in tokens.items():
                db.execute(
                    "INSERT INTO raters VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET token_sha256 = excluded.token_sha256",
                    (name, _digest(token)),
                )
        return tokens

    def rater_of(self, token: str | None) -> str | None:
        """The rater with this token; None for an unknown token."""
        if not token:
            return None
        rows = self._read("SELECT name FROM raters WHERE token_sha256 = ?", _digest(token))
        return rows[0][0] if rows else None

    def add(self, rating: Rating) -> bool:
        """Store a rating; False where this rater has one of this item and revision already (the first one stays)."""
        record = rating.model_dump_json()
        with self._writing() as db:
            known = db.execute(
                "SELECT 1 FROM ratings WHERE item_id = ? AND rater = ? AND revision = ?",
                (rating.item_id, rating.rater, rating.revision),
            ).fetchone()
            if known is None:
                last = db.execute("SELECT digest FROM ratings ORDER BY seq DESC LIMIT 1").fetchone()
                digest = content_id(last[0] if last else "", record)
                db.execute(
                    "INSERT INTO ratings (item_id, rater, record, digest, revision) VALUES (?, ?, ?, ?, ?)",
                    (rating.item_id, rating.rater, record, digest, rating.revision),
                )
                db.execute("DELETE FROM drafts WHERE item_id = ? AND rater = ?", (rating.item_id, rating.rater))
        return known is None

    def ratings(self) -> list[Rating]:
        """All ratings in the order of storage, corrected ones included; ``items.current`` takes the last of each.

        Raises JournalError where one was changed or removed by hand.
        """
        ratings, previous = [], ""
        for number, (record, digest) in enumerate(self._read("SELECT record, digest FROM ratings ORDER BY seq"), 1):
            if content_id(previous, record) != digest:
                raise JournalError(f"{shown(self.path)}: rating {number} was changed, or one before it was removed")
            previous = digest
            ratings.append(Rating.model_validate_json(record))
        return ratings

    def ratings_of(self, rater: str) -> list[Rating]:
        """The ratings of one rater in the order of storage, corrected ones included."""
        rows = self._read("SELECT record FROM ratings WHERE rater = ? ORDER BY seq", rater)
        return [Rating.model_validate_json(row[0]) for row in rows]

    def rated_by(self, rater: str) -> set[str]:
        """Ids of the items that this rater has rated."""
        return {row[0] for row in self._read("SELECT item_id FROM ratings WHERE rater = ?", rater)}

    def raters_of(self) -> dict[str, set[str]]:
        """Who has rated each item, by the id under which it was stored."""
        raters: dict[str, set[str]] = {}
        for item_id, rater in self._read("SELECT item_id, rater FROM ratings"):
            raters.setdefault(item_id, set()).add(rater)
        return raters

    def skip(self, rater: str, item_id: str, entry: Mapping[str, str]) -> None:
        """Put an item at the end of this rater's queue, with what was entered so far."""
        with self._writing() as db:
            db.execute("INSERT INTO skips (item_id, rater) VALUES (?, ?)", (item_id, rater))
            db.execute(
                "INSERT INTO drafts (item_id, rater, entry) VALUES (?, ?, ?) "
                "ON CONFLICT (item_id, rater) DO UPDATE SET entry = excluded.entry",
                (item_id, rater, json.dumps(dict(entry))),
            )

    def skipped_by(self, rater: str) -> dict[str, int]:
        """Skipped items and when each was skipped last, as a running number."""
        rows = self._read("SELECT item_id, max(seq) FROM skips WHERE rater = ? GROUP BY item_id", rater)
        return dict(rows)

    def draft(self, rater: str, item_id: str) -> dict[str, str]:
        """What this rater had entered when they skipped the item."""
        rows = self._read("SELECT entry FROM drafts WHERE item_id = ? AND rater = ?", item_id, rater)
        return json.loads(rows[0][0]) if rows else {}

    def expose(self, rater: str, item_id: str, at: str, *, most: int | None) -> bool:
        """Record that this rater asks to see a harmful item; False, and nothing recorded, once ``most`` were seen."""
        with self._writing() as db:
            seen = [row[0] for row in db.execute("SELECT item_id FROM exposures WHERE rater = ?", (rater,))]
            may = item_id in seen or most is None or len(seen) < most
            if may:
                db.execute(
                    "INSERT INTO exposures (item_id, rater, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (item_id, rater, at),
                )
        return may

    def exposed_to(self, rater: str) -> set[str]:
        """Ids of the harmful items whose texts this rater has seen."""
        return {row[0] for row in self._read("SELECT item_id FROM exposures WHERE rater = ?", rater)}

    def sign(self, *parts: object) -> str:
        """A signature that only this file can make; binds a form to its rater, item, order and time."""
        return hmac.new(self._key, repr(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()

    def is_signed(self, signature: str, *parts: object) -> bool:
        return hmac.compare_digest(signature.encode("utf-8", "replace"), self.sign(*parts).encode())

    def public_id(self, *parts: object) -> str:
        """A name for this file, or for a rater in it, that identifies neither."""
        return self.sign("public", *parts)[:12]

    def _read(self, query: str, *values: Any) -> list[Any]:
        """Run on a separate connection, so that readers do not wait for writers."""
        connection, is_fresh = None, False
        try:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection, is_fresh = self._base.connect(), True
            return connection.execute(query, values).fetchall()
        except self._base.passing as cause:
            if connection is not None and not is_fresh and not self._base.is_usable(connection):
                return self._read(query, *values)  # the server was restarted since
            raise StoreUnavailable(self.path, cause) from None
        finally:
            if connection is not None and self._base.is_usable(connection):
                self._idle.append(connection)

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        """A transaction, committed at the end. Raises StoreUnavailable where it cannot be had or cannot be committed."""
        if not self._lock.acquire(timeout=self.patience_s):
            raise StoreUnavailable(self.path, None)
        try:
            self._begin()
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._base.is_usable(self._db) and self._base.in_transaction(self._db):
                    self._db.execute("ROLLBACK")
                raise
        except self._base.passing as cause:
            raise StoreUnavailable(self.path, cause) from None
        finally:
            self._lock.release()

    def _begin(self) -> None:
        """Start a transaction; over a new connection where the server was restarted since the last one."""
        try:
            if self._base.is_usable(self._db):
                self._base.begin(self._db)
                return
        except self._base.passing:
            if self._base.is_usable(self._db):
                if self._base.in_transaction(self._db):
                    self._db.execute("ROLLBACK")
                raise
        self._db = self._base.connect()
        self._base.begin(self._db)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
