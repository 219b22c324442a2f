"""R16: evidence from the judge that gave the training feedback, or from its family, proves nothing.

Two sources are dependent when they are the same model (URI or digest of the weights) or of one family; a reward model
is distilled from the training feedback and depends on it. People and a known gold preference are independent of any
model. Where it is not known who gave the feedback or who evaluated, nothing counts as verified.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FREE = ("people", "human", "oracle")
DISTILLED = "reward model"


class Source(NamedTuple):
    """Who said something: as much as is known of it; empty text is not known."""

    name: str
    model: str = ""
    family: str = ""
    revision: str = ""

    def depends_on(self, other: Source) -> bool:
        """Same model, same weights or same family. A source of which neither model nor family is known depends."""
        if self.family in FREE:
            return False
        if self.family == DISTILLED or not (self.model or self.family) or not (other.model or other.family):
            return True
        pairs = ((self.model, other.model), (self.family, other.family), (self.revision, other.revision))
        return any(a and b and a.strip().casefold() == b.strip().casefold() for a, b in pairs)


class Independence(NamedTuple):
    is_verified: bool
    reason: str
    """One sentence for the head of a report."""
    independent: tuple[str, ...]
    """Names of the evaluators that count as proof."""
    dependent: tuple[str, ...]


def independence(evaluators: Sequence[Source], trainers: Sequence[Source]) -> Independence:
    """Whether at least one evaluator is independent of everything that the policies learned from."""
    free = tuple(e.name for e in evaluators if trainers and not any(e.depends_on(t) for t in trainers))
    bound = tuple(e.name for e in evaluators if e.name not in free)
    if free:
        who = _listed([_named(e) for e in evaluators if e.name in free])
        reason = f"judged by {who}, independent of the training feedback"
        return Independence(True, reason, free, bound)
    if not evaluators:
        return Independence(False, "nobody has evaluated the policies yet", (), ())
    if not trainers:
        return Independence(False, "it is not recorded who gave the training feedback", (), bound)
    reason = f"the only evidence comes from {_listed(bound)}: the judge that gave the training feedback, or its family"
    return Independence(False, reason, (), bound)


def _named(source: Source) -> str:
    words = {"oracle": "the known true preference", "people": "people", "human": "people"}
    return words.get(source.family, source.name)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
