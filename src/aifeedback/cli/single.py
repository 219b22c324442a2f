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
    further: Path | None = None
    """A folder that is made from the main result."""

    @property
    def is_file(self) -> bool:
        return self.out.suffix in FILES

    @property
    def shown(self) -> Path:
        """What the user named."""
        return self.further or self.out

    @property
    def folder(self) -> Path:
        """Where the stage works, and where its journal lets it go on: beside a result file, ``NAME.run/``."""
        return self.out.with_name(f"{self.out.name}.run") if self.is_file else self.out


def run_stage(
    stage: Any,
    destination: Destination,
    *,
    seed: int = 0,
    json_file: Path | None = None,
    show: bool = True,
    workers: int | None = 1,
) -> Any:
    """Runs the stage and returns its Outcome; ``show`` prints every figure of it; ``workers`` as in ``Job``.

    What was finished before with the same settings and inputs, and left no question open, is not done again. Raises
    RecipeError before any model call if an input is missing, or if what is there already is the result of another job
    that left no question open.
    """
    from aifeedback.cli import record
    from aifeedback.runner import digests, fingerprint
    from aifeedback.storage import RunFolder, read_json, write_json
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
    inputs = digests(stage)
    job = record.Told(stage.kind, stage.model_dump(mode="json"), seed, inputs, str(destination.shown))
    record.require_own(folder, job, is_there=_is_there(destination))
    earlier = record.read(folder)
    if earlier is not None and record.is_extended(earlier, job):
        console.print(f"[dim]going on from the first {earlier.settings['limit']:,}: what was answered is kept[/]")
    with RunFolder(folder).locked():
        record.leave(folder, job)
        told = fingerprint(stage, seed, {}, inputs)
        before = read_json(done) if result.exists() else None
        if before is not None and before["fingerprint"] == told:
            outcome = Outcome(before["figures"])
            console.print("[dim]finished before with these settings and inputs: nothing was asked again[/]")
        else:
            done.unlink(missing_ok=True)
            with one_bar(stage.kind) as progress:
                outcome = stage.run(Job(folder, folder / "journal.sqlite", folder, seed, progress, workers))
            write_json(folder / "figures.json", outcome.figures)
            if _is_settled(stage, outcome.figures):
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


def _is_there(destination: Destination) -> bool:
    """Whether a result lies there that another job must not replace: one with open questions may be done otherwise."""
    from aifeedback.storage import read_json

    folder = destination.folder
    if destination.further is not None and _holds_something(destination.further):
        is_there = True
    elif destination.is_file:
        is_there = destination.out.exists()
    else:
        is_there = (folder / "figures.json").exists() or (folder / destination.main).exists()
    return is_there and _open(read_json(folder / "figures.json") or {}).isdisjoint(_again())


def _holds_something(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _is_settled(stage: Any, figures: Mapping[str, Any]) -> bool:
    """Whether asking again could change nothing: nothing is asked, or no question is open because of the server or of a
    spend cap."""
    asks_nothing = stage.forecast({}).calls == 0
    return asks_nothing or ("problems" in figures and _again().isdisjoint(figures["problems"]))


def _again() -> set[str]:
    """Problems that another start may not have."""
    from aifeedback.models.cache import OPEN
    from aifeedback.records import Problem

    return {str(problem) for problem in (*OPEN, Problem.OVER_BUDGET, Problem.MISSING)}


def _open(figures: Mapping[str, Any]) -> set[str]:
    """The problems that any part of the figures counts."""
    found: set[str] = set()
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found |= set(value) if key in ("problems", "unknown") else _open(value)
    return found


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
