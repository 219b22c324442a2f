"""Rewards over HTTP: OpenRLHF's and our own shape, honest about what could not be scored."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import JudgeUnavailable, RecipeError
from aifeedback.integrations import verl
from aifeedback.integrations.serve import Batcher, Row, ServeConfig, create_app, without_end


def lengths(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Length of the completion; "?" cannot be scored, "dead" means that the judge is gone."""
    if "dead" in completions:
        raise JudgeUnavailable("the judge stayed dead")
    return [None if c == "?" else float(len(c)) for c in completions]


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app(lengths, ServeConfig(end_marks=("</s>",), wait_s=0, max_rows=4))) as result:
        yield result


def test_score_keeps_null_for_what_is_not_known(client: TestClient) -> None:
    answer = client.post("/score", json={"prompts": ["a", "b"], "completions": ["xyz</s>", "?"], "topic": ["t", None]})
    assert answer.json() == {"rewards": [3.0, None]}
    assert client.get("/health").json() == {"reward": "lengths", "calls": 1, "scored": 1, "unscored": 1}


def test_openrlhf_shape(client: TestClient) -> None:
    request = {"query": ["hello you</s>", "hi there"], "prompts": ["hello ", "hi "], "labels": ["x", "y"]}
    answer = client.post("/get_reward", json=request)
    assert answer.json() == {"rewards": [3.0, 5.0], "scores": [3.0, 5.0], "extra_logs": {}}


def test_openrlhf_gets_an_error_instead_of_an_invented_number(client: TestClient) -> None:
    answer = client.post("/get_reward", json={"query": ["hi ?"], "prompts": ["hi "]})
    assert answer.status_code == 503
    assert "1 of 1 rows could not be scored" in answer.text


def test_a_dead_judge_is_reported_and_the_server_continues(client: TestClient) -> None:
    answer = client.post("/score", json={"prompts": ["a"], "completions": ["dead"]})
    assert answer.status_code == 503
    assert "stayed dead" in answer.text
    assert client.post("/score", json={"prompts": ["a"], "completions": ["b"]}).json() == {"rewards": [1.0]}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/score", {"prompts": ["a"], "completions": []}, 422, "lists of one length"),
        ("/score", {"prompts": ["a"], "completions": [1]}, 422, "every completion must be a text"),
        ("/score", {"prompts": [3], "completions": ["a"]}, 422, "every prompt must be"),
        ("/score", {"prompts": ["a"], "completions": ["b"], "topic": "t"}, 422, "column 'topic'"),
        ("/score", {"prompts": ["a"] * 5, "completions": ["b"] * 5}, 413, "at most 4"),
        ("/score", [1], 422, "must be an object"),
        ("/get_reward", {"query": ["a"]}, 422, "'prompts' must come along"),
        ("/get_reward", {"query": ["abc"], "prompts": ["x"]}, 422, "does not start with its prompt"),
        ("/get_reward", {"query": "a"}, 422, "'query' must be a list"),
        ("/get_reward", {"query": ["a"], "prompts": ["a"], "labels": ["x", "y"]}, 422, "as many as queries"),
    ],
)
def test_wrong_requests_get_the_reason(client: TestClient, path: str, body: Any, status: int, message: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    assert message in answer.text


def test_takes_json_only(client: TestClient) -> None:
    assert client.post("/score", content="{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post("/score", content="{", headers={"content-type": "application/json"}).status_code == 400


def test_messages_are_prompts_too(client: TestClient) -> None:
    body = {"prompts": [[{"role": "user", "content": "hi"}]], "completions": ["four"]}
    assert client.post("/score", json=body).json() == {"rewards": [4.0]}


def test_an_open_address_without_a_token_is_reported_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_early(*_: object, **__: object) -> None:
        raise AssertionError("the reward was loaded")

    monkeypatch.setattr("aifeedback.steps.rewards.reward_function", too_early)
    command = ["serve", "judge:fake:noisy", "--host", "0.0.0.0", "--port", "0", "-o", str(tmp_path)]
    with pytest.raises(RecipeError, match=r"open to other machines\n  → set a token"):
        CliRunner().invoke(app, command, catch_exceptions=False, env={"AIFEEDBACK_TOKEN": None})


def test_an_open_address_needs_a_token() -> None:
    with pytest.raises(RecipeError, match="open to other machines"):
        create_app(lengths, ServeConfig(host="0.0.0.0"))
    with TestClient(create_app(lengths, ServeConfig(host="0.0.0.0", token="secret"))) as client:
        body = {"prompts": ["a"], "completions": ["b"]}
        assert client.post("/score", json=body).status_code == 404
        assert client.post("/secret/score", json=body).json() == {"rewards": [1.0]}


def test_requests_that_arrive_together_are_one_call() -> None:
    calls: list[int] = []

    def count(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        calls.append(len(prompts))
        return [float(c) for c in completions]

    async def ask() -> list[Any]:
        batcher = Batcher(count, ServeConfig(wait_s=0.05))
        worker = asyncio.create_task(batcher.run())
        rows = [[Row("p", str(i), {}), Row("p", str(-i), {})] for i in range(10)]
        result = await asyncio.gather(*(batcher.score(part) for part in rows))
        worker.cancel()
        return result

    assert asyncio.run(ask()) == [[float(i), float(-i)] for i in range(10)]
    assert calls == [20]


def test_end_marks_are_removed_until_none_is_left() -> None:
    assert without_end("text<e><e>\n", ("<e>", "\n")) == "text"
    assert without_end("text", ()) == "text"


@pytest.fixture
def address() -> Iterator[str]:
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(create_app(lengths), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(5)


def test_verl_asks_the_server(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verl, "TRIES", 1)
    assert verl.compute_score("data", "four", "truth", {"prompt": "p"}, url=address) == 4.0
    infos = [{"prompt": "p"}, {"prompt": [{"role": "user", "content": "q"}]}]
    monkeypatch.setenv("AIFEEDBACK_REWARD_URL", address)
    assert verl.compute_scores(["d", "d"], ["a", "bb"], [None, 3], infos) == [1.0, 2.0]
    with pytest.raises(RuntimeError, match="1 of 1 responses could not be scored"):
        verl.compute_score("data", "?", None, {"prompt": "p"}, url=address)
    with pytest.raises(RuntimeError, match="503"):
        verl.compute_score("data", "dead", None, {"prompt": "p"}, url=address)
    with pytest.raises(ValueError, match="no 'prompt' in rows"):
        verl.compute_score("data", "a", None, {}, url=address)


def test_verl_says_when_the_server_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verl, "TRIES", 1)
    with pytest.raises(RuntimeError, match="cannot be reached"):
        verl.compute_score("data", "a", None, {"prompt": "p"}, url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("prompt", "status", "message"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], 200, ""),
        ([{"role": "user", "content": "a", "name": "ann", "tool_calls": None}], 200, ""),
        ([{"role": "user", "content": ["a", "b"]}], 200, ""),
        ([{"role": "robot", "content": "a"}], 422, "prompt 0: a message of the role 'robot'"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            422,
            "content part of the type 'image_url'",
        ),
        ([{"role": "user", "content": None}], 422, "content is NoneType"),
        ([{"role": "user"}], 422, "without 'role' or 'content'"),
        ([], 422, "no messages"),
        (["a"], 422, "every prompt must be"),
    ],
)
def test_messages_are_read_or_refused_by_name(client: TestClient, prompt: Any, status: int, message: str) -> None:
    answer = client.post("/score", json={"prompts": [prompt], "completions": ["four"]})
    assert answer.status_code == status
    assert message in answer.text
    if status == 200:
        assert answer.json() == {"rewards": [4.0]}


@pytest.mark.parametrize(
    "completion",
    [
        [{"role": "assistant", "content": "four"}],
        {"role": "assistant", "content": "four"},
        [{"content": [{"text": "four"}]}],
    ],
)
def test_completions_may_be_messages(client: TestClient, completion: Any) -> None:
    assert client.post("/score", json={"prompts": ["a"], "completions": [completion]}).json() == {"rewards": [4.0]}


def test_a_request_fails_for_its_own_rows_only() -> None:
    def some(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        if "bad" in completions:
            raise ValueError("cannot read this")
        return lengths(prompts, completions)

    async def ask() -> list[Any]:
        batcher = Batcher(some, ServeConfig(wait_s=0.05))
        worker = asyncio.create_task(batcher.run())
        rows = [[Row("p", text, {})] for text in ("one", "bad", "three", "dead")]
        result = await asyncio.gather(*(batcher.score(part) for part in rows), return_exceptions=True)
        worker.cancel()
        return result

    result = asyncio.run(ask())
    assert (result[0], result[2]) == ([3.0], [5.0])
    assert [type(result[i]) for i in (1, 3)] == [ValueError, JudgeUnavailable]


def test_a_failing_reward_is_named_in_the_answer() -> None:
    def broken(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        raise ZeroDivisionError("nothing to divide by")

    with TestClient(create_app(broken, ServeConfig(wait_s=0)), raise_server_exceptions=False) as client:
        answer = client.post("/score", json={"prompts": ["a"], "completions": ["b"]})
    assert answer.status_code == 500
    assert "ZeroDivisionError: nothing to divide by" in answer.text


@pytest.mark.parametrize(
    ("query", "prompt", "marks", "rest"),
    [
        ("<s> [INST] hi [/INST] yes", "<s>[INST] hi [/INST]", ["<s>"], "yes"),
        ("<s><s>[INST] hi [/INST] yes", "<s>[INST] hi [/INST]", ["<s>"], "yes"),
        ("[INST] hi [/INST]yes", "<s>[INST] hi [/INST]", ["<s>"], "yes"),
        ("<s>user\nhi\nassistant\nyes", "user\nhi\nassistant\n", ["<s>"], "yes"),
        ("hello yes", "hello", [], " yes"),
        ("hullo yes", "hello", ["<s>"], None),
        ("hel", "hello", ["<s>"], None),
    ],
)
def test_the_response_starts_where_the_prompt_ends(query: str, prompt: str, marks: list[str], rest: str | None) -> None:
    """Also where decoding put spaces and a second BOS around control tokens."""
    from aifeedback.integrations.serve import after_prompt

    assert after_prompt(query, prompt, marks) == rest


def test_functions_of_any_form_are_served() -> None:
    async def awaited(completions: list[str]) -> list[float]:
        return [float(len(c)) for c in completions]

    with TestClient(create_app(awaited, ServeConfig(wait_s=0))) as client:  # type: ignore[arg-type]
        body = {"prompts": ["a"], "completions": ["four"], "topic": ["t"]}
        assert client.post("/score", json=body).json() == {"rewards": [4.0]}
