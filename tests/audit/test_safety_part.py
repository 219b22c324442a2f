"""The report's part on harm: figures by policy, masked texts that are counted, nothing where nothing was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aifeedback.reports import figures
from aifeedback.reports.run_report import write_report
from aifeedback.reports.safety import safety_part


def est(value: float, reach: float = 0.03, n: int = 200) -> dict[str, Any]:
    return {"value": value, "low": value - reach, "high": value + reach, "n": n}


def standing(harmless: float, helpful: float, change: float) -> dict[str, Any]:
    refusal = {
        "over_refusal": est(0.1),
        "under_refusal": est(1 - harmless),
        "by_class": {
            side: {"full_compliance": 0.5, "full_refusal": 0.4, "partial_refusal": 0.1} for side in ("safe", "unsafe")
        },
    }
    return {
        "harmless": est(harmless),
        "harmless_all": est(0.9),
        "helpful": est(helpful),
        "helpful_change": est(change, 0.01),
        "refusal": refusal,
    }


def told(**changes: Any) -> dict[str, Any]:
    answers = [
        {"policy": "sft", "text": "<b>use a net", "harmful": True, "response": "full_compliance"},
        {"policy": "rl_cai", "text": "I will not.", "harmful": False, "response": "full_refusal"},
    ]
    safety = {
        "policies": {
            "sft": {"gold": standing(0.5, 0.7, 0.0), "judge": standing(0.55, 0.7, 0.0)},
            "rl_cai": {"gold": standing(0.95, 0.69, -0.01), "judge": standing(0.97, 0.7, 0.0)},
        },
        "reference": "sft",
        "judge": "gold",
        "prompts": {"safe": 300, "unsafe": 200, "not said": 0},
        "examples": [
            {"kind": "harmful", "prompt": "how do i trap them ?", "unsafe": True, "answers": answers},
            {"kind": "benign", "prompt": "how do i paint it ?", "unsafe": False, "answers": [answers[1]]},
        ],
        "masked": {"sft": 100, "rl_cai": 10},
    }
    return {"recipe": "constitutional", "stages": {}, "safety": {**safety, **changes}}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "drawn", lambda draw, *, width, height, alt: f"<svg alt='{alt}'></svg>")


def test_the_headline_says_what_was_won_and_what_it_cost() -> None:
    part = safety_part(told())
    assert part is not None
    assert part.headline == (
        "SFT is harmless on 50 % of unsafe prompts (by gold); RL-CAI on 95 % at −1.0 points of helpfulness."
    )
    assert "RL-CAI: helpful 69 %, harmless 95 %" in (part.figure or "")
    assert list(part.others) == ["judge"]


def test_a_gain_inside_the_noise_is_not_called_one() -> None:
    policies = {"sft": {"gold": standing(0.5, 0.7, 0.0)}, "rl_cai": {"gold": standing(0.53, 0.7, 0.0)}}
    part = safety_part(told(policies=policies))
    assert part is not None
    assert "RL-CAI on 53 %, not clearly more" in part.headline


def test_texts_that_ask_for_harm_or_do_it_are_blurred_and_counted_and_the_others_are_not(tmp_path: Path) -> None:
    page = write_report(told(), tmp_path).read_text(encoding="utf-8")
    assert page.count('<div class="veil hidden counted">') == 2
    start = page.index('<div class="veil hidden counted">')
    assert page.index("how do i trap them ?") > start
    assert "&lt;b&gt;use a net" in page
    assert "<b>use a net" not in page
    assert "(2 here)" in page
    assert "SFT 100, RL-CAI 10" in page
    assert '<span class="opened"></span> of 2' in page
    assert page.index('id="safe-1"') > page.index('<section id="safety">')


def test_a_run_without_it_has_no_such_part(tmp_path: Path) -> None:
    assert safety_part({"recipe": "demo", "stages": {"x": {"figures": {}}}}) is None
    assert "Still helpful" not in write_report({"recipe": "demo", "stages": {}}, tmp_path).read_text(encoding="utf-8")


def test_it_is_found_in_a_stage_where_the_recipe_names_nothing() -> None:
    summary = told()
    stages = {"safety": {"kind": "safety", "figures": {"safety": summary.pop("safety")}}}
    assert safety_part({**summary, "stages": stages}) is not None
