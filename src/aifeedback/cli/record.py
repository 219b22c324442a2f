"""What one command leaves about itself beside its result: the same job goes on there, another one is refused.

FOLDER/command.json    which command, with which settings, seed and inputs, and where its result lies
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import RecipeError
from aifeedback.storage import read_json, write_json

FILE = "command.json"
HOW = ("base_url", "server", "spend_cap_usd", "batch_size", "workers", "gpus_each", "trackers", "checkpoint_every",
       "keep_checkpoints")  # fmt: skip
GROUPED = "batch"
"""Settings that say how the work is done and not what comes out: they may differ between two starts of one job.
So may ``batch`` of a stage, how many are asked together; a trainer's is another thing."""
EXTENDED = ("sample", "pair", "label", "score", "revise")
"""Commands of which a larger ``limit`` makes the same job go on: each item is treated by itself, so that what was done
is the beginning of what is wanted now. A policy trained on more prompts is another policy."""
MOST_TOLD = 3


class Told(NamedTuple):
    """One job. Settings are plain values, as JSON has them."""

    command: str
    settings: Mapping[str, Any]
    seed: int
    inputs: Mapping[str, str]
    """Outside files, folders and models → digest, or the name itself where nothing can be digested."""
    result: str
    """The file or folder that the user asked for."""


def read(folder: Path) -> Told | None:
    """The job whose result lies here; None where no single command worked."""
    found = read_json(folder / FILE)
    return None if found is None else Told(**found)


def leave(folder: Path, told: Told) -> None:
    """Writes the record: from here on the folder is this job's."""
    write_json(folder / FILE, told._asdict())


def require_own(folder: Path, told: Told, *, is_there: bool) -> None:
    """Raises RecipeError where a result is there (``is_there``) that is not this job's."""
    before = read(folder)
    if is_there and before is None:
        what, fix = "is there already, and was not made by this command", "give another -o, or move it away first"
        raise RecipeError(what, file=told.result, fix=fix)
    if is_there and before is not None and (changed := list(differences(before, told))):
        more = f" and {len(changed) - MOST_TOLD} more" if len(changed) > MOST_TOLD else ""
        raise RecipeError(
            f"holds the result of another job ({'; '.join(changed[:MOST_TOLD])}{more})",
            file=told.result,
            fix="give another -o, or delete it first; what models answered stays in the journal and is not asked again",
        )


def require_same_content(file: Path, made: Path) -> None:
    """For a result without a folder of its own. Raises RecipeError, and takes ``made`` away, where ``file`` is there
    already and holds something else."""
    if file.exists() and file.read_bytes() != made.read_bytes():
        made.unlink()
        raise RecipeError("is there already, with other content", file=file, fix="give another -o, or delete it first")


def differences(before: Told, now: Told) -> Iterator[str]:
    """What a second job has otherwise than the first, one phrase each; nothing where they are the same job."""
    if before.command != now.command:
        yield f"made by {before.command}, this is {now.command}"
        return
    if before.seed != now.seed:
        yield f"seed {before.seed}, now {now.seed}"
    old, new = dict(_flat(before.settings)), dict(_flat(now.settings))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not (key == "limit" and is_extended(before, now)):
            yield f"{key} {brief(old.get(key))}, now {brief(new.get(key))}"
    yield from (
        f"{name} has changed" for name, digest in now.inputs.items() if before.inputs.get(name, digest) != digest
    )


def is_extended(before: Told, now: Told) -> bool:
    """Whether the first job had a limit that the second raises or drops."""
    few, more = before.settings.get("limit"), now.settings.get("limit")
    return now.command in EXTENDED and few is not None and (more is None or more > few)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if key in HOW or f"{prefix}{key}" == GROUPED:
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def main_settings(told: Told) -> Iterator[tuple[str, Any]]:
    """The settings that were given: those that hold nothing, or were switched off, left out."""
    yield from ((key, value) for key, value in _flat(told.settings) if value not in (None, False, "", [], {}))


def brief(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
