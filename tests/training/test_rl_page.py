"""docs/rl.md explains every setting of reinforcement learning, and every figure that a run logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from aifeedback.steps.rewards import RewardSpec
from aifeedback.steps.rl import Monitor
from aifeedback.training.rollout import SampleFacts, step_figures
from aifeedback.training.settings import HeldOutMonitorConfig, LoopConfig, RLConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rl.md").read_text(encoding="utf-8")
TOLD = {word for code in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"[\w-]+", code)}
ONE_SAMPLE = torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize(
    "names",
    [
        RLConfig.model_fields.keys() - LoopConfig.model_fields.keys(),
        HeldOutMonitorConfig.model_fields.keys(),
        Monitor.model_fields.keys(),
        RewardSpec.model_fields.keys(),
        step_figures(SampleFacts(*[ONE_SAMPLE] * 6), ONE_SAMPLE, ONE_SAMPLE).keys(),
    ],
    ids=["settings", "guard", "monitor", "reward", "figures"],
)
def test_every_name_is_explained(names: set[str]) -> None:
    assert names <= TOLD
