"""A finished run with more steps goes on from its last checkpoint; a shorter or another one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_policy_gradient import evens, metrics, settings, some_prompts
from tiny import made_answers, made_pairs
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import RecipeError
from aifeedback.training.dpo import train_dpo
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, LoraSettings, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft

FAST: dict[str, Any] = {"batch": 4, "optimizer": "adamw", "learning_rate": 3e-3}


def sft(model: Path, out: Path, **more: Any) -> Any:
    return train_sft(model, made_answers(12), SftConfig(**{**FAST, **more}), out)


def dpo(model: Path, out: Path, **more: Any) -> Any:
    config = DpoConfig(**{**FAST, "lora": LoraSettings(rank=2, alpha=4), **more})
    return train_dpo(model, made_pairs(12), config, out)


def reward(model: Path, out: Path, **more: Any) -> Any:
    return fit_reward_model(model, made_pairs(12), RewardModelConfig(**{**FAST, **more}), out)


def rl(model: Path, out: Path, **more: Any) -> Any:
    given = {"prompts_per_step": 2, "samples_per_prompt": 1, **more}  # a value network and a running mean
    return train_rl(model, some_prompts(), evens, settings(**given), out)


@pytest.mark.parametrize("train", [sft, dpo, reward, rl])
def test_an_extended_run_is_the_longer_run_to_the_byte(train: Any, llama: Path, tmp_path: Path) -> None:
    train(llama, tmp_path / "whole", steps=4)
    assert train(llama, tmp_path / "parts", steps=2).steps == 2
    result = train(llama, tmp_path / "parts", steps=4)
    assert result.steps == 4
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two
    assert train(llama, tmp_path / "parts", steps=4) == result, "complete: it returns at once"


def test_more_epochs_extend_a_run_too(llama: Path, tmp_path: Path) -> None:
    assert sft(llama, tmp_path, epochs=1.0).steps == 3
    assert sft(llama, tmp_path, epochs=2.0).steps == 6
    with pytest.raises(RecipeError, match="finished run of 6 steps, which is not shorter"):
        sft(llama, tmp_path, epochs=1.0)


def test_a_shorter_run_another_run_and_one_without_a_checkpoint_are_refused(llama: Path, tmp_path: Path) -> None:
    sft(llama, tmp_path / "a", steps=3)
    with pytest.raises(RecipeError, match="finished run of 3 steps, which is not shorter"):
        sft(llama, tmp_path / "a", steps=2)
    with pytest.raises(RecipeError, match="other data, model or settings"):
        sft(llama, tmp_path / "a", steps=4, learning_rate=1e-4)
    sft(llama, tmp_path / "b", steps=2, keep_checkpoints=0)
    assert not list((tmp_path / "b" / "training" / "checkpoints").glob("*"))
    with pytest.raises(RecipeError, match="checkpoint was not kept"):
        sft(llama, tmp_path / "b", steps=3, keep_checkpoints=0)


def test_an_interrupted_run_does_not_end_before_its_checkpoint(llama: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, figures: Any) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        train_sft(llama, made_answers(12), SftConfig(**FAST, steps=5), tmp_path, progress=stop)
    with pytest.raises(RecipeError, match="checkpoint of step 3, and this run ends at step 2"):
        sft(llama, tmp_path, steps=2)
    assert sft(llama, tmp_path, steps=6).steps == 6


def test_the_command_extends_its_own_result(llama: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "w1 w{i}", "completion": "w2 w3"}}\n' for i in range(8)))
    asked = f"train sft --model hf:{llama} --data {rows} --batch 4 -o {tmp_path / 'out'}".split()
    for steps, done in ((2, 2), (5, 5)):
        made = CliRunner().invoke(app, [*asked, "--set", f"steps={steps}"], catch_exceptions=False)
        assert made.exit_code == 0, made.output
        assert len(metrics(tmp_path / "out")) == done
    with pytest.raises(RecipeError, match=r"train.steps 5, now 3"):
        CliRunner().invoke(app, [*asked, "--steps", "3"], catch_exceptions=False)
