"""Calls through a server's batch API: half price at the large providers, answered within a day.

``BatchCaller`` stands where ``Caller`` does. A call whose response is there is answered from it; any other joins the
batch that is submitted next, or waits for one that was, and raises ``Waiting``. A question that takes several calls
(a label of two tokens) waits several times. Failed requests are tried again in the next batch, as budgeted for single
calls.

Under a spend cap, the estimates of everything submitted and not yet in the journal are set aside first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp

from aifeedback.errors import AIFeedbackError, BatchPending, JudgeUnavailable, ModelError
from aifeedback.models.journal import canonical
from aifeedback.models.openai.batch_formats import AnthropicBatches, BatchFormat, OpenAIBatches
from aifeedback.models.openai.batch_store import Batch, BatchStore, Line
from aifeedback.models.openai.budget import Charge, Spending
from aifeedback.models.openai.client import (
    DOOR,
    NO_LOGPROBS_FIX,
    RETRIED,
    Answer,
    Caller,
    CallFailed,
    Failed,
    Limits,
    limited,
    retry_after,
)
from aifeedback.models.openai.wire import Unusable, Usage, sound
from aifeedback.models.openai.wire import usage as usage_of
from aifeedback.types import Problem

T = TypeVar("T")


class Waiting(Exception):
    """The response of a call is in no ended batch yet."""


class _Request(NamedTuple):
    path: str
    body: Mapping[str, Any]
    estimate_usd: float


class _Attempt(NamedTuple):
    """One response to a request."""

    line: Line
    batch: Batch


class BatchCaller(Caller):
    """Makes calls by batches. ``round`` goes around the questions of one job, asked one after another."""

    def __init__(
        self,
        base_url: str,
        key: str | None,
        limits: Limits,
        spending: Spending,
        folder: Path,
        *,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        is_anthropic: bool = False,
        most_requests: int | None = None,
    ) -> None:
        """``folder`` keeps the records. ``query`` is Azure's API version, whose batches name endpoints without /v1."""
        super().__init__(base_url, key, limits, headers=headers, query=query)
        self.spending, self.store = spending, BatchStore(folder)
        self._format: BatchFormat = (
            AnthropicBatches(self) if is_anthropic else OpenAIBatches(self, prefix="" if query else "/v1")
        )
        most = self._format.most_requests
        self._most_requests = min(most_requests or most, most)
        self._batches: list[Batch] = []
        self._attempts: dict[str, list[_Attempt]] = {}
        self._waiting: set[str] = set()
        self._queued: dict[str, _Request] = {}
        self._held: dict[tuple[str, str], float] = {}
        self._billed: set[tuple[str, str]] = set()
        self._failed: set[str] = set()
        self._succeeded = 0
        self._problems: set[Problem] = set()
        self.read: set[str] = set()
        """Requests whose responses were read since this was last emptied."""

    @asynccontextmanager
    async def round(self) -> AsyncGenerator[None]:
        """Fetch what has ended; inside, calls are answered from it or join the queue."""
        async with self.store.locked():
            await self._begin()
            try:
                yield
            except BatchPending:
                raise
            except AIFeedbackError:  # the cause may be gone by the next start, which must not meet it again
                never = {d for d, some in self._attempts.items() if all(a.line.status != 200 for a in some)}
                self.forget(self._failed | never)
                raise

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[dict[str, Any]], T],
        *,
        charge: Charge,
        max_tokens: int,
        key: str,
    ) -> Answer[T]:
        """As ``Caller.post``, from the responses at hand. Raises Waiting where there is none yet."""
        form = canonical([self.base_url, path, body, key])
        digest = hashlib.sha256(form.encode("utf-8", "surrogatepass")).hexdigest()[:40]
        self.read.add(digest)
        causes: list[str] = []
        seconds = 0.0
        attempts = self._attempts.get(digest, [])
        for number, attempt in enumerate(attempts, 1):
            outcome = self._outcome(attempt, digest, read, charge, max_tokens)
            seconds = (attempt.batch.ended_at or attempt.batch.at) - attempts[0].batch.at
            if not isinstance(outcome, Failed):
                self._succeeded += 1
                return Answer(*outcome, number, seconds, tuple(causes), attempt.batch.id)
            self._failed.add(digest)
            self._problems.add(outcome.problem)
            causes.append(self.redacted(outcome.cause))
            if number >= min(self.limits.attempts, outcome.tries or self.limits.attempts):
                raise CallFailed(outcome.problem, tuple(causes), attempts=number, seconds=seconds)
        if digest in self._waiting or digest in self._queued:
            raise Waiting
        estimate = charge.upper_cost(max_tokens)
        if not self.spending.try_reserve(estimate):
            causes.append("the spend cap is reached")
            raise CallFailed(Problem.OVER_BUDGET, tuple(causes), attempts=len(causes), seconds=seconds)
        self._queued[digest] = _Request(path, body, estimate)
        raise Waiting

    def raise_if_unreadable(self) -> None:
        """Raises ModelError where responses came and none of them has log-probabilities."""
        if not self._succeeded and self._problems == {Problem.NO_LOGPROBS}:
            raise ModelError(f"{self.base_url}: the server returned no log-probabilities", fix=NO_LOGPROBS_FIX)

    def forget(self, digests: set[str]) -> None:
        """Drop responses that are in the journal now; a failed question starts anew when it is asked again."""
        self.store.forget(self._batches, digests)

    async def submit(self) -> BatchPending:
        """Submit what has queued up; what the job now waits for."""
        queued, self._queued = self._queued, {}
        for path, some in groupby(sorted(queued.items(), key=lambda item: item[1].path), lambda item: item[1].path):
            for part in self._parts(dict(some)):
                batch = self.store.keep(Batch.new(self.base_url, path, {d: r.estimate_usd for d, r in part.items()}))
                lines = [
                    json.dumps(self._format.line(batch, digest, request.body)).encode()
                    for digest, request in part.items()
                ]
                submitted = await self._submitted(batch, lines)
                self._batches.append(self.store.keep(batch.model_copy(update={"id": submitted})))
        return BatchPending([await self._shown(b) for b in self._batches if b.ended_at is None])

    # ---------------------------------------------------------------- looking

    async def _begin(self) -> None:
        self._batches = [b for batch in self.store.load(self.base_url) if (b := await self._current(batch)) is not None]
        for reserved in self._held.values():
            self.spending.settle(reserved, 0.0)
        self._held, self._attempts, self._waiting, self._queued = {}, {}, set(), {}
        self._failed, self._succeeded, self._problems = set(), 0, set()
        for batch in self._batches:
            if batch.ended_at is None:
                self._waiting |= batch.requests.keys()
                self._held |= {(batch.name, digest): cost for digest, cost in batch.requests.items()}
                continue
            lines = self.store.lines(batch)
            for digest, estimate in batch.requests.items():
                missing = Line(None, cause=f"batch {batch.id} holds no response to this request")
                line = self._format.read(lines[digest]) if digest in lines else missing
                self._attempts.setdefault(digest, []).append(_Attempt(line, batch))
                if (batch.name, digest) not in self._billed:
                    self._held[batch.name, digest] = self._cost(line, estimate)
        self.answered = sum(a.line.status == 200 for attempts in self._attempts.values() for a in attempts)
        for amount in self._held.values():
            self.spending.reserved_usd += amount

    async def _current(self, batch: Batch) -> Batch | None:
        """The record as of now, its lines fetched if the batch has ended; None where it was never submitted."""
        if batch.ended_at is not None:
            return batch
        if batch.id is None:
            batch = await self._recovered(batch)
        if batch.id is None:
            if batch.candidates:
                return batch
            self.store.drop(batch)
            return None
        state = await self._format.state(batch.id)
        if state is None:
            raise ModelError(
                f"{self.base_url}: batch {batch.id} is not known to the server",
                fix=f"check the key and the base URL; to submit its requests again, delete "
                f"{self.store.folder / batch.name}.json",
            )
        if state.kind == "failed":
            self.store.drop(batch)
            what = f"{self.base_url}: batch {batch.id} was refused ({self.redacted(state.shown)})"
            fix = "correct that; if it is about tokens or requests, set batch_requests to a smaller number"
            raise ModelError(what, fix=fix)
        if state.kind == "waiting":
            return batch
        await self._download(batch, state.results)
        return self.store.keep(batch.model_copy(update={"ended_at": time.time()}))

    async def _recovered(self, batch: Batch) -> Batch:
        """A record whose submission was interrupted, with the server's id if the server has the batch."""
        taken = {other.id for other in self.store.load(self.base_url) if other.id is not None}
        match = await self._format.find(batch, taken)
        return self.store.keep(batch.model_copy(update={"id": match.id, "candidates": match.candidates}))

    async def _shown(self, batch: Batch) -> str:
        count = f"{len(batch.requests):,} requests" if len(batch.requests) != 1 else "1 request"
        if batch.id is None:
            return f"{count} may be in batch {' or '.join(batch.candidates)}, which shows them once it has ended"
        state = await self._format.state(batch.id)
        return f"{count} in batch {batch.id} ({state.shown if state else 'submitted'})"

    # ---------------------------------------------------------------- one response

    def _outcome(
        self, attempt: _Attempt, digest: str, read: Callable[[dict[str, Any]], T], charge: Charge, max_tokens: int
    ) -> tuple[T, dict[str, Any]] | Failed:
        line, usage = attempt.line, None
        try:
            if line.status is None:
                problem = Problem.TIMEOUT if line.is_expired else Problem.SERVER_ERROR
                return Failed(problem, f"batch {attempt.batch.id}: {line.cause}")
            if line.status != 200:
                return self._refusal(line.status, {}, json.dumps(line.body).encode())
            answer = sound(line.body)
            usage = usage_of(answer)
            return read(answer), answer
        except Unusable as unusable:
            # what another try is unlikely to improve is not worth another day
            return Failed(unusable.problem, unusable.cause, unusable.tries and 1)
        finally:
            cost = charge.bill(usage, max_tokens, was_answered=line.status == 200)
            place = attempt.batch.name, digest
            if place not in self._billed:
                self._billed.add(place)
                self.spending.settle(self._held.pop(place, 0.0), cost)

    def _cost(self, line: Line, estimate_usd: float) -> float:
        """What a response costs; nothing where it was never answered."""
        if line.status != 200 or self.spending.price is None:
            return 0.0
        usage = usage_of(line.body) if isinstance(line.body, dict) else Usage()
        return estimate_usd if usage.prompt_tokens is None else self.spending.price.of(usage)

    # ---------------------------------------------------------------- sending

    def _parts(self, requests: dict[str, _Request]) -> list[dict[str, _Request]]:
        """The requests in parts that fit into one batch each."""
        parts: list[dict[str, _Request]] = []
        size = 0
        for digest, request in requests.items():
            length = len(json.dumps(request.body)) + 200
            if not parts or len(parts[-1]) >= self._most_requests or size + length > self._format.most_bytes:
                parts.append({})
                size = 0
            parts[-1][digest] = request
            size += length
        return parts

    async def _submitted(self, batch: Batch, lines: list[bytes]) -> str:
        """The server's id. A failure that leaves it open whether the batch exists is looked up, not repeated blindly."""
        for attempt in range(1, self.limits.attempts + 1):
            try:
                return await self._format.submit(batch, lines)
            except JudgeUnavailable:
                if attempt == self.limits.attempts:
                    raise
                await asyncio.sleep(self._wait(Failed(Problem.SERVER_ERROR, ""), attempt, batch.name))
                match = await self._format.find(batch, {b.id for b in self._batches if b.id is not None})
                if match.id is not None:
                    return match.id
                if match.candidates:
                    self.store.keep(batch.model_copy(update={"candidates": match.candidates}))
                    raise
            except (ModelError, KeyError, TypeError):
                self.store.drop(batch)
                raise
        raise AssertionError("unreachable")

    async def ask(self, method: str, path: str, *, data: Any = None, missing: bool = False) -> Any:
        """The decoded JSON of one request about batches. Requests that only look are retried."""
        cause = ""
        for attempt in range(1, (self.limits.attempts if method == "GET" else 1) + 1):
            if attempt > 1:
                await asyncio.sleep(self._wait(Failed(Problem.SERVER_ERROR, ""), attempt - 1, path))
            status, body, wait_s = await self._exchange(method, path, data)
            if status == 200 or status == 201:
                try:
                    if isinstance(content := json.loads(body), dict):
                        return content
                except ValueError:
                    pass
                cause = f"the answer to {path} is not a JSON object"
                continue
            if status == 404 and missing:
                return None
            cause = f"HTTP {status}: {body[:300].decode('utf-8', 'replace')}" if status else body.decode()
            if status and status not in RETRIED and status < 500:
                what = DOOR.get(status, "the server refuses the request")
                fix = "check the key, the base URL and the model; a server without a batch API needs batch_api off"
                raise ModelError(f"{self.base_url}{path.partition('?')[0]}: {what} ({self.redacted(cause)})", fix=fix)
            if wait_s is not None:
                await asyncio.sleep(min(wait_s, self.limits.longest_wait_s))
        raise JudgeUnavailable(
            f"{self.base_url}{path.partition('?')[0]}: {self.redacted(cause)}\n"
            "  → everything answered is kept; run the same command again, which submits nothing twice"
        )

    async def raw_lines(self, path: str) -> AsyncIterator[bytes]:
        """The lines of a file of the server; raises JudgeUnavailable where it does not come whole."""
        try:
            async with self._open().get(
                self.base_url + path + self._query,
                headers=self._without_type(),
                allow_redirects=False,
                timeout=self._patient(),
            ) as response:
                if response.status != 200:
                    raise OSError(
                        f"HTTP {response.status}: {(await limited(response))[:300].decode('utf-8', 'replace')}"
                    )
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
                if rest.strip():
                    yield rest
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            cause = self.redacted(str(error) or type(error).__name__)
            raise JudgeUnavailable(f"{self.base_url}{path}: {cause}\n  → run the same command again") from None

    async def _download(self, batch: Batch, paths: tuple[str, ...]) -> None:
        """All result files as one, whole or not at all."""
        target = self.store.lines_file(batch)
        partial = target.with_suffix(".part")
        with partial.open("wb") as out:
            for path in paths:
                async for line in self.raw_lines(path):
                    out.write(line.rstrip(b"\r") + b"\n")
        partial.replace(target)

    async def _exchange(self, method: str, path: str, data: Any) -> tuple[int, bytes, float | None]:
        """Status, body and the wait that the server asks for; status 0 and the cause where it was not reached."""
        body = json.dumps(data).encode() if isinstance(data, dict) else data
        headers = self._sent_headers if isinstance(body, bytes) else self._without_type()
        query = self._query.replace("?", "&" if "?" in path else "?")
        try:
            async with self._open().request(
                method,
                self.base_url + path + query,
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=self._patient(),
            ) as response:
                return response.status, await limited(response), retry_after(response.headers)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            return 0, (str(error) or type(error).__name__).encode(), None

    def _without_type(self) -> dict[str, str]:
        return {name: value for name, value in self._sent_headers.items() if name != "Content-Type"}

    def _patient(self) -> aiohttp.ClientTimeout:
        """Files are large: what counts is that something keeps arriving."""
        return aiohttp.ClientTimeout(
            total=None, sock_connect=self.limits.attempt_timeout_s, sock_read=self.limits.attempt_timeout_s
        )
