"""Forecast a recipe's model calls from the files it names, and its time and cost from a run that it had before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import InputError
from aifeedback.pipeline.recipe import Recipe
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.refs import Ref
from aifeedback.steps.step import Step


def forecast(recipe: Recipe) -> dict[str, int | None]:
    """Stage id → calls of models; None where a file that decides it does not exist yet or has no known length."""
    rows: dict[str, int] = {}
    calls: dict[str, int | None] = {}
    for stage in recipe.stages:
        rows |= rows_of(stage.step)
        expected = stage.step.forecast(rows)
        calls[stage.id] = expected.calls
        rows |= {f"@{stage.id}/{file}": count for file, count in expected.leaves.items()}
    return calls


class Expected(NamedTuple):
    """One stage, as far as it can be known before the run; None is unknown."""

    calls: int | None
    seconds: float | None = None
    cost_usd: float | None = None


def as_before(calls: Mapping[str, int | None], run: Path) -> dict[str, Expected]:
    """Stage id → time and cost of the same stage in an earlier run, scaled to the calls where both runs make some.

    A stage without calls, such as training, is expected to take as long as before.
    """
    stages: Mapping[str, Any] = RunFolder(run).manifest.get("stages") or {}
    return {stage: _as_before(expected, stages.get(stage)) for stage, expected in calls.items()}


def _as_before(calls: int | None, done: Mapping[str, Any] | None) -> Expected:
    if done is None:
        return Expected(calls)
    before = done.get("calls") or 0
    if not before or not calls:
        return Expected(calls, done.get("seconds"), done.get("cost_usd"))
    scale = calls / before
    return Expected(calls, scale * done["seconds"], scale * done["cost_usd"])


def rows_of(step: Step) -> dict[str, int]:
    """Rows of every outside data file that a step reads, where they can be counted."""
    return {str(ref): count for ref in step.inputs() if (count := _rows(ref)) is not None}


def _rows(ref: Ref) -> int | None:
    """Rows of an outside data file; None for models and for what cannot be read."""
    from aifeedback.data import is_table, read_rows

    path = ref.path if type(ref) is Ref else None
    if path is None or not path.is_file() or not is_table(str(path)):
        return None
    try:
        return sum(1 for _ in read_rows(path))
    except InputError:
        return None
