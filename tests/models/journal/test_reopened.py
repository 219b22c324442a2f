"""Several openings in several processes at once keep one journal whole.

POSIX locks belong to a process. If opening a journal touched the file beside SQLite, an earlier opening in the same
process would lose its lock, and another process that closed the journal would take the log away from under it.
"""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path

from aifeedback.models.journal import Journal
from models.journal.entries import entry

ROUNDS, PROCESSES = 40, 3


def open_and_append(path: Path, base: int) -> None:
    random.seed(base)
    opened: list[Journal] = []
    for number in range(ROUNDS):
        opened.append(Journal(path))
        if len(opened) > 4:
            opened.pop(0).close()
        for journal in opened[:3]:
            journal.append([entry(base + number)])
            journal.find([entry(base).key])


def test_openings_come_and_go_in_several_processes(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=open_and_append, args=(path, 1000 * n)) for n in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    with Journal(path) as journal:
        assert journal.verify().rows == ROUNDS * PROCESSES
