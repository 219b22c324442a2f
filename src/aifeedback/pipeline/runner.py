"""Run a recipe: finished stages are skipped, independent ones run side by side, interrupted ones resume.

A stage whose calls wait in a server's batch leaves the others to finish; the run then stops, and the next start collects.

Each stage runs in a worker process with one torch thread (two torch threads on two shared cores are slower than two
processes). Stages that may ask one local model the same question run in the order of the recipe: the answer that is
journaled first serves all of them, and its last bits depend on what was computed beside it. So results do not depend on
how many stages run at once. A worker whose parent died ends itself.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml

from aifeedback.errors import AIFeedbackError, BatchPending, RecipeError
from aifeedback.extensions import source_of
from aifeedback.models.journal.digests import seal
from aifeedback.models.journal.integrity import canonical
from aifeedback.pipeline import checks
from aifeedback.pipeline.recipe import Recipe, Stage
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.refs import ModelRef, digest_ref
from aifeedback.steps import step_class
from aifeedback.steps.step import Context, Step
from aifeedback.steps.verdict import Verdict
from aifeedback.storage import digest, write_json
from aifeedback.types import content_id


class Watcher(Protocol):
    """Receives what happens; the terminal's progress bars are one."""

    def started(self, stage_id: str) -> None: ...
    def advanced(self, stage_id: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...
    def finished(self, stage_id: str, *, seconds: float, skipped: bool, verdict: Verdict | None) -> None: ...


class _Task(NamedTuple):
    stage_id: str
    kind: str
    settings: dict[str, Any]
    fingerprint: str
    folder: Path
    run: Path
    seed: int
    inputs: dict[str, str]
    """Outside inputs → digest."""


def run(recipe: Recipe, folder: Path, watcher: Watcher) -> dict[str, Any]:
    """Run every stage that is not done; returns the manifest. Stops at the first failed stage and names it."""
    place = RunFolder(folder)
    with place.locked():
        resolved = recipe.resolved()
        (folder / "recipe.yaml").write_text(
            yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
        prints = fingerprints(recipe)
        waiting: dict[str, Stage] = {}
        done: set[str] = set()
        for stage in recipe.stages:
            before = place.done(stage.id)
            if before and before["fingerprint"] == prints[stage.id] and all(need in done for need in stage.needs):
                done.add(stage.id)
                watcher.finished(stage.id, seconds=before["seconds"], skipped=True, verdict=_verdict(before))
            else:
                waiting[stage.id] = stage
        try:
            if waiting:
                _Execution(recipe, place, prints, watcher).all(waiting, done)
        finally:  # what a failed stage spent counts too
            manifest = place.write_manifest(resolved)
        return manifest


SAMPLING = frozenset({"sample", "compare", "safety", "probe", "revise"})
"""Steps whose models answer through the journal; a trainer's do not."""
QUESTION = ("model", "prompt", "by", "rationale", "shots")
"""Settings of a judge without which two stages cannot ask it the same."""


def questions(step: Step) -> frozenset[str]:
    """What a step asks local models, as far as settings tell: two steps without a common element share no question."""
    cells = getattr(step, "cells", None)
    judges = cells() if cells else checks.judges_in(step)
    asked = {
        canonical({name: value for name, value in judge.model_dump(mode="json").items() if name in QUESTION})
        for judge in judges
        if judge.model.is_local
    }
    if step.kind in SAMPLING:
        asked |= {str(ref) for ref in step.refs() if isinstance(ref, ModelRef) and ref.is_local}
    return frozenset(asked)


class _Execution:
    """The loop that hands stages to workers as soon as what they need is there."""

    def __init__(self, recipe: Recipe, place: RunFolder, prints: Mapping[str, str], watcher: Watcher) -> None:
        self.recipe, self.place, self.prints, self.watcher = recipe, place, prints, watcher
        self.running: dict[Future[dict[str, Any]], str] = {}
        self.questions = {stage.id: questions(stage.step) for stage in recipe.stages}
        self.pending: list[str] = []
        """What stages wait for, in batches of a server."""

    def all(self, waiting: dict[str, Stage], done: set[str]) -> None:
        context = multiprocessing.get_context("spawn")
        events: Any = context.Queue()
        workers = min(self.recipe.workers, len(waiting))
        with ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(events, os.getpid())
        ) as pool:
            try:
                while waiting or self.running:
                    self._submit_ready(pool, waiting, done)
                    if self.pending and not self.running:
                        raise BatchPending(self.pending)
                    finished, _ = wait(self.running, timeout=0.2, return_when=FIRST_COMPLETED)
                    self._drain(events)
                    for future in finished:
                        stage_id = self.running.pop(future)
                        try:
                            outcome = _result(future, stage_id)
                        except BatchPending as pending:
                            self.pending += [f"{phrase}, stage '{stage_id}'" for phrase in pending.waiting]
                            continue
                        done.add(stage_id)
                        self.watcher.finished(
                            stage_id, seconds=outcome["seconds"], skipped=False, verdict=_verdict(outcome)
                        )
                        self.place.write_manifest(self.recipe.resolved())
                if self.pending:
                    raise BatchPending(self.pending)
            except BaseException:
                _stop(pool)
                raise

    def _submit_ready(self, pool: ProcessPoolExecutor, waiting: dict[str, Stage], done: set[str]) -> None:
        held = frozenset[str]().union(*(self.questions[stage_id] for stage_id in self.running.values()))
        for stage in list(waiting.values()):
            if len(self.running) >= self.recipe.workers:
                return
            own = self.questions[stage.id]
            is_free = held.isdisjoint(own)
            held |= own
            if is_free and all(need in done for need in stage.needs):
                del waiting[stage.id]
                folder = self.place.prepare(stage.id, self.prints[stage.id])
                run = self.place.path.absolute()
                task = _Task(
                    stage.id,
                    stage.kind,
                    stage.step.within(run).model_dump(mode="json", exclude_unset=True),
                    self.prints[stage.id],
                    folder.absolute(),
                    run,
                    self.recipe.seed,
                    digests(stage.step),
                )
                self.watcher.started(stage.id)
                with _without_script():
                    self.running[pool.submit(_work, task)] = stage.id

    def _drain(self, events: Any) -> None:
        while True:
            try:
                stage_id, done, total, figures = events.get_nowait()
            except queue.Empty:
                return
            self.watcher.advanced(stage_id, done, total, figures)


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """Of every stage, by id."""
    prints: dict[str, str] = {}
    for stage in recipe.stages:
        prints[stage.id] = fingerprint(stage.step, recipe.seed, {need: prints[need] for need in stage.needs})
    return prints


def fingerprint(step: Step, seed: int, above: Mapping[str, str], outside: Mapping[str, str] | None = None) -> str:
    """A digest of everything a step's result depends on: kind, settings, seed, inputs (``outside``, its ``digests``,
    where they are known already), and ``above``, the fingerprints of the stages it waits for."""
    known = digests(step) if outside is None else outside
    return content_id(step.kind, step.model_dump(mode="json"), seed, known, above, code_digest())


def digests(step: Step) -> dict[str, str]:
    """Every outside input by name, with its digest; the name itself where there is nothing local to digest. The source
    of a step from outside is one of them."""
    code = source_of(type(step))
    return {str(ref): digest_ref(ref) for ref in step.inputs()} | ({code.name: digest(code)} if code else {})


@cache
def code_digest() -> str:
    """Digest of the package's own code, less what only shows results: a changed implementation is a changed stage."""
    package = Path(str(importlib.import_module("aifeedback").__file__)).parent
    code = (f for f in sorted(package.rglob("*")) if f.suffix in (".py", ".cpp", ".hpp"))
    sources = [f for f in code if ONLY_SHOWS.isdisjoint(f.relative_to(package).parts)]
    return content_id([[str(f.relative_to(package)), digest(f)] for f in sources])


ONLY_SHOWS = {"cli", "audit", "reports", "annotation", "integrations", "summary.py", "provenance.py", "digests.py"}


@contextmanager
def _without_script() -> Generator[None]:
    """Meanwhile a new process does not run the user's script again: a stage needs nothing of it, and a script that calls
    ``run`` at its top level would start itself in every worker."""
    main = sys.modules["__main__"]
    hidden = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _begin(events: Any, parent: int) -> None:
    """In each worker: one thread, Ctrl-C is the parent's business, and no life without the parent."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    globals()["_EVENTS"] = events

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(task: _Task) -> dict[str, Any]:
    """In a worker: one stage, from its settings to ``done.json``."""
    started = time.perf_counter()
    events = globals()["_EVENTS"]
    last = 0.0

    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.1 or done == total:
            last = now
            events.put((task.stage_id, done, total, dict(figures)))

    step = step_class(task.kind).model_validate(task.settings)
    context = Context(task.folder, task.run, step=task.stage_id, seed=task.seed, progress=progress)
    try:
        figures = step.run(context)
    except AIFeedbackError:
        raise
    except Exception as unexpected:
        details = task.folder / "error.txt"
        details.write_text(traceback.format_exc(), encoding="utf-8")
        raise StageFailed(f"stage '{task.stage_id}' failed: {unexpected!r}\n  → details in {details}") from None
    verdict = figures.verdict()
    record = {
        "fingerprint": task.fingerprint,
        "inputs": task.inputs,
        "kind": task.kind,
        "seconds": round(time.perf_counter() - started, 3),
        **context.spent()._asdict(),
        "verdict": verdict._asdict() if verdict else None,
        "figures": figures.as_json(),
    }
    write_json(task.folder / "done.json", record)
    seal(task.folder, context.journal)
    return record


def _verdict(done: Mapping[str, Any]) -> Verdict | None:
    record = done.get("verdict")
    return Verdict(**record) if record else None


class StageFailed(AIFeedbackError):
    """An unexpected error in a stage; the message names the file with the details."""


def _result(future: Future[dict[str, Any]], stage_id: str) -> dict[str, Any]:
    try:
        return future.result()
    except AIFeedbackError:
        raise
    except Exception as broken:  # a killed worker, an error that could not be pickled
        raise StageFailed(
            f"stage '{stage_id}': its worker ended ({broken!r})\n  → run the same command to resume"
        ) from None


def _stop(pool: ProcessPoolExecutor) -> None:
    for process in list(getattr(pool, "_processes", {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)


def check_inputs(recipe: Recipe) -> list[str]:
    """Every required setting, outside file, folder or model that is missing, and every wrong setting of a step."""
    if recipe.missing:
        return [f"setting '{name}' is needed: --set {name}=…" for name in recipe.missing]
    faults: dict[str, None] = {}
    for stage in recipe.stages:
        faults |= {f"{stage.id}: {problem}": None for problem in checks.problems(stage.step)}
    return list(faults)


def require_inputs(recipe: Recipe) -> None:
    """Raises MissingExtra or RecipeError, with every problem, before anything runs."""
    checks.require_modules(required_modules(recipe))
    if problems := check_inputs(recipe):
        raise RecipeError("\n  ".join(problems), fix="nothing was run; fix these first")


def required_modules(recipe: Recipe) -> list[str]:
    """Modules of optional dependencies that any stage imports."""
    return [name for stage in recipe.stages for name in checks.modules(stage.step)]
