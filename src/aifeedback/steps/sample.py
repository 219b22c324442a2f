"""``sample``: draw completions from a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from aifeedback import data
from aifeedback.config import Cli, Config
from aifeedback.judging.diagnosis import Cause
from aifeedback.judging.sampling import sample_completions
from aifeedback.judging.spec import Served
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most
from aifeedback.steps.verdict import MANY_UNKNOWN, Verdict, count, on_unknown
from aifeedback.types import Problem, Sampling


class SamplingSettings(Config):
    """How completions are drawn."""

    temperature: float = Field(default=0.9, ge=0.0)
    """Sampling temperature; 0 is greedy."""
    top_k: int | None = None
    """Sample among the k most probable tokens only."""
    top_p: float | None = None
    """Sample among the most probable tokens that together hold this probability."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Completions are cut after this many tokens."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion."""

    def at(self, seed: int) -> Sampling:
        return Sampling(**self.model_dump(), seed=seed)


BRIEFLY = Cli(flatten=(SamplingSettings,), only=("temperature", "max_new_tokens"))


class SampleFigures(Figures):
    prompts: int
    completions: int
    truncated: int
    """Completions that hit the token limit."""
    thinking_removed: int = 0
    """Completions from which blocks of thinking were removed."""
    problems: dict[str, int]
    """Completions that are missing, by problem."""
    rows: Rows
    cause: Cause | None = None
    """The most frequent reason for missing completions."""

    @property
    def is_unread(self) -> bool:
        return not self.completions and sum(self.problems.values()) > 0

    def verdict(self) -> Verdict:
        missing = sum(self.problems.values())
        if verdict := on_unknown(missing, self.completions + missing, "completions", self.cause):
            is_cut = self.cause is not None and self.cause.problem is Problem.TRUNCATED
            return verdict._replace(action="Raise --max-new-tokens.") if is_cut else verdict
        if self.truncated > MANY_UNKNOWN * self.completions:
            meaning = f"{self.truncated:,} of {self.completions:,} completions were cut at the token limit."
            return Verdict("watch", meaning, "Raise --max-new-tokens, or keep them if the policy is meant to be cut.")
        return Verdict("ok", f"{count(self.completions, 'completion')} of {count(self.prompts, 'prompt')}.")


class Sample(Served, Step):
    """Draw completions from a model; writes completions.jsonl."""

    kind: ClassVar[str] = "sample"
    main: ClassVar[str] = "completions.jsonl"
    Figures = SampleFigures
    model: Annotated[ModelRef, Cli(metavar="MODEL")]
    """Model to sample from: hf:DIR_OR_ID, openai:NAME, lab:NAME."""
    prompts: Annotated[Ref, Cli(("--prompts", "--data"), metavar="FILE")]
    """Prompts in any known format."""
    per_prompt: int = Field(default=2, ge=1)
    """Completions per prompt."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    sampling: Annotated[SamplingSettings, Cli(flatten=(SamplingSettings,))] = SamplingSettings()
    """How completions are drawn."""

    @model_validator(mode="after")
    def _served(self) -> Self:
        self.require_server([self.model])
        self.require_replies("sample")
        return self

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(count * self.per_prompt, {"completions.jsonl": count * self.per_prompt})

    def run(self, context: Context) -> SampleFigures:
        read = data.load_prompts(self.prompts, limit=self.limit)
        sampled = sample_completions(
            context.connect(self.model, self.server_options),
            read.rows,
            per_prompt=self.per_prompt,
            sampling=self.sampling.at(context.seed),
            source=context.named(self.model),
            progress=context.progress,
        )
        by_id = {prompt.id: prompt for prompt in read.rows}
        prompts = [by_id[completion.prompt_id] for completion in sampled.completions]
        data.write_completions(context.folder / "completions.jsonl", prompts, sampled.completions)
        data.write_records(context.folder / "completions.records.jsonl", sampled.completions)
        return SampleFigures(
            prompts=len(read.rows),
            completions=len(sampled.completions),
            truncated=sum(c.finish_reason == "length" for c in sampled.completions),
            thinking_removed=sampled.thinking_removed,
            problems=dict(Counter(str(missing.problem) for missing in sampled.unanswered)),
            rows=Rows.of(read.report),
            cause=context.cause(sampled.unanswered),
        )
