"""Stages that only move data: split a prompt file, take a file of human comparisons apart."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from aifeedback import files
from aifeedback.errors import FileError
from aifeedback.files import Comparisons, LabelledRow
from aifeedback.records import Prompt
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import account, at_most


class Split(Stage):
    """A prompt file → ``train.jsonl`` and ``test.jsonl``, drawn by seed."""

    kind: ClassVar[str] = "split"
    prompts: str
    test: int = Field(default=400, ge=1)
    """Prompts held out for evaluation; at most half of the file."""
    limit: int | None = Field(default=None, ge=1)
    columns: dict[str, str] | None = None

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.prompts)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(0)
        test = held_out_size(self.test, count)
        return Forecast(0, {"train.jsonl": count - test, "test.jsonl": test})

    def run(self, job: Job) -> Outcome:
        read = files.load_prompts(self.prompts, columns=self.columns, limit=self.limit)
        if len(read.rows) < 2:
            raise FileError("needs at least two different prompts", file=self.prompts)
        test, train = held_out(read.rows, self.test, job.seed)
        files.write_records(job.folder / "train.jsonl", train)
        files.write_records(job.folder / "test.jsonl", test)
        figures = {"train": len(train), "test": len(test), **reduced("test", self.test, len(test))}
        return Outcome({**figures, "rows": account(read.report)})


def held_out_size(wanted: int, rows: int) -> int:
    """How many of ``rows`` are held out: as many as wanted, at most half."""
    return min(wanted, rows // 2)


def reduced(name: str, wanted: int, size: int) -> dict[str, int]:
    """``{name}_wanted`` for the figures of a step that held out less than its settings ask for."""
    return {f"{name}_wanted": wanted} if size < wanted else {}


def held_out(rows: Sequence[Any], count: int, seed: int) -> tuple[list[Any], list[Any]]:
    """(held out, rest): ``count`` rows drawn by seed, at most half of them; the rest keeps its order."""
    count = held_out_size(count, len(rows))
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return [row for i, row in enumerate(rows) if i in chosen], [row for i, row in enumerate(rows) if i not in chosen]


class Pairs(Stage):
    """A file of human comparisons → ``train.jsonl`` and ``heldout.jsonl`` (comparisons with the human verdict),
    ``prompts.jsonl``/``test.jsonl`` (their prompts) and ``sft.jsonl`` (the preferred answers of the training part).

    Held-out prompts never appear in the training part.
    """

    kind: ClassVar[str] = "pairs"
    data: str
    heldout: int = Field(default=400, ge=1)
    """Comparisons held out; at most half of the file."""
    limit: int | None = Field(default=None, ge=1)
    columns: dict[str, str] | None = None
    criterion: str | None = None

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.data)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.data), self.limit)
        if count is None:
            return Forecast(0)
        test = held_out_size(self.heldout, count)
        parts = {"train.jsonl": count - test, "prompts.jsonl": count - test, "heldout.jsonl": test, "test.jsonl": test}
        return Forecast(0, parts)

    def run(self, job: Job) -> Outcome:
        read = files.read_comparisons(
            self.data, job.seed, columns=self.columns, criterion=self.criterion, limit=self.limit
        )
        rows = human_rows(read)
        prompts = {row.comparison.prompt.id: row.comparison.prompt for row in rows}
        test_prompts, _ = held_out(list(prompts.values()), self.heldout, job.seed)
        test_ids = {prompt.id for prompt in test_prompts}
        test = [row for row in rows if row.comparison.prompt.id in test_ids]
        train = [row for row in rows if row.comparison.prompt.id not in test_ids]
        files.write_labelled(job.folder / "train.jsonl", train)
        files.write_labelled(job.folder / "heldout.jsonl", test)
        files.write_records(job.folder / "prompts.jsonl", _prompts(train))
        files.write_records(job.folder / "test.jsonl", _prompts(test))
        best = [
            (row.comparison.prompt, row.comparison.first if row.human_p_first > 0.5 else row.comparison.second)
            for row in train
            if row.human_p_first is not None and row.human_p_first != 0.5
        ]
        files.write_completions(job.folder / "sft.jsonl", [p for p, _ in best], [c for _, c in best])
        figures = {"train": len(train), "heldout": len(test), **reduced("heldout", self.heldout, len(test_prompts))}
        return Outcome({**figures, "sft": len(best), "rows": account(read.report)})


def human_rows(read: Comparisons) -> list[LabelledRow]:
    """Comparisons as rows whose label is what people said."""
    from aifeedback.records import Preference, Problem

    said = [
        Preference(
            comparison_id=comparison.id,
            source="human",
            p_first=human,
            problem=Problem.MISSING if human is None else None,
        )
        for comparison, human in zip(read.rows, read.human, strict=True)
    ]
    return files.labelled(read, said)


def _prompts(rows: Sequence[LabelledRow]) -> list[Prompt]:
    return list({row.comparison.prompt.id: row.comparison.prompt for row in rows}.values())


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Split, Pairs)}
