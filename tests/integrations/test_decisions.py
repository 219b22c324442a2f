"""Typed questions answered over HTTP by a reward model or a judge: a probability for each option, or a reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi.testclient import TestClient

from aifeedback.integrations.decisions import Decider, by_judge, by_reward_model, confidence
from aifeedback.integrations.serve import ServeConfig, create_app
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler
from aifeedback.models.fake import FakeModel
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Problem, Prompt

PROMPT, A, B = "When?", "At nine.", "Some day, perhaps."


def lengths(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    return [None if c == "?" else len(c) / 10 for c in completions]


def judge(**faults: float) -> Decider:
    scorer = JudgeScorer(
        FakeModel("quality", faults={Problem.REFUSED: 1.0} if faults else None), JudgePrompt.load("rating")
    )
    return by_judge(RatingLabeler(scorer), scorer)


def client(decider: Decider | None) -> TestClient:
    return TestClient(create_app(lengths, ServeConfig(wait_s=0), decider=decider))


def choice(texts: dict[str, Any], state: Any = PROMPT) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same question in both formats."""
    question = {"type": "choice", "instructions": "Which is better?"}
    listed = [{"value": key, "description": text} for key, text in texts.items()]
    return (
        {"model": "m", "state": state, "questions": {"q": {**question, "criteria": texts}}},
        {"model": "m", "input": state, "questions": [{**question, "name": "q", "choices": listed}]},
    )


def score(levels: int, state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [f"level {n}" for n in range(levels)]
    question = {"type": "score", "instructions": "How good is it?"}
    return (
        {"model": "m", "state": state, "questions": {"q": {**question, "criteria": names}}},
        {
            "model": "m",
            "input": state,
            "questions": [{**question, "name": "q", "levels": [{"label": n} for n in names]}],
        },
    )


def post(decider: Decider | None, requests: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Any, Any]:
    http = client(decider)
    return http.post("/v1/systemone", json=requests[0]), http.post("/v1/decisions", json=requests[1])


def test_a_reward_model_gives_its_bradley_terry_probability() -> None:
    one, other = (result.json() for result in post(by_reward_model(lengths), choice({"a": A, "b": B})))
    p = 1 / (1 + math.exp((len(B) - len(A)) / 10))
    assert one["answers"]["q"]["probabilities"] == pytest.approx({"a": p, "b": 1 - p})
    assert one["answers"]["q"]["choice"] == other["answers"][0]["choice"] == "b"
    assert [e["probability"] for e in other["answers"][0]["probabilities"]] == pytest.approx([p, 1 - p])
    assert other["answers"][0]["name"] == "q"
    assert one["model"] == "m"
    three = post(by_reward_model(lengths), choice({"a": A, "b": B, "c": "No."}))[0].json()
    assert math.fsum(three["answers"]["q"]["probabilities"].values()) == pytest.approx(1.0)


def test_a_judge_gives_its_preference_and_its_ratings() -> None:
    decider = judge()
    scorer = JudgeScorer(FakeModel("quality"), JudgePrompt.load("rating"))
    prompt = Prompt.of(PROMPT)
    first, second = (Completion.of(prompt, text, source="x") for text in (A, B))
    p = RatingLabeler(scorer).label([Comparison.of(prompt, first, second)])[0].p_first
    for texts, wanted in (({"a": A, "b": B}, p), ({"b": B, "a": A}, 1 - (p or 0))):
        one, other = (result.json() for result in post(decider, choice(texts)))
        assert next(iter(one["answers"]["q"]["probabilities"].values())) == pytest.approx(wanted)
        assert other["answers"][0]["probabilities"][0]["probability"] == pytest.approx(wanted)
    own = scorer.score([prompt], [first])[0]
    one, other = (result.json() for result in post(decider, score(10, {"prompt": PROMPT, "response": A})))
    assert own.expected is not None
    assert one["answers"]["q"]["score"] == pytest.approx(own.expected - 1)
    assert list(one["answers"]["q"]["probabilities"].values()) == pytest.approx(own.distribution)
    assert one["answers"]["q"]["legend"]["3"] == "level 3"
    assert [e["probability"] for e in other["answers"][0]["probabilities"]] == pytest.approx(own.distribution)


REFUSED: list[tuple[Decider | None, Any, str]] = [
    (None, choice({"a": A, "b": B}), "no probabilities of responses"),
    (by_reward_model(lengths), score(10, {"prompt": PROMPT, "response": A}), "no scale"),
    (judge(), choice({"a": A, "b": B, "c": "No."}), "two responses, not 3"),
    (judge(), score(5, {"prompt": PROMPT, "response": A}), "10 levels, the question 5"),
    (judge(), score(10, PROMPT), "response"),
    (judge(), choice({"a": A, "b": B}, state=7), "the state must be the prompt"),
    (judge(), choice({"1": None, "2": None}), "the response that it stands for"),
    (judge(), choice({"1": "1", "2": "2"}), "the response that it stands for"),
    (judge(), choice({"a": A}), "two options"),
    (judge(), ({"state": "x", "questions": {"q": {"type": "noul", "instructions": "?"}}},
               {"input": "x", "questions": [{"type": "predicate", "name": "q"}]}), "is of type"),
    (judge(), ({"state": "x"}, {"input": "x", "questions": []}), "questions"),
    (judge(), ({"state": "x", "questions": {"q": 3}}, {"input": "x", "questions": ["q"]}), "is of type"),
]  # fmt: skip


@pytest.mark.parametrize(("decider", "requests", "reason"), REFUSED)
def test_a_question_without_probabilities_is_refused_with_the_reason(decider: Any, requests: Any, reason: str) -> None:
    for result in post(decider, requests):
        assert result.status_code == 422
        assert reason in result.json()["detail"]


def test_what_could_not_be_judged_is_not_an_answer() -> None:
    for result in (
        *post(judge(all=1.0), choice({"a": A, "b": B})),
        *post(by_reward_model(lengths), choice({"a": A, "b": "?"})),
    ):
        assert result.status_code == 503


def test_confidence_is_one_for_certainty_and_zero_for_none() -> None:
    assert confidence([1.0, 0.0, 0.0]) == 1.0
    assert confidence([0.25] * 4) == pytest.approx(0.0)
