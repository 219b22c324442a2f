"""Other scales than 1–10, a tie as third label, and verdicts that a server holds to the labels."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifeedback.errors import StandardsError
from aifeedback.judging import pairwise
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler
from aifeedback.models.fake import FakeModel
from aifeedback.models.verdicts import parse_label
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Problem, Prompt
from models.openai.test_server import ask, model_of
from models.stub import StubServer, as_json, chat_body

QUESTION = Prompt.of("When?")
ONE, OTHER = (Completion.of(QUESTION, text, source="x") for text in ("At nine.", "Some day, perhaps."))
PAIR = Comparison.of(QUESTION, ONE, OTHER)
LOGPROB = st.floats(min_value=-20.0, max_value=-0.01)


def prompt(task: str, labels: list[str]) -> JudgePrompt:
    sample = "{{ context }}\n\n{{ first }}\n\n{{ second }}" if task == "pairwise" else "{{ context }}\n\n{{ response }}"
    return JudgePrompt.read({"name": "own", "task": task, "labels": labels, "sample": sample, "ending": "Verdict:"})


@given(LOGPROB, LOGPROB, LOGPROB)
def test_half_of_a_tie_goes_to_each_response(first: float, second: float, tie: float) -> None:
    p = pairwise.p_first([first, second, tie], swapped=False)
    masses = [math.exp(value) for value in (first, second, tie)]
    assert p == pytest.approx((masses[0] + masses[2] / 2) / math.fsum(masses))
    assert pairwise.p_first([second, first, tie], swapped=False) == (1.0 - p if first != second else p)
    assert pairwise.p_first([second, first, tie], swapped=True) == p


def test_a_tie_in_both_orders() -> None:
    preference = JudgeLabeler(FakeModel("quality"), prompt("pairwise", [" 1", " 2", " tie"])).label([PAIR])[0]
    back = JudgeLabeler(FakeModel("quality"), prompt("pairwise", [" 1", " 2", " tie"])).label([PAIR.swapped()])[0]
    assert preference.p_first is not None
    assert len(preference.judgements[0].logprobs or ()) == 3
    assert back.p_first == pytest.approx(1 - preference.p_first)
    position = JudgeLabeler(FakeModel("first"), prompt("pairwise", ["1", "2", "tie"]), average="logits").label([PAIR])
    assert position[0].p_first == pytest.approx(0.5)


@pytest.mark.parametrize("top", [2, 3, 5, 7, 10])
def test_any_scale_from_one(top: int) -> None:
    scorer = JudgeScorer(FakeModel("quality"), prompt("rating", [str(n + 1) for n in range(top)]))
    for score in scorer.score([QUESTION, QUESTION], [ONE, OTHER]):
        assert score.distribution is not None
        assert score.expected is not None
        assert len(score.distribution) == top
        assert score.expected == pytest.approx(sum((n + 1) * p for n, p in enumerate(score.distribution)))
        assert score.value == pytest.approx((2 * score.expected - top - 1) / (top - 1))
    p = RatingLabeler(scorer).label([PAIR])[0].p_first
    assert p is not None
    assert RatingLabeler(scorer).label([PAIR.swapped()])[0].p_first == pytest.approx(1 - p)


@pytest.mark.parametrize(
    "labels", [["1"], ["0", "1", "2"], ["5", "4", "3", "2", "1"], ["1", "3"], [str(n) for n in range(1, 12)]]
)
def test_a_scale_that_is_none_is_refused(labels: list[str]) -> None:
    with pytest.raises(StandardsError, match="labels"):
        prompt("rating", labels)


@pytest.mark.parametrize(
    "text", ["tie", "Tie.", "It's a tie", "Verdict: tie", "**Tie**", "<answer>tie</answer>", '{"verdict": "tie"}']
)
def test_a_tie_is_read_where_it_is_a_label(text: str) -> None:
    assert parse_label(text, ["1", "2", "tie"]).value == "tie"
    assert parse_label(text, ["1", "2"]).problem is Problem.ABSTAINED


def test_no_tie_is_made_of_what_is_none() -> None:
    for text in (
        "neither",
        "cannot tell",
        "n/a",
        "Response 1 is tied to its source.",
        "I cannot decide between 1 and 2.",
    ):
        assert parse_label(text, ["1", "2", "tie"]).value is None


VOTES: dict[str, dict[str, int]] = {"parsed": {}, "votes": {"votes": 2}}


@pytest.mark.parametrize(
    ("structured", "owner", "field"),
    [("choice", "x", "guided_choice"), ("schema", "x", "response_format"), ("auto", "vllm", "guided_choice"),
     ("auto", "sglang", "regex"), ("auto", "llamacpp", "response_format"), ("auto", "unknown", None), ("off", "vllm", None)],
)  # fmt: skip
@pytest.mark.parametrize("readout_name", ["parsed", "votes"])
def test_verdicts_held_to_the_labels(structured: str, owner: str, field: str | None, readout_name: str) -> None:
    def held(request: Any) -> Any:
        text = '{"verdict": "2"}' if "response_format" in request.body else "2"
        body = chat_body({"x": -0.1}, text=text)
        body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    models = json.dumps({"data": [{"id": "stub", "owned_by": owner}]}).encode()
    with StubServer(held, models=models) as server:
        model = model_of(server, readout=readout_name, structured=structured, **VOTES[readout_name])
        assert model.read_labels([ask("a")], ["1", "2"])[0].logprobs[1] == 0.0
        sent = server.requests[0].body
    known = {"guided_choice", "structured_outputs", "regex", "response_format"} & set(sent)
    assert bool(known) == (field is not None)
    if field:
        assert {"1", "2"} <= set(
            json.dumps(sent[field]).replace('"', " ").replace("|", " ").replace(")", " ").replace(":", " ").split()
        )
