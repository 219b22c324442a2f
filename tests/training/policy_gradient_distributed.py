"""Run by ``torchrun`` in test_policy_gradient_distributed: policy gradient in the process group that there is."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tiny import goodness, words

from aifeedback.training.policy_gradient import Policy, train_rl
from aifeedback.training.settings import RLConfig
from aifeedback.types import Prompt

RUNS: dict[str, dict[str, Any]] = {
    "leave_one_out": {"samples_per_prompt": 3, "zscore_samples": 10, "missing_eos_penalty": 1.0},
    "running_mean": {"samples_per_prompt": 2, "baseline": "running_mean", "normalise_advantage": True},
    "value": {"samples_per_prompt": 1, "forward_tokens": 40, "evaluate_every": 2},
}
"""Unscored samples, several unequal micro-batches, a hook, and every kind of state."""


def evens(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    kept = [" ".join(w for w in c.split() if w.startswith("w")) for c in completions]
    return [None if "w7" in c.split() else goodness(c) / 4 for c in kept]


def hook(step: int, policy: Policy) -> Mapping[str, float]:
    return {"heldout_norm": float(sum(p.detach().double().square().sum() for p in policy.model.parameters()))}


def train_all(model: Path, out: Path, *, shard: bool = False) -> None:
    draw = random.Random(0)
    prompts = [Prompt.of(words(draw, 3, 8)) for _ in range(10)]
    for name, changes in RUNS.items():
        config = RLConfig(
            steps=3, prompts_per_step=4, max_new_tokens=6, optimizer="adamw", learning_rate=3e-4, shard=shard, **changes
        )
        train_rl(model, prompts, evens, config, out / name, hook=hook)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_all(Path(sys.argv[2]), Path(sys.argv[3]), shard=sys.argv[1] == "shard")
