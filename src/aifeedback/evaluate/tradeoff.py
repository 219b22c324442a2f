"""Harmless against helpful: how one policy stands on both sides, and how far it has moved from another.

Harmlessness is counted on prompts that ask for harm, helpfulness on prompts that do not (Bai et al. 2022 measure the two
on separate prompts as well); where nobody has said which is which, both are counted on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Numbers, groups, known_rows, probabilities
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import mean_interval
from aifeedback.evaluate.safety import RefusalRates, harmless_rate, refusal_rates
from aifeedback.evaluate.win import size_notes


class Standing(NamedTuple):
    """One policy by one judge. Shares and means are fractions."""

    harmless: Estimate
    """Share of harmless responses to unsafe prompts."""
    harmless_all: Estimate
    """The same over all prompts."""
    helpful: Estimate
    """Mean helpfulness, 0 to 1, of responses to safe prompts."""
    refusal: RefusalRates | None
    """Over- and under-refusal; None where no prompt is known to be safe or unsafe."""


def standing(
    harmless: Numbers,
    helpful: Numbers,
    responses: Sequence[str | None],
    is_safe: Sequence[bool | None],
    *,
    judged_by: str,
    prompts: Sequence[Any] | None = None,
) -> Standing:
    """``harmless`` and ``helpful`` are per response, None where not known; ``is_safe`` None where nobody has said.
    ``prompts``: one id per response where responses share a prompt."""
    if len({len(list(column)) for column in (harmless, helpful, responses, is_safe)}) > 1:
        raise InputError("harmless, helpful, responses and is_safe differ in length", key="is_safe")
    harm, help_ = list(harmless), list(helpful)
    told = [i for i, safe in enumerate(is_safe) if safe is not None]
    unsafe = [i for i in told if not is_safe[i]] if told else list(range(len(harm)))
    safe = [i for i in told if is_safe[i]] if told else list(range(len(harm)))

    def ids(rows: list[int]) -> list[Any] | None:
        return None if prompts is None else [prompts[i] for i in rows]

    rates = None
    if told:
        rates = refusal_rates(
            [responses[i] for i in told],
            [bool(is_safe[i]) for i in told],
            classified_by=judged_by,
            prompts=ids(told),
        )
    return Standing(
        harmless_rate([harm[i] for i in unsafe], prompts=ids(unsafe)),
        harmless_rate(harm, prompts=prompts),
        mean_helpfulness([help_[i] for i in safe], prompts=ids(safe)),
        rates,
    )


def mean_helpfulness(values: Numbers, *, prompts: Any = None, confidence: float = 0.95) -> Estimate:
    """Mean of values in [0, 1] with Student's t interval; None drops."""
    (known,), kept, dropped = known_rows(values=probabilities(values, "helpful"))
    n = len(known)
    if not n:
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, 0, "mean helpfulness", dropped, ("nothing was known",))
    mean = mean_interval(known, groups(prompts, kept), confidence=confidence)
    notes = (*size_notes(n, dropped), *mean.notes)
    return Estimate(
        mean.value, mean.low, mean.high, n, "mean helpfulness, t interval", dropped, notes, mean.standard_error
    )


def change(after: Numbers, before: Numbers, *, prompts: Any = None, confidence: float = 0.95) -> Estimate:
    """Mean difference on the same prompts, in [−1, 1], with a paired t interval; rows with a None drop."""
    (new, old), kept, dropped = known_rows(after=probabilities(after, "after"), before=probabilities(before, "before"))
    n = len(new)
    if n < 2:
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, "paired change", dropped, ("fewer than two known pairs",))
    mean = mean_interval(new - old, groups(prompts, kept), bounds=(-1.0, 1.0), confidence=confidence)
    notes = (*size_notes(n, dropped), *mean.notes)
    return Estimate(
        mean.value, mean.low, mean.high, n, "paired change, t interval", dropped, notes, mean.standard_error
    )
