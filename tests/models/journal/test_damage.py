"""A journal that was cut or in which bits flipped is recovered up to the damage, or refused; never read as data."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from aifeedback.errors import JournalError
from aifeedback.models.journal import Journal, Row, salvage
from models.journal.entries import entry


class Damaged:
    """Copies of one journal with other bytes; ``look`` says what opening and reading them comes to."""

    def __init__(self, folder: Path, database: bytes, log: bytes | None, rows: list[Row]) -> None:
        self.folder, self.database, self.log, self.rows = folder, database, log, rows
        self.seen: Counter[str] = Counter()
        self._number = 0

    def look(self, *, database: bytes | None = None, log: bytes | None = None) -> str:
        self._number += 1
        path = self.folder / f"{self._number}.sqlite"
        path.write_bytes(self.database if database is None else database)
        if self.log is not None:
            path.with_name(path.name + "-wal").write_bytes(self.log if log is None else log)
        outcome = self._read(path)
        for left in self.folder.glob(f"{self._number}.sqlite*"):
            left.unlink()
        self.seen[outcome] += 1
        return outcome

    def _read(self, path: Path) -> str:
        try:
            with Journal(path) as journal:
                found = journal.find([row.entry.key for row in self.rows])
                assert all(found.get(row.entry.key, row.entry) == row.entry for row in self.rows)
                journal.verify()
                rows = list(journal.rows())
        except JournalError:
            return "refused"
        assert repr(rows) == repr(self.rows[: len(rows)]), "accepted something that was never written"
        return "whole" if len(rows) == len(self.rows) else "valid beginning"


def checkpointed(folder: Path) -> Damaged:
    """Twelve rows in the database file itself."""
    with Journal(folder / "a.sqlite") as journal:
        journal.append([entry(n) for n in range(12)])
        rows = list(journal.rows())
    return Damaged(folder, (folder / "a.sqlite").read_bytes(), None, rows)


def in_the_log(folder: Path) -> tuple[Damaged, int]:
    """Twelve rows, the last three of them commits that are only in the write-ahead log, and where those begin."""
    path, log = folder / "a.sqlite", folder / "a.sqlite-wal"
    journal = Journal(path)
    journal.append([entry(n) for n in range(9)])
    start = log.stat().st_size
    for n in range(9, 12):
        journal.append([entry(n)])
    rows = list(journal.rows())
    for name in ("a.sqlite", "a.sqlite-wal"):
        shutil.copy(folder / name, folder / f"copy-{name}")
    journal.close()
    return Damaged(
        folder, (folder / "copy-a.sqlite").read_bytes(), (folder / "copy-a.sqlite-wal").read_bytes(), rows
    ), start


def place(content: bytes, row: Row) -> range:
    """The bytes of one record: from its header, a few bytes before its first column, to the end of its last."""
    end = content.index(row.link) + 32
    return range(content.rindex(b"labels", 0, end) - 24, end)


def cut_everywhere(folder: Path, step: int, log_step: int) -> dict[str, Counter[str]]:
    """Truncates at every so many bytes of the last three records, in the database file and in the log."""
    (folder / "database").mkdir()
    (folder / "log").mkdir()
    stored = checkpointed(folder / "database")
    places = [place(stored.database, row) for row in stored.rows[-3:]]
    for end in range(min(p.start for p in places), max(p.stop for p in places) + 1, step):
        stored.look(database=stored.database[:end])
    logged, start = in_the_log(folder / "log")
    assert logged.log is not None
    for end in range(start, len(logged.log), log_step):
        logged.look(log=logged.log[:end])
    return {"database": stored.seen, "log": logged.seen}


def flip_everywhere(folder: Path, step: int) -> dict[str, Counter[str]]:
    """Flips every ``step``-th bit of one record, in the database file and in the log.

    One bit of a record in the database file may be flipped without changing anything that is read: of the type of the
    key column, whose value SQLite stores elsewhere (a NULL becomes a 0 that is never looked at).
    """
    (folder / "database").mkdir()
    (folder / "log").mkdir()
    stored = checkpointed(folder / "database")
    for bit in _bits(place(stored.database, stored.rows[6]), step):
        stored.look(database=_flipped(stored.database, bit))
    assert stored.seen["whole"] <= 1
    logged, _ = in_the_log(folder / "log")
    assert logged.log is not None
    for bit in _bits(place(logged.log, logged.rows[-1]), step):
        assert logged.look(log=_flipped(logged.log, bit)) != "whole"
    return {"database": stored.seen, "log": logged.seen}


def _bits(where: range, step: int) -> range:
    return range(8 * (where.start + 8), 8 * where.stop, step)


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_cut_anywhere(tmp_path: Path) -> None:
    seen = cut_everywhere(tmp_path, 61, 997)
    assert seen["database"]["whole"] == 0
    assert seen["log"]["valid beginning"] > 0


def test_flipped_anywhere(tmp_path: Path) -> None:
    seen = flip_everywhere(tmp_path, 23)
    assert seen["database"]["refused"] > 0
    assert seen["log"]["valid beginning"] > 0


@pytest.mark.campaign
def test_campaign_every_byte(tmp_path: Path) -> None:
    print("cut", cut_everywhere(tmp_path, 1, 1))


@pytest.mark.campaign
def test_campaign_every_bit(tmp_path: Path) -> None:
    print("flip", flip_everywhere(tmp_path, 1))


def test_not_a_journal_at_all(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("prompt,chosen\n" * 100)
    with pytest.raises(JournalError, match="not a journal"):
        Journal(tmp_path / "text")


def test_salvage_keeps_the_valid_rows(tmp_path: Path) -> None:
    stored = checkpointed(tmp_path)
    where = place(stored.database, stored.rows[8])
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(_flipped(stored.database, 8 * (where.start + 120)))
    with pytest.raises(JournalError, match="salvage"):
        Journal(damaged).verify()
    saved = salvage(damaged, tmp_path / "saved.sqlite")
    with Journal(tmp_path / "saved.sqlite") as journal:
        assert journal.verify() == saved
        assert [row.entry for row in journal.rows()] == [row.entry for row in stored.rows if row.seq != 9]
