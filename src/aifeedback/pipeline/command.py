"""A single step as a command: check its inputs, keep what it needs to resume in its folder, and return its result.

FOLDER/command.json    which command, with which settings, seed and inputs, and where its result is
FOLDER/figures.json    its figures
FOLDER/files.json      digests of everything it left, chained into the journal
FOLDER/done.json       its fingerprint once nothing is left to ask: the same command again makes no call
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import __version__
from aifeedback.errors import RecipeError
from aifeedback.models.journal.digests import changed, seal
from aifeedback.pipeline.checks import modules, modules_for, require, require_modules
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.pipeline.runner import digests, fingerprint
from aifeedback.steps.step import Context, Figures, Step
from aifeedback.storage import read_json, write_json
from aifeedback.types import Progress, silent

FILE = "command.json"
FILES = (".jsonl", ".parquet")
"""Endings of a result that is one file."""
HOW = ("base_url", "headers", "server", "spend_cap_usd", "prices", "batch_api", "batch_size", "workers", "gpus_each",
       "trackers", "checkpoint_every", "keep_checkpoints", "keep_rollouts")  # fmt: skip
GROUPED = "batch"
"""Settings that change how the work is done, not its result: they may differ between two starts of one job.
So may ``batch`` of a step, how many items are judged together; a trainer's is another thing."""
EXTENDED = ("sample", "pair", "label", "score", "revise")
"""Commands that a larger ``limit`` extends: each item is treated by itself, so that what was done is the beginning of
what is wanted now. A policy trained on more prompts is another policy."""
STEPS = "train.steps"
"""More of these extend a finished training run; everything else about it stays."""
MOST_LISTED = 3


class Record(NamedTuple):
    """One job. Settings are plain values, as JSON has them."""

    command: str
    settings: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, str]
    """Outside files, folders and models → digest, or the name itself where nothing can be digested."""
    result: str
    """The file or folder that the user named."""
    at: str = ""
    """When it was started last."""
    version: str = ""
    """Of aifeedback."""


class Destination(NamedTuple):
    """``out`` is a folder for everything, a result file, or (for training) the model folder itself."""

    out: Path
    main: str
    further: Path | None = None
    """A folder that is made from the main result."""

    @property
    def is_file(self) -> bool:
        return self.out.suffix in FILES

    @property
    def is_model(self) -> bool:
        """Whether the main result is a folder: then it is ``out`` itself."""
        return not Path(self.main).suffix

    @property
    def shown(self) -> Path:
        """What the user named."""
        return self.further or self.out

    @property
    def folder(self) -> Path:
        """The step's working folder with its journal: ``NAME.run/`` next to a result file."""
        return self.out.with_name(f"{self.out.name}.run") if self.is_file else self.out

    @property
    def result(self) -> Path:
        return self.folder if self.is_model else self.folder / self.main


class Done(NamedTuple):
    """What a command did."""

    figures: Figures
    result: Path
    """The main result, where the user named it."""
    was_done: bool
    """It had finished before; no call was made."""
    extends: int | None
    """It continues a job whose limit was this."""
    spent: Any
    """Calls, tokens and cost, read from the journal (``store.Spent``)."""


def run_step(
    step: Step,
    destination: Destination,
    *,
    command: str = "",
    seed: int = 0,
    workers: int | None = 1,
    progress: Progress = silent,
) -> Done:
    """Run the step, or take over its finished result.

    Raises RecipeError before any model call if an input is missing, or if ``destination`` holds the finished result of
    another job.
    """
    require_modules([*modules(step), *modules_for(destination.out)])
    require(step)
    folder = destination.folder
    if destination.out.suffix and not (destination.is_file or destination.is_model or destination.out.is_dir()):
        raise RecipeError(
            f"cannot write '{destination.out.suffix}'",
            file=destination.out,
            fix=f"end in {' or '.join(FILES)}, or give a folder",
        )
    if destination.is_file and destination.out.is_dir():
        raise RecipeError("is a folder", file=destination.out, fix="give the name of a file, or of a folder without it")
    done_file = folder / "done.json"
    inputs = digests(step)
    record = Record(command or step.kind, step.model_dump(mode="json"), seed, inputs, str(destination.shown))
    require_own(folder, record, exists=_holds_result(destination))
    earlier = read(folder)
    extends = earlier.settings["limit"] if earlier is not None and is_extended(earlier, record) else None
    with RunFolder(folder).locked():
        leave(folder, record)
        current = fingerprint(step, seed, {}, inputs)
        before = read_json(done_file) if destination.result.exists() else None
        context = Context(
            folder,
            folder,
            step=step.kind,
            seed=seed,
            progress=progress,
            workers=workers,
            out=folder if destination.is_model else None,
        )
        was_done = before is not None and before["fingerprint"] == current and not changed(done_file)
        if before is not None and was_done:
            figures = step.Figures.model_validate(before["figures"])
        else:
            done_file.unlink(missing_ok=True)
            figures = step.run(context)
            write_json(folder / "figures.json", figures.as_json())
            if _is_settled(step, figures):
                write_json(done_file, {"fingerprint": current, "figures": figures.as_json()})
        spent = context.spent()
    result = destination.result
    if destination.is_file:
        _hand_over(result, destination.out)
        result = destination.out
    seal(folder, context.journal, beside=[result] if destination.is_file and not was_done else [],
         rewritten=[folder / FILE] if was_done else [])  # fmt: skip
    return Done(figures, result, was_done, extends, spent)


def _holds_result(destination: Destination) -> bool:
    """True if a finished result of another command exists; one with retryable failures may be overwritten."""
    folder = destination.folder
    if destination.further is not None and _is_filled(destination.further):
        exists = True
    elif destination.is_file:
        exists = destination.out.exists()
    elif destination.is_model:
        exists = (folder / "config.json").exists()
    else:
        exists = (folder / "figures.json").exists() or (folder / destination.main).exists()
    return exists and _problems(read_json(folder / "figures.json") or {}).isdisjoint(_retryable())


def _is_filled(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _is_settled(step: Step, figures: Figures) -> bool:
    """Whether another start could change nothing: no calls are made, or none failed for the server or a spend cap."""
    if step.asks_anew:
        return False
    plain = figures.as_json()
    return step.forecast({}).calls == 0 or ("problems" in plain and _retryable().isdisjoint(plain["problems"]))


def _retryable() -> set[str]:
    """Problems that another start may not have."""
    from aifeedback.models.journaled import OPEN
    from aifeedback.types import Problem

    return {str(problem) for problem in (*OPEN, Problem.OVER_BUDGET, Problem.MISSING)}


def _problems(figures: Mapping[str, Any]) -> set[str]:
    """The problems that any part of the figures counts."""
    problems: set[str] = set()
    for key, value in figures.items():
        if isinstance(value, Mapping):
            problems |= set(value) if key in ("problems", "unknown") else _problems(value)
    return problems


def _hand_over(result: Path, out: Path) -> None:
    if out.suffix == ".jsonl":
        shutil.copyfile(result, out)
        return
    from aifeedback.data import read_rows, write_rows

    write_rows(out, [dict(row.values) for row in read_rows(result)])


def read(folder: Path) -> Record | None:
    """The job whose result is here; None where no single command worked."""
    stored = read_json(folder / FILE)
    return None if stored is None else Record(**stored)


def leave(folder: Path, record: Record) -> None:
    """Write the record: from here on the folder is this job's."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / FILE, record._replace(at=now, version=__version__)._asdict())


def require_own(folder: Path, record: Record, *, exists: bool) -> None:
    """Raises RecipeError where a result exists (``exists``) that is not this job's."""
    before = read(folder)
    if exists and before is None:
        what, fix = "exists already, and was not made by this command", "give another -o, or move it away first"
        raise RecipeError(what, file=record.result, fix=fix)
    if exists and before is not None and (differing := list(differences(before, record))):
        more = f" and {len(differing) - MOST_LISTED} more" if len(differing) > MOST_LISTED else ""
        raise RecipeError(
            f"already contains a result with different settings ({'; '.join(differing[:MOST_LISTED])}{more})",
            file=record.result,
            fix="give another -o, or delete it first; finished calls stay in the journal and are not repeated",
        )


def require_same_content(file: Path, made: Path) -> None:
    """For a result that is a single file. Raises RecipeError, and removes ``made``, where ``file`` exists and
    holds something else."""
    if file.exists() and file.read_bytes() != made.read_bytes():
        made.unlink()
        raise RecipeError("exists already, with other content", file=file, fix="give another -o, or delete it first")


def differences(before: Record, now: Record) -> Iterator[str]:
    """How the second job differs from the first, one phrase each; nothing where they are the same job."""
    if before.command != now.command:
        yield f"made by {before.command}, this is {now.command}"
        return
    if before.seed != now.seed:
        yield f"seed {before.seed}, now {now.seed}"
    old, new = dict(_flat(before.settings)), dict(_flat(now.settings))
    for key in sorted(old.keys() | new.keys()):
        is_more = (key == "limit" and is_extended(before, now)) or (key == STEPS and is_longer(before, now))
        if old.get(key) != new.get(key) and not is_more:
            yield f"{key} {brief(old.get(key))}, now {brief(new.get(key))}"
    yield from (
        f"{name} has changed" for name, digest in now.inputs.items() if before.inputs.get(name, digest) != digest
    )


def is_extended(before: Record, now: Record) -> bool:
    """Whether the first job had a limit that the second raises or drops."""
    few, more = before.settings.get("limit"), now.settings.get("limit")
    return now.command in EXTENDED and few is not None and (more is None or more > few)


def is_longer(before: Record, now: Record) -> bool:
    """Whether the second job trains on for more steps than the first."""
    few, more = (record.settings.get("train", {}).get("steps") for record in (before, now))
    is_own = now.settings.get("engine", "own") == "own"
    return is_own and few is not None and more is not None and more > few


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if key in HOW or f"{prefix}{key}" == GROUPED:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def main_settings(record: Record) -> Iterator[tuple[str, Any]]:
    """The settings that hold something."""
    yield from ((key, value) for key, value in _flat(record.settings) if value not in (None, False, "", [], {}))


def brief(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
