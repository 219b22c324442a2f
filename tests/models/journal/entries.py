"""Journal entries for tests (the same number gives the same entry), and what child processes do with them."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

from aifeedback.errors import JournalError
from aifeedback.models.journal import Entry, Journal, content_key, prompt_hash, setting_digest

SETTING = '{"card":"stub"}'


def entry(number: int, *, answer: str | None = None) -> Entry:
    hashed = prompt_hash(f"prompt {number}")
    return Entry(
        kind="labels",
        key=content_key(setting_digest(SETTING), hashed),
        setting=SETTING,
        prompt_hash=hashed,
        outcome="ok",
        answer=answer or f'{{"logprobs":[-0.{number + 1},-1.5]}}',
        raw='{"top":{"1":-0.5}}',
        prompt_tokens=number,
        cost_usd=0.001 * number,
        seconds=0.25,
        at=1_700_000_000.0 + number,
    )


def write(path: Path, writer: int, rows: int, batch: int, barrier: str) -> None:
    """Once the file ``barrier`` is there: rows of its own, and one shared row for every ten."""
    while not os.path.exists(barrier):
        time.sleep(0.01)
    with Journal(path) as journal:
        for start in range(0, rows, batch):
            own = [entry(10**6 * (writer + 1) + n) for n in range(start, min(start + batch, rows))]
            shared = [entry(n, answer=f'{{"writer":{writer}}}') for n in range(start // 10, start // 10 + batch // 10)]
            journal.append([*own, *shared])


def write_beyond_the_limit(path: Path, told: Path) -> None:
    """Appends until the kernel refuses to let the file grow; tells how many rows were committed, and the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(path)
    try:
        for number in range(100_000):
            journal.append([entry(number, answer="x" * 500)])
    except JournalError as error:
        told.write_text(f"{number}\n{error}")
