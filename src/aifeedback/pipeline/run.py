"""A whole run: the recipe's stages, summary.json, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import RecipeError
from aifeedback.pipeline import runner
from aifeedback.pipeline.recipe import Recipe
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.pipeline.summary import summarise


class Finished(NamedTuple):
    """What a run leaves."""

    summary: Mapping[str, Any]
    """summary.json."""
    report: Path


def run_recipe(recipe: Recipe, folder: Path, watcher: runner.Watcher) -> Finished:
    """Run what is not done and write summary and report.

    Raises MissingExtra or RecipeError, with every problem, before anything runs, and where ``folder`` holds a run of
    another recipe.
    """
    from aifeedback.audit.report import write_report

    require_own(folder, recipe.name)
    runner.run(recipe, folder, watcher)
    summary = summarise(folder)
    return Finished(summary, write_report(summary, folder))


def require(recipe: Recipe, folder: Path) -> None:
    """Raises MissingExtra or RecipeError, with every problem, before anything runs."""
    runner.require_inputs(recipe)
    require_own(folder, recipe.name)


def require_own(folder: Path, name: str) -> None:
    """Raises RecipeError if the folder holds another recipe's run, whose stages would mix with these."""
    before = RunFolder(folder).manifest.get("recipe", name)
    if before != name:
        raise RecipeError(f"holds a run of '{before}', this is '{name}'", file=folder, fix="give another -o")
