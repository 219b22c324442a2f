"""Servers that answer in ways no reference describes: each is read rightly, or refused with what to do about it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import JudgeUnavailable, ModelError
from aifeedback.models import connect
from aifeedback.models.openai.server import ServerModel
from aifeedback.types import Message, Problem, Sampling
from models.stub import Handler, Request, Response, StubServer, answer, as_json, chat_body, healthy, legacy_body, truth

QUICK: dict[str, Any] = {"backoff_first_s": 0.002, "backoff_most_s": 0.02, "attempt_timeout_s": 2.0}


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def model_of(server: StubServer, **options: Any) -> ServerModel:
    return connect("openai:stub", base_url=server.url, **{**QUICK, **options})  # type: ignore[return-value]


def written(text: Any, finish_reason: str | None = "stop", **usage: int) -> dict[str, Any]:
    body = chat_body({"x": -0.1}, text=text, usage=usage)
    body["choices"][0]["finish_reason"] = finish_reason
    return body


def replies(handler: Handler, *, count: int = 1, max_new_tokens: int = 20, **options: Any) -> tuple[list[Any], int]:
    """The replies to ``count`` questions, and how many requests they took."""
    with StubServer(handler) as server:
        model = model_of(server, **options)
        try:
            return model.reply(
                [ask(f"q{n}") for n in range(count)], Sampling(max_new_tokens=max_new_tokens)
            ), server.count
        finally:
            model.close()


def reading(handler: Handler, prompt: Any = None, **options: Any) -> Any:
    with StubServer(handler) as server:
        model = model_of(server, **options)
        try:
            return model.read_labels([ask("q0") if prompt is None else prompt], ["1", "2"])[0]
        finally:
            model.close()


# ---------------------------------------------------------------- several choices


@pytest.mark.parametrize("places", [(0, 1), (1, 0), (2, 1, 0)])
def test_of_several_choices_the_one_with_index_0_counts(places: tuple[int, ...]) -> None:
    def several(request: Request) -> Response:
        body = written("")
        body["choices"] = [
            {**body["choices"][0], "index": n, "message": {"role": "assistant", "content": f"choice {n}"}}
            for n in places
        ]
        return as_json(body)

    assert replies(several)[0][0].text == "choice 0"


# ---------------------------------------------------------------- streams


def stream(body: dict[str, Any], *, is_legacy: bool = False, ends: bool = True, cut: int | None = None) -> Response:
    """A whole answer as server-sent events: a comment, a role, the text in two parts, the end, the usage."""
    choice = body["choices"][0]
    text = choice["text"] if is_legacy else choice["message"]["content"]
    half = (len(text) + 1) // 2
    parts = [(text[:half], choice["logprobs"]), (text[half:], None)]
    chunks: list[dict[str, Any]] = []
    for part, logprobs in parts:
        shown = {"text": part} if is_legacy else {"delta": {"role": "assistant", "content": part}}
        chunks.append({"choices": [{"index": 0, **shown, "logprobs": logprobs, "finish_reason": None}]})
        chunks.append({"choices": [{"index": 1, **({"text": "no"} if is_legacy else {"delta": {"content": "no"}})}]})
    if ends:
        chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
        chunks.append({"choices": [], "usage": body["usage"]})
    lines = [": keep-alive\n\n", *(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks), "data: [DONE]\n\n"]
    return Response("".join(lines).encode()[:cut], headers={"Content-Type": "text/event-stream"})


def test_a_server_that_only_streams_is_read_like_any_other() -> None:
    found = reading(lambda request: stream(healthy(request)))
    assert found.logprobs == tuple(truth("q0").values())
    assert found.prompt_tokens == 1
    found = reading(lambda request: stream(healthy(request), is_legacy=True), "plain")
    assert found.logprobs == tuple(truth("plain").values())
    reply = replies(lambda request: stream(written("It is Rome.")))[0][0]
    assert (reply.text, reply.finish_reason) == ("It is Rome.", "stop")


@pytest.mark.parametrize("broken", [{"ends": False}, {"cut": 200}])
def test_a_stream_that_breaks_off_is_not_an_answer(broken: dict[str, Any]) -> None:
    reply = replies(lambda request: stream(written("Rating: 10"), **broken), attempts=2)[0][0]
    assert reply.problem is Problem.SERVER_ERROR


# ---------------------------------------------------------------- errors with status 200


def later(request: Request) -> Response:
    if request.number == 0:
        return as_json({"error": {"code": 429, "message": "slow down"}})
    return answer(request)


def test_an_error_in_a_good_status_counts_as_its_own_status() -> None:
    assert reading(later).problem is None
    long = {"object": "error", "message": "This model's maximum context length is 8 tokens", "code": 400}
    found, calls = replies(lambda request: as_json(long), count=1)
    assert (found[0].problem, calls) == (Problem.TOO_LONG, 1)
    with pytest.raises(ModelError, match="the key was not accepted"):
        replies(lambda request: as_json({"error": {"message": "bad key", "code": 401}}), count=3)
    with pytest.raises(JudgeUnavailable, match="quota is used up"):
        replies(lambda request: as_json({"error": {"code": 429, "message": "insufficient_quota"}}))


@pytest.mark.parametrize("body", [{"detail": "Not authenticated"}, {"status": "queued", "id": 7}, {"choices": []}])
def test_an_answer_without_choices_is_asked_for_three_times_and_quoted(body: dict[str, Any], tmp_path: Path) -> None:
    with StubServer(lambda request: as_json(body)) as server:
        (tmp_path / "prompts.jsonl").write_text('{"prompt": "q"}\n')
        command = ["sample", "--model", "openai:stub", "--prompts", str(tmp_path / "prompts.jsonl"), "--per-prompt", "1",
                   "-o", str(tmp_path / "out.jsonl"), "--base-url", server.url]  # fmt: skip
        done = CliRunner().invoke(app, command)
        assert server.count == 3
    assert done.exit_code == 4
    assert next(iter(body)) in done.output


# ---------------------------------------------------------------- addresses


def test_a_redirect_is_not_followed_and_its_target_named() -> None:
    moved = Response(b"", status=307, headers={"Location": "https://new.example/v1/chat/completions?token=abc"})
    with pytest.raises(ModelError, match=r"address: https://new\.example/v1/chat/completions$"):
        replies(lambda request: moved, count=3)


@pytest.mark.parametrize("endpoint", ["/chat/completions", "/completions", "/messages", "/responses/"])
def test_the_address_of_an_endpoint_is_refused_with_that_of_the_server(endpoint: str) -> None:
    with pytest.raises(ModelError, match=r"leave /.* out: http://127\.0\.0\.1:9/v1$"):
        connect("openai:stub", base_url=f"http://127.0.0.1:9/v1{endpoint}")


@pytest.mark.parametrize("ending", ["", "/", "//"])
def test_slashes_at_the_end_of_an_address_do_not_matter(ending: str) -> None:
    with StubServer(answer) as server:
        model: Any = connect("openai:stub", base_url=server.url + ending, **QUICK)
        assert model.read_labels([ask("q0")], ["1", "2"])[0].problem is None
        assert server.requests[0].path == "/v1/chat/completions"
        model.close()


# ---------------------------------------------------------------- bodies


BODIES: dict[str, Callable[[bytes], Response]] = {
    "byte order mark": lambda body: Response(b"\xef\xbb\xbf" + body),
    "utf-16": lambda body: Response(body.decode().encode("utf-16")),
    "gzip": lambda body: Response(gzip.compress(body), headers={"Content-Encoding": "gzip"}),
    "white space around": lambda body: Response(b"\r\n " + body + b"\n\n"),
    "created": lambda body: Response(body, status=201),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_sound_body_in_an_odd_form_is_read(name: str) -> None:
    found = reading(lambda request: BODIES[name](json.dumps(healthy(request)).encode()))
    assert found.logprobs == tuple(truth("q0").values())


def test_half_a_surrogate_pair_does_not_end_the_run_that_paid_for_it(tmp_path: Path) -> None:
    said = ["whole \U0001f600", "half \ud83d pair", "\udc00 and the other"]

    def write(request: Request) -> Response:
        return as_json(written(said[int(request.text[1:])]))

    with StubServer(write) as server:
        (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"q{n}"}) + "\n" for n in range(3)))
        command = ["sample", "--model", "openai:stub", "--prompts", str(tmp_path / "prompts.jsonl"), "--per-prompt", "1",
                   "-o", str(tmp_path / "out.jsonl"), "--base-url", server.url]  # fmt: skip
        done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, (done.output, done.exception)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["completion"] for row in rows] == ["whole \U0001f600", "half \ufffd pair", "\ufffd and the other"]


# ---------------------------------------------------------------- ends


def test_an_answer_of_exactly_the_limit_counts_as_cut() -> None:
    """Some servers call it a clean end. More tokens than the limit are thinking that does not count towards it."""
    for used, end in ((20, "length"), (19, "stop"), (300, "stop")):
        found = replies(lambda request, used=used: as_json(written("Rating: 1", completion_tokens=used)))[0][0]
        assert found.finish_reason == end


def test_a_refusal_as_a_content_part_is_final() -> None:
    parts = [{"type": "refusal", "refusal": "I cannot help with that."}]
    found, calls = replies(lambda request: as_json(written(parts)))
    assert (found[0].problem, calls) == (Problem.REFUSED, 1)
    beside = [{"type": "thinking", "thinking": "1?"}, {"type": "text", "text": "2"}]
    assert replies(lambda request: as_json(written(beside)))[0][0].text == "2"


# ---------------------------------------------------------------- tokens and usage


def test_tokens_may_be_shown_as_bytes_alone() -> None:
    def as_bytes(request: Request) -> Response:
        body = healthy(request)
        for entry in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            entry["token"] = ""
        return as_json(body)

    assert reading(as_bytes).logprobs == tuple(truth("q0").values())


@pytest.mark.parametrize("change", [lambda p: math.exp(p), lambda p: str(p), lambda p: -p, lambda p: p / math.log(10)])
def test_other_scales_than_natural_logarithms_are_refused(change: Callable[[float], Any]) -> None:
    def scaled(request: Request) -> Response:
        body = healthy(request)
        for entry in body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            entry["logprob"] = change(entry["logprob"])
        return as_json(body)

    found = reading(scaled, attempts=1)
    assert (found.problem, found.logprobs) == (Problem.BAD_LOGPROBS, (None, None))


@pytest.mark.parametrize(
    "usage", [{}, None, [], {"prompt_tokens": None}, {"prompt_tokens": -3}, {"prompt_tokens": "many"}]
)
def test_usage_that_says_nothing_is_charged_at_the_estimate(usage: Any, tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text('as_of: "2026-01"\nmodels: {stub: {input: 3.0, output: 15.0}}')
    with StubServer(lambda request: as_json({**healthy(request), "usage": usage})) as server:
        model = model_of(server, prices=str(tmp_path / "prices.yaml"), cap_usd=1.0)
        found = model.read_labels([ask("word " * 100)], ["1", "2"])[0]
        assert found.problem is None
        assert found.cost_usd == pytest.approx((3.0 * (500 / 2.5 + 16) + 15.0) / 1e6)
        model.close()


def test_text_on_the_completions_endpoint_of_a_stream_has_its_text() -> None:
    body = legacy_body({"x": -0.1}, text="plain text")
    body["choices"][0]["finish_reason"] = "stop"
    with StubServer(lambda request: stream(body, is_legacy=True)) as server:
        model = model_of(server)
        assert model.reply(["q"], Sampling())[0].text == "plain text"
        model.close()
