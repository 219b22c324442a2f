"""What the figures mean, in plain sentences, and what to watch. Rules only: the same figures give the same words."""

from __future__ import annotations

import math
from typing import NamedTuple

from aifeedback.audit.story import Est, Policy, Story, Training, display

LONGER = 1.2
"""A policy whose answers are this many times as long as the reference's is said to have grown longer."""
REWARD, MEASURE, KL, LENGTH, REPETITION = (
    ("heldout_reward", "reward"),
    ("heldout_measure", "gold"),
    ("k1_sum", "heldout_kl", "kl"),
    ("length", "heldout_length"),
    ("heldout_repetition",),
)
"""What a training log may call each figure, the first that is there counts."""


class Caution(NamedTuple):
    level: str
    """bad, watch or fine."""
    text: str


def percent(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def told(figure: Est | None, digits: int = 0) -> str:
    """71 % (67–75 %, n = 500)"""
    if figure is None:
        return "not measured"
    parts = []
    if figure.low is not None and figure.high is not None:
        parts.append(f"{100 * figure.low:.{digits}f}–{100 * figure.high:.{digits}f} %")
    if figure.n is not None:
        parts.append(f"n = {figure.n:,}")
    return percent(figure.value, digits) + (f" ({', '.join(parts)})" if parts else "")


def compared(figure: Est) -> str:
    return "better than" if figure.beats_half else "worse than" if figure.loses_to_half else "not distinguishable from"


def policy_sentence(policy: Policy, reference: str) -> str:
    """What one policy's figures say, length control and other evaluators included."""
    if policy.win_rate is None:
        return f"{policy.label} was not compared with {reference}."
    against = "a second draw of itself" if policy.is_reference else reference
    text = f"preferred to {against} on {told(policy.win_rate)} of the held-out prompts"
    controlled = policy.length_controlled
    if policy.is_reference or controlled is None:
        return text + "."
    if policy.win_rate.beats_half and not controlled.beats_half:
        return f"{text}; at equal length {told(controlled)}: longer answers explain the lead or most of it."
    return f"{text}; at equal length {percent(controlled.value)}."


def headline(story: Story) -> str:
    """The whole run in one sentence."""
    ranked = sorted((p for p in story.contenders if p.win_rate), key=lambda p: -p.win_rate.value)  # type: ignore[union-attr]
    reference = display(story.reference)
    if not ranked:
        return "This run compared no policies; the sections below show what it did measure."
    better = [p.label for p in ranked if p.win_rate and p.win_rate.beats_half]
    other = [p for p in ranked if p.win_rate and not p.win_rate.beats_half]
    parts = (
        [f"{_listed(better)} {'is' if len(better) == 1 else 'are'} clearly preferred to {reference}"] if better else []
    )
    parts += [f"{p.label} is {compared(p.win_rate)} {reference}" for p in other if p.win_rate]
    return "; ".join(parts) + "."


def watch(story: Story) -> list[Caution]:
    """Every rule that fires, the worst first; one reassuring line where none does."""
    found = [
        *_of_independence(story),
        *_of_policies(story),
        *_of_trainings(story),
        *_of_judge(story),
        *_of_records(story),
    ]
    if not found:
        found = [
            Caution("fine", "No rule of this report found anything to worry about. People should still read examples.")
        ]
    order = {"bad": 0, "watch": 1, "fine": 2}
    return sorted(found, key=lambda warning: order[warning.level])


def _of_independence(story: Story) -> list[Caution]:
    if story.independence.is_verified or not story.policies:
        return []
    text = f"Unverified: {story.independence.reason}. Let people, or a model of another family, judge a sample."
    return [Caution("bad", text)]


def _of_policies(story: Story) -> list[Caution]:
    found = []
    reference = next((p for p in story.policies if p.is_reference), None)
    for policy in story.contenders:
        raw, controlled = policy.win_rate, policy.length_controlled
        if raw and controlled and raw.value - controlled.value > 0.05:
            fall = f"from {percent(raw.value)} to {percent(controlled.value)}"
            found.append(Caution("watch", f"{policy.label}: the win rate falls {fall} at equal length."))
        if policy.not_at_length and not policy.is_reference:
            found.append(Caution("watch", f"{policy.label}: no win rate at equal length ({policy.not_at_length})."))
        if controlled and any("extrapolates" in note for note in controlled.notes):
            found.append(
                Caution(
                    "watch",
                    f"{policy.label}: few pairs are of near equal length; the length-controlled figure extrapolates.",
                )
            )
        if reference and reference.length and policy.length and policy.length > LONGER * reference.length:
            ratio = policy.length / reference.length
            found.append(
                Caution("watch", f"{policy.label}'s answers are {ratio:.2f} times as long as {reference.label}'s.")
            )
        if raw and policy.independent and abs(raw.value - policy.independent.value) > 0.10:
            text = (
                f"{policy.label}: evaluators disagree, {percent(raw.value)} by {story.judge_of_record}, "
                f"{percent(policy.independent.value)} by an independent judge."
            )
            found.append(Caution("watch", text))
    if reference and reference.win_rate and (reference.win_rate.beats_half or reference.win_rate.loses_to_half):
        text = f"{reference.label} against a second draw of itself is {told(reference.win_rate)}: it should be 50 %."
        found.append(Caution("watch", text))
    return found


def _of_trainings(story: Story) -> list[Caution]:
    found = []
    for training in story.trainings:
        turned = over_optimised(training)
        if turned is not None:
            text = f"{training.name}: after step {turned:.0f} the reward still rises, the independent measure falls."
            found.append(Caution("bad", text))
    return found


def over_optimised(training: Training) -> float | None:
    """The step of the best independent measure, where the reward rose after it and the measure fell for certain.

    For certain: by more than two standard errors of the difference where they were logged, else by a tenth of what
    had been gained. None where that did not happen or was not measured.
    """
    reward, measure = column(training, REWARD), column(training, MEASURE)
    if reward is None or measure is None:
        return None
    errors = training.columns.get("heldout_measure_se") or [math.nan] * len(measure)
    rows = zip(training.columns["step"], reward, measure, errors, strict=True)
    known = [row for row in rows if not math.isnan(row[1]) and not math.isnan(row[2])]
    if len(known) < 3:
        return None
    best, last = max(known, key=lambda row: row[2]), known[-1]
    noise = 2 * math.hypot(best[3], last[3])
    certain = noise if not math.isnan(noise) else 0.1 * (best[2] - known[0][2])
    return best[0] if last[1] > best[1] and best[2] - last[2] > max(certain, 0.0) else None


def column(training: Training, names: tuple[str, ...]) -> list[float] | None:
    return next((training.columns[name] for name in names if name in training.columns), None)


def _of_judge(story: Story) -> list[Caution]:
    found = []
    if story.same_position and story.same_position.value > 0.3:
        share = percent(story.same_position.value)
        text = f"The judge keeps preferring the same position on {share} of pairs when the answers change places."
        found.append(Caution("watch", text))
    for label, figure in story.fact_pairs:
        if (figure.low if figure.low is not None else figure.value) <= 0.6:
            found.append(Caution("watch", f"Fact blindness: {told(figure)} right on {label}; 50 % is guessing."))
    for label, figure in story.agreement:
        if figure.value < 0.65:
            found.append(Caution("watch", f"Weak agreement: {label} {told(figure)}."))
    return found


def _of_records(story: Story) -> list[Caution]:
    found = []
    if story.labels and story.unread / story.labels > 0.01:
        text = f"{story.unread:,} of {story.labels:,} judgements could not be read; they were left out, not guessed."
        found.append(Caution("watch", text))
    for stage, rows in story.rows:
        read, kept = rows.get("read") or 0, rows.get("kept") or 0
        if read and kept < 0.98 * read:
            found.append(Caution("watch", f"Stage '{stage}' used {kept:,} of {read:,} rows of its file."))
    return found


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
