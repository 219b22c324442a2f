"""The published cost figures."""

from __future__ import annotations

import pytest

from aifeedback.errors import InputError
from aifeedback.metrics import AIPrice, HumanPrice, ai_label_cost, cost_plan, human_label_cost


def test_published_figures() -> None:
    """2 × (830 × .03/1000 + 61 × .06/1000) = .0571; 304/50 × .11 = .6688; about 11.7 times."""
    assert ai_label_cost() == pytest.approx(0.05712)
    assert human_label_cost() == pytest.approx(0.6688)
    assert cost_plan(1).ratio == pytest.approx(11.7, abs=0.05)


def test_a_mixed_plan_adds_up() -> None:
    plan = cost_plan(1000, human_share=0.1)
    assert plan.value == pytest.approx(900 * 0.05712 + 100 * 0.6688)
    assert plan.value == plan.ai_usd + plan.human_usd
    assert plan.human_only_usd == pytest.approx(668.8)


def test_prices_are_settings() -> None:
    free = AIPrice(usd_per_1k_input=0, usd_per_1k_output=0)
    assert cost_plan(10, ai=free).ratio == float("inf")
    assert human_label_cost(HumanPrice(raters=3)) == pytest.approx(3 * 0.6688)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(InputError):
        cost_plan(10, human_share=1.5)
