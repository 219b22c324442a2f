"""The same run gives the same bytes, also when it is stopped and resumed at every single step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import made_answers, made_pairs, save_llama

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.training.dpo import train_dpo
from aifeedback.training.loop import TrainResult
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, LoraSettings, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft

STEPS = 50
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "batch": 4,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_steps": 5,
    "seed": 7,
    "checkpoint_every": 1,
    "forward_tokens": 60,  # two or more micro-batches per step
}

Train = Callable[..., TrainResult]


class Stopped(Exception):
    """Stands for a kill."""


def sft(model: Path, out: Path, progress: Any = None, **more: Any) -> TrainResult:
    return train_sft(model, made_answers(12), SftConfig(**SETTINGS, **more), out, **_progress(progress))


def reward(model: Path, out: Path, progress: Any = None, **more: Any) -> TrainResult:
    config = RewardModelConfig(**{**SETTINGS, "evaluate_every": 10, **more})
    return fit_reward_model(model, made_pairs(12), config, out, heldout=made_pairs(8, seed=5), **_progress(progress))


def dpo(model: Path, out: Path, progress: Any = None, **more: Any) -> TrainResult:
    config = DpoConfig(**{**SETTINGS, "optimizer": "adamw", **more})
    return train_dpo(model, made_pairs(12), config, out, **_progress(progress))


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, and dropout, so that random states matter."""
    return save_llama(tmp_path_factory.mktemp("smallest"), hidden=16, layers=1, attention_dropout=0.1)


@pytest.mark.parametrize("train", [sft, reward, dpo], ids=["sft", "reward", "dpo"])
def test_stop_and_resume_at_every_step_gives_the_same_bytes(train: Train, smallest: Path, tmp_path: Path) -> None:
    whole = train(smallest, tmp_path / "whole")
    again = train(smallest, tmp_path / "again")
    pieces = None
    for _ in range(STEPS + 1):
        try:
            pieces = train(smallest, tmp_path / "pieces", progress=stop_at_once)
        except Stopped:
            continue
        break
    assert pieces is not None
    for other in (again, pieces):
        assert left_by(tmp_path / "whole") == left_by(Path(other.folder))
        assert other.figures == whole.figures


def stop_at_once(done: int, total: int, figures: Mapping[str, float]) -> None:
    if done < total:
        raise Stopped


def test_the_callers_random_state_is_left_alone(smallest: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    sft(smallest, tmp_path / "out")
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_another_seed_is_another_run(smallest: Path, tmp_path: Path) -> None:
    first = train_sft(smallest, made_answers(12), SftConfig(**SETTINGS), tmp_path / "a")
    second = train_sft(smallest, made_answers(12), SftConfig(**{**SETTINGS, "seed": 8}), tmp_path / "b")
    assert first.figures["loss"] != second.figures["loss"]


def test_a_finished_run_returns_at_once_and_refuses_another(smallest: Path, tmp_path: Path) -> None:
    first = sft(smallest, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    assert sft(smallest, tmp_path / "out") == first
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="other data, model or settings"):
        train_sft(smallest, made_answers(13), SftConfig(**SETTINGS), tmp_path / "out")


def test_a_checkpoint_of_another_run_is_refused(smallest: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        sft(smallest, tmp_path / "out", progress=stop_at_once)
    with pytest.raises(RecipeError, match="other data, model or settings"):
        train_sft(smallest, made_answers(13), SftConfig(**SETTINGS), tmp_path / "out")


def test_a_torn_checkpoint_is_refused_and_a_torn_metric_line_dropped(smallest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        sft(smallest, out, progress=stop_at_once)
    shutil.copytree(out, tmp_path / "torn")
    with (out / "training" / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 2, "lo')
    assert sft(smallest, out).steps == STEPS
    (file,) = (tmp_path / "torn" / "training" / "checkpoints").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="not a readable checkpoint"):
        sft(smallest, tmp_path / "torn")


def test_adapters_resume_exactly_too(smallest: Path, tmp_path: Path) -> None:
    lora = {"lora": LoraSettings(rank=2, alpha=4, dropout=0.1), "steps": 6}
    reward(smallest, tmp_path / "whole", **lora)
    for _ in range(6):
        try:
            reward(smallest, tmp_path / "pieces", progress=stop_at_once, **lora)
        except Stopped:
            continue
    assert left_by(tmp_path / "whole") == left_by(tmp_path / "pieces")


def left_by(folder: Path) -> dict[str, bytes]:
    """Everything that must be equal: weights, tokenizer, metrics."""
    names = ["model.safetensors", "config.json", "tokenizer.json", "training/metrics.jsonl"]
    return {name: (folder / name).read_bytes() for name in names}


def _progress(progress: Any) -> dict[str, Any]:
    return {"progress": progress} if progress else {}
