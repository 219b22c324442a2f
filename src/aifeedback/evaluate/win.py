"""Win rates, and whether two of them differ.

A win rate is the mean of ``p_first``: the expected share of prompts on which the first response is preferred. With
hard labels (0, 1, and 0.5 for a tie) that is wins plus half the ties over all rows, the usual definition; with soft
labels it is what AlpacaEval publishes as ``win_rate``. ``hard=True`` binarises at 0.5 first (AlpacaEval's
``discrete_win_rate``, and the "share of prompts where a rater prefers A" of Lee et al. 2023 when the rater is an AI).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.evaluate import paired
from aifeedback.evaluate.columns import Floats, Numbers, cluster_sums, groups, known_rows, probabilities
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import share_interval, t_of, t_test_p, variance_of_mean
from aifeedback.evaluate.multiple import adjust

Ties: TypeAlias = Literal["half", "drop", "loss"]
IntervalMethod: TypeAlias = Literal["wilson", "clopper-pearson", "t", "bootstrap"]
PairedTest: TypeAlias = Literal["t", "wilcoxon", "mcnemar", "permutation"]
FEW = 30
NO_SPREAD = "no spread: every row shows the same, so an interval cannot say how far the truth may be away"
"""For estimates whose interval rests on the spread of the rows alone."""


@dataclass(frozen=True)
class WinRate(Estimate):
    wins: int = 0
    """Rows with p_first > 0.5."""
    losses: int = 0
    ties: int = 0
    """Rows with p_first exactly 0.5."""
    hard_value: float = NOT_KNOWN
    """(wins + ties / 2) / n: the win rate of the binarised labels."""
    p_value: float = NOT_KNOWN
    """Two-sided, against 50 %: sign test on hard labels without clusters, t-test otherwise."""


def win_rate(
    p_first: Numbers,
    ties: Ties = "half",
    *,
    method: IntervalMethod = "wilson",
    hard: bool = False,
    prompts: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> WinRate:
    """Share of rows on which the first response wins: mean of ``p_first``, with an interval and a test against 50 %.

    ``ties``: what p_first = 0.5 exactly counts, half a win, nothing at all (the row is dropped), or a loss.
    ``prompts``: one id per row where several rows share a prompt; interval and test then treat prompts, not rows, as
    independent (bootstrap draws whole prompts). Rows that are None or NaN are dropped and counted. Raises InputError
    outside [0, 1].

    Wilson and Clopper–Pearson are the textbook intervals on yes/no rows; with soft labels, ties or ``prompts`` they are
    read at the effective number of rows (see ``intervals``). ``standard_error`` is s/√n, clustered by prompt if given.
    """
    column = probabilities(p_first, "p_first")
    (values,), kept, dropped = known_rows(p_first=column)
    clusters = groups(prompts, kept)
    wins, losses = int((values > 0.5).sum()), int((values < 0.5).sum())
    tied = len(values) - wins - losses
    hard_value = (wins + tied / 2) / len(values) if len(values) else NOT_KNOWN
    values, clusters = _apply_ties(values, clusters, ties, hard)
    interval = share_interval(values, clusters, method=method, confidence=confidence, seed=seed, resamples=resamples)
    variance = variance_of_mean(values, clusters).variance
    return WinRate(
        value=float(values.mean()) if len(values) else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=len(values),
        method=_describe(values, ties, tied, method, hard, clusters),
        dropped=dropped,
        notes=size_notes(len(values), dropped),
        standard_error=float(np.sqrt(variance)),
        wins=wins,
        losses=losses,
        ties=tied,
        hard_value=hard_value,
        p_value=_p_against_half(values, clusters),
    )


def _apply_ties(
    values: Floats, clusters: NDArray[np.intp] | None, ties: Ties, hard: bool
) -> tuple[Floats, NDArray[np.intp] | None]:
    if ties not in ("half", "drop", "loss"):
        raise InputError(f"no rule '{ties}'", key="ties", fix="half, drop or loss")
    is_tie = values == 0.5
    if hard:
        values = np.where(is_tie, 0.5, (values > 0.5).astype(np.float64))
    if ties == "loss":
        values = np.where(is_tie, 0.0, values)
    if ties == "drop":
        values = values[~is_tie]
        clusters = None if clusters is None else np.unique(clusters[~is_tie], return_inverse=True)[1]
    return values, clusters


def _describe(values: Floats, ties: Ties, tied: int, method: str, hard: bool, clusters: NDArray[np.intp] | None) -> str:
    parts = ["share of hard labels" if hard else "mean p_first"]
    if tied:
        parts.append({"half": "ties count half", "drop": f"{tied} ties dropped", "loss": "ties count as losses"}[ties])
    parts.append(f"{method} interval" + ("" if clusters is None else f" over {len(np.unique(clusters))} prompts"))
    return ", ".join(parts)


def size_notes(n: int, dropped: int) -> tuple[str, ...]:
    """What to say when most is missing or little is there."""
    notes = []
    if n == 0:
        notes.append("nothing to measure: no row is known")
    elif n < FEW:
        notes.append(f"only {n} rows")
    if dropped > n:
        notes.append(f"more rows were dropped ({dropped}) than kept ({n}): the rest may not be representative")
    return tuple(notes)


def _p_against_half(values: Floats, clusters: NDArray[np.intp] | None) -> float:
    is_hard = bool(np.all((values == 0) | (values == 1) | (values == 0.5)))
    if clusters is None and is_hard:
        return paired.sign_test(int((values == 1).sum()), int((values == 0).sum()))
    variance, df = variance_of_mean(values, clusters)
    if df < 1:
        return NOT_KNOWN
    difference = float(values.mean()) - 0.5
    if variance == 0:
        return 1.0 if difference == 0 else 0.0
    return t_test_p(difference / np.sqrt(variance), df)


@dataclass(frozen=True)
class Difference(Estimate):
    """Win rate of ``first`` minus win rate of ``second``, on the rows known for both."""

    p_value: float = NOT_KNOWN
    p_adjusted: float = NOT_KNOWN
    """After the correction over all pairs of one call; equals p_value for a single pair."""
    first: str = "first"
    second: str = "second"


def compare_win_rates(
    first: Numbers,
    second: Numbers,
    *,
    test: PairedTest = "t",
    prompts: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 10_000,
    names: tuple[str, str] = ("first", "second"),
) -> Difference:
    """Do two policies win equally often against the same reference, on the same prompts in the same order?

    ``first[i]`` and ``second[i]`` are p_first of each policy on row i. The value is the mean of first − second with a
    paired t interval (over prompts where given); ``test`` gives the p-value: paired ``t``; ``wilcoxon`` signed ranks
    (equal rows dropped, normal approximation with tie correction); ``mcnemar``, exact, on the labels binarised at 0.5
    (rows where either is a tie are left out); ``permutation`` of signs, Phipson & Smyth's (b + 1)/(m + 1). Rows
    unknown in either column are dropped and counted.
    """
    a, b = probabilities(first, "first"), probabilities(second, "second")
    (a, b), kept, dropped = known_rows(first=a, second=b)
    clusters = groups(prompts, kept)
    gaps = a - b
    variance, df = variance_of_mean(gaps, clusters)
    value = float(gaps.mean()) if len(gaps) else NOT_KNOWN
    reach = t_of(confidence, df) * float(np.sqrt(variance)) if df else NOT_KNOWN
    p_value = _paired_p(a, b, clusters, test=test, seed=seed, resamples=resamples)
    notes = size_notes(len(gaps), dropped)
    return Difference(
        value=value,
        low=value - reach,
        high=value + reach,
        n=len(gaps),
        method=f"paired difference of win rates, t interval, {test} test",
        dropped=dropped,
        notes=(*notes, NO_SPREAD) if variance == 0 else notes,
        standard_error=float(np.sqrt(variance)),
        p_value=p_value,
        p_adjusted=p_value,
        first=names[0],
        second=names[1],
    )


def _paired_p(
    a: Floats, b: Floats, clusters: NDArray[np.intp] | None, *, test: PairedTest, seed: int, resamples: int
) -> float:
    if test == "mcnemar":
        decided = (a != 0.5) & (b != 0.5)
        a_only = int((decided & (a > 0.5) & (b < 0.5)).sum())
        b_only = int((decided & (a < 0.5) & (b > 0.5)).sum())
        return paired.sign_test(a_only, b_only)
    gaps = cluster_sums(a - b, clusters)
    if test == "t":
        return paired.t_test(gaps)
    if test == "wilcoxon":
        return paired.wilcoxon(gaps)
    if test == "permutation":
        return paired.sign_permutation(gaps, seed=seed, resamples=resamples)
    raise InputError(f"no test '{test}'", key="test", fix="t, wilcoxon, mcnemar or permutation")


def compare_all_win_rates(
    policies: Mapping[str, Numbers],
    *,
    test: PairedTest = "t",
    correction: Literal["holm", "benjamini-hochberg", "none"] = "holm",
    prompts: Any = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> list[Difference]:
    """Every pair of policies by ``compare_win_rates``, p-values corrected over all pairs; intervals are not widened."""
    from dataclasses import replace

    names = list(policies)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    found = [
        compare_win_rates(
            policies[one],
            policies[other],
            test=test,
            prompts=prompts,
            confidence=confidence,
            seed=seed,
            names=(one, other),
        )
        for one, other in pairs
    ]
    adjusted = adjust([difference.p_value for difference in found], correction)
    return [replace(difference, p_adjusted=float(p)) for difference, p in zip(found, adjusted, strict=True)]
