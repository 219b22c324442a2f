"""Labelling on Ray Data: the same stage, the same labels, on as many workers and machines as a Ray cluster has.

Ray Data does the scheduling, the restarting of lost workers and the retrying of their work; nothing here does. Each
worker labels whole batches with a journal of its own and hands labels and journalled calls back together; this process
stores each finished batch as one file, whole or not at all, and copies its calls into the run's journal, once per key.

Batches are those of one process, at the same places, so a local model computes the very same numbers. A batch whose
worker died is computed again: its calls (``batch`` comparisons at most) are repeated, its labels are stored once.
Running the same command again skips the batches that are stored.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import AIFeedbackError, JudgeUnavailable, MissingExtra, RecipeError
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec
from aifeedback.models.journal import Entry, Journal
from aifeedback.refs import digest_ref, refs_in
from aifeedback.steps import connect
from aifeedback.steps.step import Context
from aifeedback.storage import make_folder
from aifeedback.types import Comparison, Preference, content_id

_BYTES = ("key", "prompt_hash")


class Done(NamedTuple):
    """One labelled batch and the calls that were made for it."""

    preferences: list[Preference]
    calls: list[Entry]


def label_on_ray(
    judge: JudgeSpec | PanelSpec,
    comparisons: Sequence[Comparison],
    context: Context,
    *,
    batch: int,
    gpus_each: float | None = None,
) -> list[Preference]:
    """The labels of ``comparisons``, in order, from the cluster that RAY_ADDRESS names or one started on this machine.

    ``context.workers``: workers at a time; None: as many as the cluster has GPUs (CPUs where it has none).
    ``gpus_each``: GPUs of a worker; None: 1 for a local model on a cluster with GPUs, else 0.
    Raises RecipeError for a spend cap, which no worker can keep for the others.
    """
    if any(member.spend_cap_usd is not None for member in members(judge)):
        raise RecipeError(
            "a spend cap cannot be kept over several workers",
            key="--spend-cap-usd",
            fix="use one process: it keeps a whole fleet of servers busy (docs/scaling.md)",
        )
    folder = context.folder / "batches"
    make_folder(folder)
    batches = batch_ids(judge, context.seed, _batches(comparisons, batch))
    waiting = {key: some for key, some in batches.items() if not (folder / f"{key}.json").is_file()}
    done = len(comparisons) - sum(map(len, waiting.values()))
    context.progress(done, len(comparisons), {})
    for key, labelled in _run(judge, waiting, context, gpus_each):
        store(folder / f"{key}.json", labelled)
        done += len(waiting[key])
        context.progress(done, len(comparisons), {})
    stored = [load(folder / f"{key}.json") for key in batches]
    with Journal(context.journal, step=context.step) as journal:
        for labelled in stored:
            _journal(journal, labelled.calls)
    return [preference for labelled in stored for preference in labelled.preferences]


def _run(
    judge: JudgeSpec | PanelSpec,
    waiting: dict[str, Sequence[Comparison]],
    context: Context,
    gpus_each: float | None,
) -> Iterator[tuple[str, Done]]:
    """The batches as they are finished, in any order; each once."""
    if not waiting:
        return
    ray = _ray()
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    is_local = any(member.model.is_local for member in members(judge))
    each = gpus_each if gpus_each is not None else float(is_local and gpus > 0)
    most = int(gpus / each) if each else int(ray.cluster_resources().get("CPU", 1))
    workers = min(context.workers or max(most, 1), len(waiting))
    rows = [{"key": key, "comparisons": [c.model_dump_json() for c in some]} for key, some in waiting.items()]
    ray.data.DataContext.get_current().enable_progress_bars = False
    labelled = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Worker,
        fn_constructor_args=(judge.model_dump(mode="json"), context.seed, os.getcwd()),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        num_cpus=0 if each else 1,
        num_gpus=each,
        max_restarts=-1,
        max_task_retries=-1,
    )
    open_batches = set(waiting)
    try:
        for row in labelled.iter_rows():
            if row["key"] in open_batches:
                open_batches.remove(row["key"])
                yield row["key"], parsed(row["done"])
    except ray.exceptions.RayError as failed:
        raise _own(failed) from None
    if open_batches:
        raise JudgeUnavailable(f"Ray gave up {len(open_batches)} batches\n  → rerun the same command to resume")


class Worker:
    """One of Ray's actors: makes the judge once, then labels batches."""

    def __init__(self, judge: dict[str, Any], seed: int, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)  # relative paths of models and prompts mean what they mean to the user
        self.judge: JudgeSpec | PanelSpec = PanelSpec(**judge) if "members" in judge else JudgeSpec(**judge)
        self.seed = seed

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        done = []
        for comparisons in rows["comparisons"]:
            done.append(label_batch(self.judge, self.seed, [Comparison.model_validate_json(c) for c in comparisons]))
        return {"key": rows["key"], "done": [unparsed(labelled) for labelled in done]}


def label_batch(judge: JudgeSpec | PanelSpec, seed: int, comparisons: Sequence[Comparison]) -> Done:
    """Label with a journal that lives as long as the batch; its calls are handed back."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        context = Context(place, place, seed=seed)
        preferences = connect.labeler(judge, context).label(comparisons)
        if not context.journal.exists():
            return Done(preferences, [])
        with Journal(context.journal) as journal:
            return Done(preferences, [row.entry for row in journal.rows()])


def members(judge: JudgeSpec | PanelSpec) -> tuple[JudgeSpec, ...]:
    return judge.members if isinstance(judge, PanelSpec) else (judge,)


def batch_ids(judge: Judging, seed: int, batches: Iterable[Sequence[Comparison]]) -> dict[str, Sequence[Comparison]]:
    """Batches by id. Ids are equal only where the same judge would be asked about the same comparisons: the content of
    its model, prompt, principles and calibration counts, and not their names alone."""
    made_of = {str(ref): digest_ref(ref) for ref in refs_in(judge)}
    who = judge.model_dump(mode="json"), made_of, seed
    return {content_id("ray batch", *who, [c.id for c in some]): some for some in batches}


def _batches(comparisons: Sequence[Comparison], size: int) -> Iterator[Sequence[Comparison]]:
    for start in range(0, len(comparisons), size):
        yield comparisons[start : start + size]


def store(path: Path, labelled: Done) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".part")
    partial.write_text(unparsed(labelled), encoding="utf-8")
    partial.replace(path)


def load(path: Path) -> Done:
    return parsed(path.read_text(encoding="utf-8"))


def unparsed(labelled: Done) -> str:
    calls = [{**entry._asdict(), **{name: getattr(entry, name).hex() for name in _BYTES}} for entry in labelled.calls]
    return json.dumps({"preferences": [p.model_dump(mode="json") for p in labelled.preferences], "calls": calls})


def parsed(text: str) -> Done:
    values = json.loads(text)
    rows: list[dict[str, Any]] = values["calls"]
    calls = [Entry(**{**row, **_bytes_of(row)}) for row in rows]
    return Done([Preference.model_validate(p) for p in values["preferences"]], calls)


def _journal(journal: Journal, calls: Sequence[Entry]) -> None:
    """Final answers stand once by themselves; a failed attempt is copied unless it is there already."""
    failed = {(row.entry.key, row.entry.at) for call in calls if not call.is_final for row in journal.calls(call.key)}
    journal.append([call for call in calls if call.is_final or (call.key, call.at) not in failed])


def _own(failed: BaseException) -> AIFeedbackError:
    """The package's error that a worker raised, without Ray's wrapping; any other as what stopped the run."""
    cause: BaseException | None = failed
    while cause is not None:
        if isinstance(cause, AIFeedbackError):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__
    return JudgeUnavailable(f"a Ray worker failed: {failed}\n  → rerun the same command to resume")


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # pyright: ignore[reportMissingImports]
        import ray.data  # pyright: ignore[reportMissingImports, reportUnusedImport]
    except ImportError:
        raise MissingExtra("ray", "ray") from None
    return ray


def _bytes_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: bytes.fromhex(row[name]) for name in _BYTES}
