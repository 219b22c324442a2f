"""Settings that a judge's prompt does not support are problems of the recipe, wherever the judge is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.errors import RecipeError
from aifeedback.pipeline import checks
from aifeedback.steps import STEPS, step_class
from aifeedback.steps.step import Step

THOUGHT = "judge prompt 'lab-pairwise' offers no chain of thought"
JUDGE = {"model": "fake:longer", "prompt": "lab:pairwise", "rationale": True}


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "a", "first": "b", "second": "c"}) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("label", {"judge": JUDGE}),
        ("label", {"judge": {"members": [JUDGE, {**JUDGE, "rationale": None}]}}),
        ("grid", {"judges": ["fake:longer"], "prompts": ["lab:pairwise"], "rationales": [0, 1]}),
        ("compare", {"policies": {"sft": "lab:base", "b": "lab:judge"}, "prompts": "", "judges": {"one": JUDGE}}),
        ("rl", {"model": "lab:base", "prompts": "", "reward": {"judge": JUDGE}}),
    ],
    ids=("label", "panel", "grid", "compare", "reward"),
)
def test_a_rationale_that_the_prompt_does_not_offer_is_found_before_the_first_call(
    pairs: str, kind: str, settings: dict[str, Any]
) -> None:
    files = {name: pairs for name in ("prompts", "comparisons") if name in step_class(kind).model_fields}
    step = step_class(kind).model_validate(
        settings | {name: path for name, path in files.items() if not settings.get(name) or name == "comparisons"}
    )
    assert [problem for problem in checks.problems(step) if problem.startswith(THOUGHT)], checks.problems(step)
    with pytest.raises(RecipeError, match="offers no chain of thought"):
        checks.require(step)


def test_more_exemplars_than_the_prompt_has_are_found_once(pairs: str) -> None:
    step = step_class("grid").model_validate(
        {"comparisons": pairs, "judges": ["fake:longer", "fake:first"], "prompts": ["lab:pairwise"], "shots": [0, 3]}
    )
    assert checks.problems(step) == ["judge prompt 'lab-pairwise' has 0 exemplars, 3 requested"]


def test_what_the_prompt_offers_is_no_problem(pairs: str) -> None:
    judge = {"model": "lab:pairs-s", "prompt": "lab:pairs-detailed", "rationale": True, "shots": 2}
    assert checks.problems(step_class("label").model_validate({"comparisons": pairs, "judge": judge})) == []


JUDGING = ("Judging", "JudgeSpec", "ScoreSpec", "PanelSpec")


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_that_asks_a_judge_forecasts_its_calls_or_says_that_they_are_unknown(kind: str) -> None:
    """The default of a step is no call at all: with a judge among the settings that would be a false zero."""
    step = step_class(kind)
    asks = [name for name, field in step.model_fields.items() if any(j in str(field.annotation) for j in JUDGING)]
    if asks:
        assert step.forecast is not Step.forecast, asks
