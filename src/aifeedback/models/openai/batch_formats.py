"""The two batch formats: OpenAI's Batches and Anthropic's Message Batches, as their public references describe them.

Both take a list of requests, each with a ``custom_id``, answer within a day, and hand back one JSON line per request in
any order. OpenAI's is a file that is uploaded first, and keeps ``metadata``; Anthropic's keeps none, so that a batch is
recognised by the custom ids among its results.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol

import aiohttp

from aifeedback.models.openai.batch_store import Batch, Line

SKEW_S = 3600.0
"""How far the server's clock may be behind ours when a batch is looked for."""
_PAGES = 50
_STATUS: Mapping[str, int] = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
    "not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "overloaded_error": 529,
}  # fmt: skip
"""Anthropic's types of error → the status that a single request would have had."""


class State(NamedTuple):
    """How far a batch is."""

    kind: Literal["waiting", "ended", "failed"]
    """failed: the server refused it as a whole, and nothing ran."""
    shown: str
    results: tuple[str, ...] = ()
    """Paths of its result files."""


class Match(NamedTuple):
    """The server's batch for a record: its id, or those that may be it."""

    id: str | None = None
    candidates: tuple[str, ...] = ()


class Transport(Protocol):
    """Requests to one server, retried where that is safe."""

    async def ask(self, method: str, path: str, *, data: Any = None, missing: bool = False) -> Any:
        """The decoded JSON. None for a status 404 where ``missing`` allows it."""
        ...

    def raw_lines(self, path: str) -> AsyncIterator[bytes]: ...


class OpenAIBatches:
    """``POST /files`` and ``POST /batches``."""

    most_requests, most_bytes = 50_000, 190_000_000

    def __init__(self, transport: Transport, *, prefix: str = "/v1", window: str = "24h") -> None:
        """``prefix``: what comes before an endpoint's path inside a batch; Azure has none."""
        self._transport, self._prefix, self._window = transport, prefix, window

    def line(self, batch: Batch, digest: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        url = self._prefix + batch.path
        return {"custom_id": batch.custom_id(digest), "method": "POST", "url": url, "body": body}

    async def submit(self, batch: Batch, lines: Sequence[bytes]) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        name = f"aifeedback-{batch.name}.jsonl"
        form.add_field("file", b"\n".join(lines) + b"\n", filename=name, content_type="application/jsonl")
        uploaded = await self._transport.ask("POST", "/files", data=form)
        body = {
            "input_file_id": uploaded["id"],
            "endpoint": self._prefix + batch.path,
            "completion_window": self._window,
            "metadata": {"aifeedback": batch.name},
        }
        return (await self._transport.ask("POST", "/batches", data=body))["id"]

    async def find(self, batch: Batch, taken: set[str]) -> Match:
        """By its metadata; where the server keeps none, by the first request of its input file."""
        after = ""
        for _ in range(_PAGES):
            page = await self._transport.ask("GET", f"/batches?limit=100{after}")
            listed = _entries(page)
            for entry in listed:
                metadata = entry.get("metadata")
                if isinstance(metadata, dict) and "aifeedback" in metadata:
                    if metadata["aifeedback"] == batch.name:
                        return Match(entry["id"])
                elif entry["id"] not in taken and _is_recent(entry, batch) and await self._holds(entry, batch):
                    return Match(entry["id"])
            if not page.get("has_more") or not listed or not any(_is_recent(entry, batch) for entry in listed):
                break
            after = f"&after={listed[-1]['id']}"
        return Match()

    async def _holds(self, entry: Mapping[str, Any], batch: Batch) -> bool:
        file = entry.get("input_file_id")
        return isinstance(file, str) and await _first_is_ours(self._transport, f"/files/{file}/content", batch)

    async def state(self, batch_id: str) -> State | None:
        entry = await self._transport.ask("GET", f"/batches/{batch_id}", missing=True)
        if entry is None:
            return None
        status = str(entry.get("status"))
        counts = entry.get("request_counts") or {}
        done = (counts.get("completed") or 0) + (counts.get("failed") or 0)
        shown = f"{status}, {done:,} of {counts['total']:,} done" if counts.get("total") else status
        if status == "failed":
            errors = (entry.get("errors") or {}).get("data") or []
            causes = "; ".join(f"{e.get('code')}: {e.get('message')}" for e in errors[:3] if isinstance(e, dict))
            return State("failed", causes or status)
        files = [entry[key] for key in ("output_file_id", "error_file_id") if isinstance(entry.get(key), str)]
        kind = "ended" if status in ("completed", "expired", "cancelled") else "waiting"
        return State(kind, shown, tuple(f"/files/{file}/content" for file in files))

    def read(self, line: Mapping[str, Any]) -> Line:
        response, error = line.get("response"), line.get("error")
        if isinstance(response, dict) and isinstance(response.get("status_code"), int):
            return Line(response["status_code"], response.get("body"))
        what = error if isinstance(error, dict) else {}
        cause = f"{what.get('code')}: {what.get('message')}" if what else "the line holds no response"
        return Line(None, cause=cause, is_expired=what.get("code") == "batch_expired")


class AnthropicBatches:
    """``POST /messages/batches``."""

    most_requests, most_bytes = 100_000, 240_000_000

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def line(self, batch: Batch, digest: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"custom_id": batch.custom_id(digest), "params": body}

    async def submit(self, batch: Batch, lines: Sequence[bytes]) -> str:
        del batch
        body = b'{"requests": [' + b",".join(lines) + b"]}"
        return (await self._transport.ask("POST", "/messages/batches", data=body))["id"]

    async def find(self, batch: Batch, taken: set[str]) -> Match:
        """Among those of the same size since then: by their results; one that has not ended may be it."""
        after, unsure = "", []
        for _ in range(_PAGES):
            page = await self._transport.ask("GET", f"/messages/batches?limit=100{after}")
            listed = _entries(page)
            recent = [entry for entry in listed if _is_recent(entry, batch)]
            for entry in recent:
                if entry["id"] in taken or sum(_counts(entry).values()) != len(batch.requests):
                    continue
                if entry.get("processing_status") != "ended":
                    unsure.append(entry["id"])
                elif await self.is_own(batch, entry["id"]):
                    return Match(entry["id"])
            if not page.get("has_more") or not recent:
                break
            after = f"&after_id={listed[-1]['id']}"
        return Match(None, tuple(unsure))

    async def is_own(self, batch: Batch, batch_id: str) -> bool:
        """Whether an ended batch of the server holds this record's requests."""
        return await _first_is_ours(self._transport, f"/messages/batches/{batch_id}/results", batch)

    async def state(self, batch_id: str) -> State | None:
        entry = await self._transport.ask("GET", f"/messages/batches/{batch_id}", missing=True)
        if entry is None:
            return None
        status, counts = str(entry.get("processing_status")), _counts(entry)
        total = sum(counts.values())
        shown = f"{status}, {total - counts.get('processing', 0):,} of {total:,} done" if total else status
        ended = status == "ended"
        return State("ended" if ended else "waiting", shown, (f"/messages/batches/{batch_id}/results",))

    def read(self, line: Mapping[str, Any]) -> Line:
        result = line.get("result")
        kind = result.get("type") if isinstance(result, dict) else None
        if isinstance(result, dict) and kind == "succeeded":
            return Line(200, result.get("message"))
        if isinstance(result, dict) and kind == "errored":
            error = result.get("error")
            inner: Any = error.get("error", error) if isinstance(error, dict) else None
            kind_of_error = str(inner.get("type")) if isinstance(inner, dict) else ""
            return Line(_STATUS.get(kind_of_error, 500), error)
        return Line(None, cause=f"the request {kind or 'has no result'}", is_expired=kind == "expired")


BatchFormat = OpenAIBatches | AnthropicBatches


def _entries(page: Any) -> list[dict[str, Any]]:
    entries = page.get("data") if isinstance(page, dict) else None
    listed = entries if isinstance(entries, list) else []
    return [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _is_recent(entry: Mapping[str, Any], batch: Batch) -> bool:
    """Whether it was created after the record was written, or does not say when."""
    created = entry.get("created_at")
    if isinstance(created, str):
        try:
            created = datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp()
        except ValueError:
            return True
    return not isinstance(created, int | float) or created >= batch.at - SKEW_S


def _counts(entry: Mapping[str, Any]) -> dict[str, int]:
    counts = entry.get("request_counts")
    return {k: v for k, v in counts.items() if isinstance(v, int)} if isinstance(counts, dict) else {}


async def _first_is_ours(transport: Transport, path: str, batch: Batch) -> bool:
    """Whether the first line of a file of the server carries a custom id of this record."""
    async for raw in transport.raw_lines(path):
        try:
            line = json.loads(raw)
        except ValueError:
            return False
        return isinstance(line, dict) and batch.digest_of(line.get("custom_id")) is not None
    return False
