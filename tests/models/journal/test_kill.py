"""Kill -9 at any instant of a labelling run loses no committed judgement and repeats only what was in flight."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from aifeedback.models.journal import Journal
from models.journal.killed import half_a_transaction, label

CONTEXT = multiprocessing.get_context("fork")


class Life(NamedTuple):
    committed: frozenset[bytes]
    asked: int


def _life(folder: Path) -> Life:
    """What the journal holds and how many questions were asked so far, as a killed process left them."""
    log = folder / "asked.log"
    asked = len(log.read_bytes()) // 65 if log.exists() else 0
    if not (folder / "journal.sqlite").exists():
        return Life(frozenset(), asked)
    with Journal(folder / "journal.sqlite") as journal:
        journal.verify()
        rows = [row.entry.key for row in journal.rows()]
    assert len(rows) == len(set(rows))
    return Life(frozenset(rows), asked)


def _uninterrupted(folder: Path, pairs: int) -> bytes:
    folder.mkdir()
    label(folder, pairs, 8, 0.0)
    return (folder / "labels.jsonl").read_bytes()


def kill_often(
    folder: Path, *, pairs: int, kills: int, width: int, delay_s: float, longest_s: float, seed: int
) -> dict:
    """Starts the run again and again, kills it after a random time, and checks every promise after every kill."""
    expected = _uninterrupted(folder / "whole", pairs)
    draw, done, finished, repeated, in_flight = random.Random(seed), 0, 0, 0, 0
    while done < kills or not finished:
        run = folder / f"run{finished}"
        run.mkdir()
        before, allowed = Life(frozenset(), 0), 0
        while True:
            process = CONTEXT.Process(target=label, args=(run, pairs, width, delay_s))
            process.start()
            process.join(draw.uniform(0.0, longest_s) if done < kills else None)
            was_killed = process.is_alive()
            process.kill()
            process.join()
            after = _life(run)
            assert before.committed <= after.committed
            lost = (after.asked - before.asked) - len(after.committed - before.committed)
            assert 0 <= lost <= width
            before = after
            if not was_killed and process.exitcode == 0:
                break
            done += 1
            allowed += lost
        assert (run / "labels.jsonl").read_bytes() == expected
        assert len(before.committed) == 2 * pairs
        repeated += before.asked - 2 * pairs
        in_flight += allowed
        assert before.asked - 2 * pairs <= allowed
        finished += 1
    return {"kills": done, "runs finished": finished, "repeated calls": repeated, "in flight at kills": in_flight}


def test_twenty_kills(tmp_path: Path) -> None:
    counted = kill_often(tmp_path, pairs=120, kills=20, width=8, delay_s=0.01, longest_s=0.25, seed=3)
    assert counted["kills"] >= 20


@pytest.mark.campaign
def test_campaign_thousand_kills(tmp_path: Path) -> None:
    start = time.monotonic()
    counted = kill_often(tmp_path, pairs=2000, kills=1000, width=8, delay_s=0.002, longest_s=0.8, seed=4)
    print(counted, f"{time.monotonic() - start:.0f} s")


def test_killed_while_sqlite_writes(tmp_path: Path) -> None:
    """A transaction that never committed leaves nothing behind, whatever of it had reached the log file."""
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.append([])
        head = journal.head()
    process = CONTEXT.Process(target=half_a_transaction, args=(tmp_path / "journal.sqlite",))
    process.start()
    process.join()
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.verify() == head
