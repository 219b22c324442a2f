"""The journal: one SQLite file (WAL) of every model call and rating, append-only, hash-chained, one final row per key.

* Commits are durable (``synchronous=FULL``) and all-or-nothing: ``kill -9``, a full disk and Ctrl-C leave a valid file.
* Any number of processes may write; each append takes SQLite's write lock, so rows never interleave inside a batch.
* A key has at most one final row. Whoever comes second gets the answer that stands already.
* Every row that is read is checked against its digest; ``verify`` checks the whole chain and the file's own structure.

``salvage`` copies the readable rows of a damaged journal into a new one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from aifeedback.errors import JournalError
from aifeedback.models.journal.integrity import Entry, Row, genesis, link, row_digest, setting_digest

APPLICATION_ID = 0x41494642
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE settings (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, body TEXT NOT NULL);
CREATE TABLE calls (
    seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, key BLOB NOT NULL, setting INTEGER NOT NULL REFERENCES settings(id),
    prompt_hash BLOB NOT NULL, outcome TEXT NOT NULL, answer TEXT NOT NULL, raw TEXT, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL,
    is_final INTEGER NOT NULL, digest BLOB NOT NULL, link BLOB NOT NULL);
CREATE UNIQUE INDEX one_answer ON calls(key) WHERE is_final = 1;
CREATE INDEX failed ON calls(key) WHERE is_final = 0;
"""
_STEPS = "CREATE TABLE IF NOT EXISTS steps (seq INTEGER PRIMARY KEY, step TEXT NOT NULL)"
"""Call → id of the step that made it; journals written before this table existed get it when they are opened."""
COLUMNS = (
    "seq, kind, key, setting, prompt_hash, outcome, answer, raw, prompt_tokens, completion_tokens, cost_usd, seconds, "
    "at, is_final, digest, link"
)
BUSY_S = 60.0
"""How long to wait for another process that holds the journal."""
SALVAGE = "nothing was read from it; restore a copy, or save the valid rows with aifeedback.models.journal.salvage(damaged, new)"


def advice(error: sqlite3.Error) -> str:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return "free some disk space and run the same command again; everything committed before is safe"
    if "locked" in text or "busy" in text:
        return f"another process held the journal for {BUSY_S:.0f} s; stop it or wait, then run the same command again"
    if "readonly" in text or "unable to open" in text:
        return "check that the folder exists and can be written"
    return SALVAGE


def open_database(path: Path) -> sqlite3.Connection:
    wal = path.with_name(path.name + "-wal")
    is_new = not path.exists() or path.stat().st_size == 0
    if is_new and wal.exists() and wal.stat().st_size > 0:
        raise JournalError(f"{path}: empty, but its log {wal.name} is not\n  → restore both files from one copy")
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")
    _require_sqlite(db, path)
    _write_ahead(db)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA cache_size = -16000")
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        _create(db, path)
    if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'steps'").fetchone():
        db.execute(_STEPS)
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"{path}: a journal of version {version}, this program reads {SCHEMA_VERSION}\n  → use the matching version"
        )


def _require_sqlite(db: sqlite3.Connection, path: Path) -> None:
    """Asks SQLite itself. Opening and closing the file here would drop every lock that this process holds on it (POSIX
    locks belong to the process), and another process could then remove the log from under an open connection."""
    try:
        db.execute("PRAGMA schema_version").fetchone()
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise JournalError(f"{path}: not a journal\n  → name another file, or remove this one") from None
        raise


def _write_ahead(db: sqlite3.Connection) -> None:
    """Several processes that create one file at once may collide here; SQLite's own waiting does not cover it."""
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _create(db: sqlite3.Connection, path: Path) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            if db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                raise JournalError(f"{path}: a database, but not a journal\n  → name another file")
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('journal_id', ?)", (secrets.token_hex(16),))
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


FILES = "files"
"""Kind of the rows that note digests of files; they are not calls and are not counted as such."""
_TAIL = 64
_KEYS_PER_QUERY = 500


class Head(NamedTuple):
    """How many rows there are, and the last link: two journals with equal heads are equal."""

    rows: int
    link: str


class Totals(NamedTuple):
    """What a journal adds up to, failed calls included."""

    calls: int
    answered: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    problems: dict[str, int]
    """Outcome → number of calls, without ``ok``."""


class Spent(NamedTuple):
    """Calls, failed ones included, and what they took."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Any) -> Spent:  # type: ignore[override]
        return Spent(*(one + more for one, more in zip(self, other, strict=True)))


class Journal:
    """Opens or creates the journal at ``path``; raises JournalError where the file is damaged or something else."""

    def __init__(self, path: str | os.PathLike[str], *, step: str = "") -> None:
        """``step``: id of the step that makes the calls; it is kept beside each of them, outside the chain."""
        self.path, self.step = Path(path), step
        self._lock = threading.RLock()
        self._pid = -1
        self._db: sqlite3.Connection | None = None
        self._setting_ids: dict[str, int] = {}
        self._settings: dict[int, tuple[bytes, str]] = {}
        with self._guard():
            self._connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Safe to call twice; the journal opens again when it is used again."""
        with self._lock:
            if self._db is not None and self._pid == os.getpid():
                self._db.close()
            self._db = None

    # ---------------------------------------------------------------- reading

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The final entries among ``keys``; raises JournalError where one does not match its digest."""
        entries: dict[bytes, Entry] = {}
        with self._guard():
            db = self._connection()
            for start in range(0, len(keys), _KEYS_PER_QUERY):
                for row in self._final_rows(db, keys[start : start + _KEYS_PER_QUERY]):
                    entries[row.entry.key] = row.entry
        return entries

    def calls(self, key: bytes) -> list[Row]:
        """Every attempt at one question, oldest first."""
        with self._guard():
            return self._between(key, key)

    def by_call_id(self, call_id: str) -> list[Row]:
        """Every attempt at the question that a record's ``call_id`` names, oldest first."""
        low = bytes.fromhex(call_id)
        high = low + b"\xff" * (32 - len(low))
        with self._guard():
            return self._between(low, high)

    def _between(self, low: bytes, high: bytes) -> list[Row]:
        where = " OR ".join(f"(is_final = {final} AND key BETWEEN ? AND ?)" for final in (0, 1))
        query = f"SELECT {COLUMNS} FROM calls WHERE {where} ORDER BY seq"
        return [self._checked(values) for values in self._connection().execute(query, (low, high, low, high))]

    def rows(self, kind: str | None = None) -> Iterator[Row]:
        """All rows in order, the chain checked on the way; raises JournalError at the first that does not fit."""
        last, seq = self._genesis(), 0
        while True:
            with self._guard():
                batch = self._connection().execute(
                    f"SELECT {COLUMNS} FROM calls WHERE seq > ? ORDER BY seq LIMIT 1000", (seq,)
                )
                rows = [self._checked(values) for values in batch]
            if not rows:
                return
            for row in rows:
                seq += 1
                last = self._follows(row, seq, last)
                if kind is None or row.entry.kind == kind:
                    yield row

    def of_kind(self, kind: str) -> list[Row]:
        """The rows of one kind, oldest first, each checked against its digest; the chain between them is not."""
        with self._guard():
            cursor = self._connection().execute(f"SELECT {COLUMNS} FROM calls WHERE kind = ? ORDER BY seq", (kind,))
            return [self._checked(values) for values in cursor]

    def steps_digest(self, upto: int) -> str:
        """SHA-256 over which step made which call, up to a row; the chain itself does not hold it."""
        digest = hashlib.sha256()
        with self._guard():
            for seq, step in self._connection().execute(
                "SELECT seq, step FROM steps WHERE seq <= ? ORDER BY seq", (upto,)
            ):
                digest.update(f"{seq}\t{step}\n".encode())
        return digest.hexdigest()

    def head(self) -> Head:
        with self._guard():
            seq, last = self._last(self._connection())
            return Head(seq, last.hex())

    def totals(self) -> Totals:
        with self._guard():
            db = self._connection()
            sums = db.execute(
                "SELECT COUNT(*), COALESCE(SUM(is_final), 0), COALESCE(SUM(prompt_tokens), 0), "
                f"COALESCE(SUM(completion_tokens), 0), COALESCE(SUM(cost_usd), 0.0) FROM calls WHERE kind <> '{FILES}'"
            ).fetchone()
            problems = db.execute("SELECT outcome, COUNT(*) FROM calls WHERE outcome <> 'ok' GROUP BY outcome")
            return Totals(*sums, problems=dict(sorted(problems)))

    def spent(self, step: str | None = None) -> Spent:
        """Sums over the calls of one step, or of all of them."""
        query = "SELECT COUNT(*), COALESCE(SUM(prompt_tokens + completion_tokens), 0), COALESCE(SUM(cost_usd), 0.0) "
        with self._guard():
            if step is None:
                return Spent(*self._connection().execute(f"{query} FROM calls WHERE kind <> '{FILES}'").fetchone())
            joined = (
                f"{query} FROM calls JOIN steps ON steps.seq = calls.seq WHERE kind <> '{FILES}' AND steps.step = ?"
            )
            return Spent(*self._connection().execute(joined, (step,)).fetchone())

    def spent_usd(self, model: str) -> float:
        """What all calls of one model (its URI) cost, failed ones included."""
        with self._guard():
            query = (
                "SELECT COALESCE(SUM(cost_usd), 0.0) FROM calls JOIN settings ON settings.id = calls.setting "
                "WHERE json_extract(settings.body, '$.card.uri') = ?"
            )
            return float(self._connection().execute(query, (model,)).fetchone()[0])

    def verify(self, expected: Head | None = None) -> Head:
        """Checks the file's structure, every digest and every link; raises JournalError naming the first bad row.

        With ``expected`` (a head kept elsewhere) it also finds rows cut off the end, or a chain rewritten as a whole.
        """
        with self._guard():
            report = self._connection().execute("PRAGMA integrity_check(1)").fetchone()
            if report != ("ok",):
                raise JournalError(f"{self.path}: damaged: {report[0]}\n  → {SALVAGE}")
        count, last = 0, self._genesis().hex()
        at_expected = last if expected is not None and expected.rows == 0 else None
        for row in self.rows():
            count, last = row.seq, row.link.hex()
            if expected is not None and count == expected.rows:
                at_expected = last
        if expected is not None and at_expected != expected.link:
            raise JournalError(
                f"{self.path}: {count} rows, but row {expected.rows} is not the one noted earlier: rows were "
                f"removed or the journal was rewritten\n  → restore it from a copy"
            )
        return Head(count, last)

    # ---------------------------------------------------------------- writing

    def append(self, entries: Sequence[Entry]) -> list[Entry]:
        """Commits all entries or none; returns for each the one that stands (an earlier final answer wins)."""
        if not entries:
            return []
        with self._guard():
            db = self._connection()
            self._begin(db)
            try:
                standing = self._append(db, entries)
                db.execute("COMMIT")
            except BaseException:
                self._roll_back(db)
                raise
        return standing

    def _append(self, db: sqlite3.Connection, entries: Sequence[Entry]) -> list[Entry]:
        standing: dict[bytes, Entry] = {}
        finals = [entry.key for entry in entries if entry.is_final]
        for start in range(0, len(finals), _KEYS_PER_QUERY):
            for row in self._final_rows(db, finals[start : start + _KEYS_PER_QUERY]):
                standing[row.entry.key] = row.entry
        seq, last = self._last(db)
        now, rows = time.time(), []
        for entry in entries:
            if entry.is_final and entry.key in standing:
                continue
            seq += 1
            stamped = entry if entry.at else entry._replace(at=now)
            setting_id, setting = self._setting_id(db, entry.setting)
            digest = row_digest(seq, stamped, setting)
            last = link(last, digest)
            rows.append((seq, stamped.kind, stamped.key, setting_id, *stamped[3:], digest, last))
            if entry.is_final:
                standing[entry.key] = stamped
        db.executemany(f"INSERT INTO calls ({COLUMNS}) VALUES ({','.join('?' * 16)})", rows)
        db.executemany("INSERT OR REPLACE INTO steps (seq, step) VALUES (?, ?)", [(row[0], self.step) for row in rows])
        return [standing[entry.key] if entry.is_final else entry for entry in entries]

    def _setting_id(self, db: sqlite3.Connection, body: str) -> tuple[int, bytes]:
        if body not in self._setting_ids:
            digest = setting_digest(body)
            db.execute("INSERT OR IGNORE INTO settings (digest, body) VALUES (?, ?)", (digest, body))
            row_id = db.execute("SELECT id FROM settings WHERE digest = ?", (digest,)).fetchone()[0]
            self._setting_ids[body], self._settings[row_id] = row_id, (digest, body)
        setting_id = self._setting_ids[body]
        return setting_id, self._settings[setting_id][0]

    # ---------------------------------------------------------------- checking

    def _final_rows(self, db: sqlite3.Connection, keys: Sequence[bytes]) -> list[Row]:
        marks = ",".join("?" * len(keys))
        cursor = db.execute(f"SELECT {COLUMNS} FROM calls WHERE is_final = 1 AND key IN ({marks})", tuple(keys))
        return [self._checked(values) for values in cursor]

    def _checked(self, values: tuple[Any, ...]) -> Row:
        try:
            seq, kind, key, setting_id, *rest, is_final, digest, last = values
            setting, body = self._setting(setting_id)
            entry = Entry(kind, key, body, *rest, is_final=bool(is_final))
            intact = is_final in (0, 1) and row_digest(seq, entry, setting) == digest
        except (TypeError, ValueError, AttributeError):
            intact, seq, entry, digest, last = False, values[0], None, b"", b""
        if not intact or entry is None:
            raise JournalError(f"{self.path}: row {seq} was changed after it was written\n  → {SALVAGE}")
        return Row(seq, entry, digest, last)

    def _setting(self, setting_id: int) -> tuple[bytes, str]:
        if setting_id not in self._settings:
            row = self._connection().execute("SELECT digest, body FROM settings WHERE id = ?", (setting_id,)).fetchone()
            if row is None or setting_digest(row[1]) != row[0]:
                raise ValueError("setting")
            self._settings[setting_id] = (row[0], row[1])
            self._setting_ids[row[1]] = setting_id
        return self._settings[setting_id]

    def _follows(self, row: Row, seq: int, last: bytes) -> bytes:
        if row.seq != seq:
            raise JournalError(f"{self.path}: row {seq} is missing\n  → {SALVAGE}")
        if link(last, row.digest) != row.link:
            raise JournalError(f"{self.path}: the chain breaks at row {seq}\n  → {SALVAGE}")
        return row.link

    def _last(self, db: sqlite3.Connection) -> tuple[int, bytes]:
        row = db.execute("SELECT seq, link FROM calls ORDER BY seq DESC LIMIT 1").fetchone()
        return (row[0], row[1]) if row else (0, self._genesis())

    def _genesis(self) -> bytes:
        with self._guard():
            row = self._connection().execute("SELECT value FROM meta WHERE name = 'journal_id'").fetchone()
        if not row or not isinstance(row[0], str):
            raise JournalError(f"{self.path}: the journal's own id is gone\n  → {SALVAGE}")
        return genesis(row[0])

    def _check_tail(self, db: sqlite3.Connection) -> None:
        cursor = db.execute(f"SELECT {COLUMNS} FROM calls ORDER BY seq DESC LIMIT {_TAIL + 1}")
        rows = [self._checked(values) for values in cursor][::-1]
        if rows and rows[0].seq == 1:
            self._follows(rows[0], 1, self._genesis())
        elif rows and len(rows) <= _TAIL:
            raise JournalError(f"{self.path}: rows before row {rows[0].seq} are missing\n  → {SALVAGE}")
        for before, row in pairwise(rows):
            self._follows(row, before.seq + 1, before.link)

    # ---------------------------------------------------------------- the file

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or self._pid != os.getpid():  # SQLite connections do not survive a fork
            self._setting_ids, self._settings = {}, {}
            self._db, self._pid = open_database(self.path), os.getpid()
            self._check_tail(self._db)
        return self._db

    @contextmanager
    def _guard(self) -> Generator[None]:
        with self._lock:
            try:
                yield
            except sqlite3.Error as error:
                raise JournalError(f"{self.path}: {error}\n  → {advice(error)}") from error

    def _begin(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")

    def _roll_back(self, db: sqlite3.Connection) -> None:
        self._setting_ids, self._settings = {}, {}
        if db.in_transaction:
            db.execute("ROLLBACK")


_GIVE_UP_AFTER = 10_000


def salvage(damaged: str | os.PathLike[str], new: str | os.PathLike[str]) -> Head:
    """Copies every row that still matches its own digest into a new journal, and returns that journal's head.

    The rows get a new chain: it shows that they were not changed since, not that none is missing. What is not in the
    new journal is asked again by the next run. Raises JournalError where ``new`` exists or nothing can be read.
    """
    if Path(new).exists():
        raise JournalError(f"{new}: exists already\n  → name a new file")
    with Journal(new) as journal:
        batch: list[Entry] = []
        for entry in _valid(Path(damaged)):
            batch.append(entry)
            if len(batch) == 1000:
                journal.append(batch)
                batch = []
        journal.append(batch)
        return journal.head()


def _valid(path: Path) -> Iterator[Entry]:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        settings = _settings(db)
        seq, missed = 0, 0
        while missed < _GIVE_UP_AFTER:
            seq += 1
            entry = _row(db, seq, settings)
            missed = missed + 1 if entry is None else 0
            if entry is not None:
                yield entry
    finally:
        db.close()


def _settings(db: sqlite3.Connection) -> dict[int, tuple[bytes, str]]:
    settings: dict[int, tuple[bytes, str]] = {}
    try:
        for number, digest, body in db.execute("SELECT id, digest, body FROM settings"):
            if isinstance(body, str) and setting_digest(body) == digest:
                settings[number] = (digest, body)
    except sqlite3.Error as error:
        if not settings:
            raise JournalError(f"nothing can be read: {error}\n  → restore a copy") from error
    return settings


def _row(db: sqlite3.Connection, seq: int, settings: dict[int, tuple[bytes, str]]) -> Entry | None:
    try:
        values = db.execute(f"SELECT {COLUMNS} FROM calls WHERE seq = ?", (seq,)).fetchone()
        if values is None:
            return None
        _, kind, key, setting_id, *rest, is_final, digest, _ = values
        setting, body = settings[setting_id]
        entry = Entry(kind, key, body, *rest, is_final=bool(is_final))
        return entry if row_digest(seq, entry, setting) == digest else None
    except (sqlite3.Error, KeyError, TypeError, ValueError, AttributeError):
        return None
