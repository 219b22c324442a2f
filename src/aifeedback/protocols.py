"""The seams of the system, one or two methods each. People, gold functions, reward models and judges are Labelers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from aifeedback.records import (
    Comparison,
    Completion,
    FinishReason,
    Message,
    Preference,
    Problem,
    Prompt,
    Record,
    Sampling,
    Score,
)

PromptLike: TypeAlias = str | Sequence[Message]
"""Text is used exactly as it is. Messages go through the model's chat template; a list that ends with an assistant
message is *continued* from there (that is how a judge prompt forces its ending), any other gets a generation prompt."""


class ModelCard(Record):
    """Who answers. Two calls may share a cached answer only if their cards are equal."""

    uri: str
    revision: str
    """Digest of a local model's weights and tokenizer; what a server reports of itself otherwise."""
    family: str
    """Models of one family do not count as independent of each other (R16): architecture and lineage, or vendor."""
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
    """log P(label | prompt) for each label, in nats, *unnormalised* over the label set; None where not known."""

    logprobs: tuple[float | None, ...]
    coverage: float | None = None
    """Sum of the label probabilities that were seen, in [0, 1]."""
    prompt_tokens: int = 0
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
        """Reads every label's log-probability at the position after each prompt. Nothing is sampled."""
        ...


class Labeler(Protocol):
    """Says which of two completions is better."""

    @property
    def name(self) -> str: ...

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison, in order; ``p_first`` is None with a problem where not known."""
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
