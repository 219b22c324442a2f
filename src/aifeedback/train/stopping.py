"""When to stop: a rule is a pure function of all metric lines so far, so a resumed run stops at the same step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence


def plateau(
    patience: int,
    *,
    lower: Sequence[str] = ("heldout_loss",),
    higher: Sequence[str] = ("heldout_accuracy",),
    least: float = 1e-3,
) -> Callable[[Sequence[Mapping[str, float]]], str | None]:
    """Stops once none of the figures got better by ``least`` in the newest ``patience`` evaluations."""

    def stop(history: Sequence[Mapping[str, float]]) -> str | None:
        series = [[line[name] for line in history if name in line] for name in lower]
        series += [[-line[name] for line in history if name in line] for name in higher]
        series = [values for values in series if values]
        if not series or any(is_improving(values, patience, least) for values in series):
            return None
        return f"plateau: {', '.join((*lower, *higher))} no better for {patience} evaluations"

    return stop


def is_improving(values: Sequence[float], patience: int, least: float) -> bool:
    """Whether one of the newest ``patience`` values is below everything before by ``least`` (lower is better)."""
    if len(values) <= patience:
        return True
    return min(values[-patience:]) < min(values[:-patience]) - least


def lowest_loss(history: Sequence[Mapping[str, float]]) -> int | None:
    """The step with the lowest held-out loss, the earliest of equal ones; None before the first evaluation."""
    known = [line for line in history if "heldout_loss" in line]
    return int(min(known, key=lambda line: line["heldout_loss"])["step"]) if known else None
