"""Rewards as values: each is called with prompts and completions and returns one float or None per completion.

The signature is TRL's, so any of these serves a TRL trainer and any TRL reward function serves here. ``None`` means
not scored; it passes through every combinator and never becomes a number.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aifeedback import extensions
from aifeedback.errors import InputError, RecipeError, TrainingError
from aifeedback.types import Comparison, Completion, Labeler, Prompt, RewardFn, Scorer

if TYPE_CHECKING:
    from aifeedback.inference.encoding import Encoding

Values = list[float | None]


@runtime_checkable
class ByCriterion(Protocol):
    """A scorer under a rubric (``judging.pointwise.RubricScorer``): scores by criterion, and the weight of each."""

    @property
    def name(self) -> str: ...
    @property
    def shares(self) -> Sequence[float]: ...
    def score_all(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Any: ...


class Ranker(Protocol):
    """Ranks the responses to each prompt (``judging.ranking.RankScorer``): scores, each with the calls behind it."""

    @property
    def name(self) -> str: ...
    def rank(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Sequence[Any]: ...


class Reward:
    """A reward function with a name. ``name`` enters a run's identity, so it should say all that matters.

    ``encoding``: that of the reward model behind it, which servers read rendered prompts with. ``parts``: the rewards
    that it combines.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Values],
        *,
        encoding: Encoding | None = None,
        parts: Sequence[RewardFn] = (),
    ) -> None:
        self.name, self.function, self.encoding, self.parts = name, function, encoding, parts
        self.calls: list[tuple[str, ...]] = []
        """Ids of the model calls that produced each of the last values, in order; empty without a judge."""

    def __call__(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        values = self.function(prompts, completions, **columns)
        self._keep_calls_of_parts()
        return values

    def _keep_calls_of_parts(self) -> None:
        if behind := [calls for part in self.parts if (calls := calls_of(part))]:
            self.calls = [tuple(dict.fromkeys(chain(*ids))) for ids in zip(*behind, strict=True)]


def calls_of(reward: RewardFn) -> list[tuple[str, ...]]:
    """``Reward.calls``; nothing for a function of another kind."""
    return list(getattr(reward, "calls", ()))


class Criteria(Reward):
    """A reward of several criteria: called, it gives their weighted sum; ``columns`` gives each by itself.

    A sample that one of them does not score has no sum, and counts for none of them.
    """

    def __init__(
        self,
        name: str,
        columns: Callable[..., list[Values]],
        weights: Sequence[float],
        *,
        encoding: Encoding | None = None,
        parts: Sequence[RewardFn] = (),
    ) -> None:
        super().__init__(name, self._sum, encoding=encoding, parts=parts)
        self._columns, self.weights = columns, list(weights)

    def columns(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> list[Values]:
        """The values of each criterion, in the order of ``weights``."""
        values = self._columns(prompts, completions, **columns)
        self._keep_calls_of_parts()
        return values

    def _sum(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        return self.total(self.columns(prompts, completions, **columns))

    def total(self, columns: Sequence[Values]) -> Values:
        """The weighted sum of what ``columns`` gave."""
        return [_weighted(values, self.weights) for values in zip(*columns, strict=True)]


def name_of(reward: RewardFn) -> str:
    """A reward's own name, its function's name otherwise."""
    return str(getattr(reward, "name", None) or getattr(reward, "__name__", None) or type(reward).__name__)


def reward_model(folder: str | Path, *, forward_tokens: int = 16_384) -> Reward:
    """Scores of a reward model folder; None where prompt and completion exceed its context window."""
    from aifeedback.training.reward_model import RewardModel

    model = RewardModel(folder, forward_tokens=forward_tokens)
    return Reward(model.name, model, encoding=model.encoding)


def judge_score(scorer: Scorer) -> Reward:
    """d-RLAIF (Lee et al. 2023, §2.4): the judge's expected 1–10 rating, mapped to [−1, 1]; asked live at every step.

    The judge may be the policy's own starting checkpoint: hand the judge's model object to ``train_rl`` as its
    ``reference`` and it is in memory once. Under a rubric it is a reward of several criteria.
    """
    if isinstance(scorer, ByCriterion):
        return _of_rubric(scorer)

    def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        prompt_records, answers = records(prompts, completions)
        scores = scorer.score(prompt_records, answers)
        reward.calls = [(rating.call_id,) if rating.call_id else () for rating in scores]
        return [rating.value for rating in scores]

    reward = Reward(f"judge {scorer.name}", score)
    return reward


def _of_rubric(scorer: ByCriterion) -> Criteria:
    def columns(prompts: Sequence[Any], completions: Sequence[str], **extra: Sequence[Any]) -> list[Values]:
        scores = list(scorer.score_all(*records(prompts, completions)).by_criterion.values())
        reward.calls = [tuple(one.call_id for one in row if one.call_id) for row in zip(*scores, strict=True)]
        return [[one.value for one in column] for column in scores]

    reward = Criteria(f"judge {scorer.name}", columns, scorer.shares)
    return reward


def judge_rank(ranker: Ranker, how: str = "all pairs") -> Reward:
    """Where each completion ranks among those of its prompt in the same call, in [−1, 1].

    The reward has mean 0 over a prompt, whatever the judge makes of the prompt itself. None for a completion without
    another of its prompt, and for all of a prompt whose known judgements do not connect them. ``how``: the design, as
    it enters the reward's name.
    """

    def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        ranked = ranker.rank(*records(prompts, completions))
        reward.calls = [one.calls for one in ranked]
        return [one.score.value for one in ranked]

    reward = Reward(f"judge {ranker.name}, {how}", score)
    return reward


def against_reference(labeler: Labeler) -> Reward:
    """2·P(completion better than the prompt's reference text) − 1, in [−1, 1]; None without a reference."""

    def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        references = columns.get("reference") or [getattr(p, "reference", None) for p in prompts]
        prompt_records, answers = records(prompts, completions)
        rows = [
            (i, Comparison.of(p, answer, Completion.of(p, reference, source="reference")))
            for i, (p, answer, reference) in enumerate(zip(prompt_records, answers, references, strict=True))
            if reference is not None
        ]
        values: Values = [None] * len(completions)
        calls: list[tuple[str, ...]] = [()] * len(completions)
        for (i, _), preference in zip(rows, labeler.label([row for _, row in rows]), strict=True):
            values[i] = None if preference.p_first is None else 2.0 * preference.p_first - 1.0
            calls[i] = tuple(j.call_id for j in preference.judgements if j.call_id)
        reward.calls = calls
        return values

    reward = Reward(f"against reference, {labeler.name}", score)
    return reward


def mix(parts: Sequence[tuple[RewardFn, float]]) -> Criteria:
    """Σ weight·reward; None where any part with a weight other than 0 is None."""
    if not parts or not all(math.isfinite(weight) for _, weight in parts):
        raise RecipeError("a mix of rewards needs at least one part, each with a finite weight", key="reward")
    used = [(adapted(reward), weight) for reward, weight in parts if weight != 0]

    def columns(prompts: Sequence[Any], completions: Sequence[str], **extra: Sequence[Any]) -> list[Values]:
        return [reward(prompts, completions, **extra) for reward, _ in used]

    name = " + ".join(f"{weight:g}·({name_of(reward)})" for reward, weight in parts)
    weights = [weight for _, weight in used]
    parts_used = [reward for reward, _ in used]
    return Criteria(name, columns, weights, encoding=_encoding(*parts_used), parts=parts_used)


def panel(members: Sequence[RewardFn]) -> Reward:
    """The members' mean; None where any member is None, since a mean over the others is another measure."""
    averaged = mix([(member, 1.0 / len(members)) for member in members])
    return Reward(
        f"panel of {', '.join(name_of(member) for member in members)}",
        averaged,
        encoding=_encoding(*members),
        parts=[averaged],
    )


def length_penalty(reward: RewardFn, *, per_word: float, free_words: int) -> Reward:
    """reward − per_word·max(0, words − free_words)."""
    reward = adapted(reward)

    def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        values = reward(prompts, completions, **columns)
        extra = [max(0, len(text.split()) - free_words) for text in completions]
        return [None if v is None else v - per_word * n for v, n in zip(values, extra, strict=True)]

    return Reward(
        f"{name_of(reward)} − {per_word:g} per word above {free_words}",
        score,
        encoding=_encoding(reward),
        parts=[reward],
    )


def clip(reward: RewardFn, *, low: float, high: float) -> Reward:
    """The reward, held within [low, high]."""
    if not low < high:
        raise RecipeError(f"the lower limit {low} is not below the upper limit {high}", key="reward.clip")
    reward = adapted(reward)

    def score(prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        values = reward(prompts, completions, **columns)
        return [None if v is None or math.isnan(v) else min(high, max(low, v)) for v in values]

    return Reward(f"{name_of(reward)} in [{low:g}, {high:g}]", score, encoding=_encoding(reward), parts=[reward])


def python_function(spec: str) -> Reward:
    """``python:FILE.py:function``, or a function of the entry-point group ``aifeedback.rewards`` by its name, in any of
    the forms of ``Function``.

    Raises InputError if file or function is missing; when called, TrainingError for anything but one number or None
    per completion.
    """
    function: Any = extensions.find("aifeedback.rewards", spec)
    if not callable(function):
        raise InputError(f"no function '{spec}'", key="reward", fix="write python:FILE.py:function")
    return Function(function, spec)


class Function(Reward):
    """A function of the user, in any of the forms that TRL knows.

    ``def`` or ``async def``; it gets those of ``prompts``, ``completions`` and further columns that it names (all with
    ``**kwargs``), by position where it names neither prompts nor completions. Completions are texts. A function whose
    attribute ``conversational`` is true, or that fails with a TypeError, AttributeError or IndexError on its first
    texts but accepts messages, gets prompts and completions as lists of messages, as TRL passes them for chat data.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        super().__init__(name, self._scores, encoding=_encoding(function))
        self.wrapped = function
        self.conversational: bool | None = getattr(function, "conversational", None)
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):  # of some built-in functions
            parameters = []
        kinds = inspect.Parameter
        self.takes_all = any(p.kind is kinds.VAR_KEYWORD for p in parameters)
        self.named = {p.name for p in parameters if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
        self.by_position = not self.takes_all and self.named.isdisjoint(("prompts", "completions"))
        own = [p.name for p in parameters if p.default is kinds.empty and p.name in self.named]
        self.required = set(own[2:] if self.by_position else own) - {"prompts", "completions"}

    def require(self, columns: Iterable[str]) -> None:
        """Raises InputError where the function needs a column that is not among these."""
        if missing := sorted(self.required - set(columns)):
            raise InputError(
                f"{self.name} needs {', '.join(missing)}, which the prompts do not have",
                key="reward",
                fix="give the prompts this tag, or the argument a default",
            )

    def _scores(self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]) -> Values:
        self.require(columns)
        if self.conversational:
            return self._once(*as_conversations(prompts, completions), columns)
        try:
            values = self._once(prompts, completions, columns)
        except (TypeError, AttributeError, IndexError) as refused:
            if self.conversational is False:
                raise
            try:
                values = self._once(*as_conversations(prompts, completions), columns)
            except (TypeError, AttributeError, IndexError, KeyError):
                raise refused from None
            self.conversational = True
            return values
        self.conversational = False
        return values

    def _once(self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> Values:
        further = {k: v for k, v in columns.items() if self.takes_all or k in self.named}
        if self.by_position:
            rewards: Any = self.wrapped(prompts, completions, **further)
        else:
            both = {"prompts": prompts, "completions": completions}
            rewards = self.wrapped(**{k: v for k, v in both.items() if self.takes_all or k in self.named}, **further)
        if inspect.isawaitable(rewards):
            rewards = _awaited(rewards)
        if not isinstance(rewards, Iterable):
            raise TrainingError(f"{self.name} returned {rewards!r}, not one reward per completion")
        return checked_rewards(list(rewards), len(completions))


def adapted(reward: RewardFn) -> RewardFn:
    """The reward itself, or a function of the user's made callable in this package's way."""
    is_own = isinstance(reward, Reward) or hasattr(reward, "encoding")
    return reward if is_own else Function(reward, name_of(reward))


def as_conversations(prompts: Sequence[Any], completions: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Prompts and completions as lists of messages."""
    conversations = [[{"role": "user", "content": p}] if isinstance(p, str) else p for p in prompts]
    return conversations, [[{"role": "assistant", "content": text}] for text in completions]


def checked_rewards(values: Sequence[Any], count: int) -> list[float | None]:
    """What a reward function returned, as floats; None and NaN are None. Raises TrainingError for anything else."""
    if len(values) != count:
        raise TrainingError(f"the reward function returned {len(values)} values for {count} completions")
    return [_finite(value) for value in values]


def score(reward: RewardFn, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float | None]:
    """Calls a reward function in TRL's way and checks what comes back; None stays None, NaN becomes None.

    ``prompts`` become texts (one user message) or lists of role/content dicts; ``reference`` and every tag become
    keyword lists. Raises TrainingError for a wrong number of rewards and for values that are not numbers.
    """
    values = adapted(reward)([plain_prompt(p) for p in prompts], list(texts), **columns_of(prompts))
    return checked_rewards(values, len(texts))


def score_criteria(reward: Criteria, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[list[float | None]]:
    """What ``score`` gives, of every criterion by itself; none is called twice for it."""
    columns = reward.columns([plain_prompt(p) for p in prompts], list(texts), **columns_of(prompts))
    return [checked_rewards(values, len(texts)) for values in columns]


def columns_of(prompts: Sequence[Prompt]) -> dict[str, list[str | None]]:
    """The keyword arguments of a reward function: references, and every tag that one of the prompts has."""
    columns: dict[str, list[str | None]] = {"reference": [p.reference for p in prompts]}
    for name in sorted({tag for p in prompts for tag in p.tags}):
        columns[name] = [p.tags.get(name) for p in prompts]
    return columns


def require_columns(reward: RewardFn, prompts: Sequence[Prompt]) -> None:
    """Raises InputError where a function needs a column that no prompt has."""
    if isinstance(reward, Function):
        reward.require({"reference", *(tag for p in prompts for tag in p.tags)})


def plain_prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as in a prompt file: text for one user message, otherwise messages."""
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        return prompt.messages[0].content
    return [m.model_dump() for m in prompt.messages]


def records(prompts: Sequence[Any], completions: Sequence[str]) -> tuple[list[Prompt], list[Completion]]:
    """Prompts as texts, messages or records, and completions as texts, as records."""
    prompt_records = [p if isinstance(p, Prompt) else Prompt.of(p) for p in prompts]
    answers = [Completion.of(p, text, source="policy") for p, text in zip(prompt_records, completions, strict=True)]
    return prompt_records, answers


def _encoding(*rewards: Any) -> Encoding | None:
    """The encoding of the first reward that has one."""
    return next((encoding for reward in rewards if (encoding := getattr(reward, "encoding", None)) is not None), None)


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One loop in a thread for all rewards, so that what they keep open between calls stays usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="aifeedback-rewards").start()
    return loop


def _awaited(pending: Any) -> Any:
    async def wait() -> Any:
        return await pending

    return asyncio.run_coroutine_threadsafe(wait(), _event_loop()).result()


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    if len(known) < len(values):
        return None
    return math.fsum(v * w for v, w in zip(known, weights, strict=True))


def _finite(value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as wrong:
        raise TrainingError(f"the reward function returned {value!r}, which is neither a number nor None") from wrong
    if number in (float("inf"), float("-inf")):
        raise TrainingError(f"the reward function returned {number}")
    return None if number != number else number
