"""Forecast how many model calls a recipe will make, from the files it names."""

from __future__ import annotations

from aifeedback.errors import InputError
from aifeedback.pipeline.recipe import Recipe
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
