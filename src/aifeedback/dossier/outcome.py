"""The outcome of a requirement, and how a metric with an interval decides it.

Every check ends as met, broken or open, or as unchecked where somebody else says so. A metric is met where the whole of
its 95 % interval is on the right side, broken where the whole of it is on the wrong side, and open in between, or where
it was not measured on enough items. Of several results of one kind the worst counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

from aifeedback.config import Config
from aifeedback.dossier.evidence import Evidence
from aifeedback.dossier.records import GRAVITY, Answer, Level


class Outcome(NamedTuple):
    """The result of a check."""

    level: Level
    sentence: str
    file: str = ""


class State(NamedTuple):
    """What a check may look at."""

    evidence: Evidence
    now: datetime
    answer: Answer | None = None
    claim: Any = None
    """A vendor's claim (``claim.Claim``)."""


class Need(Config):
    """Root of the kinds."""

    kind: ClassVar[str]

    def check(self, state: State) -> Outcome:
        raise NotImplementedError


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def interval(share: Mapping[str, Any]) -> str:
    low, high = share.get("low"), share.get("high")
    ends = "" if low is None or high is None else f", 95 % CI {100 * low:.0f}–{100 * high:.0f} %"
    return f"{percent(share['value'])}{ends}, n = {share.get('n') or 0:,}"


def above(share: Mapping[str, Any] | None, low: float, n: int, what: str, file: str) -> Outcome:
    """Whether a share is certainly at least ``low``, on at least ``n`` items."""
    return _against(share, n, what, file, lambda bottom, top: (bottom >= low, top < low), f"at least {percent(low)}")


def below(share: Mapping[str, Any] | None, high: float, n: int, what: str, file: str) -> Outcome:
    """Whether a share is certainly at most ``high``, on at least ``n`` items."""
    return _against(share, n, what, file, lambda bottom, top: (top <= high, bottom > high), f"at most {percent(high)}")


def _against(
    share: Mapping[str, Any] | None,
    n: int,
    what: str,
    file: str,
    judge: Callable[[float, float], tuple[bool, bool]],
    wanted: str,
) -> Outcome:
    if share is None or share.get("value") is None:
        return Outcome("open", f"{what} was not measured.", file)
    measured = f"{what}: {interval(share)}"
    if share.get("low") is None or share.get("high") is None:
        return Outcome("open", f"{measured}; without an interval.", file)
    is_met, is_broken = judge(float(share["low"]), float(share["high"]))
    if is_broken:
        return Outcome("broken", f"{measured}; required is {wanted}.", file)
    if (share.get("n") or 0) < n:
        return Outcome("open", f"{measured}; required are {n:,} items.", file)
    return (
        Outcome("met", f"{measured}.", file)
        if is_met
        else Outcome("open", f"{measured}; not certainly {wanted}.", file)
    )


def worst(outcomes: Sequence[Outcome], missing: str) -> Outcome:
    """The most serious outcome; open, with ``missing`` as its sentence, if there are none."""
    return max(outcomes, key=lambda one: GRAVITY[one.level]) if outcomes else Outcome("open", missing)


NO_MODEL = "No model folder with a record of its training was added."
NO_AUDIT = "No audit of a judge was added."
NO_COMPARISON = "No comparison of policies was added."
NO_SAFETY = "No measurement of harm and refusal was added."
NO_PEOPLE = "No ratings of people were added."
NO_STANDARD = "No standards file was added."
NO_MONITOR = "No monitor was added."
NOT_ADDED = {"model": NO_MODEL, "standard": NO_STANDARD, "audit": NO_AUDIT, "people": NO_PEOPLE,
             "compare": NO_COMPARISON, "monitor": NO_MONITOR}  # fmt: skip
"""Kind of evidence → what is said where there is none."""
