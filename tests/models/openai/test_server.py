"""The server model against a real HTTP server: what it asks, in which order, how fast, and what it makes of answers."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aifeedback.errors import JudgeUnavailable, ModelError
from aifeedback.models import connect
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.openai.requests import NO_VOTES
from aifeedback.models.openai.server import ServerModel
from aifeedback.models.openai.settings import family_of
from aifeedback.types import Message, Model, Problem, Sampling
from models.stub import Request, Response, StubServer, answer, as_json, chat_body, healthy, legacy_body, truth

GRADES = [str(grade) for grade in range(1, 11)]
QUICK: dict[str, Any] = {"backoff_first_s": 0.002, "backoff_most_s": 0.02, "attempt_timeout_s": 2.0}


def ask(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def model_of(server: StubServer, **options: Any) -> ServerModel:
    return connect("openai:stub", base_url=server.url, **{**QUICK, **options})  # type: ignore[return-value]


def test_is_a_model_and_reads_both_endpoints_to_the_last_bit() -> None:
    with StubServer(answer) as server:
        model = model_of(server)
        assert isinstance(model, Model)
        readings = model.read_labels([ask("a"), "b", ask("c")], ["1", "2"])
        assert [r.logprobs for r in readings] == [tuple(truth(text).values()) for text in "abc"]
        assert [r.coverage for r in readings] == pytest.approx([0.97] * 3)
        assert model.label_logprobs(["b"], ["1", "2"]).tolist() == [list(truth("b").values())]
        sent = {request.text: request for request in server.requests[:3]}
        assert sent["a"].path == "/v1/chat/completions"
        assert sent["a"].body["logprobs"] is True
        assert sent["a"].body["top_logprobs"] == 20
        assert sent["b"].path == "/v1/completions"
        assert sent["b"].body["logprobs"] == 20
        assert sent["b"].body["max_tokens"] == 1
        assert not any("echo" in request.body or "prompt_logprobs" in request.body for request in server.requests)
        model.close()


def test_labels_are_asked_once_across_runs(tmp_path: Path) -> None:
    prompts = [ask(f"item {n}") for n in range(40)]
    with StubServer(answer) as server, Journal(tmp_path / "journal.sqlite") as journal:
        first = Journaled(model_of(server), journal).read_labels(prompts, ["1", "2"])
        assert server.count == 40
        assert Journaled(model_of(server), journal).read_labels(prompts, ["1", "2"]) == first
        assert server.count == 40
        row = next(journal.rows())
        raw = json.loads(row.entry.raw or "{}")
        assert raw["model"] == "stub"
        assert raw["fingerprint"] == "fp"
        assert len(raw["top"]) == 20
        assert row.entry.prompt_tokens == 10 or row.entry.prompt_tokens > 0
        assert row.entry.seconds > 0


def test_replies_carry_text_finish_and_tokens_and_a_seed_of_their_own() -> None:
    def write(request: Request) -> Response:
        body = chat_body({"x": -0.1}, text=f"seed {request.body['seed']}", usage={"completion_tokens": 4})
        body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    with StubServer(write) as server:
        model = model_of(server)
        first, second = model.reply([ask("a"), ask("b")], Sampling(seed=1, max_new_tokens=9, stop=("\n",)))
        again = model.reply([ask("a")], Sampling(seed=1, max_new_tokens=9, stop=("\n",)))[0]
        other = model.reply([ask("a")], Sampling(seed=2, max_new_tokens=9))[0]
        assert first.text != second.text
        assert first.text == again.text != other.text
        assert (first.finish_reason, first.completion_tokens, first.problem) == ("stop", 4, None)
        assert server.requests[0].body["stop"] == ["\n"]
        model.close()


# ---------------------------------------------------------------- readouts


def test_ten_of_two_tokens_is_read_with_a_second_call() -> None:
    """The stub splits "10": after the prompt "1" has 0.5, after prompt + "1" the "0" has 0.4."""

    def digits(request: Request) -> Response:
        table = {"0": math.log(0.4), "x": math.log(0.6)}
        if not request.text.endswith("Rating: 1"):
            table = {**{g: math.log(0.05) for g in GRADES[1:9]}, "1": math.log(0.5)}
        return as_json(legacy_body(table) if "prompt" in request.body else chat_body(table))

    with StubServer(digits) as server:
        text = model_of(server).read_labels(["Rating: "], GRADES)[0]
        assert [math.exp(p or 0) for p in text.logprobs] == pytest.approx([0.3, *[0.05] * 8, 0.2])
        assert text.problem is None
        assert server.count == 2
        begun = [*ask("Rate."), Message(role="assistant", content="Rating: ")]
        chat = model_of(server, continuing="native").read_labels([begun], GRADES)[0]
        assert chat.logprobs == text.logprobs
        folded = model_of(server).read_labels([begun], GRADES)[0]
        assert folded.problem is Problem.LABEL_HIDDEN
        assert (folded.logprobs[0], folded.logprobs[9]) == (None, None)
        assert None not in folded.logprobs[1:9]


def test_votes_are_shares_and_say_so() -> None:
    said = ["1", "Response 1", "2", "no idea", "Verdict: 1", "1.", "both are fine", "**1**"]

    def vote(request: Request) -> Response:
        number = sum(other.text == request.text for other in server.requests) - 1
        return as_json(chat_body({"x": -0.1}, text=said[number % 8]))

    with StubServer(lambda request: _stopped(vote(request))) as server:
        model = model_of(server, readout="votes", votes=8)
        reading = model.read_labels([ask("a")], ["1", "2"])[0]
        assert model.readout == "votes"
        assert [math.exp(p or 0) for p in reading.logprobs] == pytest.approx([5 / 8, 1 / 8])
        assert reading.coverage == pytest.approx(6 / 8)
        assert len({request.body["seed"] for request in server.requests}) == 8
        assert "logprobs" not in server.requests[0].body
        model.close()


def _stopped(response: Response) -> Response:
    return Response(response.body.replace(b'"finish_reason": "length"', b'"finish_reason": "stop"'), 200)


@pytest.mark.parametrize(
    ("said", "logprobs", "problem"),
    [
        ("Response 2 is better.", (NO_VOTES, 0.0), None),
        ("Hard to say.", (None, None), Problem.ABSTAINED),
        ("Both have merits.", (None, None), Problem.ABSTAINED),
        ("Response 1 is clear.", (None, None), Problem.UNREADABLE),
        ("It is a tie.", (None, None), Problem.ABSTAINED),
        ("I'm sorry, but I can't judge that.", (None, None), Problem.REFUSED),
    ],
)
def test_a_written_verdict(said: str, logprobs: tuple, problem: Problem | None) -> None:
    with StubServer(lambda request: _stopped(as_json(chat_body({"x": -0.1}, text=said)))) as server:
        reading = model_of(server, readout="parsed").read_labels([ask("a")], ["1", "2"])[0]
        assert (reading.logprobs, reading.problem) == (logprobs, problem)
        assert server.requests[0].body["temperature"] == 0.0


def test_a_server_without_logprobs_is_reported_before_much_is_spent() -> None:
    body = chat_body({"1": -0.1})
    body["choices"][0]["logprobs"] = None
    with (
        StubServer(lambda request: as_json(body)) as server,
        pytest.raises(ModelError, match=r"no log-probabilities(.|\n)*set readout to 'votes'"),
    ):
        model_of(server, attempts=2, concurrency=4).read_labels([ask(str(n)) for n in range(500)], ["1", "2"])
    assert server.count < 40


def test_no_redirect_is_followed_so_the_key_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-only-for-one-server")
    with StubServer(answer) as other:
        away = Response(b"", 307, {"Location": f"{other.url}/elsewhere"})
        with StubServer(lambda _: away, models=away) as server:
            model = model_of(server, attempts=1)
            assert model.card.context_window is None
            with pytest.raises(ModelError, match="307"):
                model.read_labels([ask(f"{n}?") for n in range(4)], ["1", "2"])
            model.close()
        assert other.requests == []


# ---------------------------------------------------------------- what the card says


def test_the_card_changes_with_endpoint_readout_and_what_the_server_reports() -> None:
    def models(root: str, created: int) -> bytes:
        entry = {"id": "stub", "root": root, "owned_by": "vllm", "max_model_len": 4096, "created": created}
        return json.dumps({"data": [{"id": "other"}, entry]}).encode()

    cards = []
    for root, created, options in [
        ("weights-a", 1, {}),
        ("weights-a", 2, {}),
        ("weights-b", 1, {}),
        ("weights-a", 1, {"readout": "votes"}),
        ("weights-a", 1, {"top": 5}),
        ("weights-a", 1, {"extra_body": {"min_p": 0.1}}),
        ("weights-a", 1, {"revision": "v2"}),
    ]:
        with StubServer(answer, models=models(root, created)) as server:
            model = model_of(server, **options)
            cards.append(model.card.model_copy(update={"revision": model.card.revision.split(" ")[1]}))
            assert model.continuing == "flags"
            assert model.card.context_window == 4096
            assert server.url in model.card.revision
            model.close()
    assert cards[0] == cards[1]
    assert len({card.revision for card in cards}) == len(cards) - 1


def test_without_a_probe_nothing_is_sent() -> None:
    model = connect("openai:stub", base_url="http://127.0.0.1:9/v1", probe=False)
    assert model.card.uri == "openai:stub"
    assert model.forecast([ask("hello " * 100)]).prompt_tokens == pytest.approx(240)  # type: ignore[attr-defined]


def test_families() -> None:
    for name, family in [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama"),
        ("gpt-4o-mini", "gpt"),
        ("o3-mini", "gpt"),
        ("chatgpt-4o-latest", "gpt"),
        ("codellama/CodeLlama-7b-Instruct-hf", "llama"),
        ("Qwen/Qwen2.5-7B", "qwen"),
        ("mistralai/Mixtral-8x7B", "mistral"),
        ("lmsys/vicuna-7b-v1.5", "llama"),
        ("claude-3-5-sonnet", "claude"),
        ("my-judge", "my-judge"),
    ]:
        assert family_of(name) == family


# ---------------------------------------------------------------- keys


def test_the_key_is_sent_and_appears_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "sk-verysecret0123456789"
    monkeypatch.setenv("JUDGE_KEY", secret)
    caplog.set_level(logging.DEBUG)

    def echoing(request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {secret}"
        if request.number % 3 == 0:
            return Response(f"Incorrect API key provided: {secret}, Bearer {secret}".encode(), 500)
        return as_json(healthy(request))

    with StubServer(echoing) as server, Journal(tmp_path / "journal.sqlite") as journal:
        model = model_of(server, api_key_env="JUDGE_KEY")
        Journaled(model, journal).read_labels([ask(str(n)) for n in range(20)], ["1", "2"])
        seen = f"{model.card} {model.settings} {vars(model.settings)} {caplog.text} {list(journal.rows())}"
        assert "[key]" in seen
        assert secret not in seen
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_a_wrong_key_ends_the_run_at_once_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrongwrongwrong")
    with (
        StubServer(lambda r: Response(f"bad key {r.headers['authorization']}".encode(), 401)) as server,
        pytest.raises(ModelError, match="the key was not accepted") as caught,
    ):
        model_of(server).read_labels([ask(str(n)) for n in range(500)], ["1", "2"])
    assert "wrongwrong" not in str(caught.value)
    assert server.count <= 32 + 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_url": "https://api.openai.com/v1"}, "OPENAI_API_KEY is not set"),
        ({"base_url": "localhost:8000"}, "not the address of a server"),
        ({"base_url": "http://user:pass@host/v1"}, "must not hold a name"),
        ({"base_url": "http://127.0.0.1:9/v1", "cap_usd": 1.0}, "price of this model is not known"),
        ({"base_url": "http://127.0.0.1:9/v1", "concurency": 3}, "unknown key 'concurency'"),
        ({"base_url": "http://127.0.0.1:9/v1", "readout": "guess"}, "readout"),
    ],
)
def test_wrong_settings_are_reported_before_any_call(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelError, match=message):
        connect("openai:stub", **options)


# ---------------------------------------------------------------- pressure


def test_no_more_in_flight_than_allowed_and_uncommitted_ones_count(tmp_path: Path) -> None:
    with StubServer(lambda r: as_json(healthy(r), wait_s=0.005)) as server:
        model = model_of(server, concurrency=4, warm=False)
        batches = model.iter_labels([ask(str(n)) for n in range(60)], ["1", "2"])
        taken = 0
        for batch in batches:
            time.sleep(0.02)  # a slow disk
            assert server.count <= taken + 4
            taken += len(batch)
        assert taken == 60
        assert server.most_in_flight <= 4
        model.close()


@pytest.mark.parametrize(
    ("limit", "spacing"), [({"requests_per_minute": 1500}, 0.04), ({"tokens_per_minute": 60_000}, 0.041)]
)
def test_per_minute_limits_space_the_calls_out(limit: dict[str, float], spacing: float) -> None:
    """1,500 requests a minute are one every 40 ms; 60,000 tokens at 41 each (100 characters at 2.5, and one answer)
    are the same, until the server tells how many tokens they really are."""
    with StubServer(lambda r: as_json(chat_body({"1": -1.0, "2": -1.0}, usage={"prompt_tokens": 40}))) as server:
        model = model_of(server, warm=False, **limit)
        model.read_labels([ask(f"{n:100}") for n in range(12)], ["1", "2"])
        times = sorted(request.at for request in server.requests)
        assert times[-1] - times[0] >= 11 * spacing * 0.95
        model.close()


def test_the_first_of_each_shared_beginning_goes_ahead() -> None:
    common, contexts = "Judge. " * 100, [f"context {n} " * 100 for n in range(5)]
    prompts = [ask(f"{common}{context}order {order}") for order in range(4) for context in contexts]
    answered: list[tuple[str, float]] = []

    def slow(request: Request) -> Response:
        answered.append((request.text, request.at + 0.03))
        return as_json(healthy(request), wait_s=0.03)

    with StubServer(slow) as server:
        model = model_of(server, concurrency=20)
        model.read_labels(prompts, ["1", "2"])
        model.close()
        requests = server.requests
    assert requests[1].at > requests[0].at + 0.03, "the whole job's beginning is warmed up by one call"
    for context in contexts:
        times = sorted(request.at for request in requests if context in request.text)
        assert times[1] > times[0] + 0.03, "each context's by one more"


# ---------------------------------------------------------------- refusals of a kind


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (
            Response(b'{"error": {"message": "This model\'s maximum context length is 4096 tokens"}}', 400),
            Problem.TOO_LONG,
        ),
        (Response(b"too large", 413), Problem.TOO_LONG),
        (Response(b'{"error": {"code": "content_filter"}}', 400), Problem.REFUSED),
    ],
)
def test_answers_that_no_retry_changes_are_not_retried(response: Response, problem: Problem) -> None:
    with StubServer(lambda r: response if r.text == "bad" else as_json(healthy(r))) as server:
        readings = model_of(server).read_labels([ask("bad"), ask("good")], ["1", "2"])
        assert [r.problem for r in readings] == [problem, None]
        assert server.count == 2


def test_a_prompt_that_always_fails_is_a_record_and_the_rest_continues() -> None:
    with StubServer(lambda r: Response(b"", 500) if r.text == "bad" else as_json(healthy(r))) as server:
        prompts = [ask(str(n)) for n in range(20)]
        readings = model_of(server, attempts=3).read_labels([*prompts, ask("bad")], ["1", "2"])
        assert [r.problem for r in readings] == [None] * 20 + [Problem.SERVER_ERROR]
        alone = model_of(
            StubServer.__enter__(StubServer(lambda r: Response(b"", 500), models=b'{"data": []}')), attempts=3
        )
        assert alone.read_labels([ask("bad")], ["1", "2"])[0].problem is Problem.SERVER_ERROR


def test_a_deadline_ends_one_call() -> None:
    with StubServer(lambda r: Response(b"", 500), models=b"{}") as server:
        model = model_of(server, attempts=1000, deadline_s=0.3, backoff_first_s=0.05, backoff_most_s=0.05)
        start = time.monotonic()
        assert model.read_labels([ask("a")], ["1", "2"])[0].problem is Problem.SERVER_ERROR
        assert time.monotonic() - start < 2.0


def test_an_interrupt_loses_nothing_that_was_handed_over(tmp_path: Path) -> None:
    prompts = [ask(f"item {n}") for n in range(100)]

    def interrupted(done: int, total: int, figures: object) -> None:
        if done >= 30:
            raise KeyboardInterrupt

    with StubServer(lambda r: as_json(healthy(r), wait_s=0.002)) as server, Journal(tmp_path / "j.sqlite") as journal:
        model = model_of(server, concurrency=4)
        with pytest.raises(KeyboardInterrupt):
            Journaled(model, journal, progress=interrupted).read_labels(prompts, ["1", "2"])
        committed, asked = journal.head().rows, server.count
        assert committed >= 30
        time.sleep(0.1)
        assert server.count <= committed + 8, "no more calls after the interrupt"
        assert asked <= server.count
        readings = Journaled(model, journal).read_labels(prompts, ["1", "2"])
        assert [r.logprobs for r in readings] == [tuple(truth(p[0].content).values()) for p in prompts]
        assert server.count <= 100 + 8


# ---------------------------------------------------------------- stops loudly


def stall(request: Request) -> Response:
    return as_json(healthy(request), wait_s=30.0)


DEATHS: dict[str, Callable[[Request], Response]] = {
    "refuses connections": answer,
    "never answers": stall,
    "always 500": lambda request: Response(b"engine is dead", 500),
    "always resets": lambda request: Response(cut=0),
    "always nonsense": lambda request: Response(b"<html>"),
}


@pytest.mark.parametrize("prompts", [1, 200])
@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_judge_ends_the_run_with_the_cause(death: str, prompts: int) -> None:
    """Ten of ten (five deaths, two sizes of job) end within the retries that were budgeted: the run with its cause, or,
    where one prompt alone fails and so may be a bad one, that prompt as a record with its problem."""
    healthy_for = 0 if prompts == 1 else 20

    def dies(request: Request) -> Response:
        return as_json(healthy(request)) if request.number < healthy_for else DEATHS[death](request)

    with StubServer(dies) as server:
        url = "http://127.0.0.1:9/v1" if death == "refuses connections" else server.url
        model = connect("openai:stub", base_url=url, probe=False, **{**QUICK, "attempt_timeout_s": 0.2}, attempts=3)
        start = time.monotonic()
        if prompts == 1 and death not in ("refuses connections", "never answers"):
            server.models = b"broken"
        asked = [ask(f"item {n}") for n in range(prompts)]
        if _is_dead(death, prompts):
            with pytest.raises(JudgeUnavailable, match="run the same command again"):
                model.read_labels(asked, ["1", "2"])
        else:
            (reading,) = model.read_labels(asked, ["1", "2"])
            assert reading.problem is not None
            assert reading.logprobs == (None, None)
        assert time.monotonic() - start < 10.0
        model.close()


def _is_dead(death: str, prompts: int) -> bool:
    """One prompt that fails while the server answers otherwise is a bad prompt, not a dead judge."""
    return prompts > 1 or death == "refuses connections"


def test_many_small_jobs_on_a_dead_judge_end_too() -> None:
    with StubServer(lambda r: Response(b"", 500), models=b"{}") as server:
        model = model_of(server, attempts=2)
        for number in range(7):
            assert model.read_labels([ask(str(number))], ["1", "2"])[0].problem is Problem.SERVER_ERROR
        with pytest.raises(JudgeUnavailable, match="8 calls in a row"):
            model.read_labels([ask("last")], ["1", "2"])
        assert server.count == 16


@pytest.mark.parametrize(
    ("response", "helps"),
    [
        (Response(wait_s=0.5), "raise attempt_timeout_s"),
        (Response(b"busy", 503), ""),
        (Response(cut=0), ""),
    ],
)
def test_a_server_that_is_too_slow_is_told_apart_from_one_that_fails(response: Response, helps: str) -> None:
    with StubServer(lambda r: response) as server:
        model = model_of(server, attempt_timeout_s=0.1, attempts=1, dead_after=2)
        with pytest.raises(JudgeUnavailable, match="2 calls in a row") as unreachable:
            model.read_labels([ask(str(n)) for n in range(4)], ["1", "2"])
    assert helps in str(unreachable.value)
    assert ("attempt_timeout_s" in str(unreachable.value)) == bool(helps)


def test_a_server_that_asks_for_too_long_a_wait_ends_the_run() -> None:
    with (
        StubServer(lambda r: Response(b"", 429, {"Retry-After": "3600"})) as server,
        pytest.raises(JudgeUnavailable, match="asks to wait 3600 s"),
    ):
        model_of(server).read_labels([ask("a")], ["1", "2"])


def test_a_judge_that_is_not_there_is_reported_when_its_card_is_asked() -> None:
    model = connect("openai:stub", base_url="http://127.0.0.1:9/v1", attempts=2, **QUICK)
    with pytest.raises(JudgeUnavailable, match="not reached"):
        _ = model.card
