"""A real HTTP server for tests: answers like an OpenAI-compatible one, and breaks things on request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

LABELS = ("1", "2")


@dataclass
class Request:
    number: int
    at: float
    """time.monotonic() of its arrival."""
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    raw: bytes = b""
    """The body as it came; ``body`` is empty where it is not JSON."""

    @property
    def text(self) -> str:
        """The prompt, whatever the endpoint."""
        if "prompt" in self.body:
            return self.body["prompt"]
        return "\n\n".join(message["content"] for message in self.body.get("messages", []))


@dataclass
class Response:
    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    cut: int | None = None
    """Close the connection after so many bytes of the body; 0: before the status line."""


Handler = Callable[[Request], Response]


class StubServer:
    """``with StubServer(handler) as server: connect(..., base_url=server.url)``; ``requests`` keeps what came."""

    def __init__(self, handler: Handler, *, models: bytes | Response | None = None, keep: bool = True) -> None:
        self.handler, self.models, self.keep = handler, models, keep
        self.requests: list[Request] = []
        self.count = 0
        self.in_flight = self.most_in_flight = 0
        self._ready = threading.Event()

    def __enter__(self) -> StubServer:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        if method == "GET" and path.endswith("/models"):
            given = Response(self.models) if isinstance(self.models, bytes) else self.models
            return await self._send(writer, given or Response(b"{}", 404))
        is_json = "json" in headers.get("content-type", "json")
        body = json.loads(raw or b"{}") if is_json else {}
        request = Request(self.count, time.monotonic(), method, path, headers, body, raw)
        self.count += 1
        if self.keep:
            self.requests.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            response = self.handler(request)
            if response.wait_s:
                await asyncio.sleep(response.wait_s)
            return await self._send(writer, response)
        finally:
            self.in_flight -= 1

    async def _send(self, writer: asyncio.StreamWriter, response: Response) -> bool:
        if response.cut == 0:
            return False
        lines = [f"HTTP/1.1 {response.status} X", f"Content-Length: {len(response.body)}"]
        lines += [f"{name}: {value}" for name, value in response.headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + response.body[: response.cut])
        await writer.drain()
        return response.cut is None


# ---------------------------------------------------------------- what a healthy server says


def truth(text: str, labels: tuple[str, ...] = LABELS) -> dict[str, float]:
    """The stub model's own log-probabilities of the labels after a prompt; 3 % of the mass is elsewhere."""
    draws = [
        int.from_bytes(hashlib.sha256(f"{label}\0{text}".encode()).digest()[:4], "big") / 2**32 for label in labels
    ]
    logits = [4.0 * draw for draw in draws]
    total = math.log(sum(map(math.exp, logits)))
    return {label: logit - total + math.log(0.97) for label, logit in zip(labels, logits, strict=True)}


def others(count: int = 18) -> dict[str, float]:
    """Tokens that are no labels, 2 % of the mass."""
    return {f"t{n}": math.log(0.02 / count) for n in range(count)}


def chat_body(table: Mapping[str, float], *, text: str = "1", usage: Mapping[str, int] | None = None) -> dict[str, Any]:
    shown = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in table.items()]
    message = {"role": "assistant", "content": text, "refusal": None}
    logprobs = {"content": [{**shown[0], "top_logprobs": shown}] if shown else []}
    choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": logprobs}
    return _body(choice, "chat.completion", usage)


def legacy_body(
    table: Mapping[str, float], *, text: str = "1", usage: Mapping[str, int] | None = None
) -> dict[str, Any]:
    logprobs = {"tokens": [text], "token_logprobs": [-0.5], "top_logprobs": [dict(table)], "text_offset": [0]}
    return _body({"index": 0, "finish_reason": "length", "text": text, "logprobs": logprobs}, "text_completion", usage)


def _body(choice: dict[str, Any], kind: str, usage: Mapping[str, int] | None) -> dict[str, Any]:
    used = {"prompt_tokens": 10, "completion_tokens": 1, **(usage or {})}
    return {
        "id": "x",
        "object": kind,
        "created": 1,
        "model": "stub",
        "system_fingerprint": "fp",
        "choices": [choice],
        "usage": used | {"total_tokens": used["prompt_tokens"] + used["completion_tokens"]},
    }


def healthy(request: Request, labels: tuple[str, ...] = LABELS) -> dict[str, Any]:
    """A right answer, for a readout or for a sampled reply."""
    table = {**truth(request.text, labels), **others()}
    usage = {"prompt_tokens": len(request.text) // 4 + 1}
    make = chat_body if request.path.partition("?")[0].endswith("/chat/completions") else legacy_body
    return make(table, usage=usage)


def as_json(body: Any, **rest: Any) -> Response:
    return Response(json.dumps(body).encode(), headers={"Content-Type": "application/json"}, **rest)


def answer(request: Request) -> Response:
    return as_json(healthy(request))
