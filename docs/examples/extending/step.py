"""A step that keeps pairs whose responses are short. In a recipe: `stage: "python:step.py:KeepShort"`."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aifeedback.data import read_comparisons, write_records
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Figures, Step


class KeepShortFigures(Figures):
    kept: int
    left_out: int


class KeepShort(Step):
    """Keep pairs whose responses both have few words; write pairs.jsonl."""

    kind: ClassVar[str] = "keep_short"
    main: ClassVar[str] = "pairs.jsonl"
    Figures = KeepShortFigures
    data: Ref
    """Pairs in any known format."""
    words: int = Field(default=50, ge=1)
    """Most words in a response."""

    def run(self, context: Context) -> KeepShortFigures:
        pairs = read_comparisons(self.data, context.seed).rows
        kept = [p for p in pairs if max(len(c.text.split()) for c in (p.first, p.second)) <= self.words]
        write_records(context.folder / "pairs.jsonl", kept)
        return KeepShortFigures(kept=len(kept), left_out=len(pairs) - len(kept))
