"""``pair``: put completions of one prompt side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.judging.sampling import pair_completions
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most


class PairFigures(Figures):
    comparisons: int
    skipped: dict[str, int]
    rows: Rows


class Pair(Step):
    """Pair completions of one prompt, ready to be labelled; writes comparisons.jsonl."""

    kind: ClassVar[str] = "pair"
    main: ClassVar[str] = "comparisons.jsonl"
    Figures = PairFigures
    completions: Annotated[Ref, Cli(("--completions", "--data"), metavar="FILE")]
    """Completions, several per prompt."""
    per_prompt: Annotated[int | None, Cli(("--all",), value="all")] = Field(default=1, ge=1)
    """Pair every two completions of a prompt; by default one pair per prompt is drawn by seed (null: all)."""
    only: Annotated[dict[str, str], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Tags that a prompt must carry to be used, such as label: safe."""
    limit: int | None = Field(default=None, ge=1)
    """Write at most this many pairs."""

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = rows.get(self.completions)
        if count is None or self.per_prompt is None:
            return Forecast(0)
        return Forecast(0, {"comparisons.jsonl": at_most(count // 2, self.limit) or 0})

    def run(self, context: Context) -> PairFigures:
        read = data.read_completions(self.completions)
        kept = [i for i, prompt in enumerate(read.prompts) if self.only.items() <= dict(prompt.tags or {}).items()]
        paired = pair_completions(
            [read.prompts[i] for i in kept], [read.rows[i] for i in kept], per_prompt=self.per_prompt, seed=context.seed
        )
        made = paired.comparisons[: self.limit]
        data.write_records(context.folder / "comparisons.jsonl", made)
        return PairFigures(comparisons=len(made), skipped=paired.skipped, rows=Rows.of(read.report))

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Pair:
        if settings.get("per_prompt") == "all":
            settings = {**settings, "per_prompt": None}
        return super().from_options(settings, chosen)
