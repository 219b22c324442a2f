"""A whole run: the recipe's stages, summary.json, report.html."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import RecipeError
from aifeedback.models.journal.digests import seal
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
    """Run the stages that are not done and write summary and report; ``require`` checks beforehand."""
    from aifeedback.reports.run_report import write_report

    runner.run(recipe, folder, watcher)
    summary = summarise(folder)
    report = write_report(summary, folder)
    seal(folder, RunFolder(folder).journal)
    return Finished(summary, report)


def require(recipe: Recipe, folder: Path) -> None:
    """Raises MissingExtra or RecipeError, with every problem, before anything runs; RecipeError also if ``folder`` holds a
    run of another recipe."""
    runner.require_inputs(recipe)
    before = RunFolder(folder).manifest.get("recipe", recipe.name)
    if before != recipe.name:  # its stages would mix with these
        raise RecipeError(f"holds a run of '{before}', this is '{recipe.name}'", file=folder, fix="give another -o")
