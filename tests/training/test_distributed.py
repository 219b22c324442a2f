"""Two processes on gloo under torchrun: DDP and FSDP2 give the single process's losses; a killed rank ends loudly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from distributed_run import STEPS, train_all
from launch import metrics, torchrun

KINDS = ("sft", "reward", "dpo", "lora")
TOLERANCE = 2e-4
"""On losses over six steps: gradients are added in another order, and the optimizer magnifies the last bits."""


@pytest.fixture(scope="module")
def single(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("single")
    train_all(llama, out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "shard"], ids=["DDP", "FSDP2"])
def test_two_processes_give_the_losses_of_one(mode: str, llama: Path, single: Path, tmp_path: Path) -> None:
    ended = torchrun("distributed_run.py", mode, llama, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]
    from safetensors.torch import load_file

    for kind in KINDS:
        assert losses(tmp_path / kind) == pytest.approx(losses(single / kind), abs=TOLERANCE), kind
        one, two = (load_file(folder / kind / "model.safetensors") for folder in (single, tmp_path))
        assert one.keys() == two.keys()
        assert max(float((one[k] - two[k]).abs().max()) for k in one) < 5e-3
    result = json.loads((tmp_path / "reward" / "training" / "result.json").read_text())
    assert result["figures"]["heldout_n"] == 10


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_loudly_and_the_run_resumes(llama: Path, single: Path, tmp_path: Path) -> None:
    ended = torchrun("distributed_run.py", "killed", llama, tmp_path, 5)
    assert ended.returncode != 0
    assert "SIGKILL" in ended.stderr or "Signal 9" in ended.stderr
    assert not (tmp_path / "sft" / "training" / "result.json").exists()
    again = torchrun("distributed_run.py", "killed", llama, tmp_path, -1)
    assert again.returncode == 0, again.stderr[-3000:]
    assert losses(tmp_path / "sft") == pytest.approx(losses(single / "sft"), abs=TOLERANCE)
    assert len(losses(tmp_path / "sft")) == STEPS


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


def test_shares_cover_the_batch(llama: Path) -> None:
    from tiny import made_answers

    from aifeedback.training import folders
    from aifeedback.training.examples import Order, encode_sft
    from aifeedback.training.objective import RowObjective, Share

    rows, _ = encode_sft(folders.load_tokenizer(llama), made_answers(7), max_prompt_tokens=99, max_completion_tokens=99)
    plans = [
        RowObjective(
            torch.nn.Identity(), rows, order=Order(7, batch=7, seed=0), forward_tokens=30, share=Share(r, 3)
        ).plan(1)
        for r in range(3)
    ]
    assert len({len(plan.micro) for plan in plans}) == 1
    seen = [row.row for plan in plans for micro in plan.micro for row in micro.rows if micro.scale > 0]
    assert sorted(seen) == list(range(7))
