"""What a policy is rewarded for, as settings: a reward model, a judge's live score, a Python function, or a mix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from aifeedback.config import Config
from aifeedback.errors import RecipeError
from aifeedback.judging.spec import JudgeSpec, rating_alone
from aifeedback.refs import JudgeRef, Ref, RewardRef
from aifeedback.steps import connect
from aifeedback.steps.step import Context
from aifeedback.types import RewardFn

if TYPE_CHECKING:
    from aifeedback.integrations.decisions import Decider


class RewardSpec(Config):
    """One source of reward and what is done to it.

    A bare name is a source, ``judge:MODEL`` a judge's live score, and a list is a mix.
    """

    source: RewardRef | None = None
    """rm:DIR (a reward model) or python:FILE.py:FUNCTION (TRL's signature)."""
    judge: JudgeSpec | None = None
    """d-RLAIF: a judge's expected 1–10 score, read live."""
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
    """Words without a penalty."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A bare name is a source, a list a mix; a judge that does not compare rates each response alone."""
        if isinstance(value, list):
            return {"mix": value}
        if isinstance(value, str):
            head, _, model = value.partition(":")
            value = {"judge": model} if head == "judge" and model else {"source": value}
        if not isinstance(value, dict) or "judge" not in value or value.get("against_reference"):
            return value
        return {**value, "judge": rating_alone(value["judge"])}

    @model_validator(mode="after")
    def _one_source(self) -> RewardSpec:
        if sum((self.source is not None, self.judge is not None, bool(self.mix))) != 1:
            raise ValueError("a reward is exactly one of source, judge or mix")
        if self.judge is not None and self.judge.answers_later:
            raise ValueError("batch_api: a reward is needed at once, and a batch takes hours; leave it out")
        if self.source is not None and self.source.scheme not in RewardRef.kinds and not self.source.is_registered:
            raise ValueError(f"'{self.source}' is not a reward; write rm:DIR or python:FILE.py:FUNCTION")
        return self

    @property
    def has_criteria(self) -> bool:
        """Whether it is a reward of several criteria, none of which a penalty or a limit hides."""
        is_rubric = self.judge is not None and self.judge.rubric is not None and not self.against_reference
        return (len(self.mix) > 1 or is_rubric) and self.clip is None and not self.per_word

    def judges(self) -> Iterator[JudgeSpec]:
        """Every judge whose score is part of this reward."""
        if self.judge:
            yield self.judge
        for part in self.mix:
            yield from part.judges()

    def sources(self) -> Iterator[Ref]:
        """Every reward model and function in it."""
        if self.source:
            yield self.source
        for part in self.mix:
            yield from part.sources()


def reward_from_options(
    named: Sequence[str],
    weights: Sequence[float | str] = (),
    judge: Mapping[str, Any] | None = None,
    served: Mapping[str, Any] | None = None,
) -> str | dict[str, Any]:
    """The reward that a command names: rm:DIR, python:FILE.py:FUNCTION or judge:MODEL, or several with their weights.

    ``judge``: settings of every judge among them, ``served``: those of its server. Raises RecipeError where no judge
    takes the server's settings, or where there are not as many weights as rewards.
    """
    served = served or {}
    if served and not any(name.startswith("judge:") and JudgeRef(name[6:]).is_served for name in named):
        what = "only a judge on a server (judge:openai:NAME) has such a setting"
        raise RecipeError(f"{what}, not {', '.join(named)}", key=f"--{next(iter(served)).replace('_', '-')}")
    if weights and len(weights) != len(named):
        raise RecipeError(
            f"{len(weights)} weights for {len(named)} rewards", key="--reward-weight", fix="give one for each --reward"
        )

    def one(name: str) -> str | dict[str, Any]:
        if not name.startswith("judge:"):
            return name
        model = name.partition(":")[2]
        return {"judge": {"model": model, **(judge or {}), **(served if JudgeRef(model).is_served else {})}}

    if len(named) == 1 and not weights:
        return one(named[0])
    parts = [made if isinstance(made := one(name), dict) else {"source": made} for name in named]
    return {"mix": [{**part, **({"weight": weights[i]} if weights else {})} for i, part in enumerate(parts)]}


def reward_function(spec: RewardSpec, context: Context) -> RewardFn:
    """The reward that ``spec`` describes; calls of a judge go through the run's journal."""
    from aifeedback.training import rewards

    reward = _source(spec, context)
    if spec.per_word:
        reward = rewards.length_penalty(reward, per_word=spec.per_word, free_words=spec.free_words)
    if spec.clip:
        reward = rewards.clip(reward, low=spec.clip[0], high=spec.clip[1])
    return reward


def decider_of(spec: RewardSpec, reward: RewardFn, context: Context) -> Decider:
    """What answers typed questions about responses for this reward: a reward model or a judge; nothing for others."""
    from aifeedback.integrations.decisions import Decider, by_judge, by_reward_model

    if spec.judge and not spec.against_reference:
        return by_judge(connect.labeler(spec.judge, context), connect.scorer(spec.judge, context))
    is_plain = spec.source is not None and not spec.per_word and spec.clip is None
    return by_reward_model(reward) if is_plain and spec.source and spec.source.scheme == "rm" else Decider()


def _source(spec: RewardSpec, context: Context) -> RewardFn:
    from aifeedback.training import rewards

    if spec.mix:
        return rewards.mix([(reward_function(part, context), part.weight) for part in spec.mix])
    if spec.judge and spec.against_reference:
        return rewards.against_reference(connect.labeler(spec.judge, context))
    if spec.judge:
        return rewards.judge_score(connect.scorer(spec.judge, context))
    assert spec.source is not None
    scheme = spec.source.scheme
    return rewards.reward_model(spec.source.name) if scheme == "rm" else rewards.python_function(spec.source)
