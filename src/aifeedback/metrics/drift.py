"""Drift over rounds that put the same questions to the same judge: exact tests within each item, added up by CUSUM.

An item has one outcome per round. If nothing changed, its outcomes are exchangeable over rounds: given how many of its
m + 1 outcomes are "yes", K, the latest round holds one of them with probability K / (m + 1). The number of "yes" in the
latest round is then a sum of independent draws with known probabilities (Poisson-binomial), whatever each item's own
rate is. With one earlier round this is McNemar's exact test; with more, its extension stratified by item. Where the
outcome is a number, "yes" is made of it by a rule that treats all rounds alike (``is_above_middle``).

Successive p-values are independent of each other, because each is conditional on everything that was seen up to it
(Vovk, Gammerman and Shafer 2005, chapter 8). Their normal scores therefore run through a CUSUM (Page 1954) whose mean
time between false alarms is known without any assumption about the judge (Brook and Evans 1972).

A few items that turn over and stay so drown in the flips of a judge that wavers: ``switched`` therefore compares the last
rounds with all before by squares, by the same exchangeability.

Where we differ: CUSUM is usually fed with deviations from a baseline that is treated as known. A baseline of a few
rounds is itself drawn, and a chart that takes it for the truth alarms several times too often; here every earlier round
is part of the reference, and the test accounts for how few they are. Ties are split (mid-p), so that a judge that always
repeats itself has a score of exactly 0.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError

Floats = NDArray[np.float64]
ALLOWANCE = 0.5
"""CUSUM's k: half of the shift, in standard deviations of a round, that is detected fastest."""
_TURNED = 0.5
LARGEST = 12.0
"""Normal scores are cut here: smaller p-values than 1e-33 differ by rounding only."""
_STATES = 120
_RAREST, _HIGHEST = 1e6, 16.0
"""Rounds between false alarms, and a limit that is certainly higher than the one for it."""


class Tail(NamedTuple):
    """The latest round against all earlier ones of the same items; arrays where several series were given."""

    observed: Floats
    """Items with "yes" in the latest round."""
    expected: Floats
    """Their expectation if nothing changed."""
    items: Floats
    """Items with an outcome in the latest round and in an earlier one."""
    score: Floats
    """Normal score: positive for more "yes" than expected, standard normal at most if nothing changed."""


def latest_against_earlier(outcomes: Floats) -> Tail:
    """``outcomes``: (…, rounds, items), 1 yes, 0 no, NaN unknown; the last round is tested.

    Items without an outcome now, or without any before, are left out.
    """
    known = ~np.isnan(outcomes)
    is_used = known[..., -1, :] & known[..., :-1, :].any(axis=-2)
    total = known.sum(axis=-2)
    yes = np.where(known, outcomes, 0.0).sum(axis=-2)
    share = np.divide(yes, total, out=np.zeros(yes.shape), where=is_used)
    observed = np.where(is_used, np.nan_to_num(outcomes[..., -1, :]), 0.0).sum(axis=-1)
    upper, at = _poisson_binomial(share, observed.astype(np.intp))
    return Tail(observed, share.sum(axis=-1), is_used.sum(axis=-1).astype(np.float64), _score(upper, at))


def _score(above: Floats, at: Floats) -> Floats:
    """Normal score of the mid-p value, from P(more) and P(equal)."""
    from scipy.special import ndtri

    upper = np.clip(above + at / 2, 0.0, 1.0)
    lower = np.clip(1.0 - above - at / 2, 0.0, 1.0)
    # each tail from its own side: 1 − 1e-17 is 1
    with np.errstate(divide="ignore"):
        score = np.where(upper < 0.5, -ndtri(upper), ndtri(lower))
    return np.clip(score, -LARGEST, LARGEST)


def _poisson_binomial(shares: Floats, count: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """P(sum > count) and P(sum = count) for sums of independent draws with probabilities ``shares`` (…, items)."""
    flat = shares.reshape(math.prod(shares.shape[:-1]), shares.shape[-1])
    # certain draws shift the sum; the others are put side by side, so that as few steps as possible remain
    certain = (flat >= 1.0).sum(axis=1)
    open_ = np.where((flat > 0.0) & (flat < 1.0), flat, 0.0)
    steps = int((open_ > 0).sum(axis=1).max(initial=0))
    packed = -np.sort(-open_, axis=1)[:, :steps]
    mass = np.zeros((len(flat), steps + 1))
    mass[:, 0] = 1.0
    for step in range(steps):
        share = packed[:, step, None]
        moved = mass[:, : step + 1] * share
        mass[:, : step + 1] -= moved
        mass[:, 1 : step + 2] += moved
    wanted = np.asarray(count).reshape(-1) - certain
    places = np.arange(steps + 1)[None, :]
    above = np.where(places > wanted[:, None], mass, 0.0).sum(axis=1)
    at = np.where(places == wanted[:, None], mass, 0.0).sum(axis=1)
    return above.reshape(shares.shape[:-1]), at.reshape(shares.shape[:-1])


def is_minority(verdicts: Floats) -> Floats:
    """Whether each outcome (1, 0, NaN) is the rarer one of its item over all rounds; a tie has no minority."""
    known = ~np.isnan(verdicts)
    share = np.where(known, verdicts, 0.0).sum(axis=-2, keepdims=True) / np.maximum(
        known.sum(axis=-2, keepdims=True), 1
    )
    usual = np.where(share > 0.5, 1.0, np.where(share < 0.5, 0.0, np.nan))
    differs = (verdicts != usual).astype(np.float64)
    return np.where(known, np.where(np.isnan(usual), 0.0, differs), np.nan)


def is_above_middle(values: Floats) -> Floats:
    """Whether each number is larger than the median of its item over all rounds; NaN where it is unknown."""
    with np.errstate(invalid="ignore"):
        middle = _median(values)
        return np.where(np.isnan(values), np.nan, (values > middle).astype(np.float64))


def is_far_off(values: Floats) -> Floats:
    """Whether each number is further from its item's mean over all rounds than the item's numbers are in the middle."""
    known = ~np.isnan(values)
    mean = np.where(known, values, 0.0).sum(axis=-2, keepdims=True) / np.maximum(known.sum(axis=-2, keepdims=True), 1)
    return is_above_middle(np.round(np.abs(values - mean), 9))


def _median(values: Floats) -> Floats:
    """Over rounds, unknown ones left out; unlike numpy's, no warning where all of them are unknown."""
    ordered = np.sort(values, axis=-2)  # NaN last
    count = (~np.isnan(values)).sum(axis=-2, keepdims=True)
    low, high = (np.take_along_axis(ordered, np.maximum(place, 0), axis=-2) for place in ((count - 1) // 2, count // 2))
    return np.where(count > 0, (low + high) / 2, np.nan)


def cusum(scores: Floats, limit: float, allowance: float = ALLOWANCE) -> Floats:
    """Page's one-sided sum of normal scores over the last axis; after a sum of ``limit`` or more it starts from 0 again."""
    sums = np.zeros(scores.shape)
    total = np.zeros(scores.shape[:-1])
    for place in range(scores.shape[-1]):
        total = np.maximum(0.0, np.where(total >= limit, 0.0, total) + scores[..., place] - allowance)
        sums[..., place] = total
    return sums


def mean_rounds_to_alarm(limit: float, allowance: float = ALLOWANCE, shift: float = 0.0) -> float:
    """Average run length of a CUSUM of independent normal scores with mean ``shift``, from 0 (Brook and Evans)."""
    from scipy.special import ndtr

    width = 2 * limit / (2 * _STATES - 1)
    middle = width * np.arange(_STATES)
    step = middle[None, :] - middle[:, None] + allowance - shift
    moves = ndtr(step + width / 2) - ndtr(step - width / 2)
    moves[:, 0] = ndtr(step[:, 0] + width / 2)  # everything below 0 is 0
    return float(np.linalg.solve(np.eye(_STATES) - moves, np.ones(_STATES))[0])


@lru_cache(maxsize=64)
def alarm_limit(rounds_between: float, allowance: float = ALLOWANCE) -> float:
    """The limit at which a chart alarms once in ``rounds_between`` rounds on average if nothing changed."""
    if not 4.0 <= rounds_between <= _RAREST:
        raise InputError(
            f"a chart cannot alarm falsely once in {rounds_between:g} rounds",
            key="false_alarms_per_year",
            fix=f"choose false_alarms_per_year and rounds_per_year so that it is once in 4 to {_RAREST:,.0f} rounds",
        )
    from scipy.optimize import brentq

    limit: Any = brentq(lambda x: mean_rounds_to_alarm(x, allowance) - rounds_between, 0.01, _HIGHEST, xtol=1e-4)
    return float(limit)


class Switch(NamedTuple):
    """The latest rounds against all earlier ones, item by item; arrays where several series were given."""

    switched: Floats
    """Items whose share of yes in the window is at least 0.5 away from the share before."""
    items: Floats
    """Items with an outcome both in the window and before it."""
    p: Floats
    """P of so much change or more, if nothing changed."""


def switched(outcomes: Floats, window: int) -> Switch:
    """Whether items changed and stayed changed: ``outcomes`` as for ``latest_against_earlier``, the last ``window`` rounds.

    The statistic adds up (share of yes in the window − share before)² over items. If nothing changed, each item's yes
    are spread over its rounds by chance (hypergeometric); the tail is that of a gamma distribution with the first three
    moments. Squares weigh a few items that turn over completely more than many that waver, which a sum of flips cannot
    tell apart.
    """
    known = ~np.isnan(outcomes)
    yes = np.where(known, outcomes, 0.0)
    after, before = known[..., -window:, :].sum(axis=-2), known[..., :-window, :].sum(axis=-2)
    yes_after, yes_before = yes[..., -window:, :].sum(axis=-2), yes[..., :-window, :].sum(axis=-2)
    is_used = (after > 0) & (before > 0)
    share = np.where(is_used, yes_after / np.maximum(after, 1), 0.0)
    gap = np.where(is_used, share - yes_before / np.maximum(before, 1), 0.0)
    moments = np.zeros((3, *gap.shape))
    sizes = before * (outcomes.shape[-2] + 1) + after
    for size in np.unique(sizes[is_used]):
        m, w = divmod(int(size), outcomes.shape[-2] + 1)
        here = is_used & (sizes == size)
        moments[:, here] = _square_moments(m, w)[:, (yes_before + yes_after)[here].astype(np.intp)]
    mean, variance, third = moments.sum(axis=-1)
    statistic = (gap**2).sum(axis=-1)
    return Switch(
        (np.abs(gap) >= _TURNED).sum(axis=-1), is_used.sum(axis=-1), _gamma_tail(statistic, mean, variance, third)
    )


@lru_cache(maxsize=4096)
def _square_moments(before: int, after: int) -> Floats:
    """Mean and second and third central moments of the squared gap, for each total number of yes."""
    from scipy.stats import hypergeom

    total = before + after
    yes, in_window = np.arange(total + 1)[:, None], np.arange(after + 1)[None, :]
    mass = hypergeom.pmf(in_window, total, yes, after)
    gap = (in_window / after - (yes - in_window) / before) ** 2
    mean = (mass * gap).sum(axis=1)
    off = gap - mean[:, None]
    return np.stack([mean, (mass * off**2).sum(axis=1), (mass * off**3).sum(axis=1)])


def _gamma_tail(value: Floats, mean: Floats, variance: Floats, third: Floats) -> Floats:
    """P(at least ``value``) of the gamma distribution with these moments; 1 where nothing can vary."""
    from scipy.special import gammaincc

    can_vary = (variance > 0) & (third > 0)
    spread = np.where(can_vary, variance, 1.0)
    skew = np.where(can_vary, third, 1.0)
    scale = skew / (2.0 * spread)
    shape = spread / scale**2
    place = np.maximum((value - mean) / scale + shape, 0.0)
    return np.where(can_vary, gammaincc(shape, place), 1.0)
