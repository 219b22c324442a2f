"""What a run leaves behind, and the optional trackers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import made_pairs

from aifeedback.errors import MissingExtra
from aifeedback.training.metrics_log import Timing, Trail
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import RewardModelConfig


def test_lines_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    trail = Trail(tmp_path, until=0)
    for step in (1, 2, 3):
        trail.add({"step": step, "loss": 1 / step})
    again = Trail(tmp_path, until=2)
    again.add({"step": 3, "loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.25}]
    assert (again.steps, again.last()) == (3, {"loss": 0.25})


def test_speed_is_a_median() -> None:
    timing = Timing(torch.device("cpu"))
    for step, seconds in enumerate((1.0, 2.0, 10.0)):
        timing.add(step, seconds, tokens=100)
    seconds, tokens, memory = timing.summary()
    assert (seconds, tokens) == (2.0, 50.0)
    assert memory > 1


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_tracker_that_is_not_installed_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (name, "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'aifeedback\[track\]'"):
        Trail(tmp_path, until=0, trackers=(name,))


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_trackers_get_every_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    run = SimpleNamespace(log=lambda figures, step: seen.append((step, figures)), finish=lambda: seen.append("end"))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=lambda **_: run))
    trail = Trail(tmp_path, until=0, trackers=(name,))
    trail.add({"step": 1, "loss": 0.5})
    trail.close(Timing(torch.device("cpu")))
    assert seen == [(1, {"loss": 0.5}), "end"]


def test_a_tracker_is_closed_where_a_run_breaks(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its page shows the run as going on for ever."""
    seen: list[str] = []
    run = SimpleNamespace(log=lambda figures, step: None, finish=lambda: seen.append("end"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: run))
    settings = RewardModelConfig(steps=2, batch=4, trackers=("wandb",))

    def broken(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("aifeedback.training.loop._gradients", broken)
    with pytest.raises(KeyboardInterrupt):
        fit_reward_model(llama, made_pairs(8), settings, tmp_path / "rm")
    assert seen == ["end"]
