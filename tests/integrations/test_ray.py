"""Labelling on a local Ray cluster of two workers: the labels of one process, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aifeedback import data
from aifeedback.errors import AIFeedbackError, ModelError, RecipeError
from aifeedback.integrations.ray import Done, batch_ids, label_batch, load, store
from aifeedback.judging.spec import JudgeSpec
from aifeedback.models.journal import Journal
from aifeedback.prompts import registry
from aifeedback.steps.label import Label
from aifeedback.steps.step import Context
from aifeedback.types import Comparison, Completion, Preference, Prompt
from models.stub import Request, Response, StubServer, answer

PAIRS, BATCH = 160, 8
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_raylet_start_wait_time_s": "180",  # a busy machine
}


def written(folder: Path) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"prompt": f"Question {n}?", "first": f"answer {n}", "second": f"other {n}"} for n in range(PAIRS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def context(folder: Path, progress: Any = lambda *_: None, workers: int | None = 1) -> Context:
    folder.mkdir(exist_ok=True)
    return Context(folder, folder, progress=progress, workers=workers)


def test_stored_batches_are_of_this_very_judge(tmp_path: Path) -> None:
    """A constitution that was edited in place is another one, though its file is called the same."""
    file = tmp_path / "mine.yaml"
    file.write_text(registry.find("constitutions", "harmless").read_text())
    judge = JudgeSpec.model_validate({"model": "fake:quality", "constitution": str(file)})
    prompt = Prompt.of("Question?")
    batch = [Comparison.of(prompt, *(Completion.of(prompt, text, source="s") for text in "ab"))]
    before = list(batch_ids(judge, 0, [batch]))
    assert list(batch_ids(judge, 0, [batch])) == before
    file.write_text(file.read_text().replace("harm", "damage"))
    assert list(batch_ids(judge, 0, [batch])) != before


def slowly(request: Request) -> Response:
    result = answer(request)
    result.wait_s = 0.1
    return result


def descendants(root: int) -> Iterator[tuple[int, str]]:
    """Process id and command of everything that this process started, directly or not."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                commands[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid != root:
            yield pid, commands.get(pid, "")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'aifeedback[ray]'")
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=10**8,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.mark.slow
def test_a_killed_worker_costs_only_its_calls_in_flight(cluster: None, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill_one(done: int, total: int, _: Any) -> None:
        if done >= 4 * BATCH and not killed and done < total:
            workers = [pid for pid, command in descendants(os.getpid()) if "MapWorker" in command]
            assert len(workers) == 2, list(descendants(os.getpid()))
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])

    with StubServer(slowly) as server:
        settings = {
            "comparisons": str(written(tmp_path)),
            "judge": {"model": "openai:stub", "base_url": server.url, "server": {"concurrency": 8}},
            "batch": BATCH,
        }
        alone = Label(**settings).run(context(tmp_path / "alone"))
        single = server.count
        spread = Label(**settings, engine="ray").run(context(tmp_path / "spread", kill_one, workers=2))
        request = server.count - single
        again = Label(**settings, engine="ray").run(context(tmp_path / "spread", workers=2))
        repeated = server.count - single - request
    assert killed
    one, two = (data.read_records(tmp_path / name / "preferences.jsonl", Preference) for name in ("alone", "spread"))
    assert one == two
    assert (tmp_path / "alone/labelled.jsonl").read_bytes() == (tmp_path / "spread/labelled.jsonl").read_bytes()
    assert alone.figures == spread.figures == again.figures
    with Journal(tmp_path / "spread/journal.sqlite") as journal:
        keys = [row.entry.key for row in journal.rows()]
        assert journal.verify().rows == len(keys) == len(set(keys)) == 2 * PAIRS
    print(f"on Ray: {single} calls alone, {request} with a worker killed, {repeated} when run again")
    assert 2 * PAIRS <= request <= 2 * PAIRS + 4 * 2 * BATCH
    assert repeated == 0


@pytest.mark.slow
def test_a_worker_s_own_error_comes_out_as_it_is(cluster: None, tmp_path: Path) -> None:
    settings = {"comparisons": str(written(tmp_path)), "judge": "fake:nobody"}
    with pytest.raises(AIFeedbackError, match="nobody"):
        Label(**settings, engine="ray").run(context(tmp_path / "run"))


def comparison(n: int) -> Comparison:
    prompt = Prompt.of(f"Question {n}?")
    first, second = (Completion.of(prompt, f"answer {n}.{i}", source=f"policy {i}") for i in (0, 1))
    return Comparison.of(prompt, first, second)


def test_a_batch_brings_its_calls_along(tmp_path: Path) -> None:
    done = label_batch(JudgeSpec(model="fake:noisy"), 0, [comparison(n) for n in range(3)])
    assert (len(done.preferences), len(done.calls)) == (3, 6)
    store(tmp_path / "batch.json", done)
    assert load(tmp_path / "batch.json") == Done(*done)
    assert {j.call_id for p in done.preferences for j in p.judgements} == {c.key.hex()[:16] for c in done.calls}


def test_a_spend_cap_is_refused(tmp_path: Path) -> None:
    judge = {"model": "openai:gpt-4", "spend_cap_usd": 1.0, "base_url": "http://127.0.0.1:9/v1"}
    with pytest.raises(RecipeError, match="several workers"):
        Label(comparisons=str(written(tmp_path)), judge=judge, engine="ray").run(context(tmp_path / "run"))


def test_the_worker_s_error_is_found_inside_ray_s() -> None:
    from aifeedback.integrations.ray import _own

    wrapped = RuntimeError("ray")
    wrapped.__cause__ = ModelError("no such model")
    assert str(_own(wrapped)) == "no such model"
    assert "run the same command" in str(_own(RuntimeError("worker gone")))
