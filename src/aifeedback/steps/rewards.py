"""What a policy is rewarded for, as settings: a reward model, a judge's live score, a Python function, or a mix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from aifeedback.config import Cli, Config
from aifeedback.errors import RecipeError
from aifeedback.judging.ranking import Design, RankScorer
from aifeedback.judging.spec import JudgeSpec, Served, rating_alone
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.refs import JudgeRef, PromptRef, Ref, RewardRef
from aifeedback.steps import connect
from aifeedback.steps.connect import JudgeCard
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
    rank: Design | None = None
    """The judge ranks the responses to each prompt from judgements of pairs: all pairs, or a tournament."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of a tournament; each response meets two others in a round."""
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
        compares = isinstance(value, dict) and (value.get("against_reference") or value.get("rank"))
        if not isinstance(value, dict) or "judge" not in value or compares:
            return value
        return {**value, "judge": rating_alone(value["judge"])}

    @model_validator(mode="after")
    def _one_source(self) -> RewardSpec:
        if sum((self.source is not None, self.judge is not None, bool(self.mix))) != 1:
            raise ValueError("a reward is exactly one of source, judge or mix")
        if self.rank and (self.judge is None or self.against_reference):
            raise ValueError("rank: only a judge ranks, and not one that compares with the reference")
        if self.judge is not None and self.judge.answers_later:
            raise ValueError("batch_api: a reward is needed at once, and a batch takes hours; leave it out")
        if self.source is not None and self.source.scheme not in RewardRef.kinds and not self.source.is_registered:
            raise ValueError(f"'{self.source}' is not a reward; write rm:DIR or python:FILE.py:FUNCTION")
        return self

    @property
    def has_criteria(self) -> bool:
        """Whether it is a reward of several criteria, none of which a penalty or a limit hides."""
        rates = self.judge is not None and not self.against_reference and not self.rank
        is_rubric = rates and self.judge is not None and self.judge.rubric is not None
        return (len(self.mix) > 1 or is_rubric) and self.clip is None and not self.per_word

    @property
    def has_rank(self) -> bool:
        """Whether it, or a part of it, is a rank among the responses to a prompt."""
        return self.rank is not None or any(part.has_rank for part in self.mix)

    def calls(self, samples: int) -> int:
        """Model calls of its judges for one prompt with so many responses, at most."""
        own = 0
        if self.judge and self.rank:
            pairs = samples * (samples - 1) // 2
            own = self.judge.calls_per_pair * min(pairs, self.rounds * samples if self.rank == "tournament" else pairs)
        elif self.judge:
            per_response = self.judge.calls_per_pair if self.against_reference else self.judge.calls_per_score
            own = samples * per_response
        return own + sum(part.calls(samples) for part in self.mix)

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


PANEL = "Judge as reward"


class JudgeRewardOptions(Served):
    """Options of a command that are about a judge as reward; a recipe writes them into ``reward``."""

    prompt: Annotated[PromptRef | None, Cli(("--judge-prompt",), panel=PANEL, metavar="NAME")] = None
    """Judge prompt of a judge reward; rating by default, with --rank helpful-detailed."""
    rationale: Annotated[bool, Cli(("--rationale", "--cot"), panel=PANEL)] = False
    """Let the judge reason before it scores."""
    rank: Annotated[Design | None, Cli(panel=PANEL)] = None
    """A judge reward ranks the responses to each prompt (all pairs, or a tournament) instead of rating each alone."""
    reward_weight: Annotated[list[float], Cli(is_repeated=True, metavar="W", panel="")] = Field(default_factory=list)
    """Weight of each --reward, in their order (default: 1 each)."""
    batch_api: Annotated[bool, Cli(is_hidden=True)] = False
    """Refused: a reward is needed at once."""

    @classmethod
    def taken_from(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Sequence[float | str]]:
        """Take these options out of a command's settings: those of the judge, of its server, and the weights."""
        judge = {key: settings.pop(key) for key in ("prompt", "rationale", "rank") if key in settings}
        served = {key: settings.pop(key) for key in Served.model_fields if key in settings}
        return judge, served, settings.pop("reward_weight", ())


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
        own = dict(judge or {})
        rank = {"rank": own.pop("rank")} if own.get("rank") else {}
        return {"judge": {"model": model, **own, **(served if JudgeRef(model).is_served else {})}, **rank}

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


def reward_cards(spec: RewardSpec, context: Context) -> dict[JudgeRef, JudgeCard]:
    """Card of every judge whose score is part of the reward, by model."""
    return {judge.model: connect.judge_card(judge, context) for judge in spec.judges()}


def reward_origin(
    spec: RewardSpec, cards: Mapping[JudgeRef, JudgeCard], *, role: Literal["reward", "selection"], rows: int
) -> Origin:
    """Whose feedback the reward is; a reward model carries on that of its labels."""
    whole = Origin()
    for model in dict.fromkeys(judge.model for judge in spec.judges()):
        whole += lineage.behind(model, [lineage.trainer(model, cards[model].as_json(), role=role, rows=rows)])
    for source in spec.sources():
        whole += lineage.behind(source, [lineage.trainer(source, role=role, rows=rows)])
    return whole


def decider_of(spec: RewardSpec, reward: RewardFn, context: Context) -> Decider:
    """What answers typed questions about responses for this reward: a reward model or a judge; nothing for others."""
    from aifeedback.integrations.decisions import Decider, by_judge, by_reward_model

    if spec.judge and not spec.against_reference and not spec.rank:
        return by_judge(connect.labeler(spec.judge, context), connect.scorer(spec.judge, context))
    is_plain = spec.source is not None and not spec.per_word and spec.clip is None
    return by_reward_model(reward) if is_plain and spec.source and spec.source.scheme == "rm" else Decider()


def _source(spec: RewardSpec, context: Context) -> RewardFn:
    from aifeedback.training import rewards

    if spec.mix:
        return rewards.mix([(reward_function(part, context), part.weight) for part in spec.mix])
    if spec.judge and spec.against_reference:
        return rewards.against_reference(connect.labeler(spec.judge, context))
    if spec.judge and spec.rank:
        labeler = connect.labeler(spec.judge, context)
        ranker = RankScorer(labeler, design=spec.rank, rounds=spec.rounds, seed=context.seed)
        return rewards.judge_rank(ranker, "all pairs" if spec.rank == "all" else f"tournament of {spec.rounds} rounds")
    if spec.judge:
        return rewards.judge_score(connect.scorer(spec.judge, context))
    assert spec.source is not None
    scheme = spec.source.scheme
    return rewards.reward_model(spec.source.name) if scheme == "rm" else rewards.python_function(spec.source)
