"""``pairs``: take a file of human comparisons apart into training and held-out parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.data import (
    Comparisons,
    LabelledRow,
    labelled,
    read_comparisons,
    write_completions,
    write_labelled,
    write_records,
)
from aifeedback.refs import Ref
from aifeedback.steps.split import held_out, held_out_size
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most
from aifeedback.types import Preference, Problem, Prompt


class PairsFigures(Figures):
    train: int
    heldout: int
    heldout_wanted: int | None = None
    """Prompts that the settings ask for, where the file is too small for it."""
    sft: int
    rows: Rows


class Pairs(Step):
    """Split human comparisons; writes train.jsonl and heldout.jsonl, their prompts, and sft.jsonl.

    ``prompts.jsonl`` and ``test.jsonl`` hold the prompts of the two parts, ``sft.jsonl`` the preferred responses of the
    training part. Held-out prompts never appear in the training part.
    """

    kind: ClassVar[str] = "pairs"
    main: ClassVar[str] = "train.jsonl"
    Figures = PairsFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """Comparisons with human labels in any known format."""
    heldout: int = Field(default=400, ge=1)
    """Prompts held out; at most half of the file."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many comparisons."""
    columns: Annotated[dict[str, str] | None, Cli(("--column",), metavar="OURS=THEIRS")] = None
    """Column names of an unusual file, ours=theirs. Repeat for several."""
    criterion: str | None = None
    """Which human verdict to use, where a file has several."""

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.data), self.limit)
        if count is None:
            return Forecast(0)
        test = held_out_size(self.heldout, count)
        parts = {"train.jsonl": count - test, "prompts.jsonl": count - test, "heldout.jsonl": test, "test.jsonl": test}
        return Forecast(0, parts)

    def run(self, context: Context) -> PairsFigures:
        read = read_comparisons(
            self.data, context.seed, columns=self.columns, criterion=self.criterion, limit=self.limit
        )
        rows = human_rows(read)
        prompts = {row.comparison.prompt.id: row.comparison.prompt for row in rows}
        test_prompts, _ = held_out(list(prompts.values()), self.heldout, context.seed)
        test_ids = {prompt.id for prompt in test_prompts}
        test = [row for row in rows if row.comparison.prompt.id in test_ids]
        train = [row for row in rows if row.comparison.prompt.id not in test_ids]
        write_labelled(context.folder / "train.jsonl", train)
        write_labelled(context.folder / "heldout.jsonl", test)
        write_records(context.folder / "prompts.jsonl", _prompts(train))
        write_records(context.folder / "test.jsonl", _prompts(test))
        best = [
            (row.comparison.prompt, row.comparison.first if row.human_p_first > 0.5 else row.comparison.second)
            for row in train
            if row.human_p_first is not None and row.human_p_first != 0.5
        ]
        write_completions(context.folder / "sft.jsonl", [p for p, _ in best], [c for _, c in best])
        return PairsFigures(
            train=len(train),
            heldout=len(test),
            heldout_wanted=self.heldout if len(test_prompts) < self.heldout else None,
            sft=len(best),
            rows=Rows.of(read.report),
        )


def human_rows(read: Comparisons) -> list[LabelledRow]:
    """Comparisons as rows whose label is the human one."""
    preferences = [
        Preference(
            comparison_id=comparison.id,
            source="human",
            p_first=human,
            problem=Problem.MISSING if human is None else None,
        )
        for comparison, human in zip(read.rows, read.human, strict=True)
    ]
    return labelled(read, preferences)


def _prompts(rows: Sequence[LabelledRow]) -> list[Prompt]:
    return list({row.comparison.prompt.id: row.comparison.prompt for row in rows}.values())
