"""Verdicts: one line for people on a step's result, and the rules that several steps share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from aifeedback.judging.diagnosis import Cause

if TYPE_CHECKING:
    from aifeedback.steps.step import Measured

MANY_UNKNOWN = 0.1
"""A larger share of unknown rows is reported."""
NO_MASS, LOW_MASS = 0.05, 0.5
"""Label mass below which labels mean nothing, and below which they deserve doubt."""
NARROW = 0.01
"""A preference within this distance of one half decides nothing."""
SEE_PROMPT = "Do not train on these labels; try another --prompt, and look at it with --dry-run."
SEE_JUDGE = "Do not train on these labels; try another --prompt or another judge."


class Verdict(NamedTuple):
    """How good a result is, what it means, what to do."""

    level: Literal["ok", "watch", "bad"]
    meaning: str
    action: str = ""

    @property
    def mark(self) -> str:
        return {"ok": "✓", "watch": "!", "bad": "✗"}[self.level]

    def __str__(self) -> str:
        return f"{self.mark} {self.meaning}" + (f"\n  → {self.action}" if self.action else "")


def on_unknown(unknown: int, total: int, things: str, cause: Cause | None) -> Verdict | None:
    """What unknown rows mean for a result; None where few are unknown."""
    if not unknown or unknown <= MANY_UNKNOWN * total:
        return None
    action = _sentence(cause.advice) if cause and cause.advice else ""
    why = f": {cause.count:,} {cause.problem}" + (f" ({cause.cause})" if cause.cause else "") if cause else ""
    if unknown == total:
        return Verdict("bad", f"None of the {total:,} {things} could be read{why}.", action)
    return Verdict("watch", f"{unknown:,} of {total:,} {things} are unknown{why}.", action)


def on_label_mass(mass: float | None) -> Verdict | None:
    """What the probability of the labels together means; None where it is high or not known."""
    if mass is None or mass >= LOW_MASS:
        return None
    share = f"{percent(mass)} of the probability is on the labels"
    if mass < NO_MASS:
        return Verdict("bad", f"Only {share}: the judge wanted to say something else.", SEE_PROMPT)
    return Verdict("watch", f"{share}.".capitalize(), "Another --prompt may hold more of it.")


def on_agreement(agreement: Measured | None) -> Verdict | None:
    """Agreement with human labels against chance, one half; None where it is not known."""
    if agreement is None or agreement.value is None:
        return None
    shown = with_interval(agreement)
    if agreement.value <= 0.5:
        return Verdict("bad", f"Agreement with human labels is no better than chance: {shown}.", SEE_JUDGE)
    if agreement.low is None or agreement.low <= 0.5:
        meaning = f"Agreement with human labels cannot be distinguished from chance: {shown}."
        return Verdict("watch", meaning, "Measure it on more pairs with human labels.")
    return Verdict("ok", f"Agreement with human labels {shown}.")


def percent(share: float) -> str:
    """71 %, 0.00026 %: two digits that count where it is small."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def with_interval(share: Measured) -> str:
    """71 % (95 % CI 67–75 %, n = 500)"""
    if share.value is None:
        return "unknown"
    parts = (
        [] if share.low is None or share.high is None else [f"95 % CI {100 * share.low:.0f}–{100 * share.high:.0f} %"]
    )
    parts += [] if share.n is None else [f"n = {share.n:,}"]
    return percent(share.value) + (f" ({', '.join(parts)})" if parts else "")


def count(number: int, thing: str) -> str:
    return f"{number:,} {thing if number == 1 else thing + 's'}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
