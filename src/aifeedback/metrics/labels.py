"""Quality of AI labels and rewards against human labels: agreement, reward accuracy, position bias, repeatability.

No row is dropped silently. Two identical responses are a tie whatever the label says; an empty response keeps its
label and is counted, and has no length ratio; an unknown label is counted as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.agreement import cohens_kappa
from aifeedback.metrics.calibration import brier, expected_calibration_error
from aifeedback.metrics.intervals import (
    NOT_KNOWN,
    Estimate,
    Floats,
    Numbers,
    groups,
    known_rows,
    mean_interval,
    mean_test,
    numbers,
    plain,
    probabilities,
    share_interval,
    shared_prompts,
    table,
    variance_of_mean,
)
from aifeedback.metrics.length import LengthControlled, LengthForm, length_controlled_win_rate
from aifeedback.metrics.win_rates import WinRate, sign_test, size_notes, win_rate


@dataclass(frozen=True)
class Repeatability(Estimate):
    spread: float = NOT_KNOWN
    """Standard deviation of p_first within an item, pooled over items."""
    flips: int = 0
    """Items whose verdicts are not all equal."""


def repeatability(
    p_first: Sequence[Sequence[float | None]] | NDArray[Any], *, prompts: Any = None, confidence: float = 0.95
) -> Repeatability:
    """Mean over items of the share of pairs of repeats with the same verdict; ``p_first`` is (items, repeats).

    Verdicts are first, second, or tie (exactly 0.5). Items with fewer than two known repeats are dropped and counted;
    other missing repeats are left out of their item. The interval is Wilson's over items, or over ``prompts``
    (one id per item) where several items share one.
    """
    labels = table(p_first, "p_first")
    probabilities(labels.ravel(), "p_first")
    if labels.shape[1] < 2:
        raise InputError("has fewer than two repeats", key="p_first", fix="one column per repeat")
    known = ~np.isnan(labels)
    enough = known.sum(axis=1) >= 2
    clusters = groups(prompts, enough)
    labels, known = labels[enough], known[enough]
    repeats = known.sum(axis=1).astype(np.float64)
    same = _equal_pairs(np.sign(labels - 0.5), known) / (repeats * (repeats - 1))
    means = np.where(known, labels, 0.0).sum(axis=1) / repeats
    squares = np.where(known, (labels - means[:, None]) ** 2, 0.0).sum(axis=1)
    interval = share_interval(same, clusters, confidence=confidence)
    n, dropped = len(labels), int((~enough).sum())
    return Repeatability(
        value=float(same.mean()) if n else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=n,
        method="share of repeat pairs with the same verdict, Wilson interval over items",
        dropped=dropped,
        notes=size_notes(n, dropped),
        standard_error=float(np.sqrt(variance_of_mean(same, clusters).variance)),
        spread=float(np.sqrt(squares.sum() / (repeats - 1).sum())) if n else NOT_KNOWN,
        flips=int((same < 1).sum()),
    )


def _equal_pairs(verdicts: Floats, known: NDArray[np.bool_]) -> Floats:
    """Ordered pairs of equal verdicts per item."""
    counts = np.stack([((verdicts == kind) & known).sum(axis=1) for kind in (-1, 0, 1)], axis=1).astype(np.float64)
    return (counts * (counts - 1)).sum(axis=1)


@dataclass(frozen=True)
class Agreement(Estimate):
    ties: int = 0
    """Rows on which the label under test prefers neither response (p_first = 0.5, equal rewards)."""
    undecided: int = 0
    """Rows left out because the human label is 0.5, or closer to it than ``min_margin``."""


def alignment(
    p_first: Numbers,
    human: Numbers,
    *,
    ties: Literal["half", "wrong", "drop"] = "half",
    unreadable: Literal["drop", "wrong"] = "drop",
    min_margin: float = 0.0,
    prompts: Any = None,
    confidence: float = 0.95,
) -> Agreement:
    """Share of pairs on which the binarised AI label is the human choice (Lee et al. 2023, "AI labeler alignment").

    ``human`` is the human p_first: 0 or 1, or a share of raters; 0.5 means no choice and drops the row, and so does
    |human − 0.5| < ``min_margin`` (high-confidence items only). An AI label of exactly 0.5 is a tie and counts half
    by default. A row with an unknown AI label is dropped and counted, or is an error of the judge with
    ``unreadable="wrong"`` (LLMBar).
    """
    ai, people = probabilities(p_first, "p_first"), probabilities(human, "human")
    if len(ai) != len(people):
        known_rows(p_first=ai, human=people)
    if unreadable == "wrong":
        ai = np.where(np.isnan(ai), np.where(people > 0.5, 0.0, 1.0), ai)
    decisive = np.isnan(people) | ((people != 0.5) & (np.abs(people - 0.5) >= min_margin))
    sides = None if prompts is None else np.asarray(prompts)[decisive]
    return _agreement(ai[decisive], people[decisive], ties, sides, confidence, int((~decisive).sum()), "alignment")


def reward_accuracy(
    rewards_first: Numbers,
    rewards_second: Numbers,
    human: Numbers | None = None,
    *,
    ties: Literal["half", "wrong", "drop"] = "wrong",
    prompts: Any = None,
    confidence: float = 0.95,
) -> Agreement:
    """Share of pairs whose preferred response has the *higher* reward (Lee et al. 2023; TRL's accuracy).

    ``human`` is the human p_first; without it the first column holds the preferred responses (chosen, rejected).
    Equal rewards are not higher and count as wrong by default. Missing rewards drop the row; human ties drop it too.
    """
    first, second = numbers(rewards_first, "rewards_first"), numbers(rewards_second, "rewards_second")
    people = np.ones(len(first)) if human is None else probabilities(human, "human")
    if not len(first) == len(second) == len(people):
        known_rows(rewards_first=first, rewards_second=second, human=people)
    decisive = np.isnan(people) | (people != 0.5)
    choice = np.where(np.isnan(first - second), np.nan, (np.sign(first - second) + 1) / 2)
    sides = None if prompts is None else np.asarray(prompts)[decisive]
    undecided = int((~decisive).sum())
    return _agreement(choice[decisive], people[decisive], ties, sides, confidence, undecided, "reward accuracy")


def _agreement(
    choice: Floats, people: Floats, ties: str, prompts: Any, confidence: float, undecided: int, name: str
) -> Agreement:
    if ties not in ("half", "wrong", "drop"):
        raise InputError(f"no rule '{ties}'", key="ties", fix="half, wrong or drop")
    (choice, people), kept, dropped = known_rows(labels=choice, human=people)
    clusters = groups(prompts, kept)
    tied = choice == 0.5
    right = np.where(tied & (ties != "half"), 0.0, _right(choice, people))
    if ties == "drop":
        right = right[~tied]
        clusters = None if clusters is None else np.unique(clusters[~tied], return_inverse=True)[1]
    interval = share_interval(right, clusters, confidence=confidence)
    rule = {"half": "ties count half", "wrong": "ties are wrong", "drop": "ties dropped"}[ties]
    return Agreement(
        value=float(right.mean()) if len(right) else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=len(right),
        method=f"{name}, Wilson interval" + (f", {rule}" if tied.any() else ""),
        dropped=dropped,
        notes=size_notes(len(right), dropped),
        standard_error=float(np.sqrt(variance_of_mean(right, clusters).variance)),
        ties=int(tied.sum()),
        undecided=undecided,
    )


GAPS = (-1.0, 1.0)
"""Range of a difference of two probabilities."""


@dataclass(frozen=True)
class AgreementDifference(Estimate):
    p_value: float = NOT_KNOWN
    """Two-sided, that both agree with people equally often."""


def agreement_difference(
    p_first: Numbers, against: Numbers, human: Numbers, *, prompts: Any = None, confidence: float = 0.95
) -> AgreementDifference:
    """``alignment`` of one judge less that of another on the same pairs: the mean of the paired differences.

    Only pairs that both labelled and on which the people choose count; a label of 0.5 counts half. Student's t over
    pairs, or over ``prompts`` (one id per pair) where several pairs share one.
    """
    own, other = probabilities(p_first, "p_first"), probabilities(against, "against")
    people = probabilities(human, "human")
    (own, other, people), kept, dropped = known_rows(p_first=own, against=other, human=people)
    clusters = groups(prompts, kept)
    decisive = people != 0.5
    own, other, people = own[decisive], other[decisive], people[decisive]
    if clusters is not None:
        clusters = np.unique(clusters[decisive], return_inverse=True)[1]
    apart = _right(own, people) - _right(other, people)
    mean = mean_interval(apart, clusters, bounds=GAPS, confidence=confidence)
    return AgreementDifference(
        value=mean.value,
        low=mean.low,
        high=mean.high,
        n=len(apart),
        method="difference of agreement on the same pairs, Student's t",
        dropped=dropped,
        notes=(*size_notes(len(apart), dropped), *mean.notes),
        standard_error=mean.standard_error,
        p_value=mean_test(apart, clusters, null=0, bounds=GAPS) if len(apart) else NOT_KNOWN,
    )


def _right(choice: Floats, people: Floats) -> Floats:
    return np.where(choice == 0.5, 0.5, (choice > 0.5) == (people > 0.5))


@dataclass(frozen=True)
class PositionBias(Estimate):
    """``value`` is the share of pairs in which the same position won in both orders: 0 for a judge blind to position."""

    slot: Literal["first", "second", "neither"] = "neither"
    """The position that is favoured, if the two differ at the level 1 − confidence (sign test; over prompts a t test)."""
    slot_p_value: float = NOT_KNOWN
    slot_first: int = 0
    """Pairs where the response shown first won in both orders."""
    slot_second: int = 0
    consistency: float = NOT_KNOWN
    """Share of pairs with the same verdict in both orders: same winner, or a tie both times."""
    mixed: int = 0
    """Pairs with a tie in exactly one order: neither consistent nor the same slot."""
    mean_gap: float = NOT_KNOWN
    """Mean of P(first | shown first) − P(first | shown second), in [−1, 1]; above 0 favours the slot shown first."""
    mean_gap_low: float = NOT_KNOWN
    mean_gap_high: float = NOT_KNOWN


def position_bias(
    p_first_shown_original: Numbers, p_first_shown_swapped: Numbers, *, prompts: Any = None, confidence: float = 0.95
) -> PositionBias:
    """How often a judge picks the same slot again after the two responses changed places, and which slot.

    Both columns are in *storage* order: P(first stored response is better), read once when it was shown first and
    once when it was shown second. Same slot twice ⇔ the columns lie on different sides of 0.5 (Lee et al. 2023, "%
    same position preferred"; 1 − the swap consistency of LLMBar where there are no ties). Pairs unknown in either
    order are dropped. ``prompts``: one id per row where several rows share a prompt.
    """
    original = probabilities(p_first_shown_original, "p_first_shown_original")
    swapped = probabilities(p_first_shown_swapped, "p_first_shown_swapped")
    (original, swapped), kept, dropped = known_rows(original=original, swapped=swapped)
    clusters = groups(prompts, kept)
    n = len(original)
    verdicts = np.sign(original - 0.5), np.sign(swapped - 0.5)
    slot_first = int(((verdicts[0] > 0) & (verdicts[1] < 0)).sum())
    slot_second = int(((verdicts[0] < 0) & (verdicts[1] > 0)).sum())
    same = int((verdicts[0] == verdicts[1]).sum())
    slots = (verdicts[0] - verdicts[1]) / 2 * (verdicts[0] * verdicts[1] < 0)
    same_slot = np.abs(slots)
    p_value = (
        sign_test(slot_first, slot_second) if clusters is None else mean_test(slots, clusters, null=0, bounds=GAPS)
    )
    gap = mean_interval(original - swapped, clusters, bounds=GAPS, confidence=confidence)
    interval = share_interval(same_slot, clusters, confidence=confidence)
    favoured = "first" if slot_first > slot_second else "second"
    return PositionBias(
        value=float(same_slot.mean()) if n else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=n,
        method="share of pairs with the same slot preferred in both orders, Wilson interval",
        dropped=dropped,
        notes=size_notes(n, dropped),
        standard_error=float(np.sqrt(variance_of_mean(same_slot, clusters).variance)),
        slot=favoured if p_value < 1 - confidence else "neither",
        slot_p_value=p_value,
        slot_first=slot_first,
        slot_second=slot_second,
        consistency=same / n if n else NOT_KNOWN,
        mixed=n - same - slot_first - slot_second,
        mean_gap=gap.value,
        mean_gap_low=gap.low,
        mean_gap_high=gap.high,
    )


@dataclass(frozen=True)
class Labelled:
    rows: int
    unknown: int
    """Rows with an unknown label, identical responses aside."""
    identical: int
    """Rows with two identical responses: ties."""
    empty: int
    """Rows with an empty response."""
    win_rate_of_first: WinRate
    length_controlled: LengthControlled
    alignment: Agreement | None = None
    """None here and below: no row has a human label."""
    kappa: Estimate | None = None
    calibration_error: Estimate | None = None
    brier: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: plain(value) for name, value in named.items() if value is not None}


def labelled(
    p_first: Numbers,
    first: Sequence[str],
    second: Sequence[str],
    human: Numbers | None = None,
    *,
    prompts: Sequence[Any] | None = None,
    length_control: LengthForm = "ratio",
    confidence: float = 0.95,
) -> Labelled:
    """Metrics of one labelled file; one label, two response texts and (None where unknown) one human label per row.

    ``prompts``: one id per row; intervals then treat prompts, not rows, as independent.
    """
    column = probabilities(p_first, "p_first")
    if not len(column) == len(first) == len(second):
        raise InputError(f"{len(column)} labels for {len(first)} and {len(second)} responses", key="p_first")
    same = np.array([a == b for a, b in zip(first, second, strict=True)], dtype=bool)
    empty = np.array([not (a.strip() and b.strip()) for a, b in zip(first, second, strict=True)], dtype=bool)
    values = np.where(same, 0.5, column)
    lengths = [np.array([len(text) if text.strip() else 0 for text in side]) for side in (first, second)]
    shared: dict[str, Any] = {"prompts": None if prompts is None else shared_prompts(prompts), "confidence": confidence}
    counted: dict[str, Any] = {
        "rows": len(values),
        "unknown": int(np.isnan(values).sum()),
        "identical": int(same.sum()),
        "empty": int(empty.sum()),
        "win_rate_of_first": win_rate(values, **shared),
        "length_controlled": length_controlled_win_rate(values, *lengths, method=length_control, **shared),
    }
    people = probabilities(human, "human") if human is not None else np.full(len(values), np.nan)
    if np.isnan(people).all():
        return Labelled(**counted)
    return Labelled(
        **counted,
        alignment=alignment(values, people, **shared),
        kappa=cohens_kappa(choices(values), choices(people), **shared),
        calibration_error=expected_calibration_error(values, people, **shared),
        brier=brier(values, people, **shared),
    )


def choices(p_first: Floats) -> Floats:
    """1 the first, 0 the second, 0.5 a tie, NaN unknown."""
    return (np.sign(p_first - 0.5) + 1) / 2
