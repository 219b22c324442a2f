"""Runs one stage outside a recipe: checks its inputs, shows a bar, prints its figures, hands its file over."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.cli.terminal import console, one_bar, show_figures
from aifeedback.errors import RecipeError

FILES = (".jsonl", ".parquet")


class Destination(NamedTuple):
    """``out`` is a folder that gets everything, or a file that gets the stage's main result (``main``)."""

    out: Path
    main: str

    @property
    def is_file(self) -> bool:
        return self.out.suffix in FILES

    @property
    def folder(self) -> Path:
        """Where the stage works, and where its journal lets it go on: beside a result file, ``NAME.run/``."""
        return self.out.with_name(f"{self.out.name}.run") if self.is_file else self.out


def run_stage(
    stage: Any, destination: Destination, *, seed: int = 0, json_file: Path | None = None, show: bool = True
) -> Any:
    """Runs the stage and returns its Outcome; ``show`` prints every figure of it.

    What was finished before with the same settings and inputs, and left no question open, is not done again. Raises
    RecipeError before any model call if an input is missing.
    """
    from aifeedback.runner import fingerprint
    from aifeedback.runs import RunFolder, read_json, write_json
    from aifeedback.stages import Job, Outcome

    require(stage.inputs())
    folder = destination.folder
    if destination.out.suffix and not destination.is_file and not destination.out.is_dir():
        raise RecipeError(
            f"cannot write '{destination.out.suffix}'",
            file=destination.out,
            fix=f"end in {' or '.join(FILES)}, or give a folder",
        )
    if destination.is_file and destination.out.is_dir():
        raise RecipeError("is a folder", file=destination.out, fix="give the name of a file, or of a folder without it")
    result, done = folder / destination.main, folder / "done.json"
    with RunFolder(folder).locked():
        told = fingerprint(stage, seed, {})
        before = read_json(done) if result.exists() else None
        if before is not None and before["fingerprint"] == told:
            outcome = Outcome(before["figures"])
            console.print("[dim]finished before with these settings and inputs: nothing was asked again[/]")
        else:
            done.unlink(missing_ok=True)
            with one_bar(stage.kind) as progress:
                outcome = stage.run(Job(folder, folder / "journal.sqlite", folder, seed, progress))
            write_json(folder / "figures.json", outcome.figures)
            if _is_settled(outcome.figures):
                write_json(done, {"fingerprint": told, "figures": outcome.figures})
    if destination.is_file:
        _hand_over(result, destination.out)
        result = destination.out
    if show:
        show_figures(outcome.figures, json_file)
    elif json_file:
        write_json(json_file, outcome.figures)
    console.print(
        f"→ [bold]{result}[/]" + (f"  [dim](records and journal in {folder})[/]" if destination.is_file else "")
    )
    return outcome


def _is_settled(figures: Mapping[str, Any]) -> bool:
    """Whether asking again could change nothing: no question is open because of the server, or of a spend cap."""
    from aifeedback.models.cache import OPEN
    from aifeedback.records import Problem

    again = {str(problem) for problem in (*OPEN, Problem.OVER_BUDGET, Problem.MISSING)}
    return "problems" in figures and again.isdisjoint(figures["problems"])


def require(names: Iterable[str]) -> None:
    """Raises RecipeError with every file, folder, model or prompt that is not there."""
    from aifeedback.stages.inputs import input_problem

    problems = [problem for name in names if (problem := input_problem(name))]
    if problems:
        raise RecipeError("\n  ".join(problems), fix="nothing was run; correct this first")


def _hand_over(result: Path, out: Path) -> None:
    if out.suffix == ".jsonl":
        shutil.copyfile(result, out)
        return
    from aifeedback.files import read_rows, write_rows

    write_rows(out, [dict(row.values) for row in read_rows(result)])
