"""A labelling run to be killed at any instant: 2,000 pairs in both orders, a fake judge, a journal, an export."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal, prompt_hash
from aifeedback.models.journaled import Answered, Journaled
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, ModelCard, Prompt, PromptLike, Reading, Reply, Sampling

PROMPT = JudgePrompt.read(
    {
        "name": "plain",
        "task": "pairwise",
        "labels": ["1", "2"],
        "preamble": "Which response is better?",
        "sample": "Question:\n{{ context }}\n\nResponse 1:\n{{ first }}\n\nResponse 2:\n{{ second }}",
        "ending": "Better: ",
    }
)


class Logged:
    """A streaming fake judge that writes down every question before it answers it, ``width`` of them at a time."""

    def __init__(self, log: Path, *, width: int, delay_s: float) -> None:
        self.model, self.width, self.delay_s = FakeModel("noisy"), width, delay_s
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    @property
    def card(self) -> ModelCard:
        return self.model.card

    def iter_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> Iterator[list[Answered]]:
        for start in range(0, len(prompts), self.width):
            some = prompts[start : start + self.width]
            os.write(self.log, b"".join(prompt_hash(prompt).hex().encode() + b"\n" for prompt in some))
            time.sleep(self.delay_s)
            yield [Answered(start + n, reading) for n, reading in enumerate(self.model.read_labels(some, labels))]

    def iter_replies(self, prompts: Sequence[PromptLike], sampling: Sampling) -> Iterator[list[Answered]]:
        raise NotImplementedError

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        raise NotImplementedError

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        raise NotImplementedError


def comparisons(pairs: int) -> list[Comparison]:
    made = []
    for n in range(pairs):
        prompt = Prompt.of(f"Question {n}?")
        first, second = (Completion.of(prompt, f"answer {n}.{i} " * (i + 1), source=f"policy {i}") for i in (0, 1))
        made.append(Comparison.of(prompt, first, second))
    return made


def label(folder: Path, pairs: int, width: int, delay_s: float) -> None:
    """Labels everything and leaves ``labels.jsonl``, written whole or not at all."""
    with Journal(folder / "journal.sqlite") as journal:
        model = Journaled(Logged(folder / "asked.log", width=width, delay_s=delay_s), journal)
        preferences = JudgeLabeler(model, PROMPT, batch_size=100).label(comparisons(pairs))
    partial = folder / "labels.part"
    partial.write_text("".join(preference.model_dump_json() + "\n" for preference in preferences))
    partial.replace(folder / "labels.jsonl")


def half_a_transaction(path: Path) -> None:
    """Dies in the middle of a transaction that has outgrown the cache, so that pages of it are in the log file."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA cache_size = 1")
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO settings (digest, body) VALUES (x'00', 'half')")
    db.executemany(
        "INSERT INTO calls VALUES (?, 'labels', ?, 1, x'00', 'ok', ?, NULL, 0, 0, 0.0, 0.0, 0.0, 1, x'00', x'00')",
        [(n, n.to_bytes(32, "big"), "x" * 500) for n in range(1, 2000)],
    )
    os.kill(os.getpid(), signal.SIGKILL)
