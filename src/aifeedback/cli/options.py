"""Options that most commands share, and what is checked as soon as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def _writable(path: Path | None) -> Path | None:
    """Raises RecipeError, before anything is spent, where the file could not be written."""
    if path is not None:
        from aifeedback.storage import make_folder

        make_folder(path.parent)
    return path


Json = Annotated[
    Path | None, typer.Option("--json", help="Also save the printed figures here.", callback=_writable, metavar="FILE")
]
Seed = Annotated[int, typer.Option(min=0, help="Every random choice depends on it.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only so many rows.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share a local model's questions, a copy of it in each."),
]
