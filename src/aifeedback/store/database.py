"""The journal's file: a SQLite database that is ours, opened so that a commit is durable and several may write."""

from __future__ import annotations

import secrets
import sqlite3
import time
from pathlib import Path

from aifeedback.errors import JournalError

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
SALVAGE = "nothing was read from it; restore a copy, or save the valid rows with aifeedback.store.salvage(damaged, new)"


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
