"""How many model calls a recipe will make, told before the first one from the files it names."""

from __future__ import annotations

from aifeedback.errors import InputError
from aifeedback.recipe import Recipe


def forecast(recipe: Recipe) -> dict[str, int | None]:
    """Stage id → calls of models; None where a file that decides it is not there yet or has no known length."""
    rows: dict[str, int] = {}
    calls: dict[str, int | None] = {}
    for step in recipe.steps:
        rows |= {name: count for name in step.stage.inputs() if (count := _rows(name)) is not None}
        told = step.stage.forecast(rows)
        calls[step.id] = told.calls
        rows |= {f"@{step.id}/{file}": count for file, count in told.leaves.items()}
    return calls


def _rows(name: str) -> int | None:
    """Rows of an outside data file; None for models and for what cannot be read."""
    from aifeedback.files import place_of, read_rows

    path = place_of(name)
    if not path.is_file() or path.suffix not in (".jsonl", ".gz", ".json", ".csv", ".parquet"):
        return None
    try:
        return sum(1 for _ in read_rows(path))
    except InputError:
        return None
