"""``aifeedback train …`` on plain files: what is printed, what is saved, what comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import made_answers, made_pairs
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import RecipeError

SPEED = ("seconds_per_step", "tokens_per_s", "peak_memory_mb")


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write(
        tmp_path / "answers.jsonl",
        [{"prompt": r.prompt.text, "completion": r.completion.text} for r in made_answers(12)],
    )


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    rows = [(r.comparison, r.p_first) for r in made_pairs(12, soft=False)]
    sides = [(c, (c.first, c.second) if p == 1 else (c.second, c.first)) for c, p in rows]
    return write(
        tmp_path / "pairs.jsonl",
        [{"prompt": c.prompt.text, "chosen": better.text, "rejected": worse.text} for c, (better, worse) in sides],
    )


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    file = tmp_path / "fn.py"
    file.write_text("def fn(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    return file


def train(what: str, out: Path) -> dict[str, Any]:
    """Runs the command; its figures, which are all on the screen too."""
    done = CliRunner().invoke(app, [*f"train {what}".split(), "-o", str(out)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    figures = json.loads((out / "figures.json").read_text())
    for name in SPEED:
        assert figures[name] > 0, name
        assert f"{name} " in done.output
    assert "figures." not in done.output, "a figure is printed by its own name"
    assert json.loads((out / "training" / "result.json").read_text())["steps"] == figures["steps"]
    return figures


def test_sft_dpo_and_reward_model(llama: Path, answers: Path, pairs: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    on_pairs = f"--model hf:{llama} --data {pairs} --batch 4 --steps 2"
    assert train(f"sft --model hf:{llama} --data {answers} --batch 4 --steps 2", tmp_path / "sft")["steps"] == 2
    assert train(f"dpo {on_pairs}", tmp_path / "dpo")["rows"] == 12
    told = train(f"reward {on_pairs} --heldout {pairs}", tmp_path / "reward")
    assert told["figures"]["heldout_n"] == 12
    AutoModelForCausalLM.from_pretrained(tmp_path / "sft")
    AutoModelForCausalLM.from_pretrained(tmp_path / "dpo")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward")


def test_a_trained_folder_is_not_trained_again_nor_replaced(llama: Path, answers: Path, tmp_path: Path) -> None:
    command = f"train sft --model hf:{llama} --data {answers} --steps 2 --batch 4 -o {tmp_path / 'out'}".split()
    first, again = (CliRunner().invoke(app, command, catch_exceptions=False) for _ in range(2))
    assert "Already complete" not in first.output
    assert "Already complete" in again.output
    assert again.output.splitlines()[-1] == first.output.splitlines()[-1]
    with pytest.raises(
        RecipeError, match=r"already contains a result with different settings \(train.steps 2, now 1\)"
    ):
        CliRunner().invoke(app, [*command, "--steps", "1"], catch_exceptions=False)
    with pytest.raises(RecipeError, match=r"\(train.batch 4, now 2\)"):
        CliRunner().invoke(app, [*command, "--batch", "2"], catch_exceptions=False)
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "out")], catch_exceptions=False).output
    for told in ("train sft", "train.batch", "\nloss ", "model.safetensors", "aifeedback compare before="):
        assert told in shown
    assert "figures.loss" not in shown


def test_a_model_from_elsewhere_is_never_overwritten(llama: Path, answers: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(llama, tmp_path / "mine")
    with pytest.raises(RecipeError, match="exists already, and was not made by this command"):
        train(f"sft --model hf:{mine} --data {answers} --steps 1", mine)


def test_rl_on_a_python_function(llama: Path, answers: Path, reward: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    what = f"rl --policy hf:{llama} --prompts {answers} --reward python:{reward}:fn --samples-per-prompt 4"
    told = train(f"{what} --prompts-per-step 4 --max-new-tokens 8 --steps 2 --beta 0.05", tmp_path / "rl")
    assert told["steps"] == 2
    assert told["figures"]["reward"] > 0
    AutoModelForCausalLM.from_pretrained(tmp_path / "rl")
    before = (tmp_path / "rl" / "model.safetensors").read_bytes()
    train(f"{what} --prompts-per-step 4 --max-new-tokens 8 --steps 2 --beta 0.05", tmp_path / "rl")
    assert (tmp_path / "rl" / "model.safetensors").read_bytes() == before, "a finished run is not run again"


def test_rl_watched_by_another_judge_keeps_the_best_checkpoint(
    llama: Path, answers: Path, reward: Path, tmp_path: Path
) -> None:
    what = f"rl --policy hf:{llama} --prompts {answers} --reward python:{reward}:fn --samples-per-prompt 2 --steps 4"
    what += f" --prompts-per-step 4 --max-new-tokens 8 --monitor {answers} --monitor-judge fake:longer"
    told = train(f"{what} --monitor-every 2 --choose-on {answers}", tmp_path / "rl")
    assert set(told["choice"]["candidates"]) == {"step-00000002", "step-00000004"}
    assert "heldout_measure" in told["figures"]
    refused = CliRunner().invoke(app, [*f"train {what} --engine trl".split(), "-o", str(tmp_path / "trl")])
    assert "cannot be monitored" in str(refused.exception) + refused.output
    alone = what.replace("--monitor-judge fake:longer", "")
    refused = CliRunner().invoke(app, [*f"train {alone}".split(), "-o", str(tmp_path / "alone")])
    assert "needs held-out prompts and a judge" in str(refused.exception) + refused.output


def test_a_run_that_its_data_made_short_is_reported(llama: Path, pairs: Path, tmp_path: Path) -> None:
    asked = ["train", "reward", "--model", f"hf:{llama}", "--data", str(pairs), "-o"]
    short = CliRunner().invoke(app, [*asked, str(tmp_path / "a")], catch_exceptions=False).output
    assert "1 step was made of 12 rows, which teaches little" in " ".join(short.split())
    chosen = CliRunner().invoke(app, [*asked, str(tmp_path / "b"), "--steps", "1"], catch_exceptions=False).output
    assert "teaches little" not in chosen


def test_several_rewards_are_added_by_their_weights(llama: Path, answers: Path, tmp_path: Path) -> None:
    """As options, as a list in a recipe and in Python it is one program; each reward is logged beside the weighted sum."""
    import aifeedback as af
    from aifeedback.config import parse
    from aifeedback.steps.rl import Rl

    file = tmp_path / "fn.py"
    file.write_text(
        "def long(prompts, completions):\n    return [float(len(c)) for c in completions]\n"
        "def one(prompts, completions):\n    return [1.0 for c in completions]\n"
    )
    named = [f"python:{file}:long", f"python:{file}:one"]
    trainer = "--steps 2 --prompts-per-step 2 --samples-per-prompt 2 --set train.zscore_samples=null"
    command = f"rl --policy hf:{llama} --prompts {answers} {trainer} --max-new-tokens 4"
    spelled = f"--reward {named[0]} --reward {named[1]} --reward-weight 0.5 --reward-weight 3"
    train(f"{command} {spelled} --set train.missing_eos_penalty=0", tmp_path / "command")
    rows = [json.loads(row) for row in (tmp_path / "command" / "training" / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        assert row["reward_2"] == 1.0
        assert row["reward"] == pytest.approx(0.5 * row["reward_1"] + 3 * 1.0, rel=1e-6)
    settings = {"steps": 2, "prompts_per_step": 2, "samples_per_prompt": 2, "zscore_samples": None}
    trained = af.train_rl(
        f"hf:{llama}", str(answers), reward=[(named[0], 0.5), (named[1], 3.0)], out=tmp_path / "python",
        max_new_tokens=4, missing_eos_penalty=0.0, **settings,
    )  # fmt: skip
    weights = [(folder / "model.safetensors").read_bytes() for folder in (tmp_path / "command", trained.folder)]
    assert weights[0] == weights[1]
    both = {"model": f"hf:{llama}", "prompts": str(answers)}
    assert [part.weight for part in parse(Rl, {**both, "reward": named}).reward.mix] == [1.0, 1.0]
    with pytest.raises(RecipeError, match="1 weights for 2 rewards"):
        train(f"{command} --reward {named[0]} --reward {named[1]} --reward-weight 1", tmp_path / "wrong")
    with pytest.raises(RecipeError, match="reward_weight|weight"):
        train(f"{command} --reward {named[0]} --reward-weight much", tmp_path / "wrong")
