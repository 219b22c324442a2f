"""Servers with a batch API for tests, made from the public references of OpenAI's Batches and Anthropic's Message Batches.

Batches end when a test says so (``finish``); what is in them is answered by an ordinary handler, request by request.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from models.stub import Handler, Request, Response, as_json

Outcome = str
"""``ok``, ``expired``, ``cancelled``, ``error`` or ``missing``: what becomes of one request."""


class BatchStub:
    """What both formats share: the batches so far, and what becomes of their requests."""

    def __init__(self, single: Handler) -> None:
        self.single = single
        self.batches: list[dict[str, Any]] = []
        self.requests: dict[str, list[dict[str, Any]]] = {}
        """Lines of each batch, by its id."""
        self.fate: Callable[[dict[str, Any]], Outcome] = lambda line: "ok"
        self.before: Callable[[Request], Response | None] = lambda request: None
        self.after: Callable[[Request], Response | None] = lambda request: None
        """May put another response in place of the one to a request that was carried out, or kill the client."""
        self.answered = 0

    @property
    def submitted(self) -> list[dict[str, Any]]:
        """Every request of every batch."""
        return [line for lines in self.requests.values() for line in lines]

    def __call__(self, request: Request) -> Response:
        if (instead := self.before(request)) is not None:
            return instead
        response = self.handle(request, urlsplit(request.path).path.removeprefix("/v1"))
        return self.after(request) or response

    def handle(self, request: Request, path: str) -> Response:
        raise NotImplementedError

    def one(self, path: str, body: dict[str, Any]) -> Response:
        self.answered += 1
        return self.single(Request(0, 0.0, "POST", path, {}, body))

    def page(self, request: Request, key: str, size: int = 2) -> Response:
        """Newest first, two to a page."""
        after = parse_qs(urlsplit(request.path).query).get(key, [""])[0]
        newest = self.batches[::-1]
        start = next((n + 1 for n, batch in enumerate(newest) if batch["id"] == after), 0)
        shown = newest[start : start + size]
        more = start + size < len(newest)
        return as_json(
            {"object": "list", "data": shown, "has_more": more, "last_id": shown[-1]["id"] if shown else None}
        )


class OpenAIStub(BatchStub):
    """``/files`` and ``/batches``."""

    def __init__(self, single: Handler, *, keeps_metadata: bool = True) -> None:
        super().__init__(single)
        self.files: dict[str, bytes] = {}
        self.keeps_metadata = keeps_metadata

    def handle(self, request: Request, path: str) -> Response:
        match (request.method, *path.strip("/").split("/")):
            case ("POST", "files"):
                return self._upload(request)
            case ("GET", "files", file, "content"):
                return Response(self.files[file]) if file in self.files else as_json({"error": "no"}, status=404)
            case ("POST", "batches"):
                return self._create(request)
            case ("GET", "batches"):
                return self.page(request, "after")
            case ("GET", "batches", batch):
                found = next((b for b in self.batches if b["id"] == batch), None)
                return as_json(found) if found else as_json({"error": {"message": "No batch"}}, status=404)
            case _:
                return self.single(request)

    def _upload(self, request: Request) -> Response:
        assert request.headers["content-type"].startswith("multipart/form-data")
        head, _, rest = request.raw.partition(b"aifeedback-")
        assert b'name="purpose"' in request.raw
        assert b"\r\n\r\nbatch\r\n" in request.raw
        assert head
        content = rest.partition(b"\r\n\r\n")[2].partition(b"\r\n--")[0]
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return as_json({"id": name, "object": "file", "bytes": len(content), "purpose": "batch"})

    def _create(self, request: Request) -> Response:
        lines = [json.loads(line) for line in self.files[request.body["input_file_id"]].splitlines()]
        assert request.body["completion_window"] == "24h"
        assert all(line["url"] == request.body["endpoint"] and line["method"] == "POST" for line in lines)
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "endpoint": request.body["endpoint"],
            "errors": None,
            "input_file_id": request.body["input_file_id"],
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(datetime.now(UTC).timestamp()),
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "metadata": request.body.get("metadata") if self.keeps_metadata else None,
        }
        self.batches.append(batch)
        self.requests[batch["id"]] = lines
        return as_json(batch)

    def finish(self, status: str = "completed") -> None:
        """End every batch that runs."""
        for batch in self.batches:
            if batch["status"] == "in_progress":
                self._end(batch, status)

    def _end(self, batch: dict[str, Any], status: str) -> None:
        good, bad = [], []
        for line in self.requests[batch["id"]][::-1]:
            fate = self.fate(line)
            shown: dict[str, Any] = {"id": f"req_{line['custom_id'][:8]}", "custom_id": line["custom_id"]}
            if fate == "missing":
                continue
            if fate in ("expired", "cancelled"):
                what = "This request could not be executed before the completion window expired."
                bad.append({**shown, "response": None, "error": {"code": f"batch_{fate}", "message": what}})
                continue
            answer = (
                self.one(line["url"], line["body"])
                if fate == "ok"
                else as_json({"error": {"message": "boom"}}, status=500)
            )
            response = {"status_code": answer.status, "request_id": "r", "body": json.loads(answer.body)}
            (good if answer.status == 200 else bad).append({**shown, "response": response, "error": None})
        for key, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                name = f"file-{len(self.files)}"
                self.files[name] = b"\n".join(json.dumps(line).encode() for line in lines) + b"\n"
                batch[key] = name
        batch["status"] = status
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}


class AnthropicStub(BatchStub):
    """``/messages/batches``; its batches keep no metadata and show nothing of their requests before they end."""

    def __init__(self, single: Handler) -> None:
        super().__init__(single)
        self.results: dict[str, bytes] = {}

    def handle(self, request: Request, path: str) -> Response:
        match (request.method, *path.strip("/").split("/")):
            case ("POST", "messages", "batches"):
                return self._create(request)
            case ("GET", "messages", "batches"):
                return self.page(request, "after_id")
            case ("GET", "messages", "batches", batch, "results"):
                return Response(self.results[batch])
            case ("GET", "messages", "batches", batch):
                found = next((b for b in self.batches if b["id"] == batch), None)
                return as_json(found) if found else as_json({"type": "error", "error": {}}, status=404)
            case _:
                return self.single(request)

    def _create(self, request: Request) -> Response:
        lines = request.body["requests"]
        assert all(set(line) == {"custom_id", "params"} and len(line["custom_id"]) <= 64 for line in lines)
        assert len({line["custom_id"] for line in lines}) == len(lines)
        batch = {
            "id": f"msgbatch_{len(self.batches)}",
            "type": "message_batch",
            "processing_status": "in_progress",
            "request_counts": {"processing": len(lines), "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "ended_at": None,
            "results_url": None,
        }
        self.batches.append(batch)
        self.requests[batch["id"]] = lines
        return as_json(batch)

    def finish(self) -> None:
        for batch in self.batches:
            if batch["processing_status"] == "in_progress":
                self._end(batch)

    def _end(self, batch: dict[str, Any]) -> None:
        lines, counts = [], {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        for line in self.requests[batch["id"]][::-1]:
            fate = self.fate(line)
            if fate == "ok":
                answer = self.one("/v1/messages", line["params"])
                result = {"type": "succeeded", "message": json.loads(answer.body)}
            elif fate == "error":
                inner = {"type": "overloaded_error", "message": "Overloaded"}
                result = {"type": "errored", "error": {"type": "error", "error": inner}}
            else:
                result = {"type": "canceled" if fate == "cancelled" else "expired"}
            counts[result["type"]] += 1
            lines.append(json.dumps({"custom_id": line["custom_id"], "result": result}).encode())
        self.results[batch["id"]] = b"\n".join(lines) + b"\n"
        batch |= {"processing_status": "ended", "request_counts": counts, "results_url": "https://elsewhere.invalid/x"}
