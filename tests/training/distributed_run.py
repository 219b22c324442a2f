"""Run by ``torchrun`` in test_distributed: trains SFT, reward model and DPO in the process group that there is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tiny import made_answers, made_pairs

from aifeedback.training.dpo import train_dpo
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, LoraSettings, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft

STEPS = 6
# An odd batch and a small token limit: unequal shares, several micro-batches, and empty ones.
SETTINGS: dict[str, Any] = {"steps": STEPS, "batch": 5, "learning_rate": 3e-3, "seed": 1, "forward_tokens": 40}
LORA = LoraSettings(rank=4, alpha=8)


def train_all(model: Path, out: Path, **more: Any) -> None:
    train_sft(model, made_answers(20), SftConfig(**SETTINGS, **more), out / "sft")
    config = RewardModelConfig(**SETTINGS, **more)
    fit_reward_model(model, made_pairs(20), config, out / "reward", heldout=made_pairs(10, seed=3, soft=False))
    train_dpo(model, made_pairs(20), DpoConfig(**{**SETTINGS, **more, "optimizer": "adamw"}), out / "dpo")
    train_dpo(model, made_pairs(20), DpoConfig(**SETTINGS, **more, lora=LORA), out / "lora")


def die_at(step: int) -> Any:
    def progress(done: int, total: int, figures: Mapping[str, float]) -> None:
        if done == step and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    return progress


def main() -> None:
    torch.set_num_threads(1)
    mode, model, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if mode == "killed":
        config = SftConfig(**SETTINGS, checkpoint_every=2)
        train_sft(model, made_answers(20), config, out / "sft", progress=die_at(int(sys.argv[4])))
    else:
        train_all(model, out, shard=mode == "shard")


if __name__ == "__main__":
    main()
