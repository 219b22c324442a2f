"""Who says that it worked? A claim that rests only on the judge that trained the policy is unverified.

The same holds for that judge's family. A policy trained on a judge learns what it likes, flaws included; the judge's
own approval is then no evidence, and a relative of it shares its flaws. People and gold functions count as
independent of every model, unless the very same source also gave the training signal (a gold function does then
measure fit, not success; new human ratings stay valid).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aifeedback.protocols import ModelCard

Source: TypeAlias = ModelCard | Literal["human", "gold"]
"""Who judged. A reward model stands for the judge whose labels it learned: name that judge too."""
NO_FAMILY = frozenset({"", "unknown", "none", "?"})


@dataclass(frozen=True)
class Independence:
    value: Literal["verified", "unverified"]
    reason: str
    """One sentence for the report."""
    independent: tuple[str, ...] = ()
    """Evidence that counts."""
    rejected: tuple[str, ...] = ()
    """Evidence that does not, each with why."""

    @property
    def is_verified(self) -> bool:
        return self.value == "verified"

    def as_dict(self) -> dict[str, object]:
        return {
            "value": self.value,
            "reason": self.reason,
            "independent": list(self.independent),
            "rejected": list(self.rejected),
        }


def verify_independence(training: Sequence[Source], evidence: Sequence[Source]) -> Independence:
    """``verified`` only if some piece of evidence comes from a source independent of every training source.

    ``training``: everyone whose judgement shaped the policy. ``evidence``: everyone whose judgement supports the claim.
    No evidence, or training sources not named, is unverified: independence is shown, never assumed.
    """
    if not evidence:
        return Independence("unverified", "Unverified: nobody but the training signal itself has judged this.")
    if not training:
        everyone = tuple(name_of(source) for source in evidence)
        reason = (
            "Unverified: it is not recorded who judged the training data, so nobody can be shown independent of it."
        )
        return Independence("unverified", reason, rejected=everyone)
    independent, rejected = [], []
    for source in evidence:
        objection = next(filter(None, (dependence(source, trainer) for trainer in training)), "")
        if objection:
            rejected.append(f"{name_of(source)}: {objection}")
        else:
            independent.append(name_of(source))
    if independent:
        reason = f"Verified by {', '.join(independent)}, independent of the training signal."
        return Independence("verified", reason, tuple(independent), tuple(rejected))
    reason = f"Unverified: the only evidence is not independent of the training signal ({'; '.join(rejected)})."
    return Independence("unverified", reason, (), tuple(rejected))


def dependence(source: Source, trainer: Source) -> str:
    """Why ``source`` says nothing new about a policy trained on ``trainer``, or '' where it does."""
    if source == "human":
        return ""
    if isinstance(source, str) or isinstance(trainer, str):
        return "it is the training signal itself" if source == trainer else ""
    if _plain(source.uri) == _plain(trainer.uri):
        return "it is the training judge"
    if source.revision and source.revision == trainer.revision:
        return "it has the training judge's weights under another name"
    families = _plain(source.family), _plain(trainer.family)
    if not NO_FAMILY.isdisjoint(families):
        return "its family, or the training judge's, is not known"
    if families[0] == families[1]:
        return f"it is of the training judge's family '{source.family}'"
    return ""


def name_of(source: Source) -> str:
    if isinstance(source, ModelCard):
        return source.uri
    return {"human": "people", "gold": "the gold function"}[source]


def _plain(name: str) -> str:
    return name.strip().casefold()
