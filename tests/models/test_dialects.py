"""Dialects of served models: whatever form an answer comes in, its value is the right one or unknown."""

from __future__ import annotations

import math
from typing import Any

import pytest

from aifeedback.errors import ModelError
from aifeedback.judging.sampling import sample_completions
from aifeedback.models import connect
from aifeedback.models.dialects import FINISH, end_of, final_text, setting_for, speaks_of_length, written
from aifeedback.models.openai import wire
from aifeedback.models.verdicts import parse_label
from aifeedback.types import Problem, Prompt, Sampling
from models.openai.test_server import QUICK, ask, model_of
from models.stub import Request, Response, StubServer, as_json, chat_body, healthy, legacy_body

THOUGHT = "I first thought Response 1 is better.\nAnswer: 1\nBut wait, the dose is wrong."
CLOSED = [
    f"<{name}>{THOUGHT}</{name}>\n2"
    for name in (
        "think", "thinking", "THINK", "thought", "thoughts", "reasoning", "reflection", "seed:think", "analysis",
        "scratchpad", "antThinking", "longcat_think", "inner_monologue",
    )
] + [
    f"[THINK]{THOUGHT}[/THINK]2",
    f"\u25c1think\u25b7{THOUGHT}\u25c1/think\u25b72",
    f"\uff1cthink\uff1e{THOUGHT}\uff1c/think\uff1e2",
    f"&lt;think&gt;{THOUGHT}&lt;/think&gt;2",
    f"<th\u200bink>{THOUGHT}</th\u200bink>2",
    f'<think time="3">{THOUGHT}</think>2',
    f"<think>{THOUGHT}<think>again 1</think> Answer: 1</think>2",
    f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>2<|END_RESPONSE|>",
    f"<|begin_of_thought|>{THOUGHT}<|end_of_thought|><|begin_of_solution|>2<|end_of_solution|>",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>2",
    f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>",
    f"analysis{THOUGHT}assistantfinal2",
    f"<|channel>thought\n{THOUGHT}<channel|>2",
    f"{THOUGHT}</think>\n\n2",
    f"{THOUGHT}[/THINK]2",
    f"Thinking...\n{THOUGHT}\n...done thinking.\n\n2",
    f"Here is my thought process: {THOUGHT}\nHere is my response: 2",
    f"<thinking>{THOUGHT}</thinking>\n**Verdict: 2**",
    f"<think>{THOUGHT}</think><answer>2</answer>",
    "<verdict>2</verdict><reasoning>Response 1 is better in style.</reasoning>",
    '{"reasoning": "I first thought Response 1 is better.", "winner": "2"}',
    f"<think>{THOUGHT}</think>2<|im_end|>",
]  # fmt: skip
UNCLOSED = [
    f"<think>{THOUGHT}", f"<reasoning>\n{THOUGHT}", f"[THINK]{THOUGHT}", f"\u25c1think\u25b7{THOUGHT}",
    f"<|START_THINKING|>{THOUGHT}", f"<|channel|>analysis<|message|>{THOUGHT}<|end|>", f"analysis{THOUGHT}",
    f"<think>{THOUGHT}</thinking>1", f"1\n<think>{THOUGHT}", f"<|new_thought_mark|>{THOUGHT}", f"<mythought>{THOUGHT}",
    f"<|channel|>commentary<|message|>{THOUGHT}", f"<seed:think>{THOUGHT}",
]  # fmt: skip


@pytest.mark.parametrize("answer", CLOSED)
def test_the_verdict_is_the_text_outside_of_thinking(answer: str) -> None:
    assert parse_label(answer, ["1", "2"]).value == "2"


@pytest.mark.parametrize("answer", UNCLOSED)
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_thinking_without_an_end_is_not_a_verdict(answer: str, finish: Any) -> None:
    assert parse_label(answer, ["1", "2"], finish_reason=finish).value is None


def test_an_answer_without_marks_is_read_as_it_is() -> None:
    for answer in ("2", "Response 2 is better.", "[[2]]", "I think Response 2 is better, <b>clearly</b>."):
        assert final_text(answer).blocks == 0
        assert parse_label(answer, ["1", "2"]).value == "2"


@pytest.mark.parametrize(
    ("response", "kept", "blocks"),
    [
        ("<think>hm</think>\n\n Water it.", "Water it.", 1),
        ("hm\n</think>\n\nWater it.", "Water it.", 1),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Water it.", "Water it.", 1),
        ("<think>hm", "", 0),
        (" Water it.\n", " Water it.\n", 0),
        ("Write <reasoning>so</reasoning> in XML.", "Write <reasoning>so</reasoning> in XML.", 0),
        ("[1] is a list", "[1] is a list", 0),
    ],
)  # fmt: skip
def test_sampled_responses_lose_only_the_thinking_before_them(response: str, kept: str, blocks: int) -> None:
    assert written(response) == (kept, blocks)


def test_finish_reasons_in_every_spelling() -> None:
    for end, reasons in FINISH.items():
        for reason in reasons:
            for spelling in (reason, reason.upper(), f"FinishReason.{reason.upper()}", reason.replace("_", "-")):
                assert end_of({"finish_reason": spelling}) == end
            assert end_of({"finish_reason": {"type": reason}}) == end
    for reason in ("error", "abort", "network_error"):
        assert end_of({"finish_reason": reason}) == "aborted"
    assert [end_of({"finish_reason": r}) for r in (None, "", "who knows", 3, [])] == [None] * 5


def said(text: Any, reason: Any, **more: Any) -> Response:
    body = chat_body({"x": -0.1}, text=text)
    body["choices"][0] |= {"finish_reason": reason, "logprobs": None, **more}
    return as_json(body)


BROKEN: list[tuple[Any, dict[str, Any]]] = [
    ("error", {"error": {"code": 502, "message": "provider disconnected"}}),
    ("stop", {"error": {"code": 502}}), ("abort", {}), ("network_error", {}), ("who knows", {}), (None, {}),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "more"), BROKEN)
def test_an_aborted_answer_is_a_server_error_and_tried_again(reason: Any, more: dict[str, Any]) -> None:
    def once(request: Request) -> Response:
        return said("Rating: 1", reason, **more) if len(server.requests) == 1 else said("Rating: 10", "stop")

    with StubServer(once) as server:
        grades = [str(n) for n in range(1, 11)]
        reading = model_of(server, readout="parsed").read_labels([ask("a")], grades)[0]
        assert (reading.problem, reading.logprobs[9]) == (None, 0.0)
    with StubServer(lambda r: said("Water it spa", reason, **more), models=b"{}") as server:
        reply = model_of(server, attempts=3).reply([ask("a")], Sampling())[0]
        assert (reply.text, reply.problem) == ("", Problem.SERVER_ERROR)
        assert server.count == 3


@pytest.mark.parametrize("reason", ["max_tokens", "MAX_TOKENS", "model_length", "length"])
def test_every_spelling_of_the_limit_is_truncation(reason: str) -> None:
    with StubServer(lambda r: said("Rating: 1", reason)) as server:
        reply = model_of(server).reply([ask("a")], Sampling())[0]
        assert reply.finish_reason == "length"
        reading = model_of(server, readout="parsed").read_labels([ask("a")], ["1", "2"])[0]
        assert reading.problem is Problem.TRUNCATED


@pytest.mark.parametrize("content", [None, "", []])
def test_thinking_that_used_up_the_limit_is_paid_once(content: Any) -> None:
    with StubServer(lambda r: said(content, "length")) as server:
        reading = model_of(server, readout="parsed").read_labels([ask("a")], ["1", "2"])[0]
        assert reading.problem is Problem.TRUNCATED
        assert server.count == 1


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "2"}],
        [{"type": "thinking", "thinking": "Answer: 1"}, {"type": "text", "text": "2"}],
        [{"type": "reasoning", "text": "Answer: 1"}, {"type": "output_text", "text": "2"}],
        [{"type": "text", "text": {"value": "2"}}],
        ["2"],
    ],
)
def test_content_as_parts_is_read(content: Any) -> None:
    with StubServer(lambda r: said(content, "stop")) as server:
        reading = model_of(server, readout="parsed").read_labels([ask("a")], ["1", "2"])[0]
        assert (reading.problem, reading.logprobs[1]) == (None, 0.0)
        assert server.count == 1


def table(*entries: tuple[Any, Any], key: str = "token") -> dict[str, float]:
    body = chat_body({"x": -0.1})
    shown = [{key: token, "logprob": value} for token, value in entries]
    body["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": shown}]}
    return wire.top_table(wire.choice(body), "chat")


def test_raw_vocabulary_is_mapped_or_refused() -> None:
    ln = math.log
    assert table(("\u01201", ln(0.7)), ("\u01202", ln(0.2)), ("1", ln(0.004))) == {
        " 1": ln(0.7), " 2": ln(0.2), "1": ln(0.004),
    }  # fmt: skip
    assert table(("\u25811", -1.0), ("2", -2.0)) == {" 1": -1.0, "2": -2.0}
    assert table(("\u010a", -1.0), ("\u01201", -2.0)) == {"\n": -1.0, " 1": -2.0}
    assert table(([32, 49], -1.0)) == {" 1": -1.0}
    assert table(("<0x31>", -1.0)) == {"1": -1.0}
    assert table(("bytes:\\x20\\x31", -1.0)) == {" 1": -1.0}
    for mixed in ([(" 1", -1.0), ("\u01202", -2.0)], [(49, -1.0)], [("token_id:49", -1.0)], [(None, -1.0)]):
        with pytest.raises(wire.Unusable) as caught:
            table(*mixed)
        assert caught.value.problem is Problem.BAD_LOGPROBS


def test_an_entry_listed_more_than_once_counts_once() -> None:
    ln = math.log
    listed = table(("1", ln(0.2)), ("2", ln(0.25)), ("1", ln(0.2)), ("Response", ln(0.2)), ("1", ln(0.2)))
    assert listed == {"1": ln(0.2), "2": ln(0.25), "Response": ln(0.2)}
    two_tokens = table(("1", ln(0.2)), ("1", ln(0.1)))
    assert two_tokens["1"] == pytest.approx(ln(0.3)), "two tokens of one text are not one entry"


@pytest.mark.parametrize(("token", "logprob"), [(49, -1.0), ("1", 0.7), ("1", None), ("1", float("nan"))])
def test_impossible_entries_are_a_problem_of_each_item_and_never_end_the_run(token: Any, logprob: Any) -> None:
    body = chat_body({"1": -0.1})
    body["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [{"token": token, "logprob": logprob}]
    with StubServer(lambda r: as_json(body)) as server:
        readings = model_of(server).read_labels([ask(str(n)) for n in range(12)], ["1", "2"])
        assert [r.problem for r in readings] == [Problem.BAD_LOGPROBS] * 12
        assert server.count == 36


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 2301}, wire.Usage(300, 2001)),
        ({"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 305}, wire.Usage(300, 5)),
        ({"input_tokens": 30, "output_tokens": 4, "cache_read_input_tokens": 10}, wire.Usage(40, 4, 10)),
        ({"prompt_tokens": 30, "completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 90}},
         wire.Usage(30, 90)),
        ({"prompt_tokens": 30, "completion_tokens": 1, "cost": 0.5}, wire.Usage(30, 1, 0, 0.5)),
        ({"completion_tokens": 5, "total_tokens": 305}, wire.Usage(300, 5)),
    ],
)  # fmt: skip
def test_usage_forms(usage: dict[str, Any], expected: wire.Usage) -> None:
    assert wire.usage({"usage": usage}) == expected


def test_thinking_in_the_total_alone_keeps_within_the_cap(tmp_path: Any) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("as_of: x\nmodels: {stub: {input: 1.0, output: 4.0}}")
    used = {"prompt_tokens": 300, "completion_tokens": 1, "total_tokens": 2301}
    with StubServer(lambda r: as_json({**healthy(r), "usage": used})) as server:
        model = model_of(server, prices=str(prices), cap_usd=0.05)
        model.read_labels([ask(f"{n}" * 300) for n in range(24)], ["1", "2"])
        assert server.count * (300 * 1.0 + 2001 * 4.0) / 1e6 <= 0.05
        assert server.count >= 5


LONG = [
    "This model's maximum context length is 4096 tokens", "prompt is too long: 210000 tokens > 200000 maximum",
    "the request exceeds the available context size, try increasing it",
    "The input token count (40000) exceeds the maximum number of tokens allowed (32768)",
    "The input (5000 tokens) is longer than the model's context length (4096 tokens)",
]  # fmt: skip
NOT_LONG = [
    ("max_tokens is too large: 256. This model supports at most 128 completion tokens, whereas you provided 256.",
     "answer_tokens"),
    ("Requested top_logprobs of 20 exceeds the maximum allowed limit of 5", "set top"),
    ("`temperature` and `top_p` cannot both be specified for this model", "top_p: null"),
    ("Invalid 'seed': too large", "seed: null"),
    ("temperature must be greater than 0", "temperature: null"),
    ("Invalid 'stop': array too long. Expected an array with maximum length 4", "stop: null"),
]  # fmt: skip


def test_only_what_speaks_of_the_prompt_is_too_long() -> None:
    assert all(speaks_of_length(message) for message in LONG)
    for message, setting in NOT_LONG:
        assert not speaks_of_length(message)
        assert setting in (setting_for(message) or "")


@pytest.mark.parametrize(("message", "setting"), NOT_LONG)
def test_a_refused_setting_is_named(message: str, setting: str) -> None:
    with (
        StubServer(lambda r: Response(message.encode(), 400)) as server,
        pytest.raises(ModelError, match=setting),
    ):
        model_of(server, readout="parsed").read_labels([ask("a")], ["1", "2"])
    assert server.count == 3


def test_null_leaves_a_field_out_and_neutral_ones_are_not_sent() -> None:
    with StubServer(lambda r: as_json(healthy(r))) as server:
        model_of(server).read_labels([ask("a")], ["1", "2"])
        model_of(server).reply([ask("a")], Sampling(temperature=0.5, top_p=0.9))
        bare = {"seed": None, "temperature": None, "top_p": None}
        model_of(server, extra_body=bare).reply([ask("a")], Sampling(temperature=0.5, top_p=0.9))
    assert not {"temperature", "top_p", "seed"} & set(server.requests[0].body)
    assert {"temperature", "top_p", "seed"} <= set(server.requests[1].body)
    assert not {"temperature", "top_p", "seed"} & set(server.requests[2].body)


def test_a_server_without_logprobs_is_named_in_a_small_trial_too() -> None:
    body = chat_body({"1": -0.1})
    body["choices"][0]["logprobs"] = None
    with StubServer(lambda r: as_json(body)) as server, pytest.raises(ModelError, match="set readout to 'votes'"):
        model_of(server).read_labels([ask("a"), ask("b")], ["1", "2"])
    assert server.count == 6


def test_the_only_listed_model_answers_to_any_name() -> None:
    listed = b'{"data": [{"id": "model.gguf", "owned_by": "llamacpp"}]}'
    with StubServer(lambda r: as_json(healthy(r)), models=listed) as server:
        model = model_of(server)
        assert (model.continuing, model.card.uri) == ("native", "openai:model.gguf")
        assert model.read_labels([ask("a")], ["1", "2"])[0].problem is None
    assert server.requests[0].body["model"] == "model.gguf"


def test_a_name_that_is_not_listed_is_refused_with_the_list() -> None:
    with (
        StubServer(lambda r: Response(b"no such model", 404), models=b'{"data": [{"id": "a"}, {"id": "b"}]}') as server,
        pytest.raises(ModelError, match="lists a, b"),
    ):
        model_of(server).read_labels([ask(str(n)) for n in range(4)], ["1", "2"])


def test_headers_and_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret-key")
    monkeypatch.setenv("TENANT", "blue")
    with StubServer(lambda r: as_json(chat_body({"1": -1.0, "2": -1.0}))) as server:
        model_of(server, api_version="2026-01-01", headers={"X-Tenant": "$TENANT"}).read_labels([ask("a")], ["1", "2"])
    sent = server.requests[-1]
    assert sent.path.endswith("/chat/completions?api-version=2026-01-01")
    assert (sent.headers["api-key"], sent.headers["x-tenant"]) == ("secret-key", "blue")
    assert "authorization" not in sent.headers
    with pytest.raises(ModelError, match="NOT_THERE is not set"):
        connect("openai:stub", base_url="http://127.0.0.1:9/v1", headers={"X": "$NOT_THERE"}, **QUICK)


def test_too_long_from_the_first_row_on_stays_open() -> None:
    refusal = Response(b"This model's maximum context length is 10 tokens", 400)
    with StubServer(lambda r: refusal) as server:
        batches = list(model_of(server).iter_labels([ask(str(n)) for n in range(4)], ["1", "2"]))
        assert all(one.stays_open for batch in batches for one in batch)


def test_thinking_is_taken_out_of_sampled_completions_and_counted() -> None:
    replies = {"a": ("<think>hm</think>Yes.", "stop"), "b": ("No.", "stop"), "c": ("<think>hm", "length")}
    with StubServer(lambda r: said(*replies[r.text])) as server:
        sampled = sample_completions(model_of(server), [Prompt.of(text) for text in "abc"])
    assert [c.text for c in sampled.completions] == ["Yes.", "No."]
    assert sampled.thinking_removed == 1
    assert [u.problem for u in sampled.unanswered] == [Problem.TRUNCATED]


def test_messages_and_legacy_answers_share_the_rules() -> None:
    body = legacy_body({"1": -0.1}, text="Rating: 1")
    body["choices"][0]["finish_reason"] = "abort"
    with pytest.raises(wire.Unusable):
        wire.choice(body)
