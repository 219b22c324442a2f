"""Saving what is left of a damaged journal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from aifeedback.errors import JournalError
from aifeedback.store.chain import Entry, row_digest, setting_digest
from aifeedback.store.database import COLUMNS
from aifeedback.store.journal import Head, Journal

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
    found: dict[int, tuple[bytes, str]] = {}
    try:
        for number, digest, body in db.execute("SELECT id, digest, body FROM settings"):
            if isinstance(body, str) and setting_digest(body) == digest:
                found[number] = (digest, body)
    except sqlite3.Error as error:
        if not found:
            raise JournalError(f"nothing can be read: {error}\n  → restore a copy") from error
    return found


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
