"""The examples of the page "Extending aifeedback", used from outside the package by command and by recipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from aifeedback import data, extensions
from aifeedback.cli import app
from aifeedback.errors import AIFeedbackError, InputError
from aifeedback.pipeline import recipe as recipes
from aifeedback.pipeline.runner import check_inputs, fingerprint
from aifeedback.refs import AdvantageRef, ModelRef, ProbeRef, Ref, RewardRef

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples" / "extending"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples and some pairs, as the current one."""
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, tmp_path)
    rows = [
        {"prompt": f"Question {i}?", "first": f"Word {i}.", "second": f"A much longer response, number {i}, it is."}
        for i in range(12)
    ]
    write(tmp_path / "pairs.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*arguments: str) -> str:
    ran = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.output


def a_recipe(*stages: dict[str, Any]) -> recipes.Recipe:
    Path("own.yaml").write_text(yaml.safe_dump({"name": "own", "stages": list(stages)}))
    return recipes.load("own.yaml")


def test_every_example_is_short_and_on_the_page() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.stem for file in files] == ["advantage", "format", "model", "probe", "reward", "step"]
    for file in files:
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 40
        assert f'--8<-- "docs/examples/extending/{file.name}"' in page
    assert all(f"`{group}`" in page for group in extensions.GROUPS)


def test_a_step_from_a_file_runs_in_a_recipe_and_is_done_again_when_its_code_changes(place: Path) -> None:
    stages = (
        {"id": "short", "stage": "python:step.py:KeepShort", "data": "pairs.jsonl", "words": 5},
        {"id": "labels", "stage": "label", "comparisons": "@short/pairs.jsonl", "judge": "fake:quality"},
    )
    rows = lines(place / "pairs.jsonl")
    write(place / "pairs.jsonl", [*rows, {"prompt": "p", "first": "one", "second": "two"}])
    loaded = a_recipe(*stages)
    assert check_inputs(loaded) == []
    run("run", "own.yaml", "-o", "out")
    assert len(lines(place / "out" / "stages" / "short" / "pairs.jsonl")) == 1
    assert len(lines(place / "out" / "stages" / "labels" / "labelled.jsonl")) == 1
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    assert manifest["stages"]["short"]["figures"] == {"kept": 1, "left_out": 12}
    before = fingerprint(loaded.stages[0].step, 0, {})
    (place / "step.py").write_text((place / "step.py").read_text() + "\n# changed\n")
    os.utime(place / "step.py", (1, 1))
    assert fingerprint(a_recipe(*stages).stages[0].step, 0, {}) != before


def test_a_probe_from_a_file_is_part_of_an_audit(place: Path) -> None:
    run("audit", "fake:longer", "--data", "pairs.jsonl", "--probe", "position", "--probe", "python:probe.py:loud",
        "-o", "audit")  # fmt: skip
    findings = json.loads((place / "audit" / "audit.json").read_text())["judges"][0]["findings"]
    loud = next(finding for finding in findings if finding["probe"] == "loud")
    assert loud["value"] == 1.0
    assert loud["n"] == 12
    assert {finding["probe"] for finding in findings} > {"loud"}
    assert "Three exclamation marks win 100" in (place / "audit" / "report.html").read_text(encoding="utf-8")


def test_a_format_from_a_file_is_read_by_every_reader_of_pairs(place: Path) -> None:
    threads = [
        {"question": f"Q{i}?", "answers": [{"text": "yes", "votes": 3}, {"text": "no", "votes": 1}, {"text": "–", "votes": 1}]}
        for i in range(4)
    ]  # fmt: skip
    write(place / "threads.jsonl", [*threads, {"question": "Q?", "answers": [{"text": "no votes"}, {"text": "x"}]}])
    named = "python:format.py:FORUM:threads.jsonl"
    output = run("label", "--data", named, "--judge", "fake:quality", "-o", "labels.jsonl")
    rows = lines(place / "labels.jsonl")
    assert len(rows) == 12
    assert [row["human_p_first"] for row in rows[:3]] == [1.0, 1.0, 0.5]
    print(output)
    assert "forum threads" in output
    run("sample", "--model", "fake:quality", "--prompts", named, "--per-prompt", "1", "-o", "samples.jsonl")
    assert {row["prompt"] for row in lines(place / "samples.jsonl")} >= {"Q0?", "Q3?"}
    assert Ref(named).path == Path("threads.jsonl")
    assert Ref("python:format.py:FORUM:absent.jsonl").problem() == "absent.jsonl: no such file"


def test_a_model_from_a_file_is_a_judge(place: Path) -> None:
    run("label", "--data", "pairs.jsonl", "--judge", "python:model.py:Shorter", "-o", "labels.jsonl")
    rows = lines(place / "labels.jsonl")
    assert all(row["p_first"] > 0.6 for row in rows)
    assert {row["judge"].partition(" ")[0] for row in rows} == {"python:model.py:Shorter"}


@pytest.mark.parametrize("by", ["command", "recipe"])
def test_an_advantage_and_a_reward_from_files_train_a_policy(place: Path, by: str) -> None:
    settings = {"steps": 1, "prompts_per_step": 2, "samples_per_prompt": 2, "max_new_tokens": 4}
    if by == "command":
        run("train", "rl", "--policy", "lab:base", "--prompts", "pairs.jsonl", "--reward", "python:reward.py:no_echo",
            "--baseline", "python:advantage.py:group_normalised", "-o", "policy",
            *(text for key, value in settings.items() for text in ("--set", f"train.{key}={value}")))  # fmt: skip
        policy = place / "policy"
    else:
        train = {**settings, "baseline": "python:advantage.py:group_normalised"}
        a_recipe({"id": "rl", "stage": "rl", "model": "lab:base", "prompts": "pairs.jsonl",
                  "reward": "python:reward.py:no_echo", "train": train})  # fmt: skip
        run("run", "own.yaml", "-o", "out")
        policy = place / "out" / "stages" / "rl" / "policy"
    assert (policy / "model.safetensors").is_file()
    assert "group_normalised" in (policy / "README.md").read_text(encoding="utf-8")


def test_a_group_normalised_advantage_has_mean_zero_and_leaves_unscored_samples_out(place: Path) -> None:
    torch = pytest.importorskip("torch")
    from aifeedback.training.advantages import make_baseline

    baseline = make_baseline(AdvantageRef("python:advantage.py:group_normalised"))
    nan = float("nan")
    reward_PG = torch.tensor([[1.0, 3.0, nan], [2.0, nan, nan], [nan, nan, nan]])
    advantage_PG = reward_PG - baseline.subtrahend(reward_PG)
    # mean 2, sample sd √2: (1 − 2)/√2 = −0.7071
    assert advantage_PG[0, :2].tolist() == pytest.approx([-0.7071, 0.7071], abs=1e-3)
    assert advantage_PG.isnan().tolist() == [[False, False, True], [True] * 3, [True] * 3]


@pytest.fixture
def installed(place: Path) -> dict[str, str]:
    """An installed package that registers all six examples: a module, and a dist-info beside it on the path."""
    site = place / "site"
    package = site / "loudness"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, package)
    info = site / "loudness-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loudness\nVersion: 1.0\n")
    points = {
        "steps": "keep_short = loudness.step:KeepShort",
        "probes": "loud = loudness.probe:loud",
        "formats": "forum = loudness.format:FORUM",
        "models": "rule = loudness.model:Shorter",
        "advantages": "group_normalised = loudness.advantage:group_normalised",
        "rewards": "no_echo = loudness.reward:no_echo",
    }
    text = "".join(f"[aifeedback.{group}]\n{point}\n\n" for group, point in points.items())
    (info / "entry_points.txt").write_text(text)
    search = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH", ""), str(ROOT / "src"))))
    return {**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"}


def test_an_installed_package_adds_names_to_every_group(place: Path, installed: dict[str, str]) -> None:
    for file in place.glob("*.py"):
        file.unlink()

    def own(*arguments: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-m", "aifeedback", *arguments], env=installed, cwd=place, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    thread = {"question": "Q?", "answers": [{"text": "yes", "votes": 3}, {"text": "no, not at all", "votes": 1}]}
    write(place / "threads.jsonl", [thread])
    train = {
        "baseline": "group_normalised",
        "steps": 1,
        "prompts_per_step": 1,
        "samples_per_prompt": 2,
        "max_new_tokens": 2,
    }
    a_stage = {"id": "short", "stage": "keep_short", "data": "threads.jsonl"}
    stages = [
        a_stage,
        {"id": "labels", "stage": "label", "comparisons": "@short/pairs.jsonl", "judge": "rule:short"},
        {"id": "audit", "stage": "audit", "data": "forum:threads.jsonl", "probes": ["loud"], "judges": {"j": "rule:short"}},
        {"id": "rl", "stage": "rl", "model": "lab:base", "prompts": "threads.jsonl", "reward": "no_echo", "train": train},
    ]  # fmt: skip
    (place / "own.yaml").write_text(yaml.safe_dump({"name": "own", "stages": stages}))
    own("check", "own.yaml")
    own("run", "own.yaml", "-o", "out")
    (label,) = lines(place / "out" / "stages" / "labels" / "labelled.jsonl")
    assert label["p_first"] > 0.5
    audit = json.loads((place / "out" / "stages" / "audit" / "audit.json").read_text())
    assert [finding["probe"] for finding in audit["judges"][0]["findings"]] == ["loud"]
    assert "no_echo" in (place / "out" / "stages" / "rl" / "policy" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        (ModelRef("python:absent.py:Shorter"), "absent.py: no such file"),
        (ModelRef("python:model.py:Absent"), "model.py: has no 'Absent'"),
        (ModelRef("python:model.py"), "has no name after the file"),
        (RewardRef("python:broken.py:reward"), "broken.py: cannot be imported: ZeroDivisionError"),
        (ProbeRef("python:probe.py:quiet"), "probe.py: has no 'quiet'"),
        (ProbeRef("positon"), "no probe 'positon'\n  → did you mean 'position'"),
        (AdvantageRef("valu"), "no advantage 'valu'\n  → did you mean 'value'"),
        (AdvantageRef("python:broken.py:f"), "cannot be imported"),
        (AdvantageRef("value"), None),
        (ProbeRef("python:probe.py:loud"), None),
        (ModelRef("python:model.py:Shorter"), None),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named_before_anything_runs(place: Path, ref: Ref, message: str | None) -> None:
    (place / "broken.py").write_text("1 / 0\n")
    result = ref.problem()
    assert (message is None and result is None) or (result is not None and message is not None and message in result)


@pytest.mark.parametrize(
    "stage",
    [
        {"id": "s", "stage": "python:step.py:Absent", "data": "pairs.jsonl"},
        {"id": "s", "stage": "python:step.py:KeepShortFigures", "data": "pairs.jsonl"},
        {"id": "s", "stage": "python:step.py:KeepShort", "data": "pairs.jsonl", "word": 3},
        {"id": "s", "stage": "keep_short", "data": "pairs.jsonl"},
    ],
    ids=["no such name", "not a step", "unknown key", "not registered"],
)
def test_a_recipe_names_the_stage_whose_step_cannot_be_used(place: Path, stage: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"stages\[0\] \(s\)"):
        a_recipe(stage)


def test_a_format_must_be_one(place: Path) -> None:
    with pytest.raises(AIFeedbackError, match="is not a format"):
        data.read_comparisons("python:format.py:read_thread:pairs.jsonl")
