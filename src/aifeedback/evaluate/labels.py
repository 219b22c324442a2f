"""How good AI labels and rewards are against people's: alignment, reward accuracy, position bias, repeatability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from aifeedback.errors import InputError
from aifeedback.evaluate.columns import Floats, Numbers, groups, known_rows, numbers, probabilities
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
from aifeedback.evaluate.intervals import mean_interval, mean_test, share_interval, variance_of_mean
from aifeedback.evaluate.paired import sign_test
from aifeedback.evaluate.win import size_notes


@dataclass(frozen=True)
class Agreement(Estimate):
    ties: int = 0
    """Rows on which the label that is being checked makes no choice (p_first = 0.5, equal rewards)."""
    undecided: int = 0
    """Rows left out because the people make none (0.5, or closer to it than ``min_margin``)."""


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

    ``human`` is the human p_first: 0 or 1, or a share of raters; 0.5 is no choice and drops the row, and so does
    |human − 0.5| < ``min_margin`` (high-confidence items only). An AI label of exactly 0.5 is a tie and counts half
    by default. A row whose AI label is not known is dropped and counted, or is an error of the judge with
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
    right = np.where(tied, 0.5 if ties == "half" else 0.0, (choice > 0.5) == (people > 0.5))
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
class PositionBias(Estimate):
    """``value`` is the share of pairs whose *same slot* won in both orders: 0 for a judge blind to position."""

    slot: Literal["first", "second", "neither"] = "neither"
    """The slot that is favoured, if the two differ at the 5 % level (sign test)."""
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
