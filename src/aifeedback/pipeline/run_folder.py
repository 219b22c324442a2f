"""The run folder: its files, its records of finished steps, and its lock for a single process.

RUN/recipe.yaml            the recipe with everything filled in
RUN/manifest.json          versions, seed, and per stage: fingerprint, seconds, calls, tokens, cost, figures
RUN/journal.sqlite         every model call
RUN/stages/ID/…            what each stage leaves
RUN/summary.json, report.html
files.json                 in RUN and in each stage: digests of its files, chained into the journal
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aifeedback.errors import RecipeError
from aifeedback.models.journal.digests import changed
from aifeedback.models.journal.journal import Spent
from aifeedback.storage import make_folder, read_json, versions, write_json


class RunFolder:
    """A run on disk. Stages are done when their ``done.json`` carries the fingerprint of the settings and inputs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def journal(self) -> Path:
        return self.path / "journal.sqlite"

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.path / "manifest.json") or {}

    def journals(self) -> list[Path]:
        """Every journal of the run: the one that all stages share, and those that a stage keeps for itself."""
        own = [*self.path.glob("journal-*.sqlite"), *self.path.glob("stages/*/journal-*.sqlite")]
        return [path for path in (self.journal, *sorted(own)) if path.is_file()]

    def spent(self) -> Spent:
        """Calls, tokens and cost of the whole run, stages that failed or were left out since included."""
        from aifeedback.models.journal import Journal

        total = Spent()
        for path in self.journals():
            with Journal(path) as journal:
                total += journal.spent()
        return total

    def stage(self, stage_id: str) -> Path:
        return self.path / "stages" / stage_id

    def done(self, stage_id: str) -> dict[str, Any] | None:
        """Its record; None where it is not finished, and where the record was edited since."""
        file = self.stage(stage_id) / "done.json"
        return read_json(file) if file.is_file() and not changed(file) else None

    def prepare(self, stage_id: str, fingerprint: str) -> Path:
        """The stage's folder: kept where the same stage was interrupted, emptied where settings or inputs changed."""
        folder = self.stage(stage_id)
        begun = read_json(folder / "begun.json")
        if folder.exists() and (begun or {}).get("fingerprint") != fingerprint:
            shutil.rmtree(folder)
        make_folder(folder)
        (folder / "done.json").unlink(missing_ok=True)
        write_json(folder / "begun.json", {"fingerprint": fingerprint})
        return folder

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """Lock the run against a second process; the lock is released even if the process is killed."""
        make_folder(self.path)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RecipeError(
                    "another process is working in this run", file=self.path, fix="wait for it, or give another -o"
                ) from None
            yield

    def write_manifest(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """Collect every finished stage; return what it wrote."""
        stages = {s["id"]: self.done(s["id"]) for s in recipe["stages"]}
        finished = {stage_id: done for stage_id, done in stages.items() if done}
        manifest = {
            "recipe": recipe["name"],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "inputs": {name: digest for done in finished.values() for name, digest in done.get("inputs", {}).items()},
            "seed": recipe["seed"],
            "versions": versions(),
            "seconds": {stage_id: done["seconds"] for stage_id, done in finished.items()},
            **self.spent()._asdict(),
            "stages": finished,
        }
        write_json(self.path / "manifest.json", manifest)
        return manifest
