"""Win rates, and whether two of them differ.

A win rate is the mean of ``p_first``: the expected share of prompts on which the first response is preferred. With
hard labels (0, 1, and 0.5 for a tie) that is wins plus half the ties over all rows, the usual definition; with soft
labels it is what AlpacaEval publishes as ``win_rate``. ``hard=True`` binarises at 0.5 first (AlpacaEval's
``discrete_win_rate``, and the "share of prompts where a rater prefers A" of Lee et al. 2023 when the rater is an AI).

p-values of paired differences are two-sided; NaN where a test is not defined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NO_SPREAD,
    NOT_KNOWN,
    Estimate,
    Floats,
    Interval,
    Numbers,
    adjust,
    cluster_sums,
    groups,
    has_spread,
    is_yes_no,
    known_rows,
    mean_interval,
    mean_test,
    probabilities,
    share_interval,
    special,
    t_of,
    t_test_p,
    variance_of_mean,
    z_of,
)


class Answered(NamedTuple):
    prompts: int
    """Prompts of the comparison."""
    answered: int
    """Prompts to which the policy has a response."""
    compared: int
    """Prompts to which the reference has one too: what the comparison rests on."""

    @property
    def left_out(self) -> int:
        return self.prompts - self.compared

    @property
    def note(self) -> str:
        """What a reader must know, or ''."""
        if not self.left_out:
            return ""
        return f"{self.left_out} of {self.prompts} prompts left out: no response of the policy or of the reference"

    def as_dict(self) -> dict[str, Any]:
        return {**self._asdict(), "left_out": self.left_out}


def answered(responses: Mapping[str, Sequence[Any]], reference: str) -> dict[str, Answered]:
    """Per policy, from one response or None per prompt, in the same order for every policy."""
    of_reference = responses[reference]
    return {
        name: Answered(
            len(own),
            sum(response is not None for response in own),
            sum(a is not None and b is not None for a, b in zip(own, of_reference, strict=True)),
        )
        for name, own in responses.items()
    }


def sign_test(wins: int, losses: int) -> float:
    """Exact binomial against one half: twice the smaller tail, at most 1. On discordant pairs: McNemar's exact test.

    NaN without a decided row.
    """
    n = wins + losses
    if n == 0:
        return math.nan
    return float(min(1.0, 2 * special().bdtr(min(wins, losses), n, 0.5)))


def rate_above(values: Floats, tolerated: float, clusters: NDArray[np.intp] | None = None) -> float:
    """One-sided p-value of the null hypothesis that a share is at most ``tolerated``: the exact binomial tail.

    With clusters it is read at the effective number of rows, as ``share_interval`` reads the interval of Korn and
    Graubard (1998), at most the actual number. NaN without rows.
    """
    n = len(values)
    if n == 0:
        return math.nan
    share = float(values.mean())
    if share <= 0:
        return 1.0
    effective = float(n)
    if clusters is not None:
        variance, df = variance_of_mean(values, clusters)
        effective = float(len(np.unique(clusters)))
        if has_spread(variance) and share < 1:
            effective = min(float(n), share * (1 - share) / variance * (z_of(0.95) / t_of(0.95, df)) ** 2)
    return float(special().betainc(share * effective, (1 - share) * effective + 1, tolerated))


def paired_shares_test(gaps: Floats, clusters: NDArray[np.intp] | None = None) -> float:
    """Two-sided p-value of the null hypothesis that paired differences of verdicts have mean zero: the exact sign test,
    with clusters Student's t over them. 1 where no pair differs; NaN without rows."""
    if len(gaps) == 0:
        return math.nan
    if clusters is not None:
        return mean_test(gaps, clusters, null=0.0, bounds=BOUNDS)
    above, below = int((gaps > 0).sum()), int((gaps < 0).sum())
    return sign_test(above, below) if above + below else 1.0


def wilcoxon(gaps: Floats) -> float:
    """Signed-rank test, zeros dropped, exact for small samples without ties (scipy's own choice)."""
    nonzero = gaps[gaps != 0]
    if len(nonzero) == 0:
        return 1.0 if len(gaps) else math.nan
    special()
    from scipy import stats

    return float(np.asarray(stats.wilcoxon(nonzero))[1])


def sign_permutation(gaps: Floats, *, seed: int, resamples: int = 10_000) -> float:
    """Share of random sign flips with a mean at least as far from zero: (b + 1)/(m + 1). Phipson & Smyth 2010.

    Differences of equal size are flipped together as one binomial count, so hard labels cost nothing.
    """
    if len(gaps) == 0:
        return math.nan
    sizes, counts = np.unique(np.abs(gaps[gaps != 0]), return_counts=True)
    if len(sizes) == 0:
        return 1.0
    generator = np.random.default_rng(seed)
    observed, reached, done = abs(float(gaps.sum())), 0, 0
    block = max(1, min(resamples, 4_000_000 // len(sizes)))
    while done < resamples:
        draws = min(block, resamples - done)
        positive = generator.binomial(counts, 0.5, size=(draws, len(sizes)))
        sums = (2 * positive - counts) @ sizes
        reached += int((np.abs(sums) >= observed - 1e-9).sum())
        done += draws
    return (reached + 1) / (resamples + 1)


Ties: TypeAlias = Literal["half", "drop", "loss"]
IntervalMethod: TypeAlias = Literal["wilson", "clopper-pearson", "t", "bootstrap"]
PairedTest: TypeAlias = Literal["t", "wilcoxon", "mcnemar", "permutation"]
FEW = 30
BOUNDS = (-1.0, 1.0)
"""Of a difference of two shares."""


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
    """Two-sided, against 50 %: sign test on hard labels without clusters, else t-test; where all rows or
    prompts are equal, from their number alone (``intervals.equal_rows_test``)."""


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
    spread = () if method in ("wilson", "clopper-pearson") else mean_interval(values, clusters).notes
    return WinRate(
        value=float(values.mean()) if len(values) else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=len(values),
        method=_describe(values, ties, tied, method, hard, clusters),
        dropped=dropped,
        notes=(*size_notes(len(values), dropped), *spread),
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
        return sign_test(int((values == 1).sum()), int((values == 0).sum()))
    return mean_test(values, clusters, null=0.5)


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
    (equal rows dropped; exact for small samples without ties, otherwise a normal approximation with tie correction);
    ``mcnemar``, exact, on the labels binarised at 0.5 (rows where either is a tie are left out); ``permutation`` of
    signs, Phipson & Smyth's (b + 1)/(m + 1). Rows unknown in either column are dropped and counted. Where all
    differences are equal, test and interval come from their number alone (``intervals.equal_rows``).
    """
    a, b = probabilities(first, "first"), probabilities(second, "second")
    (a, b), kept, dropped = known_rows(first=a, second=b)
    clusters = groups(prompts, kept)
    gaps = a - b
    mean = mean_interval(gaps, clusters, bounds=BOUNDS, confidence=confidence)
    p_value = _paired_p(a, b, clusters, test=test, seed=seed, resamples=resamples)
    return Difference(
        value=mean.value,
        low=mean.low,
        high=mean.high,
        n=len(gaps),
        method=f"paired difference of win rates, t interval, {test} test",
        dropped=dropped,
        notes=(*size_notes(len(gaps), dropped), *mean.notes),
        standard_error=mean.standard_error,
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
        return sign_test(a_only, b_only)
    if test == "t" or (test in ("wilcoxon", "permutation") and not _varies(a - b, clusters)):
        return mean_test(a - b, clusters, null=0.0, bounds=BOUNDS)
    gaps = cluster_sums(a - b, clusters)
    if test == "wilcoxon":
        return wilcoxon(gaps)
    if test == "permutation":
        return sign_permutation(gaps, seed=seed, resamples=resamples)
    raise InputError(f"no test '{test}'", key="test", fix="t, wilcoxon, mcnemar or permutation")


def _varies(gaps: Floats, clusters: NDArray[np.intp] | None) -> bool:
    return has_spread(variance_of_mean(gaps, clusters).variance)


def compare_unpaired(
    first: Numbers,
    second: Numbers,
    *,
    first_prompts: Any = None,
    second_prompts: Any = None,
    confidence: float = 0.95,
    names: tuple[str, str] = ("first", "second"),
) -> Difference:
    """Do two independent samples have the same mean, such as two win rates measured on different prompts?

    The value is mean(first) − mean(second) of numbers in [0, 1]. Interval: the two intervals of ``share_interval``
    combined by Newcombe's method of squares (1998, method 10), which needs no spread. Test: Fisher's exact on yes/no rows,
    Welch's t on others and with prompts; NaN with a note where one sample has no spread to test with. Where the rows are
    about the same prompts, ``compare_win_rates`` is the sharper test. Unknown rows are dropped and counted.
    """
    (a,), kept_a, dropped_a = known_rows(first=probabilities(first, "first"))
    (b,), kept_b, dropped_b = known_rows(second=probabilities(second, "second"))
    clusters = groups(first_prompts, kept_a, "first_prompts"), groups(second_prompts, kept_b, "second_prompts")
    n, dropped = len(a) + len(b), dropped_a + dropped_b
    method = "difference of two independent shares, Newcombe interval"
    if not (len(a) and len(b)):
        notes = (f"nothing to compare: {len(a)} and {len(b)} known rows",)
        return Difference(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, method, dropped, notes, first=names[0], second=names[1])
    ends = newcombe(
        (float(a.mean()), share_interval(a, clusters[0], confidence=confidence)),
        (float(b.mean()), share_interval(b, clusters[1], confidence=confidence)),
    )
    p_value = two_sample_test(a, b, *clusters)
    notes = size_notes(min(len(a), len(b)), dropped)
    variances = variance_of_mean(a, clusters[0]).variance, variance_of_mean(b, clusters[1]).variance
    return Difference(
        value=float(a.mean() - b.mean()),
        low=ends.low,
        high=ends.high,
        n=n,
        method=method,
        dropped=dropped,
        notes=notes if np.isfinite(p_value) else (*notes, f"not tested: {NO_SPREAD}"),
        standard_error=float(np.sqrt(sum(variances))),
        p_value=p_value,
        p_adjusted=p_value,
        first=names[0],
        second=names[1],
    )


def newcombe(first: tuple[float, Interval], second: tuple[float, Interval]) -> Interval:
    """Interval for the difference of two independent shares, from each one's own (Newcombe 1998, method 10)."""
    (a, ends_a), (b, ends_b) = first, second
    below, above = np.hypot(a - ends_a.low, ends_b.high - b), np.hypot(ends_a.high - a, b - ends_b.low)
    return Interval(float(a - b - below), float(a - b + above))


def two_sample_test(
    a: Floats, b: Floats, clusters_a: NDArray[np.intp] | None = None, clusters_b: NDArray[np.intp] | None = None
) -> float:
    """Two-sided p-value of equal means: Fisher's exact on yes/no rows without clusters, else Welch's t.

    NaN where Welch's t has too few rows, or where a sample has no spread: equal rows do not show how sure their mean is.
    """
    if clusters_a is None and clusters_b is None and len(a) and len(b) and is_yes_no(a) and is_yes_no(b):
        special()
        from scipy import stats

        wins = round(float(a.sum())), round(float(b.sum()))
        return float(np.asarray(stats.fisher_exact([[wins[0], len(a) - wins[0]], [wins[1], len(b) - wins[1]]]))[1])
    one, other = variance_of_mean(a, clusters_a), variance_of_mean(b, clusters_b)
    if not (has_spread(one.variance) and has_spread(other.variance)):
        return NOT_KNOWN
    together = one.variance + other.variance
    freedom = together**2 / (one.variance**2 / one.df + other.variance**2 / other.df)
    return t_test_p(float(a.mean() - b.mean()) / float(np.sqrt(together)), freedom)


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
    differences = [
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
    adjusted = adjust([difference.p_value for difference in differences], correction)
    return [replace(difference, p_adjusted=float(p)) for difference, p in zip(differences, adjusted, strict=True)]
