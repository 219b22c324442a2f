"""Runs: skipped when done, redone when something changed, continued after a kill, told plainly when broken."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from aifeedback.errors import AIFeedbackError, RecipeError
from aifeedback.pipeline import recipe, runner
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.pipeline.summary import summarise
from aifeedback.steps import step_class

TEXT = """
name: tiny
workers: 2
settings: {judge: "fake:longer", data: DATA}
stages:
  - {id: pairs, stage: pairs, data: "${data}", heldout: 20}
  - {id: labels, stage: label, comparisons: "@pairs/train.jsonl", judge: "${judge}"}
  - {id: held, stage: label, comparisons: "@pairs/heldout.jsonl", judge: "${judge}"}
summary: {judge.alignment: held.alignment.value}
"""


class Seen:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.ran: list[str] = []

    def started(self, stage_id: str) -> None: ...

    def advanced(self, stage_id: str, done: int, total: int, figures: Mapping[str, float]) -> None: ...

    def finished(self, stage_id: str, *, seconds: float, skipped: bool, **_: object) -> None:
        (self.skipped if skipped else self.ran).append(stage_id)


def pairs_file(folder: Path, count: int = 60) -> Path:
    path = folder / "pairs.jsonl"
    rows = [
        {"prompt": f"question {i}?", "chosen": f"a good long answer to {i}", "rejected": f"bad {i}"}
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe_file(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(TEXT.replace("DATA", str(pairs_file(folder))), encoding="utf-8")
    return path


def test_a_run_leaves_a_folder_anyone_can_open(tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner.run(recipe.load(recipe_file(tmp_path)), run, Seen())
    summary = summarise(run)
    assert summary["judge"]["alignment"] == 1.0
    assert {"recipe.yaml", "manifest.json", "summary.json", "journal.sqlite"} <= {p.name for p in run.iterdir()}
    assert RunFolder(run).manifest["stages"]["labels"]["figures"]["labels"] == 40
    assert summary["seconds"]["total"] > 0


def test_done_stages_are_skipped_and_changed_ones_redone(tmp_path: Path) -> None:
    path, run = recipe_file(tmp_path), tmp_path / "run"
    runner.run(recipe.load(path), run, Seen())
    again = Seen()
    runner.run(recipe.load(path), run, again)
    assert again.skipped == ["pairs", "labels", "held"]
    assert again.ran == []
    changed = Seen()
    runner.run(recipe.load(path, {"labels.judge": "fake:first"}), run, changed)
    assert changed.ran == ["labels"]
    pairs_file(tmp_path, count=70)
    other_data = Seen()
    runner.run(recipe.load(path), run, other_data)
    assert set(other_data.ran) == {"pairs", "labels", "held"}


def test_a_missing_input_stops_before_anything_runs(tmp_path: Path) -> None:
    loaded = recipe.load(recipe_file(tmp_path), {"data": str(tmp_path / "nowhere.jsonl"), "judge": "hf:./nowhere"})
    with pytest.raises(RecipeError) as caught:
        runner.require_inputs(loaded)
    assert "nowhere.jsonl: no such file" in str(caught.value)
    assert "hf:./nowhere" in str(caught.value)


def test_a_failing_stage_names_itself_and_the_others_keep_their_work(tmp_path: Path) -> None:
    path, run = recipe_file(tmp_path), tmp_path / "run"
    text = path.read_text() + ""
    path.write_text(text.replace('"@pairs/heldout.jsonl"', '"@pairs/no-such.jsonl"'), encoding="utf-8")
    with pytest.raises(AIFeedbackError, match=r"no-such\.jsonl"):
        runner.run(recipe.load(path), run, Seen())
    assert RunFolder(run).done("pairs") is not None


def test_a_changed_kernel_is_changed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(runner, "digest", lambda file: seen.append(file.name) or file.name)
    runner.code_digest.__wrapped__()
    native = Path(str(runner.__file__)).parents[1] / "inference" / "native"
    sources = [file.name for file in native.iterdir() if file.is_file()]
    assert {"build.py", "attention.cpp", "vectors.hpp"} <= set(sources) <= set(seen)


def test_two_processes_cannot_work_in_one_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.locked(), pytest.raises(RecipeError, match="another process"), RunFolder(tmp_path / "run").locked():
        pass


def test_a_killed_run_resumes_and_ends_the_same(tmp_path: Path) -> None:
    path = recipe_file(tmp_path)
    whole = tmp_path / "whole"
    runner.run(recipe.load(path), whole, Seen())
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "aifeedback", "run", str(path), "-o", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and not (run / "stages" / "pairs" / "done.json").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    after = Seen()
    time.sleep(1.0)  # the workers notice within half a second that their parent is gone
    runner.run(recipe.load(path), run, after)
    assert "pairs" in after.skipped
    for name in ("labels", "held"):
        killed, unbroken = (f / "stages" / name / "labelled.jsonl" for f in (run, whole))
        assert killed.read_bytes() == unbroken.read_bytes()


def test_progress_that_arrives_after_the_end_of_a_stage_is_let_go() -> None:
    """Events of a worker come through a queue of their own: the last ones may be read after its result."""
    from aifeedback.cli.terminal import RunWatcher, bars

    with bars() as progress:
        watcher = RunWatcher(progress)
        watcher.started("labels")
        watcher.advanced("labels", 1, 2, {})
        watcher.finished("labels", seconds=1.0, skipped=False)
        watcher.advanced("labels", 2, 2, {})
        assert not watcher.tasks


SHARED = """
name: shared
workers: 2
settings: {data: DATA}
stages:
  - {id: pairs, stage: pairs, data: "${data}", heldout: 20}
  - {id: later, stage: label, comparisons: "@pairs/train.jsonl", judge: {model: "lab:judge", prompt: "lab:pairwise"}}
  - {id: other, stage: label, comparisons: "${data}", judge: {model: "lab:judge", prompt: "lab:judge-pairwise"}}
  - {id: now, stage: label, comparisons: "${data}", judge: {model: "lab:judge", prompt: "lab:pairwise"}, limit: 30}
"""


def test_stages_that_may_ask_one_model_the_same_run_in_the_order_of_the_recipe(tmp_path: Path) -> None:
    """Which of them asks first would decide what is computed beside a shared question, and so its last bits."""
    file = tmp_path / "shared.yaml"
    file.write_text(SHARED.replace("DATA", str(pairs_file(tmp_path))).replace("lab:judge-pairwise", "general-base"))
    loaded = recipe.load(file)
    asked = {stage.id: runner.questions(stage.step) for stage in loaded.stages}
    assert asked["later"] == asked["now"] != frozenset()
    assert asked["later"].isdisjoint(asked["other"])
    assert asked["pairs"] == frozenset()

    class Order(Seen):
        def __init__(self) -> None:
            super().__init__()
            self.events: list[tuple[str, str]] = []

        def started(self, stage_id: str) -> None:
            self.events.append(("start", stage_id))

        def finished(self, stage_id: str, *, seconds: float, skipped: bool, **_: object) -> None:
            self.events.append(("end", stage_id))

    order = Order()
    runner.run(loaded, tmp_path / "run", order)
    assert order.events.index(("end", "later")) < order.events.index(("start", "now"))
    assert order.events.index(("start", "other")) < order.events.index(("end", "pairs"))


def test_what_stages_share_is_read_off_their_settings(tmp_path: Path) -> None:
    """Served models and oracles answer alike whatever is asked beside; a grid asks what each of its cells asks."""
    judge = {"model": "lab:judge", "prompt": "lab:pairwise"}
    steps = {
        "one": {"stage": "label", "comparisons": "p.jsonl", "judge": judge},
        "with_rationale": {"stage": "label", "comparisons": "p.jsonl", "judge": {**judge, "rationale": True}},
        "grid": {"stage": "grid", "comparisons": "p.jsonl", "judges": ["lab:judge"], "prompts": ["lab:pairwise"]},
        "panel": {"stage": "label", "comparisons": "p.jsonl", "judge": {"members": [judge, {"model": "gold:lab"}]}},
        "gold": {"stage": "label", "comparisons": "p.jsonl", "judge": "gold:lab"},
        "served": {"stage": "label", "comparisons": "p.jsonl", "judge": "openai:x"},
        "sample": {"stage": "sample", "model": "lab:base", "prompts": "q.jsonl"},
        "train": {"stage": "sft", "model": "lab:base", "data": "d.jsonl"},
    }
    asked = {
        name: runner.questions(
            step_class(str(step["stage"])).model_validate({k: v for k, v in step.items() if k != "stage"})
        )
        for name, step in steps.items()
    }
    assert asked["one"] == asked["grid"] == asked["panel"]
    assert asked["one"].isdisjoint(asked["with_rationale"])
    assert asked["gold"] == asked["served"] == asked["train"] == frozenset()
    assert asked["sample"] == {"lab:base"}
