"""Baselines as arithmetic: what is subtracted, and that an unscored sample changes nothing for the others."""

from __future__ import annotations

import math

import pytest
import torch

from aifeedback.training.advantages import DECAY, LeaveOneOut, RunningMean, make_baseline
from aifeedback.training.settings import BaselineName

NAN = math.nan
NAMES: tuple[BaselineName, ...] = ("none", "running_mean", "value", "leave_one_out", "grpo")


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    """Rewards 1, 2, 6: the others' means are 4, 3.5, 1.5. Of 3, NaN, 5 the first is left with 5."""
    reward_PG = torch.tensor([[1.0, 2.0, 6.0], [3.0, NAN, 5.0], [7.0, NAN, NAN]], dtype=torch.float64)
    expected_PG = torch.tensor([[4.0, 3.5, 1.5], [5.0, NAN, 3.0], [NAN, NAN, NAN]], dtype=torch.float64)
    assert torch.equal(LeaveOneOut().subtrahend(reward_PG).nan_to_num(-1), expected_PG.nan_to_num(-1))


def test_leave_one_out_advantages_sum_to_zero_per_prompt() -> None:
    reward_PG = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantage_PG = reward_PG - LeaveOneOut().subtrahend(reward_PG)
    torch.testing.assert_close(advantage_PG.sum(1), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_running_mean_uses_past_steps_only() -> None:
    """Step means 2 then 6: after one step b = 2; after two, (0.95·2 + 6)/(0.95 + 1)."""
    baseline = RunningMean()
    first = torch.tensor([[1.0, 3.0]], dtype=torch.float64)
    assert baseline.subtrahend(first).tolist() == [[0.0, 0.0]]
    baseline.observe(first)
    second = torch.tensor([[6.0, NAN]], dtype=torch.float64)
    assert baseline.subtrahend(second)[0, 0] == 2.0
    assert baseline.subtrahend(second)[0, 1].isnan()
    baseline.observe(second)
    assert baseline.subtrahend(second)[0, 0].item() == pytest.approx((DECAY * 2 + 6) / (DECAY + 1))


def test_running_mean_continues_after_a_restart() -> None:
    baseline, later = RunningMean(), RunningMean()
    baseline.observe(torch.tensor([[1.0, 2.0]]))
    later.load_state(baseline.state())
    assert torch.equal(later.subtrahend(torch.ones(1, 1)), baseline.subtrahend(torch.ones(1, 1)))


@pytest.mark.parametrize("name", NAMES)
def test_a_step_without_scores_changes_nothing(name: BaselineName) -> None:
    touched, untouched = make_baseline(name), make_baseline(name)
    for baseline in (touched, untouched):
        baseline.observe(torch.tensor([[1.0, 4.0]], dtype=torch.float64))
    touched.observe(torch.full((3, 2), NAN, dtype=torch.float64))
    reward_PG = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert torch.equal(touched.subtrahend(reward_PG), untouched.subtrahend(reward_PG))


@pytest.mark.parametrize("name", NAMES)
def test_an_unscored_sample_leaves_the_others_bit_equal(name: BaselineName) -> None:
    """The group (a, NaN, b) gives a and b the bits that the group (a, b) gives them."""
    with_gap = torch.tensor([[0.3, NAN, 0.7], [NAN, 1.1, 0.9]], dtype=torch.float64)
    without = torch.tensor([[0.3, 0.7], [1.1, 0.9]], dtype=torch.float64)
    first, second = make_baseline(name), make_baseline(name)
    for _ in range(2):
        found = first.subtrahend(with_gap)
        assert torch.equal(found[~with_gap.isnan()], second.subtrahend(without).flatten())
        assert found[with_gap.isnan()].isnan().all()
        first.observe(with_gap)
        second.observe(without)
