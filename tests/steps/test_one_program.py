"""A verb on the command line and the same verb in a recipe are one program: the files are equal byte for byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.pipeline import recipe, runner
from aifeedback.pipeline.command import Destination, run_step
from aifeedback.steps import STEPS, step_class

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny import WORDS, save_llama

SEED = 3
TINY = {"batch": 4, "steps": 2, "warmup_steps": 1}


class Case(NamedTuple):
    """One verb, with settings other than the defaults."""

    settings: Mapping[str, Any]
    """Of the recipe's stage."""
    options: str | None = None
    """Of the command, without -o and --seed; None for a step that has no command."""
    result: str = ""
    """What -o names in the stage's folder, where that is not the folder itself."""
    out: str = "out"
    """What -o is."""


CASES = {
    "sample": Case(
        {"model": "fake:longer", "prompts": "prompts.jsonl", "per_prompt": 3, "limit": 4,
         "sampling": {"temperature": 0.5, "max_new_tokens": 7, "stop": ["w9"]}},
        "sample --model fake:longer --prompts prompts.jsonl --per-prompt 3 --limit 4 --temperature 0.5 --max-new-tokens 7"
        " --stop w9",
    ),
    "pair": Case(
        {"completions": "answers.jsonl", "per_prompt": None, "limit": 9},
        "pair --completions answers.jsonl --all --limit 9",
    ),
    "label": Case(
        {"comparisons": "pairs.jsonl", "limit": 5, "judge": {
            "model": "fake:noisy", "prompt": "helpful-base", "rationale": {"samples": 2, "temperature": 0.7},
            "clamp": [0.2, 0.9]}},
        "label --data pairs.jsonl --judge fake:noisy --prompt helpful-base --rationale --samples 2 --temperature 0.7"
        " --set clamp=[0.2,0.9] --limit 5",
    ),
    "grid": Case(
        {"comparisons": "people.jsonl", "limit": 5, "judges": ["fake:noisy", "fake:longer"],
         "prompts": ["helpful-base", "helpful-detailed"], "rationales": [0, 2], "temperature": 0.8},
        "grid --data people.jsonl --judge fake:noisy --judge fake:longer --prompt helpful-base --prompt helpful-detailed"
        " --rationales 0 --rationales 2 --temperature 0.8 --limit 5",
    ),
    "score": Case(
        {"completions": "answers.jsonl", "limit": 6, "judge": {"model": "fake:noisy", "rubric": "general", "by": "ratings"}},
        "score --data answers.jsonl --judge fake:noisy --limit 6 --rubric general",
    ),
    "best_of_n": Case(
        {"completions": "answers.jsonl", "keep": 1, "limit": 20,
         "reward": {"mix": [{"source": "python:reward.py:brief"},
                            {"judge": {"model": "fake:noisy", "by": "pairs"}, "rank": "all", "weight": 0.5}]}},
        "best-of-n --data answers.jsonl --limit 20 --reward python:reward.py:brief --reward judge:fake:noisy"
        " --reward-weight 1 --reward-weight 0.5 --rank all",
    ),
    "revise": Case(
        {"completions": "answers.jsonl", "model": "fake:longer", "constitution": "harmless", "limit": 4,
         "settings": {"rounds": 2, "temperature": 0.8}, "helpful": "answers.jsonl", "helpful_share": 0.3},
        "revise --data answers.jsonl --model fake:longer --constitution harmless --limit 4 --rounds 2 --temperature 0.8"
        " --helpful answers.jsonl --helpful-share 0.3",
    ),
    "calibrate": Case(
        {"data": "labelled.jsonl", "map": "platt"}, "calibrate --data labelled.jsonl --kind platt",
        "calibration.json", "calibration.json",
    ),
    "sft": Case(
        {"model": "hf:llama", "data": "answers.jsonl", "weight": 0.5, "mix": {"short.jsonl": 1.0}, "equal_sizes": True,
         "train": {**TINY, "learning_rate": 1e-3}},
        "train sft --model hf:llama --data answers.jsonl=0.5 --data short.jsonl --equal-sizes"
        " --batch 4 --steps 2 --learning-rate 1e-3 --set warmup_steps=1",
        "policy",
    ),
    "reward_model": Case(
        {"model": "hf:llama", "data": "labelled.jsonl", "mix": {"more.jsonl": 0.5}, "heldout": "labelled.jsonl",
         "hard": True, "train": TINY},
        "train reward --model hf:llama --data labelled.jsonl --data more.jsonl=0.5 --heldout labelled.jsonl --hard"
        " --batch 4 --steps 2 --set warmup_steps=1",
        "reward_model",
    ),
    "dpo": Case(
        {"model": "hf:llama", "data": "labelled.jsonl", "reference": "hf:llama", "train": {**TINY, "beta": 0.3}},
        "train dpo --model hf:llama --data labelled.jsonl --reference hf:llama --batch 4 --steps 2 --beta 0.3"
        " --set warmup_steps=1",
        "policy",
    ),
    "kto": Case(
        {"model": "hf:llama", "data": "verdicts.jsonl", "mix": {"more-verdicts.jsonl": 3.0}, "hard": True,
         "train": {**TINY, "good_weight": 2.0}},
        "train kto --model hf:llama --data verdicts.jsonl --data more-verdicts.jsonl=3 --hard"
        " --batch 4 --steps 2 --good-weight 2"
        " --set warmup_steps=1",
        "policy",
    ),
    "distill": Case(
        {"model": "hf:llama", "teacher": "hf:llama", "prompts": "prompts.jsonl", "limit": 8,
         "train": {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "max_new_tokens": 6}},
        "train distill --policy hf:llama --teacher hf:llama --prompts prompts.jsonl --limit 8 --steps 2"
        " --prompts-per-step 4 --samples-per-prompt 2 --max-new-tokens 6",
        "policy",
    ),
    "rl": Case(
        {"model": "hf:llama", "prompts": "prompts.jsonl", "limit": 8, "reward": {"judge": {"model": "fake:longer"}},
         "train": {"steps": 2, "prompts_per_step": 4, "samples_per_prompt": 2, "max_new_tokens": 6, "evaluate_every": 1},
         "monitor": {"prompts": "prompts.jsonl", "judge": "fake:noisy", "limit": 4}},
        "train rl --policy hf:llama --prompts prompts.jsonl --limit 8 --reward judge:fake:longer --steps 2"
        " --prompts-per-step 4 --samples-per-prompt 2 --max-new-tokens 6 --monitor prompts.jsonl --monitor-judge fake:noisy"
        " --monitor-every 1 --monitor-limit 4",
        "policy",
    ),
    "compare": Case(
        {"policies": {"short": "short.jsonl", "own": "fake:longer"}, "reference": "short", "prompts": "prompts.jsonl",
         "judges": {"fake:noisy": {"model": "fake:noisy"}, "fake:longer": {"model": "fake:longer"}},
         "safety": {"fake:noisy": {"model": "fake:noisy"}}, "limit": 8, "sampling": {"temperature": 0.4, "max_new_tokens": 9}},
        "compare short=short.jsonl own=fake:longer --prompts prompts.jsonl --judge fake:noisy --judge fake:longer"
        " --safety fake:noisy --limit 8 --temperature 0.4 --max-new-tokens 9",
    ),
    "safety": Case(
        {"policies": {"short": "short.jsonl", "own": "fake:longer"}, "reference": "short", "prompts": "prompts.jsonl",
         "judges": {"one": "fake:noisy"}, "limit": 6},
    ),
    "evaluate": Case({"data": "labelled.jsonl"}, "evaluate --data labelled.jsonl", "", "figures.json"),
    "audit": Case(
        {"judges": {"fake:noisy": {"model": "fake:noisy"}}, "data": "labelled.jsonl", "n": 8, "limit": 12,
         "probes": ["position", "length"]},
        "audit fake:noisy --data labelled.jsonl --n 8 --limit 12 --probe position --probe length",
    ),
    "probe": Case(
        {"policies": {"one": "fake:longer", "two": "fake:noisy"}, "probes": ["pressure", "injection"], "limit": 4, "draws": 2,
         "judge": {"model": "fake:noisy"}, "sampling": {"temperature": 0.4, "max_new_tokens": 9}},
        "probe one=fake:longer two=fake:noisy --probe pressure --probe injection --limit 4 --draws 2 --judge fake:noisy"
        " --temperature 0.4 --max-new-tokens 9",
    ),
    "staleness": Case(
        {"policy": "hf:llama", "drawn_from": "hf:llama", "prompts": "prompts.jsonl", "limit": 6, "max_new_tokens": 5},
        "staleness --policy hf:llama --drawn-from hf:llama --prompts prompts.jsonl --limit 6 --max-new-tokens 5",
    ),
    "rejudge": Case(
        {"saved": "@compare", "judges": {"fake:second": {"model": "fake:second"}}},
        "rejudge run/stages/compare --judge fake:second",
    ),
    "split": Case({"prompts": "prompts.jsonl", "test": 4, "limit": 10}),
    "pairs": Case({"data": "people.jsonl", "heldout": 3}),
}  # fmt: skip
"""Verb → the same settings as a stage and as options."""
OF_A_JOB = {
    "command.json",
    "done.json",
    "begun.json",
    "files.json",
    "figures.json",
    ".lock",
    "report.html",
    "phases.jsonl",
}
"""What says how and when a job was done, and not what came out; figures are compared apart. The report of a comparison
is a command's own, and in a recipe the run's."""
SPEED = {
    "folder",
    "seconds",
    "seconds_per_step",
    "tokens_per_s",
    "peak_memory_mb",
    "step_seconds",
    "tokens_per_second",
    "at",
    "date",
    "new_calls",
}


def test_every_verb_has_a_case() -> None:
    assert set(CASES) == set(STEPS) - {"lab_world", "dialogues"}


def rows(count: int, *keys: str, **more: Any) -> list[dict[str, Any]]:
    """Made-up texts; each key's texts differ in length."""
    return [
        {"prompt": " ".join(WORDS[(7 * n + i) % 60] for i in range(4))}
        | {key: " ".join(WORDS[(n * 5 + 11 * at + i) % 60] for i in range(2 + (n + at) % 5)) for at, key in enumerate(keys)}
        | {key: value(n) for key, value in more.items()}
        for n in range(count)
    ]  # fmt: skip


def write(name: str, found: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in found))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Inputs, and one recipe with every verb as a stage, run."""
    folder = tmp_path_factory.mktemp("program")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        save_llama(Path("llama"))
        write("prompts.jsonl", rows(12))
        answers = rows(12, "one", "two")
        write(
            "answers.jsonl", [{"prompt": r["prompt"], "completion": r[key]} for r in answers for key in ("one", "two")]
        )
        verdicts = zip([0.9, 0.2, 0.5, 1.0] * 6, answers * 2, strict=True)
        write("verdicts.jsonl", [{"prompt": r["prompt"], "completion": r["one"], "p_good": p} for p, r in verdicts])
        Path("reward.py").write_text("def brief(completions):\n    return [-len(text) / 100 for text in completions]\n")
        write("more-verdicts.jsonl", [{"prompt": r["prompt"], "completion": r["two"], "label": True} for r in answers])
        write("short.jsonl", [{"prompt": r["prompt"], "completion": r["one"]} for r in answers])
        write("pairs.jsonl", rows(8, "first", "second"))
        write("people.jsonl", rows(10, "chosen", "rejected"))
        known = {"p_first": lambda n: 0.1 + 0.08 * (n % 10), "human_p_first": lambda n: float(n % 3 > 0)}
        write("labelled.jsonl", rows(24, "first", "second", judge=lambda _: "hf:one", **known))
        write("more.jsonl", rows(6, "first", "second", judge=lambda _: "hf:two", **known))
        stages = [{"id": kind, "stage": kind, **case.settings} for kind, case in CASES.items()]
        Path("all.yaml").write_text(yaml.safe_dump({"name": "all", "seed": SEED, "stages": stages}, sort_keys=False))
        loaded = recipe.load("all.yaml")
        runner.require_inputs(loaded)
        runner.run(loaded, Path("run"), Quiet())
        yield folder


class Quiet:
    def started(self, stage_id: str) -> None: ...
    def advanced(self, *_: object) -> None: ...
    def finished(self, stage_id: str, **_: object) -> None: ...


@pytest.mark.parametrize("kind", CASES)
def test_a_command_and_a_stage_leave_the_same(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    case, stage = CASES[kind], place / "run" / "stages" / kind
    out = tmp_path / case.out
    as_command(kind, case, out)
    figures = json.loads((stage / "done.json").read_text())["figures"]
    made = out if out.suffix else out / "figures.json"
    if kind != "calibrate":
        assert without_speed(json.loads(made.read_text())) == without_speed(figures)
    if kind == "evaluate":
        return
    of_stage = files_of(stage / case.result)
    of_command = files_of(out)
    assert of_command.keys() == of_stage.keys()
    assert of_stage, "the stage leaves something"
    for name, content in of_stage.items():
        assert of_command[name] == content, name


def as_command(kind: str, case: Case, out: Path) -> None:
    if case.options is None:
        step = step_class(kind).model_validate(case.settings)
        run_step(step, Destination(out, step.main), seed=SEED)
        return
    to = ["--json", str(out)] if kind == "evaluate" else ["-o", str(out)]
    done = CliRunner().invoke(app, [*case.options.split(), *to, "--seed", str(SEED)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def files_of(place: Path) -> dict[str, Any]:
    """Path → content of everything a step leaves; the logs of training without its speed."""
    if place.is_file():
        return {place.name: place.read_bytes()}
    return {
        str(file.relative_to(place)): content(file)
        for file in sorted(place.rglob("*"))
        if file.is_file() and file.name not in OF_A_JOB and "journal" not in file.name
    }


def content(file: Path) -> Any:
    if file.suffix in (".json", ".jsonl") and (file.parent.name == "training" or file.name == "audit.json"):
        found = [without_speed(json.loads(line)) for line in lines_of(file)]
        return [{**one, "digest": ""} for one in found] if file.name == "feedback.json" else found  # covers the date
    return file.read_bytes()


def lines_of(file: Path) -> list[str]:
    text = file.read_text()
    return text.splitlines() if file.suffix == ".jsonl" else [text]


def without_speed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_speed(item) for key, item in value.items() if key not in SPEED}
    return [without_speed(item) for item in value] if isinstance(value, list) else value
