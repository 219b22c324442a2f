"""Two processes on gloo under torchrun give the RL steps of one: the same samples, figures and weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from launch import metrics, torchrun
from policy_gradient_distributed import RUNS, train_all

TOLERANCE = 2e-4
"""Relative or absolute: gradients are added in another order, and AdamW moves a weight whose gradient is nothing but
rounding by up to the learning rate; so weights may be two of its steps apart."""


@pytest.fixture(scope="module")
def single(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single")
    train_all(llama, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "shard"], ids=["DDP", "FSDP2"])
def test_two_processes_give_the_steps_of_one(mode: str, llama: Path, single: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    ended = torchrun("policy_gradient_distributed.py", mode, llama, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for name in RUNS:
        for one, two in zip(metrics(single / name), metrics(tmp_path / name), strict=True):
            assert one == pytest.approx(two, abs=TOLERANCE, rel=TOLERANCE), name
        weights = [load_file(folder / name / "model.safetensors") for folder in (single, tmp_path)]
        assert max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0]) < 6e-4
