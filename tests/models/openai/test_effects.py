"""Every setting of a server has an effect that a server, a reader of the answers or the journal can see, or is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aifeedback.errors import AIFeedbackError, BatchPending, ModelError
from aifeedback.models import connect
from aifeedback.models.openai.client import Limits
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.types import Message, Sampling
from models.batch_stub import OpenAIStub
from models.stub import Request, Response, StubServer, as_json, healthy

SHARED = "The same beginning of every prompt. " * 20
OTHERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "api": ("completions", {}),
    "readout": ("votes", {}),
    "top": (5, {}),
    "either_space": (False, {}),
    "votes": (2, {"readout": "votes"}),
    "votes_temperature": (0.3, {"readout": "votes"}),
    "answer_tokens": (7, {"readout": "parsed"}),
    "structured": ("schema", {"readout": "parsed"}),
    "continuing": ("flags", {}),
    "max_tokens_name": ("max_completion_tokens", {}),
    "extra_body": ({"tag": "t"}, {}),
    "headers": ({"X-Team": "a"}, {}),
    "api_version": ("2026-01-01", {}),
    "api_key_env": ("OTHER_KEY", {}),
    "revision": ("r2", {}),
    "family": ("own", {}),
    "context_window": (4096, {}),
    "probe": (False, {}),
    "warm": (False, {}),
    "prices": ("prices.yaml", {}),
    "cap_usd": (1e-9, {"prices": "prices.yaml"}),
    "spent_usd": (1.0, {"prices": "prices.yaml", "cap_usd": 1.0}),
    "batch_api": (True, {"batch_folder": "batches"}),
    "batch_folder": ("elsewhere", {"batch_api": True}),
    "batch_requests": (1, {"batch_api": True, "batch_folder": "batches"}),
    "concurrency": (1, {}),
    "requests_per_minute": (600.0, {}),
    "tokens_per_minute": (60000.0, {}),
    "attempts": (2, {"fails": 10}),
    "attempt_timeout_s": (0.05, {"slow": True, "attempts": 1}),
    "deadline_s": (0.001, {"fails": 10, "attempts": 3}),
    "backoff_first_s": (0.3, {"fails": 1}),
    "backoff_most_s": (0.001, {"fails": 1, "backoff_first_s": 0.5}),
    "longest_wait_s": (1.0, {"retry_after": 2}),
    "dead_after": (2, {"fails": 40, "attempts": 1}),
    "seed": (9, {"fails": 1, "backoff_first_s": 0.5}),
}
"""Setting → another value, and what goes with it so that it counts."""
ELSEWHERE = {"base_url", "limits", "seed"}
"""The address is in every test; ``limits`` holds the settings that follow it; the seed moves waits by fractions of them."""


def trace(tmp_path: Path, options: dict[str, Any]) -> Any:
    """Everything about a small job that its settings may change."""
    options = dict(options)
    fails, slow, wait = (options.pop(name, None) for name in ("fails", "slow", "retry_after"))

    def handle(request: Request) -> Response:
        if wait is not None and request.number == 0:
            return Response(b"{}", status=429, headers={"Retry-After": str(wait)})
        if fails is not None and request.number < fails:
            return Response(b"{}", status=500)
        time.sleep(0.1 if slow else 0.002)
        body = healthy(request)
        if not request.body.get("logprobs"):
            body["choices"][0]["finish_reason"] = "stop"
        return as_json(body)

    stub = OpenAIStub(handle)
    found: list[Any] = []
    with StubServer(stub) as server:
        start = time.monotonic()
        try:
            quick = {"backoff_first_s": 0.002, "backoff_most_s": 0.4, "attempts": 3, **options}
            if "batch_folder" in quick:
                quick["batch_folder"] = str(tmp_path / quick["batch_folder"])
            model: Any = connect("openai:stub", base_url=server.url, **quick)
            found.append(model.card)
            chat = [[Message(role="user", content=f"{SHARED}{n}")] for n in range(6)]
            begun = [*chat[0], Message(role="assistant", content="Rating: ")]
            found.append(model.read_labels([*chat, begun], ["1", "2"]))
            found.append(model.reply(chat[:1], Sampling(max_new_tokens=5)))
            model.close()
        except BatchPending as pending:
            found.append(str(pending))
        except AIFeedbackError as error:
            found.append(type(error).__name__)
        took = time.monotonic() - start
        sent = [(r.path, r.headers.get("api-key"), r.headers.get("authorization"), r.headers.get("x-team"), str(r.body))
                for r in server.requests]  # fmt: skip
        folders = sorted(path.parent.name for path in tmp_path.rglob("*.json") if path.parent != tmp_path)
        return found, sorted(sent, key=str), len(sent), round(took * 4), server.most_in_flight > 1, folders, (
            [r.body.get("messages") for r in server.requests][:2] if options.get("warm") is False else None
        )  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(OTHERS) - {"seed", "warm"}))
def test_a_setting_of_a_server_has_an_effect(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("OTHER_KEY", "two")
    monkeypatch.chdir(tmp_path)
    Path("prices.yaml").write_text('as_of: "x"\nmodels: {stub: {input: 3.0, output: 15.0}}')
    value, beside = OTHERS[name]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    plain = {**beside, "batch_folder": "batches"} if name == "batch_folder" else beside
    plain = {key: item for key, item in plain.items() if name != "batch_api" or key != "batch_folder"}
    assert trace(tmp_path / "a", plain) != trace(tmp_path / "b", {**beside, name: value})


def test_every_setting_of_a_server_is_walked() -> None:
    known = {*ServerSettings.model_fields, *Limits.model_fields}
    assert known - set(OTHERS) == ELSEWHERE - {"seed"}


UNUSED = [
    ("openai:x", {"votes": 3}, "votes"),
    ("openai:x", {"votes_temperature": 0.5}, "votes_temperature"),
    ("openai:x", {"answer_tokens": 1024}, "answer_tokens"),
    ("openai:x", {"structured": "schema"}, "structured"),
    ("openai:x", {"readout": "votes", "top": 5}, "top"),
    ("openai:x", {"readout": "parsed", "either_space": False}, "either_space"),
    ("openai:x", {"readout": "parsed", "votes": 3}, "votes"),
    ("openai:x", {"api": "completions", "continuing": "flags"}, "continuing"),
    ("openai:x", {"batch_requests": 5}, "batch_requests"),
    ("openai:x", {"batch_folder": "b"}, "batch_folder"),
    ("openai:x", {"batch_api": True, "batch_folder": "b", "warm": False}, "warm"),
    ("openai:x", {"batch_api": True, "batch_folder": "b", "requests_per_minute": 5}, "requests_per_minute"),
    ("openai:x", {"batch_api": True, "batch_folder": "b", "concurrency": 5}, "concurrency"),
    ("anthropic:x", {"top": 5}, "top"),
    ("anthropic:x", {"max_tokens_name": "max_completion_tokens"}, "max_tokens_name"),
    ("decisions:x", {"top": 5}, "top"),
    ("decisions:x", {"answer_tokens": 50}, "answer_tokens"),
    ("systemone:x", {"max_tokens_name": "max_completion_tokens"}, "max_tokens_name"),
]


@pytest.mark.parametrize(("uri", "options", "name"), UNUSED)
def test_a_setting_without_effect_is_refused_by_name(uri: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ModelError, match=rf"no effect: .*{name} \(with "):
        connect(uri, base_url="http://127.0.0.1:9/v1", **options)


def test_a_value_at_its_default_is_no_setting() -> None:
    connect("openai:x", base_url="http://127.0.0.1:9/v1", votes=8, structured="off", answer_tokens=256)
