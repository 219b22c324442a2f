"""Anthropic's Messages format and decision models, against stubs made from their public API references."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from aifeedback.config import parse
from aifeedback.errors import ModelError, RecipeError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.judging.pointwise import JudgeScorer
from aifeedback.judging.spec import JudgeSpec
from aifeedback.models import connect
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.openai.requests import NO_VOTES
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Message, Problem, Prompt, Sampling
from models.openai.test_server import QUICK, ask
from models.stub import Request, Response, StubServer, as_json

QUESTION = Prompt.of("When?")
ONE, OTHER = (Completion.of(QUESTION, text, source="x") for text in ("At nine.", "Some day, perhaps."))
PAIR = Comparison.of(QUESTION, ONE, OTHER)
PAIRWISE, RATING = JudgePrompt.load("helpful-base"), JudgePrompt.load("rating")


def model_of(server: StubServer, scheme: str, **options: Any) -> Any:
    return connect(f"{scheme}:stub", base_url=server.url, **{**QUICK, **options})


# ---------------------------------------------------------------- Messages


def message(content: Any, reason: Any = "end_turn", **usage: int) -> Response:
    used = {"input_tokens": 10, "output_tokens": 2, **usage}
    body = {"id": "m", "type": "message", "role": "assistant", "model": "stub", "content": content,
            "stop_reason": reason, "stop_sequence": None, "usage": used}  # fmt: skip
    return as_json(body)


TEXT = [{"type": "text", "text": "2"}]
THOUGHT = [{"type": "thinking", "thinking": "Answer: 1", "signature": "s"}, {"type": "redacted_thinking", "data": "x"}]


def test_what_goes_to_the_messages_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-key")
    with StubServer(lambda r: message(TEXT)) as server:
        model = model_of(server, "anthropic")
        talk = [Message(role="system", content="Judge."), *ask("Which?"), Message(role="assistant", content="Better=")]
        assert model.read_labels([talk], ["1", "2"])[0].logprobs == (NO_VOTES, 0.0)
        model.reply([ask("a")], Sampling(temperature=0.5, top_k=3, stop=("X",)))
        model.reply(["plain"], Sampling())
        assert model.card.uri == "anthropic:stub"
        assert model.readout == "parsed"
    judged, sampled, plain = server.requests
    assert judged.path == "/v1/messages"
    assert (judged.headers["x-api-key"], judged.headers["anthropic-version"]) == ("secret-key", "2023-06-01")
    assert "authorization" not in judged.headers
    assert judged.body["system"] == "Judge."
    assert judged.body["messages"] == [{"role": "user", "content": "Which?\n\nBetter="}]
    assert judged.body["max_tokens"] == 256
    assert judged.body["temperature"] == 0.0
    assert not {"seed", "logprobs", "top_logprobs", "stop"} & {*judged.body, *sampled.body}
    assert (sampled.body["stop_sequences"], sampled.body["top_k"], sampled.body["temperature"]) == (["X"], 3, 0.5)
    assert plain.body == {"model": "stub", "messages": [{"role": "user", "content": "plain"}], "max_tokens": 128}


@pytest.mark.parametrize(
    ("content", "reason", "problem", "calls"),
    [
        (TEXT, "end_turn", None, 1), (TEXT, "stop_sequence", None, 1), ([*THOUGHT, *TEXT], "end_turn", None, 1),
        (TEXT, "max_tokens", Problem.TRUNCATED, 1), (THOUGHT, "max_tokens", Problem.TRUNCATED, 1),
        (TEXT, "model_context_window_exceeded", Problem.TRUNCATED, 1), ([], "refusal", Problem.REFUSED, 1),
        (TEXT, "tool_use", Problem.UNREADABLE, 1), (TEXT, "pause_turn", Problem.SERVER_ERROR, 3),
        (TEXT, None, Problem.SERVER_ERROR, 3),
        (TEXT, "something new", Problem.SERVER_ERROR, 3), ([], "end_turn", Problem.EMPTY, 3),
    ],
)  # fmt: skip
def test_answers_of_the_messages_endpoint(content: Any, reason: Any, problem: Problem | None, calls: int) -> None:
    with StubServer(lambda r: message(content, reason)) as server:
        reading = model_of(server, "anthropic", attempts=3).read_labels([ask("a")], ["1", "2"])[0]
        assert reading.problem == problem
        assert server.count == calls
        assert reading.logprobs == ((NO_VOTES, 0.0) if problem is None else (None, None))


def test_an_overloaded_messages_endpoint_is_tried_again() -> None:
    overloaded = Response(b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}', 529)

    def once(request: Request) -> Response:
        return overloaded if server.count == 1 else message(TEXT)

    with StubServer(once) as server:
        assert model_of(server, "anthropic").read_labels([ask("a")], ["1", "2"])[0].problem is None


def test_cached_prompt_tokens_are_billed(tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: x\nmodels: {stub: {input: 1.0, output: 4.0}}")
    with StubServer(lambda r: message(TEXT, cache_creation_input_tokens=500, cache_read_input_tokens=0)) as server:
        reading = model_of(server, "anthropic", prices=str(prices)).read_labels([ask("a")], ["1", "2"])[0]
    assert reading.cost_usd == pytest.approx((510 * 1.0 + 2 * 4.0) / 1e6)


def test_what_the_messages_format_has_no_place_for_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, key in (({"readout": "logprobs"}, "readout"), ({"structured": "schema"}, "structured")):
        with pytest.raises(ModelError, match=key):
            connect("anthropic:stub", base_url="http://127.0.0.1:9/v1", **options)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(ModelError, match="ANTHROPIC_API_KEY is not set"):
        connect("anthropic:stub")
    with StubServer(lambda r: message(TEXT)) as server:
        for role in ("tool", "system"):
            with pytest.raises(ModelError, match=f"no place for a {role} message"):
                model_of(server, "anthropic").reply(
                    [[*ask("a"), Message(role=role, content="9"), *ask("b")]], Sampling()
                )


# ---------------------------------------------------------------- decisions


def probabilities(request: Request) -> list[float]:
    """The stub's own: those of a fake judge, for the text and the options that it is sent."""
    text, names = shown(request)
    reading = FakeModel("quality").read_labels([text], names)[0]
    total = math.fsum(math.exp(p or 0.0) for p in reading.logprobs)
    return [math.exp(p or 0.0) / total for p in reading.logprobs]


def shown(request: Request) -> tuple[str, list[str]]:
    if request.path.endswith("/systemone"):
        (question,) = request.body["questions"].values()
        return request.body["state"], list(question["criteria"])
    (question,) = request.body["questions"]
    options = question.get("choices") or question["levels"]
    return request.body["input"], [option.get("value") or option["label"] for option in options]


def answered(request: Request, values: list[float] | None = None, **more: Any) -> dict[str, Any]:
    """An answer in the form that was asked for. The winner it names is always the first: nobody may read that."""
    _, names = shown(request)
    found = values or probabilities(request)
    usage = {"input_tokens": 40, "output_tokens": 0}
    if request.path.endswith("/systemone"):
        ((name, question),) = request.body["questions"].items()
        keys = names if question["type"] == "choice" else [str(n) for n in range(len(names))]
        answer = {"type": question["type"], question["type"]: names[0], "confidence": 0.5, **more,
                  "probabilities": dict(zip(keys, found, strict=True))}  # fmt: skip
        return {"model": "stub-1", "answers": {name: answer}, "usage": usage}
    (question,) = request.body["questions"]
    is_choice = question["type"] == "choice"
    listed = [
        {"value": name if is_choice else n, **({} if is_choice else {"label": name}), "probability": p}
        for n, (name, p) in enumerate(zip(names, found, strict=True))
    ]
    answer = {"type": question["type"], "name": question["name"], "probabilities": listed, "confidence": 0.5, **more}
    return {"model": "stub-1", "answers": [answer], "usage": usage}


def decision_stub() -> StubServer:
    return StubServer(lambda r: as_json(answered(r)))


@pytest.mark.parametrize("scheme", ["systemone", "decisions"])
def test_a_decision_model_judges_pairs_in_both_orders(scheme: str, tmp_path: Path) -> None:
    with decision_stub() as server, Journal(tmp_path / "journal.sqlite") as journal:
        judge = JudgeLabeler(Journaled(model_of(server, scheme), journal), PAIRWISE)
        own = JudgeLabeler(FakeModel("quality"), PAIRWISE, chat=False)
        for pair in (PAIR, PAIR.swapped()):
            found, wanted = judge.label([pair])[0], own.label([pair])[0]
            assert found.p_first == pytest.approx(wanted.p_first)
            assert [j.p_first for j in found.judgements] == pytest.approx([j.p_first for j in wanted.judgements])
            assert [(j.shown_swapped, j.readout, j.coverage) for j in found.judgements] == [
                (False, "logprobs", 1.0), (True, "logprobs", 1.0),
            ]  # fmt: skip
        assert server.requests[0].path == f"/v1/{scheme}"
        assert {r.body["model"] for r in server.requests} == {"stub"}
        asked = server.count
        judge.label([PAIR])
        assert server.count == asked, "what the journal holds is not asked again"
        assert all(row.entry.prompt_tokens == 40 for row in journal.rows())


@pytest.mark.parametrize("scheme", ["systemone", "decisions"])
def test_a_rating_is_the_probability_weighted_mean(scheme: str) -> None:
    with decision_stub() as server:
        score = JudgeScorer(model_of(server, scheme), RATING).score([QUESTION], [ONE])[0]
    wanted = JudgeScorer(FakeModel("quality"), RATING, chat=False).score([QUESTION], [ONE])[0]
    assert score.distribution == pytest.approx(wanted.distribution)
    assert score.expected == pytest.approx(sum((n + 1) * p for n, p in enumerate(score.distribution or ())))
    question = server.requests[0].body["questions"]
    assert (question["verdict"] if scheme == "systemone" else question[0])["type"] == "score"


def test_a_judge_that_sees_only_the_position_gives_one_half() -> None:
    with StubServer(lambda r: as_json(answered(r, [0.99, 0.01]))) as server:
        preference = JudgeLabeler(model_of(server, "systemone"), PAIRWISE).label([PAIR])[0]
    assert preference.p_first == 0.5
    assert preference.position_gap == pytest.approx(0.98)


def spoiled(request: Request, what: str) -> dict[str, Any]:
    body = answered(request)
    answers = body["answers"]
    answer = answers["verdict"] if isinstance(answers, dict) else answers[0]
    listed = answer["probabilities"]
    if what == "no answers":
        del body["answers"]
    elif what == "another name":
        body["answers"] = {"other": answer} if isinstance(answers, dict) else [{**answer, "name": "other"}]
    elif what == "no probabilities":
        del answer["probabilities"]
    elif what == "winner alone":
        answer["probabilities"] = None
    elif what == "an option missing":
        listed.pop("2") if isinstance(listed, dict) else listed.pop()
    elif what == "an option more":
        listed.update({"3": 0.0}) if isinstance(listed, dict) else listed.append({"value": "3", "probability": 0.0})
    elif what in ("text", "nan", "negative", "sum"):
        wrong = {"text": "high", "nan": float("nan"), "negative": -0.2, "sum": 0.9}[what]
        values = (
            dict.fromkeys(listed, wrong) if isinstance(listed, dict) else [{**e, "probability": wrong} for e in listed]
        )
        answer["probabilities"] = values
    elif what == "refusal":
        new = {"type": "refusal", "name": "verdict", "refusal": "no"}
        body["answers"] = {"verdict": new} if isinstance(answers, dict) else [new]
    return body


SPOILED = {
    "no answers": Problem.NO_LOGPROBS, "another name": Problem.NO_LOGPROBS, "no probabilities": Problem.NO_LOGPROBS,
    "winner alone": Problem.NO_LOGPROBS, "an option missing": Problem.BAD_LOGPROBS, "an option more": Problem.BAD_LOGPROBS,
    "text": Problem.BAD_LOGPROBS, "nan": Problem.BAD_LOGPROBS, "negative": Problem.BAD_LOGPROBS, "sum": Problem.BAD_LOGPROBS,
    "refusal": Problem.REFUSED,
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["systemone", "decisions"])
@pytest.mark.parametrize("what", SPOILED)
def test_an_answer_without_a_probability_for_each_option_is_unknown(scheme: str, what: str) -> None:
    def mostly(request: Request) -> Response:
        return as_json(answered(request) if "fine" in shown(request)[0] else spoiled(request, what))

    with StubServer(mostly) as server:
        readings = model_of(server, scheme, attempts=2, warm=False).read_labels(["fine", "a", "b"], ["1", "2"])
    assert readings[0].problem is None
    assert [r.problem for r in readings[1:]] == [SPOILED[what]] * 2
    assert all(p is None for r in readings[1:] for p in r.logprobs)


def test_certainty_and_option_mass() -> None:
    with StubServer(lambda r: as_json(answered(r, [1.0, 0.0], option_mass=0.25))) as server:
        reading = model_of(server, "systemone").read_labels(["a"], ["1", "2"])[0]
    assert reading.logprobs == (pytest.approx(math.log(0.25)), NO_VOTES)
    assert reading.coverage == 0.25
    assert json.loads(reading.model_dump_json())["logprobs"][1] == NO_VOTES


def test_a_decision_model_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with decision_stub() as server:
        with pytest.raises(ModelError, match="writes no text"):
            model_of(server, "decisions").reply(["a"], Sampling())
        with pytest.raises(ModelError, match="readout"):
            model_of(server, "systemone", readout="votes")
    with pytest.raises(RecipeError, match="rationale"):
        parse(JudgeSpec, {"model": "systemone:x", "rationale": True})
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ModelError, match="base_url"):
        connect("systemone:stub")
    assert parse(JudgeSpec, {"model": "decisions:x", "base_url": "http://x"}).model.problem() is None
