"""Position: does the verdict stay with the answer, or with the slot, when the two change places?

Read from both orders of every pair (Lee et al. 2023, "% same position preferred"). A labeler that shows its pairs in
one order only is asked about each pair and its swapped copy; one that averages both orders is blind here by design.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aifeedback.audit.finding import Finding, Ground, of_estimate, signed, unmeasured

TITLE = "Position"


def position(ground: Ground) -> list[Finding]:
    from aifeedback.evaluate import position_bias

    original, swapped = orders(ground)
    asked, prompts = 0, ground.prompts()
    if not any(a is not None and b is not None for a, b in zip(original, swapped, strict=True)):
        drawn = ground.drawn()
        turned = ground.ask([ground.comparisons[i].swapped() for i in drawn])
        original = [ground.p_first[i] for i in drawn]
        swapped = [None if t.p_first is None else 1.0 - t.p_first for t in turned]
        asked, prompts = len(drawn), ground.prompts(drawn)
    bias = position_bias(original, swapped, prompts=prompts)
    if bias.n < 2:
        return [unmeasured("position", "bias", TITLE, "no pair was read in both orders")]
    told = {"first": "it leans to the slot shown first", "second": "it leans to the slot shown second"}
    sentence = (
        f"The same slot wins in both orders for {100 * bias.value:.1f} % of pairs; "
        f"{told.get(bias.slot, 'neither slot is certainly favoured')}."
    )
    share = of_estimate(
        bias,
        probe="position",
        group="bias",
        title=TITLE,
        sentence=sentence,
        ideal=0.0,
        calls=asked,
        level="bad" if bias.low > 0.3 else "watch" if bias.low > 0.1 else "fine",
        details={
            "same answer": bias.consistency,
            "slot 1 twice": bias.slot_first / bias.n,
            "slot 2 twice": bias.slot_second / bias.n,
            "a tie once": bias.mixed / bias.n,
        },
    )
    gap, half = bias.mean_gap / 2, (bias.mean_gap_high - bias.mean_gap_low) / 4
    lean = replace(
        share,
        probe="position lean",
        title="Position, which slot",
        sentence=(
            f"Being shown first moves P(first) by {signed(100 * gap)} points; the first slot wins twice for "
            f"{100 * bias.slot_first / bias.n:.0f} % of pairs, the second for {100 * bias.slot_second / bias.n:.0f} %."
        ),
        value=gap,
        low=gap - half,
        high=gap + half,
        unit="points",
        p_value=_p_of_gap(original, swapped, prompts),
        level="unknown",
        details={},
        calls=0,
    )
    return [share, lean]


def orders(ground: Ground) -> tuple[list[float | None], list[float | None]]:
    """P(first stored) of each pair as read with the storage order shown, and with the other one."""
    columns: tuple[list[float | None], list[float | None]] = ([], [])
    for preference in ground.said:
        for is_swapped, column in zip((False, True), columns, strict=True):
            read = [j.p_first for j in preference.judgements if j.shown_swapped == is_swapped]
            known = [p for p in read if p is not None]
            column.append(sum(known) / len(known) if known and len(known) == len(read) else None)
    return columns


def _p_of_gap(original: list[float | None], swapped: list[float | None], prompts: Sequence[str] | None) -> float:
    from aifeedback.evaluate import compare_win_rates

    return compare_win_rates(original, swapped, prompts=prompts).p_value
