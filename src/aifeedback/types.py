"""The records that steps exchange, and the interfaces they are passed through.

Records are frozen, one JSON line each; their ids are short content hashes.

A preference is always ``p_first``: the probability in [0, 1] that the *first stored* completion is better, whatever
order was shown. ``None`` means unknown and comes with a ``problem``; nothing ever replaces it by a number.

Interfaces are protocols of one or two methods: human raters, oracles, reward models and judges are all ``Labeler``s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

Probability = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Role = Literal["system", "user", "assistant", "tool"]
"""tool: what a tool returned. A developer message counts as a system message."""


class Problem(StrEnum):
    """Why something is unknown. A record with one is kept, counted, reported and left out of training."""

    REFUSED = "refused"  # the model declined to answer
    UNREADABLE = "unreadable"  # an answer came, no verdict could be read from it
    LABEL_HIDDEN = "label_hidden"  # a label is outside the top log-probabilities that the server shows
    NO_LOGPROBS = "no_logprobs"  # the server returned none
    BAD_LOGPROBS = "bad_logprobs"  # NaN, positive or otherwise impossible
    TOO_LONG = "too_long"  # the prompt does not fit the model's context window
    EMPTY = "empty"  # nothing to judge, or an empty answer
    TRUNCATED = "truncated"  # the answer hit its token limit before it could be read
    SERVER_ERROR = "server_error"  # the call failed after all its retries
    TIMEOUT = "timeout"  # the call's deadline passed
    OVER_BUDGET = "over_budget"  # the spend cap was reached before this call
    ABSTAINED = "abstained"  # the judge or the rater could not tell
    DISAGREEMENT = "disagreement"  # votes cancelled out
    MISSING = "missing"  # a part that this depends on is itself unknown


class Record(BaseModel):
    """Frozen, unknown keys refused, compared and hashed by value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def content_id(*parts: Any) -> str:
    """Sixteen hex digits of SHA-256 over the parts as canonical JSON: equal parts, equal id, on any machine."""
    try:
        canonical = f"[{','.join([encode_basestring(part) for part in parts])}]"  # fast path for strings; same digest
    except TypeError:
        canonical = _canonical(parts)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _as_plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"no canonical form for {type(value).__name__}")


# one encoder for all: json.dumps makes a new one in every call
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_as_plain).encode


class Explained(Record):
    """A record with one value that is either known, or None with a ``problem`` that says why."""

    _value: ClassVar[str] = "p_first"
    if TYPE_CHECKING:
        problem: Problem | None

    @model_validator(mode="after")
    def _known_or_explained(self) -> Self:
        if (getattr(self, self._value) is None) != (self.problem is not None):
            raise ValueError("a value is either known, or None with a problem that says why")
        return self


class Message(Record):
    role: Role
    content: str


def prompt_id(turns: Iterable[tuple[str, str]]) -> str:
    """The id of a prompt with these (role, content) turns.

    It is ``content_id("prompt", [{"role": …, "content": …}, …])``, computed three times faster.
    """
    joined = ",".join(
        f'{{"content":{encode_basestring(content)},"role":{encode_basestring(role)}}}' for role, content in turns
    )
    return hashlib.sha256(f'["prompt",[{joined}]]'.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Prompt(Record):
    """What a policy answers. One user message is plain text; more are a dialogue."""

    id: str
    messages: tuple[Message, ...]
    reference: str | None = None
    tags: Mapping[str, str] = Field(default_factory=dict)
    is_chat: bool = False
    """Whether it came as a message list: files write it as one again, even if it is a single user message."""

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[Message] | Sequence[Mapping[str, str]],
        *,
        reference: str | None = None,
        tags: Mapping[str, str] | None = None,
        is_chat: bool = False,
    ) -> Self:
        """The id depends on the messages alone, so the same prompt has the same id in every file."""
        if isinstance(prompt, str):
            messages = (Message(role="user", content=prompt),)
        else:
            messages = tuple(Message.model_validate(m, from_attributes=True) for m in prompt)
        identity = prompt_id((m.role, m.content) for m in messages)
        return cls(id=identity, messages=messages, reference=reference, tags=tags or {}, is_chat=is_chat)

    @model_serializer(mode="wrap")
    def _without_default_form(self, as_dict: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave ``is_chat`` out where it is false: files of plain prompts stay as they were."""
        cells = as_dict(self)
        if not self.is_chat:
            cells.pop("is_chat", None)
        return cells

    @property
    def is_dialogue(self) -> bool:
        """Whether it is more than one user message, which plain text cannot represent."""
        return len(self.messages) != 1 or self.messages[0].role != "user"

    @property
    def text(self) -> str:
        """The prompt as people and judges read it: plain for one user message, a transcript otherwise."""
        if not self.is_dialogue:
            return self.messages[0].content
        return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in self.messages)


class Sampling(Record):
    """How an answer is drawn. ``temperature=0`` is greedy; ``top_k``/``top_p`` of None are off."""

    temperature: float = Field(default=1.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    max_new_tokens: int = Field(default=128, ge=1)
    stop: tuple[str, ...] = ()
    """Strings that end the answer; the stop string itself is not part of the text."""
    seed: int = 0


FinishReason = Literal["stop", "length", "error", "unknown"]


class Completion(Record):
    id: str
    prompt_id: str
    text: str
    source: str
    """Who wrote it: a model URI, a policy's name, 'human', a data set's name."""
    sampling: Sampling | None = None
    finish_reason: FinishReason = "unknown"

    @classmethod
    def of(
        cls,
        prompt: Prompt,
        text: str,
        *,
        source: str,
        sampling: Sampling | None = None,
        finish_reason: FinishReason = "unknown",
    ) -> Self:
        return cls(
            id=content_id("completion", prompt.id, text, source),
            prompt_id=prompt.id,
            text=text,
            source=source,
            sampling=sampling,
            finish_reason=finish_reason,
        )


class Comparison(Record):
    """Two completions of one prompt, in storage order."""

    id: str
    prompt: Prompt
    first: Completion
    second: Completion

    @classmethod
    def of(cls, prompt: Prompt, first: Completion, second: Completion) -> Self:
        identity = content_id("comparison", prompt.id, first.id, second.id)
        return cls(id=identity, prompt=prompt, first=first, second=second)

    def swapped(self) -> Comparison:
        return Comparison.of(self.prompt, self.second, self.first)


class Judgement(Explained):
    """One reading of one comparison by one judge, in one shown order. ``p_first`` is about storage order."""

    comparison_id: str
    judge: str
    principle_id: str | None = None
    shown_swapped: bool
    readout: Literal["logprobs", "parsed", "votes", "ratings", "gold", "human", "recorded"]
    p_first: Probability | None
    logprobs: tuple[float | None, ...] | None = None
    """log P(label) as shown: the label of the response *shown* first comes first. Nats, unnormalised."""
    coverage: float | None = None
    """Probability mass that the readout could see on the labels, in [0, 1]."""
    rationale: str | None = None
    problem: Problem | None = None
    call_id: str | None = None


class Preference(Explained):
    """What a labeler says about a comparison, with every judgement it rests on."""

    comparison_id: str
    source: str
    p_first: Probability | None
    judgements: tuple[Judgement, ...] = ()
    position_gap: float | None = None
    """P(first) when shown first minus P(first) when shown second: 0 for a judge blind to position, in [-1, 1]."""
    problem: Problem | None = None


class Score(Explained):
    """A judge's score of one completion."""

    _value = "value"

    completion_id: str
    judge: str
    value: float | None = Field(default=None, ge=-1.0, le=1.0, allow_inf_nan=False)
    """(2·expected − K − 1)/(K − 1) on a scale from 1 to K, in [−1, 1]."""
    expected: float | None = Field(default=None, ge=1.0, le=10.0, allow_inf_nan=False)
    """Σ i·P(i) over the labels 1..K, mostly 1..10."""
    distribution: tuple[float, ...] | None = None
    """P(1)..P(K), normalised over the labels."""
    coverage: float | None = None
    rationale: str | None = None
    problem: Problem | None = None
    call_id: str | None = None


class Revision(Record):
    """One critique-and-revise round on one prompt."""

    prompt_id: str
    round: int = Field(ge=1)
    principle_id: str
    before: str
    critique: str
    after: str
    problem: Problem | None = None


class Rating(Record):
    """One rater's verdict on one item. Ranks start at 1; equal ranks are ties; None is 'cannot tell'."""

    item_id: str
    rater: str
    choice: Literal["first", "second", "tie", "cannot_tell"] | None = None
    ranking: tuple[int, ...] | None = None
    value: float | None = Field(default=None, allow_inf_nan=False)
    """Of a single response: the score, or 1 for yes and 0 for no."""
    asks: str | None = None
    """The question about a single response: 'harmful', 'refused' or 'score'."""
    order_shown: tuple[int, ...]
    """Storage index of the response shown at each position."""
    seconds: float | None = None
    at: str
    """UTC, ISO 8601."""
    comment: str | None = None
    revision: int = Field(default=0, ge=0)
    """0 for the first rating of an item; a correction is a new record with the next number."""
    purpose: Literal["rating", "repeat", "gold", "calibration"] = "rating"
    """Why the item was shown: only ratings count as verdicts, the rest measures the rater."""
    prompt_id: str | None = None
    standard: str | None = None
    """Guidelines that the rater was shown: their title and version."""
    answers: tuple[str, ...] = ()
    """``text_id`` of each response in storage order: what 'first', 'second' and the ranking refer to."""


def text_id(text: str) -> str:
    """The id of a response's text, whoever wrote it."""
    return content_id("text", text)


PromptLike: TypeAlias = str | Sequence[Message]
"""Text is used exactly as it is. Messages go through the model's chat template; a list that ends with an assistant
message is *continued* from there (that is how a judge prompt forces its ending), any other gets a generation prompt."""


class ModelCard(Record):
    """Who answers. Two calls may share a cached answer only if their cards are equal."""

    uri: str
    revision: str
    """Digest of a local model's weights and tokenizer; what a server reports of itself otherwise."""
    family: str
    """Models of one family do not count as independent of each other: architecture and lineage, or vendor."""
    parameters: int | None = None
    context_window: int | None = None
    """Tokens."""


class Reply(Record):
    """One sampled answer. With a ``problem``, ``text`` is whatever came, for the record only."""

    text: str
    finish_reason: FinishReason = "unknown"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    problem: Problem | None = None
    call_id: str | None = None


class Reading(Record):
    """log P(label | prompt) for each label, in nats, *unnormalised* over the label set; None where unknown."""

    logprobs: tuple[float | None, ...]
    coverage: float | None = None
    """Sum of the label probabilities that were seen, in [0, 1]."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """What a server wrote for it, thinking included; 0 where nothing is written."""
    cost_usd: float = 0.0
    problem: Problem | None = None
    call_id: str | None = None


@runtime_checkable
class Model(Protocol):
    """Something that answers: a local model, a server, a fake, or a journal in front of one of them."""

    @property
    def card(self) -> ModelCard: ...

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        """One answer per prompt, in order; each drawn with a seed made of ``sampling.seed`` and the prompt itself."""
        ...

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        """Read every label's log-probability at the position after each prompt. Nothing is sampled."""
        ...


class Labeler(Protocol):
    """Says which of two completions is better."""

    @property
    def name(self) -> str: ...

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison, in order; ``p_first`` is None with a problem where unknown."""
        ...


class Scorer(Protocol):
    """Scores completions one by one."""

    @property
    def name(self) -> str: ...

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """One score per (prompt, completion), in order."""
        ...


class RewardFn(Protocol):
    """TRL's signature: parallel lists in, one float or None (could not be scored) per completion out.

    ``prompts`` are texts or message lists as in the prompt file; further columns of the file come as keyword lists.
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]: ...


Progress: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
"""progress(done, total, figures): called now and then by anything that takes long; figures go beside the bar."""


def silent(done: int, total: int, figures: Mapping[str, float]) -> None:
    """A Progress that shows nothing."""
