"""The stage that has a model criticise and rewrite its answers by a constitution. Nothing is trained here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from aifeedback import files
from aifeedback.config import parse
from aifeedback.errors import InputError
from aifeedback.feedback.revise import Reviser, ReviseSettings, helpful_rows, sft_rows
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import account, at_most
from aifeedback.stages.judges import require_server


class Revise(Stage):
    """Critique and revision under a constitution → ``revisions.jsonl`` (every step) and ``sft.jsonl``."""

    kind: ClassVar[str] = "revise"
    completions: str
    model: str
    constitution: str
    """A shipped constitution's name or a YAML file."""
    critique_prompt: str = "critique"
    revise_prompt: str = "revise"
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of the reviser by name: rounds, temperature …"""
    helpful: str | None = None
    """Completions to mix into the training data."""
    helpful_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    limit: int | None = Field(default=None, ge=1)
    base_url: str | None = None
    """Address of an OpenAI-compatible server."""

    @model_validator(mode="after")
    def _served(self) -> Self:
        require_server(self.model, self.base_url)
        return self

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside_model(self.model)
        for name in (self.completions, self.helpful or ""):
            yield from resolve.outside(name)
        yield f"constitution:{self.constitution}"
        yield f"prompt:{self.critique_prompt}"
        yield f"prompt:{self.revise_prompt}"

    def problems(self) -> Iterator[str]:
        try:
            self._how(seed=0)
        except InputError as wrong:
            yield str(wrong)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        """At most: a response that is finished early takes fewer rounds."""
        count = at_most(rows.get(self.completions), self.limit)
        if count is None or any(self.problems()):
            return Forecast(None)
        return Forecast(2 * self._how(seed=0).rounds * count, {"revised.jsonl": count})

    def _how(self, *, seed: int) -> ReviseSettings:
        return parse(ReviseSettings, {"seed": seed, **self.settings}, prefix="settings.")

    def run(self, job: Job) -> Outcome:
        read = files.read_completions(self.completions, limit=self.limit)
        helpful = files.read_completions(self.helpful) if self.helpful else None
        mixed = list(zip(helpful.prompts, helpful.rows, strict=True)) if helpful else []
        helpful_rows(len(read.rows), self.helpful_share, of=len(mixed))
        reviser = Reviser(
            resolve.connect_model(self.model, job, base_url=self.base_url),
            resolve.constitution(self.constitution),
            critique_prompt=resolve.judge_prompt(self.critique_prompt),
            revise_prompt=resolve.judge_prompt(self.revise_prompt),
            settings=self._how(seed=job.seed),
            progress=job.progress,
        )
        revised = reviser.revise(read.prompts, read.rows)
        rows = sft_rows(revised, mixed, helpful_share=self.helpful_share, seed=job.seed)
        files.write_records(job.folder / "revisions.jsonl", [step for r in revised for step in r.steps])
        files.write_completions(job.folder / "sft.jsonl", [r.prompt for r in rows], [r.completion for r in rows])
        after = [(r.prompt, r.after) for r in revised]
        files.write_completions(job.folder / "revised.jsonl", [p for p, _ in after], [c for _, c in after])
        figures = {
            "responses": len(revised),
            "changed": sum(r.is_changed for r in revised),
            "steps": sum(len(r.steps) for r in revised),
            "problems": dict(Counter(str(r.problem) for r in revised if r.problem is not None)),
            "sft_rows": dict(Counter(r.origin for r in rows)),
            "rows": account(read.report),
        }
        return Outcome(figures, calls=2 * figures["steps"])


STAGES: dict[str, type[Stage]] = {Revise.kind: Revise}
