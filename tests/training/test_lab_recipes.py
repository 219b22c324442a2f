"""The recipes that show training on the lab: whole at toy size; gold decides nothing in any of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.pipeline import recipe, runner
from aifeedback.pipeline.summary import summarise
from aifeedback.reports.run_report import report_run

WORLD = {"world.sft": 40, "world.prompts": 24, "world.heldout": 12, "test": 8, "sft.train.steps": 1}
RL = {"steps": 2, "prompts_per_step": 2, "zscore_samples": 4, "evaluate_every": 1}
TOY: dict[str, dict[str, Any]] = {
    "soft-labels": {"pairs": 12, **{f"{stage}.train.steps": 1 for stage in ("rm_soft", "rm_hard", "dpo")}},
    "refresh": {"pairs": 8, "checked": 6, "rm_steps": 1, "steps": 1},
    "raft": {"limit": 6, "samples": 2, "epochs": 1, "teacher": "lab:base"},
    "self-improvement": {f"improved.train.{key}": value for key, value in RL.items()},
    "over-optimisation": {
        "world.test": 24,
        "labels": 12,
        "rm_steps": 1,
        **{f"{stage}.train.{key}": value for stage in ("unguarded", "guarded") for key, value in RL.items()},
    },
}


class Quiet:
    def started(self, stage_id: str) -> None: ...
    def advanced(self, *told: object) -> None: ...
    def finished(self, stage_id: str, *, seconds: float, skipped: bool, **_: object) -> None: ...


@pytest.mark.parametrize("name", TOY)
def test_gold_measures_and_decides_nothing(name: str) -> None:
    for stage in recipe.load(name).stages:
        if stage.step.kind in ("sft", "reward_model", "dpo", "rl", "sample", "pair"):
            settings = stage.step.model_dump(mode="json", exclude={"heldout"})
            monitor = settings.pop("monitor", None) or {}
            assert "gold" not in json.dumps(settings)
            assert "@world/heldout" not in json.dumps(settings)
            if "gold" in json.dumps(monitor):
                assert not monitor["stop_when_gamed"]
                assert not monitor["choose_on"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY)
def test_the_whole_recipe_at_toy_size(name: str, tmp_path: Path) -> None:
    loaded = recipe.load(name, {**WORLD, **TOY[name]})
    runner.require_inputs(loaded)
    runner.run(loaded, tmp_path, Quiet())
    told = summarise(tmp_path)
    report_run(tmp_path)
    assert all(policy["win_rate"]["n"] > 0 for policy in told["policies"].values())
    assert (tmp_path / "report.html").stat().st_size > 10_000
