"""Planted server faults: what they do to a right answer, and what may come of them at worst."""

from __future__ import annotations

import copy
import email.utils
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from aifeedback.types import Problem
from models.stub import Request, Response, as_json, healthy

Fault = Callable[["FaultyServer", Request], Response]
FAULTS: dict[str, Fault] = {}
FINAL: dict[str, Problem] = {
    "refusal": Problem.REFUSED,
    "content filter": Problem.REFUSED,
    "label outside the top": Problem.LABEL_HIDDEN,
    "label at -9999": Problem.LABEL_HIDDEN,
    "label at -inf": Problem.LABEL_HIDDEN,
}
"""Answers that are no transport fault: the reading that follows is this problem."""


class FaultyServer:
    """A handler that plants a fault in ``rate`` of the attempts, drawn by seed and attempt number."""

    def __init__(
        self,
        *,
        rate: float,
        seed: int,
        wait_ms: int = 40,
        stall_s: float = 5.0,
        whole_seconds: int = 20,
        whole_s: float = 1.0,
    ) -> None:
        self.rate, self.seed, self.wait_ms, self.stall_s = rate, seed, wait_ms, stall_s
        self.whole_seconds, self.whole_s = whole_seconds, whole_s
        self.planted: Counter[str] = Counter()
        self.gates: list[tuple[str, float, float]] = []
        """Prompt, when the wait was asked for, until when."""
        self.final: dict[str, set[Problem]] = {}
        self.paid: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        drawn = hashlib.sha256(f"{self.seed}/{request.number}".encode()).digest()
        if int.from_bytes(drawn[:4], "big") / 2**32 >= self.rate:
            return as_json(healthy(request))
        name = list(FAULTS)[int.from_bytes(drawn[4:8], "big") % len(FAULTS)]
        self.planted[name] += 1
        if name in FINAL:
            self.final.setdefault(request.text, set()).add(FINAL[name])
        return FAULTS[name](self, request)

    def wait_header(self, request: Request, *, as_date: bool = False) -> dict[str, str]:
        """Mostly milliseconds, so that tests are quick; now and then (1 in ``whole_seconds``) seconds, or a date."""
        whole = self.planted.total() % self.whole_seconds == self.whole_seconds - 1
        seconds = self.whole_s if whole else self.wait_ms / 1000
        now = time.monotonic()
        self.gates.append((request.text, now, now + seconds))
        if as_date and whole:
            return {"Retry-After": email.utils.formatdate(time.time() + self.whole_s + 0.999, usegmt=True)}
        return {"Retry-After": f"{self.whole_s:g}"} if whole else {"retry-after-ms": str(self.wait_ms)}


def fault(name: str) -> Callable[[Fault], Fault]:
    def add(function: Fault) -> Fault:
        FAULTS[name] = function
        return function

    return add


def changed(name: str) -> Callable[[Callable[[dict[str, Any]], Any]], Any]:
    """A fault that changes the JSON of a right answer in place, or returns another."""

    def add(change: Callable[[dict[str, Any]], Any]) -> Any:
        def make(server: FaultyServer, request: Request) -> Response:
            body = copy.deepcopy(healthy(request))
            return as_json(change(body) or body)

        FAULTS[name] = make
        return change

    return add


def _choice(body: dict[str, Any]) -> dict[str, Any]:
    return body["choices"][0]


def _top(body: dict[str, Any]) -> list[dict[str, Any]]:
    logprobs = _choice(body)["logprobs"]
    if "content" not in logprobs:  # the old completions form, as a view that is written back by the caller
        return [{"token": token, "logprob": value} for token, value in logprobs["top_logprobs"][0].items()]
    return logprobs["content"][0]["top_logprobs"]


def _set_top(body: dict[str, Any], top: list[dict[str, Any]]) -> None:
    logprobs = _choice(body)["logprobs"]
    if "content" in logprobs:
        logprobs["content"][0]["top_logprobs"] = top
    else:
        logprobs["top_logprobs"] = [{entry["token"]: entry["logprob"] for entry in top}]


def _status(name: str, status: int, body: bytes = b'{"error": {"message": "planted"}}') -> None:
    FAULTS[name] = lambda server, request: Response(body, status)


_status("429", 429)
_status("500", 500)
_status("502 with a page", 502, b"<html>Bad gateway</html>")
_status("504", 504)
_status("408", 408)
_status("stray 404", 404)
_status("stray 403", 403)
_status("no body", 200, b"")
_status("a page instead of JSON", 200, b"<html>busy</html>")
_status("JSON null", 200, b"null")
_status("nested too deep", 200, b"[" * 100_000)
_status("not UTF-8", 200, b'{"choices": "\xff\xfe"}')


@fault("429 with Retry-After")
def _(server: FaultyServer, request: Request) -> Response:
    return Response(b"{}", 429, server.wait_header(request))


@fault("429 with a date")
def _(server: FaultyServer, request: Request) -> Response:
    return Response(b"{}", 429, server.wait_header(request, as_date=True))


@fault("503 with Retry-After")
def _(server: FaultyServer, request: Request) -> Response:
    return Response(b"busy", 503, server.wait_header(request))


@fault("redirect")
def _(server: FaultyServer, request: Request) -> Response:
    return Response(b"", 307, {"Location": "http://127.0.0.1:9/elsewhere"})


@fault("reset before the answer")
def _(server: FaultyServer, request: Request) -> Response:
    return Response(b"", cut=0)


@fault("reset in the body")
def _(server: FaultyServer, request: Request) -> Response:
    return as_json(healthy(request), cut=60)


@fault("stall")
def _(server: FaultyServer, request: Request) -> Response:
    return as_json(healthy(request), wait_s=server.stall_s)


@fault("truncated JSON")
def _(server: FaultyServer, request: Request) -> Response:
    whole = json.dumps(healthy(request)).encode()
    return Response(whole[: len(whole) * (request.number % 7 + 1) // 9])


changed("error with status 200")(lambda body: {"error": {"message": "overloaded", "code": 529}})
changed("empty choices")(lambda body: {**body, "choices": []})
changed("choices null")(lambda body: {**body, "choices": None})
changed("choices of texts")(lambda body: {**body, "choices": ["1"]})
changed("no logprobs")(lambda body: _choice(body).update(logprobs=None))
changed("empty logprobs")(lambda body: _set_top(body, []))
changed("logprobs of another shape")(lambda body: _choice(body).update(logprobs=[1, 2]))


@changed("content null in logprobs")
def _(body: dict[str, Any]) -> None:
    _choice(body)["logprobs"] = {"content": None}


@changed("logprob as text")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": str(entry["logprob"])} for entry in _top(body)])


@changed("logprob true")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": True} for entry in _top(body)])


@changed("logprob null")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": None} for entry in _top(body)])


@changed("NaN")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": float("nan")} for entry in _top(body)])


@changed("infinite")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": float("inf")} for entry in _top(body)])


@changed("positive logprob")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": 0.5} for entry in _top(body)])


@changed("probabilities, not logs")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**entry, "logprob": -1e-9} for entry in _top(body)])


@changed("label outside the top")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [entry for entry in _top(body) if entry["token"] != "2"])


@changed("label at -9999")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**e, "logprob": -9999.0} if e["token"] == "1" else e for e in _top(body)])


@changed("label at -inf")
def _(body: dict[str, Any]) -> None:
    _set_top(body, [{**e, "logprob": float("-inf")} if e["token"] == "2" else e for e in _top(body)])


@changed("content filter")
def _(body: dict[str, Any]) -> None:
    _choice(body)["finish_reason"] = "content_filter"


@changed("refusal")
def _(body: dict[str, Any]) -> Any:
    _choice(body)["message"] = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}


@changed("usage of another shape")
def _(body: dict[str, Any]) -> None:
    body["usage"] = {"prompt_tokens": -3, "completion_tokens": "many"}
