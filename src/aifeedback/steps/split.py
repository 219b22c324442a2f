"""``split``: hold prompts out for evaluation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.errors import FileError
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, Verdict, at_most


class SplitFigures(Figures):
    train: int
    test: int
    test_wanted: int | None = None
    """What the settings ask for, where the file is too small for it."""
    rows: Rows | None = None

    def verdict(self) -> Verdict | None:
        if self.test_wanted is None:
            return None
        few = f"Only {self.test:,} of {self.test_wanted:,} test prompts were held out: at most half of the file."
        return Verdict("watch", few, "Give more prompts, or set test to what is enough.")


class Split(Step):
    """Split a prompt file by seed; writes train.jsonl and test.jsonl."""

    kind: ClassVar[str] = "split"
    main: ClassVar[str] = "train.jsonl"
    Figures = SplitFigures
    prompts: Annotated[Ref, Cli(("--data", "--prompts"), metavar="FILE")]
    """Prompts in any known format."""
    test: int = Field(default=400, ge=1)
    """Prompts held out for evaluation; at most half of the file."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    columns: Annotated[dict[str, str] | None, Cli(("--column",), metavar="OURS=THEIRS")] = None
    """Column names of an unusual file, ours=theirs. Repeat for several."""

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(0)
        test = held_out_size(self.test, count)
        return Forecast(0, {"train.jsonl": count - test, "test.jsonl": test})

    def run(self, context: Context) -> SplitFigures:
        read = data.load_prompts(self.prompts, columns=self.columns, limit=self.limit)
        if len(read.rows) < 2:
            raise FileError("needs at least two different prompts", file=self.prompts)
        test, train = held_out(read.rows, self.test, context.seed)
        data.write_records(context.folder / "train.jsonl", train)
        data.write_records(context.folder / "test.jsonl", test)
        wanted = self.test if len(test) < self.test else None
        return SplitFigures(train=len(train), test=len(test), test_wanted=wanted, rows=Rows.of(read.report))


def held_out_size(wanted: int, rows: int) -> int:
    """How many of ``rows`` are held out: as many as wanted, at most half."""
    return min(wanted, rows // 2)


def held_out(rows: Sequence[Any], count: int, seed: int) -> tuple[list[Any], list[Any]]:
    """(held out, rest): ``count`` rows drawn by seed, at most half of them; the rest keeps its order."""
    count = held_out_size(count, len(rows))
    chosen = set(random.Random(seed).sample(range(len(rows)), count))
    return [row for i, row in enumerate(rows) if i in chosen], [row for i, row in enumerate(rows) if i not in chosen]
