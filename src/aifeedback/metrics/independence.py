"""Who says that it worked? A claim that rests only on who trained the policy, or on their family, is unverified.

A policy trained on a judge learns what it likes, flaws included; the judge's own approval is then no evidence, and a
relative of it shares its flaws. A reward model carries on what its labels taught it. People and the known true
preference are independent of every model; the true preference is not where it gave the training signal itself. A
scripted model is never evidence, and neither is a model whose identity only its own code declares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aifeedback.types import ModelCard

PEOPLE = frozenset({"people", "human"})
ORACLE = "oracle"
DISTILLED = "reward model"
SCRIPTED = "fake"
OWN_CODE = "python:"
NO_FAMILY = frozenset({"", "unknown", "none", "?"})


class Source(NamedTuple):
    """A source of feedback or evaluation; an empty text is unknown."""

    name: str
    model: str = ""
    family: str = ""
    revision: str = ""
    weights: str = ""
    """Digest of a local model's weights alone."""

    @classmethod
    def of(cls, card: ModelCard) -> Source:
        return cls(card.uri, card.uri, card.family, card.revision)


class Independence(NamedTuple):
    is_verified: bool
    reason: str
    """For the head of a report: why, or by whom; no full stop."""
    independent: tuple[str, ...] = ()
    """Names of the evaluators that count as proof."""
    dependent: tuple[str, ...] = ()
    """Names of those that do not."""


def verify_independence(trainers: Sequence[Source], evaluators: Sequence[Source]) -> Independence:
    """Verified only if some evaluator is independent of every trainer.

    ``trainers``: everyone whose judgement shaped the policy. ``evaluators``: everyone whose judgement supports the
    claim. Without a source on either side it is unverified: independence is shown, never assumed.
    """
    objections = [next(filter(None, (dependence(e, t) for t in trainers)), "") for e in evaluators]
    proof = [e for e, objection in zip(evaluators, objections, strict=True) if trainers and not objection]
    free = tuple(e.name for e in proof)
    bound = tuple(e.name for e in evaluators if e not in proof)
    if proof:
        who = _listed([_named(e) for e in proof])
        return Independence(True, f"judged by {who}, independent of the training feedback", free, bound)
    if not evaluators:
        return Independence(False, "the policies have not been evaluated yet")
    if not trainers:
        return Independence(False, "it is not recorded who gave the training feedback", (), bound)
    reasons = _listed([f"{e.name} ({objection})" for e, objection in zip(evaluators, objections, strict=True)])
    return Independence(False, f"the only evidence comes from {reasons}", (), bound)


def dependence(evaluator: Source, trainer: Source) -> str:
    """Why ``evaluator`` says nothing new about a policy trained on ``trainer``, or '' where it does."""
    families = _plain(evaluator.family), _plain(trainer.family)
    if families[0] in PEOPLE:
        return ""
    if families[0] == SCRIPTED or _plain(evaluator.model).startswith(f"{SCRIPTED}:"):
        return "it is a scripted model, which is not evidence"
    if _plain(evaluator.model).startswith(OWN_CODE):
        return "who it is rests on its own code's word"
    if ORACLE in families:
        return "it is the training signal itself" if families[0] == families[1] else ""
    if families[0] == DISTILLED:
        return "a reward model carries on the training feedback"
    if not evaluator.model and families[0] in NO_FAMILY:
        return "its model is unknown"
    if evaluator.model and _plain(evaluator.model) == _plain(trainer.model):
        return "it gave the training feedback"
    if evaluator.revision and evaluator.revision == trainer.revision:
        return "it has the weights of who gave the training feedback, under another name"
    if evaluator.weights and evaluator.weights == trainer.weights:
        return "it has the weights of who gave the training feedback, under another name"
    if families[1] in PEOPLE:
        return ""
    if not NO_FAMILY.isdisjoint(families):
        return "its family, or the training judge's, is unknown"
    return f"it is of the training judge's family '{evaluator.family}'" if families[0] == families[1] else ""


def _named(source: Source) -> str:
    if source.family == ORACLE:
        return "the known true preference"
    return "people" if source.family in PEOPLE else source.model or source.name


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _plain(name: str) -> str:
    return name.strip().casefold()
