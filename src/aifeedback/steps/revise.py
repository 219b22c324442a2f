"""``revise``: critique and revision under a constitution (Bai et al. 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.judging.diagnosis import ADVICE, Cause
from aifeedback.judging.revision import Reviser, ReviseSettings, helpful_rows, sft_rows
from aifeedback.judging.spec import Served
from aifeedback.refs import ConstitutionRef, ModelRef, PromptRef, Ref
from aifeedback.steps.connect import JudgeCard, model_card
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict, on_unknown
from aifeedback.types import Problem


class ReviseFigures(Figures):
    responses: int
    changed: int
    steps: int
    """Critiques and revisions made."""
    problems: dict[str, int]
    sft_rows: dict[str, int]
    """Rows of training data, by origin."""
    reviser: JudgeCard
    rows: Rows

    @property
    def is_unread(self) -> bool:
        return self.responses > 0 and sum(self.problems.values()) == self.responses

    def verdict(self) -> Verdict:
        failed = sum(self.problems.values())
        if verdict := on_unknown(failed, self.responses, "revisions", _cause(self.problems)):
            return verdict
        if self.responses and not self.changed:
            meaning = f"None of the {self.responses:,} responses was changed: the model does not revise."
            return Verdict("bad", meaning, "Try another --revise-prompt or another model.")
        return Verdict("ok", f"{self.changed:,} of {self.responses:,} responses were changed.")


def _cause(problems: Mapping[str, int]) -> Cause | None:
    """The most frequent of them; the record of a revision names no call, so that the server's words are not known."""
    if not problems:
        return None
    name, number = max(problems.items(), key=lambda item: item[1])
    problem = Problem(name)
    return Cause(problem=problem, count=number, of=sum(problems.values()), advice=ADVICE.get(problem))


class Revise(Served, Step):
    """Critique and revise responses under a constitution; writes revisions.jsonl, revised.jsonl and sft.jsonl."""

    kind: ClassVar[str] = "revise"
    main: ClassVar[str] = "sft.jsonl"
    Figures = ReviseFigures
    completions: Annotated[Ref, Cli(("--data", "--completions"), metavar="FILE")]
    """Responses to improve."""
    model: Annotated[ModelRef, Cli(metavar="MODEL")]
    """Model that critiques and revises: hf:DIR_OR_ID, openai:NAME."""
    constitution: Annotated[ConstitutionRef, Cli(metavar="NAME")] = ConstitutionRef("harmless")
    """A shipped constitution's name or a YAML file."""
    critique_prompt: Annotated[PromptRef, Cli(metavar="NAME")] = PromptRef("critique")
    """Prompt that requests a critique."""
    revise_prompt: Annotated[PromptRef, Cli(metavar="NAME")] = PromptRef("revise")
    """Prompt that requests a revision."""
    settings: Annotated[ReviseSettings, Cli(flatten=(ReviseSettings,), only=("rounds", "temperature"))] = (
        ReviseSettings()
    )
    """Settings of the reviser; the run's seed unless one is given."""
    helpful: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """Helpful completions to mix into the training data."""
    helpful_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the training data that is helpful data."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many responses."""

    @model_validator(mode="after")
    def _served(self) -> Self:
        self.require_server([self.model])
        self.require_replies("revise")
        return self

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        """An upper bound: a response that is finished early takes fewer rounds."""
        count = at_most(rows.get(self.completions), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(2 * self.settings.rounds * count, {"revised.jsonl": count})

    def run(self, context: Context) -> ReviseFigures:
        read = data.read_completions(self.completions, limit=self.limit)
        helpful = data.read_completions(self.helpful) if self.helpful else None
        mixed = list(zip(helpful.prompts, helpful.rows, strict=True)) if helpful else []
        helpful_rows(len(read.rows), self.helpful_share, of=len(mixed))
        is_seeded = "seed" in self.settings.model_fields_set
        reviser = Reviser(
            context.connect(self.model, self.server_options),
            self.constitution.load(),
            critique_prompt=self.critique_prompt.load(),
            revise_prompt=self.revise_prompt.load(),
            settings=self.settings if is_seeded else self.settings.model_copy(update={"seed": context.seed}),
            progress=context.progress,
        )
        revised = reviser.revise(read.prompts, read.rows)
        rows = sft_rows(revised, mixed, helpful_share=self.helpful_share, seed=context.seed)
        data.write_records(context.folder / "revisions.jsonl", [step for r in revised for step in r.steps])
        data.write_completions(context.folder / "sft.jsonl", [r.prompt for r in rows], [r.completion for r in rows])
        after = [(r.prompt, r.after) for r in revised]
        data.write_completions(context.folder / "revised.jsonl", [p for p, _ in after], [c for _, c in after])
        return ReviseFigures(
            responses=len(revised),
            changed=sum(r.is_changed for r in revised),
            steps=sum(len(r.steps) for r in revised),
            problems=dict(Counter(str(r.problem) for r in revised if r.problem is not None)),
            sft_rows=dict(Counter(r.origin for r in rows)),
            reviser=model_card(self.model, context, self.server_options),
            rows=Rows.of(read.report),
        )

    def refs(self) -> Iterator[Ref]:
        yield from (self.model, self.completions, self.constitution, self.critique_prompt, self.revise_prompt)
        yield from (ref for ref in (self.helpful,) if ref)
