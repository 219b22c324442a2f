"""What a policy is trained on, as settings: a reward model, a judge's live score, a Python function, or a mix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from aifeedback.config import Config
from aifeedback.protocols import RewardFn
from aifeedback.stages import resolve
from aifeedback.stages.base import Job
from aifeedback.stages.judges import rating_alone


class RewardSpec(Config):
    """One source of reward and what is done to it. A bare name is a source: ``rm:DIR`` or ``python:FILE.py:NAME``."""

    source: str | None = None
    """rm:DIR (a reward model) or python:FILE.py:FUNCTION (TRL's signature)."""
    judge: resolve.JudgeSpec | None = None
    """d-RLAIF: a judge's expected 1–10 score, asked live."""
    against_reference: bool = False
    """The judge compares with each prompt's reference text instead of scoring alone."""
    mix: list[RewardSpec] = Field(default_factory=list)
    """Several rewards, added by weight."""
    weight: float = 1.0
    """Within a mix."""
    clip: tuple[float, float] | None = None
    """Lowest and highest reward."""
    per_word: float = Field(default=0.0, ge=0.0)
    """Length penalty per word above ``free_words``."""
    free_words: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A bare name is a source; a judge that does not compare rates each answer by itself."""
        if isinstance(value, str):
            return {"source": value}
        if not isinstance(value, dict) or "judge" not in value or value.get("against_reference"):
            return value
        return {**value, "judge": rating_alone(value["judge"])}

    @model_validator(mode="after")
    def _one_source(self) -> RewardSpec:
        if sum((self.source is not None, self.judge is not None, bool(self.mix))) != 1:
            raise ValueError("a reward is exactly one of source, judge or mix")
        if self.source is not None and not self.source.startswith(("rm:", "python:")):
            raise ValueError(f"'{self.source}' is no reward; write rm:DIR or python:FILE.py:FUNCTION")
        return self

    def inputs(self) -> Iterator[str]:
        if self.source:
            yield from resolve.outside(self.source)
        if self.judge:
            yield from resolve.outside_judge(self.judge)
        for part in self.mix:
            yield from part.inputs()

    def judges(self) -> Iterator[resolve.JudgeSpec]:
        """Every judge whose score is part of this reward."""
        if self.judge:
            yield self.judge
        for part in self.mix:
            yield from part.judges()


def reward_function(spec: RewardSpec, job: Job) -> RewardFn:
    """The reward that ``spec`` describes; calls of a judge go through the run's journal."""
    from aifeedback.train import rewards

    reward = _source(spec, job)
    if spec.per_word:
        reward = rewards.length_penalty(reward, per_word=spec.per_word, free_words=spec.free_words)
    if spec.clip:
        reward = rewards.clip(reward, low=spec.clip[0], high=spec.clip[1])
    return reward


def _source(spec: RewardSpec, job: Job) -> RewardFn:
    from aifeedback.train import rewards

    if spec.mix:
        return rewards.mix([(reward_function(part, job), part.weight) for part in spec.mix])
    if spec.judge and spec.against_reference:
        return rewards.against_reference(resolve.labeler(spec.judge, job))
    if spec.judge:
        return rewards.judge_score(resolve.scorer(spec.judge, job))
    assert spec.source is not None
    scheme, _, rest = spec.source.partition(":")
    return rewards.reward_model(rest) if scheme == "rm" else rewards.python_function(spec.source)
