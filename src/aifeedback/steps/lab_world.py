"""``lab_world``: the built-in world as files, plus held-out pairs whose oracle label is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.data import LabelledRow
from aifeedback.steps.step import Context, Figures, Forecast, Step
from aifeedback.types import Comparison


class LabWorldFigures(Figures):
    sft: int
    prompts: int
    test: int
    heldout: int
    fact_pairs: int


class LabWorld(Step):
    """Write the lab's files: prompts.jsonl, test.jsonl, sft.jsonl, heldout.jsonl, fact_pairs.jsonl.

    In the last two the column ``human_p_first`` holds the oracle's (gold) preference: they are for measuring alone.
    """

    kind: ClassVar[str] = "lab_world"
    main: ClassVar[str] = "prompts.jsonl"
    Figures = LabWorldFigures
    sft: int = Field(default=3000, ge=1)
    """Demonstrations of mixed quality."""
    prompts: int = Field(default=1500, ge=1)
    """Prompts to train on."""
    test: int = Field(default=500, ge=1)
    """Held-out prompts, for comparing policies."""
    heldout: int = Field(default=1200, ge=1)
    """Held-out pairs with a gold preference, for judges and reward models."""
    fact_pairs: int = Field(default=500, ge=1)
    """Pairs that differ in one wrong fact."""

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        del rows
        names = ("sft", "prompts", "test", "heldout", "fact_pairs")
        return Forecast(0, {f"{name}.jsonl": getattr(self, name) for name in names})

    def run(self, context: Context) -> LabWorldFigures:
        from aifeedback.lab import samples

        seed = context.seed
        data.write_records(context.folder / "prompts.jsonl", samples.prompts(self.prompts, split="train", seed=seed))
        data.write_records(context.folder / "test.jsonl", samples.prompts(self.test, split="test", seed=seed))
        shown = samples.demonstrations(self.sft, split="train", seed=seed)
        data.write_completions(context.folder / "sft.jsonl", [d.prompt for d in shown], [d.completion for d in shown])
        heldout = gold_rows(samples.comparisons(self.heldout, split="test", seed=seed))
        data.write_labelled(context.folder / "heldout.jsonl", heldout)
        facts = gold_rows(samples.fact_pairs(self.fact_pairs, split="test", seed=seed))
        data.write_labelled(context.folder / "fact_pairs.jsonl", facts)
        return LabWorldFigures(
            sft=self.sft, prompts=self.prompts, test=self.test, heldout=len(heldout), fact_pairs=len(facts)
        )


def gold_rows(comparisons: Sequence[Comparison]) -> list[LabelledRow]:
    """Comparisons with a clear gold preference (scores at least half a point apart), as if people had been right."""
    from aifeedback.lab import gold

    rows = []
    for comparison in comparisons:
        facts = gold.facts_of(comparison.prompt)
        margin = gold.score(facts, comparison.first.text) - gold.score(facts, comparison.second.text)
        if abs(margin) >= CLEAR:
            p_first = float(margin > 0)
            rows.append(LabelledRow(comparison=comparison, p_first=p_first, human_p_first=p_first, judge="gold"))
    return rows


CLEAR = 0.5
"""Gold points, on its scale of 1 to 10: closer pairs have no right answer worth measuring."""
