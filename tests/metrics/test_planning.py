"""Plans: counts are sample sizes, costs add up, and each rule fires where it should."""

from __future__ import annotations

import pytest

from aifeedback.errors import InputError
from aifeedback.metrics import AIPrice, Constraints, HumanPrice, plan, prediction_powered_win_rate, win_rate


def test_the_human_labels_give_the_wanted_precision() -> None:
    """Wilson's half-width at 0.5 is z / (2·sqrt(n + z²)): ± 0.05 needs n = (1.96/0.1)² − 1.96² = 380.3, so 381."""
    result = plan(Constraints(half_width=0.05))
    assert result.human_alone == 381
    column = [1.0] * 190 + [0.0] * 191
    estimate = win_rate(column)
    assert (estimate.high - estimate.low) / 2 <= 0.05


def test_a_judge_that_agrees_saves_people() -> None:
    """Agreement 0.9 is a correlation of 0.8: with very many AI labels 1 − 0.64 of the labels are needed."""
    result = plan(Constraints(half_width=0.05, judge_agreement=0.9, labels=1_000_000))
    assert result.correlation == pytest.approx(0.8)
    assert result.human_with_ai == pytest.approx(0.36 * result.human_alone, rel=0.02)
    assert plan(Constraints(judge_agreement=0.5)).human_with_ai == plan(Constraints()).human_alone
    assert plan().human_with_ai is None


def test_the_planned_size_delivers_on_data() -> None:
    """The planned count, tried: the prediction-powered interval is as narrow as was promised (seed 1)."""
    import numpy as np

    result = plan(Constraints(half_width=0.04, judge_agreement=0.9, labels=20_000))
    assert result.human_with_ai is not None
    n, g = result.human_with_ai, np.random.default_rng(1)
    human = (g.random(n + 20_000) < 0.5).astype(float)
    ai = np.where(g.random(n + 20_000) < 0.9, human, 1 - human)
    estimate = prediction_powered_win_rate(human[:n], ai[:n], ai[n:])
    assert (estimate.high - estimate.low) / 2 == pytest.approx(0.04, rel=0.15)


def test_costs_add_up() -> None:
    prices = {
        "ai": AIPrice(usd_per_1k_input=0.0, usd_per_1k_output=0.0),
        "human": HumanPrice(words=50, usd_per_50_words=1),
    }
    result = plan(Constraints(labels=1000, judge_agreement=0.8, **prices))  # type: ignore[arg-type]
    for way in result.ways:
        assert way.usd == pytest.approx(way.human_labels)
        assert way.human_labels >= result.human_with_ai  # the evidence is part of every way
    by_name = {way.name: way for way in result.ways}
    assert by_name["RLHF"].ai_labels == 0
    assert by_name["RLAIF"].ai_labels == 1000
    assert by_name["RLAIF"].usd < by_name["hybrid"].usd < by_name["RLHF"].usd


def test_a_budget_does_not_make_a_judge_better_and_prices_are_per_label() -> None:
    result = plan(Constraints(judge_agreement=0.55, budget_usd=3000.0, can_sample=False))
    assert any("too weak" in reason for reason in result.reasons)
    assert result.usd_per_ai_label == pytest.approx(0.05712)
    assert result.usd_per_human_label == pytest.approx(0.6688)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"judge_agreement": 0.78}, "RLAIF with RL"),
        ({"judge_agreement": 0.78, "can_sample": False}, "RLAIF with DPO"),
        ({"judge_agreement": 0.65}, "hybrid with RL"),
        ({"judge_agreement": 0.55}, "RLHF with RL"),
        ({}, "hybrid with RL"),
        ({"judge_agreement": 0.78, "high_stakes": True}, "hybrid with RL"),
        ({"judge_agreement": 0.55, "budget_usd": 5000.0}, "RLHF with RL"),
        ({"judge_agreement": 0.65, "budget_usd": 5000.0}, "hybrid with RL"),
        ({"judge_agreement": 0.55, "high_stakes": True}, "RLHF with RL"),
        ({"judge_agreement": 0.55, "people_agreement": 0.58}, "RLHF with RL"),
        ({"judge_agreement": 0.78, "is_taste": True}, "hybrid with RL"),
        ({"judge_agreement": 0.78, "is_taste": True, "budget_usd": 2000.0}, "hybrid with RL"),
        ({"is_taste": True}, "hybrid with RL"),
        ({"judge_agreement": 0.78, "pairs": 5_000}, "RLAIF with DPO"),
        ({"judge_agreement": 0.55, "pairs": 5_000}, "RLHF with DPO"),
        ({"judge_agreement": 0.78, "pairs": 5_000, "can_sample": False}, "RLAIF with DPO"),
        ({"judge_agreement": 0.55, "budget_usd": 10.0}, "RLHF with RL"),
        ({"judge_agreement": 0.55, "budget_usd": 3000.0, "can_sample": False}, "RLHF with DPO"),
        ({"judge_agreement": 0.51, "budget_usd": 3000.0}, "RLHF with RL"),
        ({"judge_agreement": 0.65, "budget_usd": 3000.0}, "RLAIF with RL"),
    ],
)
def test_each_rule(given: dict[str, object], advice: str) -> None:
    assert plan(Constraints(**given)).advice == advice  # type: ignore[arg-type]


def test_existing_pairs_are_not_bought_again_and_evidence_is_per_locale() -> None:
    """Half-width 0.05 at 0.5 needs 381 labels; with agreement 0.5 the judge saves none, and is measured on 381 as well."""
    known = {"labels": 10_000, "half_width": 0.05, "judge_agreement": 0.5}
    ways = {way.name: way for way in plan(Constraints(**known, pairs=4_000, locales=3)).ways}  # type: ignore[arg-type]
    assert ways["RLHF"].human_labels == 10_000 - 4_000 + 3 * 381
    assert ways["hybrid"].human_labels == max(0, 2_000 + 3 * 381 - 4_000) + 3 * 381
    assert ways["RLAIF"].human_labels == 3 * 381  # measured on pairs that exist
    assert ways["hybrid"].ai_labels == 8_000


def test_hours_are_those_of_reading() -> None:
    """304 words at 238 a minute are 76.6 s; two raters read twice."""
    result = plan(Constraints(human=HumanPrice(raters=2)))
    assert result.hours_per_human_label == pytest.approx(2 * 304 / 238 / 60)
    for way in result.ways:
        assert way.hours == pytest.approx(way.human_labels * 2 * 304 / 238 / 60)


def test_unclear_guidelines_are_named_before_labels_are_bought() -> None:
    result = plan(Constraints(judge_agreement=0.55, people_agreement=0.58))
    assert any("sharpen the guidelines" in reason for reason in result.reasons)


@pytest.mark.parametrize("agreement", [0.3, 0.5, 0.59])
@pytest.mark.parametrize("budget", [None, 10.0, 1_500.0, 5_000.0, 1e6])
@pytest.mark.parametrize("more", [{}, {"high_stakes": True}, {"is_taste": True}, {"pairs": 9_000}, {"locales": 4}])
def test_a_judge_below_what_is_useful_is_never_advised(
    agreement: float, budget: float | None, more: dict[str, object]
) -> None:
    result = plan(Constraints(judge_agreement=agreement, budget_usd=budget, **more))  # type: ignore[arg-type]
    assert result.advice.startswith("RLHF")


def test_nothing_is_called_affordable_that_is_not() -> None:
    result = plan(Constraints(budget_usd=10.0))
    assert not any(way.is_affordable for way in result.ways)
    assert any("more than the budget" in reason for reason in result.reasons)


def test_impossible_wishes_are_named() -> None:
    with pytest.raises(ValueError, match="half_width"):
        Constraints(half_width=0.6)


def test_the_command_prints_the_plan_and_saves_it(tmp_path) -> None:
    import json

    from typer.testing import CliRunner

    from aifeedback.cli import app

    target = tmp_path / "plan.json"
    result = CliRunner().invoke(
        app, ["plan", "--half-width", "0.05", "--judge-agreement", "0.78", "--json", str(target)]
    )
    assert result.exit_code == 0, result.output
    assert "381" in result.output
    assert "RLAIF with RL" in result.output
    assert json.loads(target.read_text())["human_alone"] == 381
    wrong = CliRunner().invoke(app, ["plan", "--half-width", "0.6"])
    assert isinstance(wrong.exception, InputError)


def test_five_points_below_people_is_within_five_points() -> None:
    assert plan(Constraints(judge_agreement=0.70, people_agreement=0.75)).advice == "RLAIF with RL"
    assert plan(Constraints(judge_agreement=0.69, people_agreement=0.75)).advice == "hybrid with RL"
