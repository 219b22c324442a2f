"""The guard's rules on made-up histories, and its figures and choice on a real run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import evens, metrics, settings, some_prompts
from tiny import goodness

from aifeedback.errors import TrainingError
from aifeedback.training import folders
from aifeedback.training.monitor import (
    HeldOutMonitor,
    candidates,
    choose,
    is_over_optimised,
    mean_figures,
    repetition,
    staleness,
    versus,
)
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.settings import HeldOutMonitorConfig
from aifeedback.types import Comparison, Preference, Problem, Prompt


def line(step: int, reward: float, measure: float, *, se: float = 0.01, kl: float = 1.0, rep: float = 0.0) -> Any:
    return {
        "step": step,
        "heldout_reward": reward,
        "heldout_measure": measure,
        "heldout_measure_se": se,
        "heldout_kl": kl,
        "heldout_repetition": rep,
    }


class GoldJudge:
    """Prefers even words; cannot tell where both texts are worth the same."""

    name = "gold"

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        return [self._one(c) for c in comparisons]

    def _one(self, c: Comparison) -> Preference:
        gap = worth(c.first.text) - worth(c.second.text)
        if gap == 0:
            return Preference(comparison_id=c.id, source="gold", p_first=None, problem=Problem.ABSTAINED)
        return Preference(comparison_id=c.id, source="gold", p_first=float(gap > 0))


def worth(text: str) -> float:
    return goodness(" ".join(w for w in text.split() if w.startswith("w")))


def gold(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    return [worth(c) for c in completions]


def test_over_optimised_is_reward_up_and_measure_down() -> None:
    """Standard error of the difference is 0.01·√2 = 0.0141, so a fall of 0.02 counts and one of 0.01 does not."""
    config = HeldOutMonitorConfig(patience=2)
    rising = [line(10, 0.1, 0.5), line(20, 0.2, 0.6)]
    assert is_over_optimised([*rising, line(30, 0.3, 0.58), line(40, 0.4, 0.5)], config)
    assert not is_over_optimised([*rising, line(30, 0.3, 0.59), line(40, 0.4, 0.5)], config)
    assert not is_over_optimised([*rising, line(30, 0.1, 0.5), line(40, 0.4, 0.5)], config)
    assert not is_over_optimised([*rising, line(30, 0.3, 0.5), line(40, 0.4, 0.7)], config)


def guard(**changes: Any) -> HeldOutMonitor:
    return HeldOutMonitor([Prompt.of("w1")], evens, HeldOutMonitorConfig(**changes), measure=gold)


def test_stop_names_the_reason() -> None:
    history = [line(10, 0.1, 0.6), line(20, 0.2, 0.5), line(30, 0.3, 0.4)]
    assert guard().stop([]) is None
    assert guard().stop([{"step": 1, "reward": 0.0}]) is None
    assert guard().stop(history[:2]) is None
    reason = guard().stop(history)
    assert reason is not None
    assert "fell from 0.6 (step 10) to 0.4" in reason
    assert "KL 7" in (guard(max_kl=5).stop([line(10, 0, 0, kl=7.0)]) or "")
    assert "repetition 0.40" in (guard(max_repetition=0.3).stop([line(10, 0, 0, rep=0.4)]) or "")


def test_needs_exactly_one_measure() -> None:
    with pytest.raises(TrainingError, match="one independent measure"):
        HeldOutMonitor([Prompt.of("w1")], evens, HeldOutMonitorConfig())


def test_repetition_counts_repeated_trigrams() -> None:
    """a b c a b c has trigrams abc bca cab abc: one of four repeats."""
    assert repetition("a b c a b c") == 0.25
    assert repetition("a b") == 0.0
    assert repetition("a b c d") == 0.0


def test_mean_figures_leave_out_the_unknown() -> None:
    figures = mean_figures("x", torch.tensor([1.0, 3.0, float("nan"), float("nan")]))
    assert figures == {"x_unknown": 0.5, "x": 2.0, "x_se": pytest.approx(1.0)}
    assert mean_figures("x", torch.tensor([float("nan")])) == {"x_unknown": 1.0}
    assert mean_figures("x", torch.tensor([2.0, float("nan")])) == {
        "x_unknown": 0.5,
        "x": 2.0,
    }  # one value has no spread


def test_a_single_value_proves_no_over_optimisation() -> None:
    lone = [{k: v for k, v in line(10 * i, 0.1 * i, 0.8 - 0.1 * i).items() if not k.endswith("_se")} for i in range(5)]
    assert guard().stop(lone) is None


def test_staleness_is_agreement_on_fresh_samples() -> None:
    prompts = [Prompt.of(f"w{i}") for i in range(4)]
    fresh = versus(prompts, ["w2", "w2", "w3", "w2"], ["w1", "w1", "w2", "w4"])
    found = staleness(GoldJudge(), fresh, [1.0, 0.0, None, 1.0])
    assert (found.value, found.n) == (0.5, 2)


def test_guards_a_run_and_chooses_a_checkpoint(llama: Path, tmp_path: Path) -> None:
    heldout = [Prompt.of(f"w{i} w{i + 1} w50") for i in range(12)]
    watch = HeldOutMonitor(heldout, evens, HeldOutMonitorConfig(candidates=2), measure=gold, out=tmp_path)
    config = settings(steps=9, evaluate_every=3, prompts_per_step=8)
    train_rl(llama, some_prompts(), evens, config, tmp_path, hook=watch, stop=watch.stop)
    seen = [m for m in metrics(tmp_path) if "heldout_kl" in m]
    assert [m["step"] for m in seen] == [3, 6, 9]
    assert {"heldout_reward", "heldout_measure", "heldout_length", "heldout_repetition"} <= set(seen[0])
    kept = candidates(tmp_path / "training" / "candidates")
    assert sorted(kept.values()) == sorted(m["heldout_reward"] for m in seen)[-2:]

    choice = choose(tmp_path, llama, heldout, GoldJudge(), config)
    assert choice.folder.name in choice.win_rates
    best = max(choice.win_rates.values(), key=lambda rate: rate[0])
    assert choice.win_rates[choice.folder.name] == best
    assert folders.weights_digest(tmp_path) == folders.weights_digest(choice.folder)
    assert json.loads((tmp_path / "training" / "choice.json").read_text())["chosen"] == choice.folder.name


def test_a_judge_measures_against_the_reference_and_the_reward_model(llama: Path, tmp_path: Path) -> None:
    heldout = [Prompt.of(f"w{i} w50") for i in range(12)]
    watch = HeldOutMonitor(
        heldout, evens, HeldOutMonitorConfig(candidates=0), judge=GoldJudge(), reward_labeler=GoldJudge()
    )
    train_rl(llama, some_prompts(), evens, settings(steps=2, evaluate_every=2), tmp_path, hook=watch)
    last = metrics(tmp_path)[-1]
    assert last["heldout_reward_accuracy"] == 1.0
    assert 0 <= last["heldout_measure"] <= 1
    assert last["heldout_measure_unknown"] > 0


def test_choosing_needs_candidates(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no candidates were kept"):
        choose(tmp_path, llama, [], GoldJudge(), settings())
