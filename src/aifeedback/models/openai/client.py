"""HTTP calls to a server: limits, Retry-After, capped back-off with a budget, deadlines, cancellation.

``Caller`` makes one call, ``Schedule`` decides the order of many, ``Background`` runs them in a thread of its own so
that synchronous code can read responses as they arrive.

Everything here runs in one event loop, so nothing is locked. aiohttp is used directly: through the OpenAI SDK one core
sends a few hundred requests a second, with aiohttp some thousands (docs/servers.md), and the SDK's retry, its typed
answers and its logging would all have to be switched off.

Prompts are sorted, which puts shared prefixes side by side. The first of the job goes alone where all share a
beginning; the first of each group goes ahead of its group, whose others wait for its answer.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import queue
import re
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from random import Random
from typing import Any, Generic, NamedTuple, TypeVar

import aiohttp
from pydantic import Field

from aifeedback.config import Config
from aifeedback.errors import AIFeedbackError, JudgeUnavailable, ModelError
from aifeedback.models.dialects import setting_for, speaks_of_length
from aifeedback.models.openai.budget import Charge
from aifeedback.models.openai.wire import Unusable, Usage, payload
from aifeedback.models.openai.wire import usage as usage_of
from aifeedback.types import Problem

MIN_SHARED = 512
"""Characters; below this a warm-up would cost more than it saves."""


def shared_prefix(first: str, second: str) -> int:
    """Length of the common beginning of two texts."""
    most = min(len(first), len(second))
    if first[:most] == second[:most]:
        return most
    return bisect_left(range(most), True, key=lambda length: first[: length + 1] != second[: length + 1])


class Schedule:
    """Hands out positions of ``prompts``: ``take`` until it gives None, ``done`` for every answer."""

    def __init__(self, prompts: Sequence[str], *, warm: bool = True) -> None:
        self.prompts, self.warm = prompts, warm
        self._order = sorted(range(len(prompts)), key=prompts.__getitem__)
        self._next = 0
        self._ready: deque[int] = deque()
        self._waiting: dict[int, list[int]] = {}
        self._leader: int | None = None
        self._common = shared_prefix(prompts[self._order[0]], prompts[self._order[-1]]) if prompts else 0
        self._is_cold = warm and len(prompts) > 1 and self._common >= MIN_SHARED

    def __len__(self) -> int:
        """Positions not handed out yet."""
        return len(self._order) - self._next + len(self._ready) + sum(map(len, self._waiting.values()))

    def take(self) -> int | None:
        """The next position to ask; None while all that are left wait for an answer, or none are left."""
        if self._is_cold and self._next > 0:
            return None
        if self._ready:
            return self._ready.popleft()
        while self._next < len(self._order):
            position = self._order[self._next]
            leader = self._leader_of(position)
            self._next += 1
            if leader is None:
                return position
            self._waiting[leader].append(position)
        return None

    def done(self, position: int) -> None:
        """An answer to ``position`` has come, of whatever kind."""
        self._is_cold = False
        self._ready.extendleft(reversed(self._waiting.pop(position, [])))

    def _leader_of(self, position: int) -> int | None:
        """The position in flight that this one should wait for; a position without one leads those that follow."""
        if not self.warm:
            return None
        leader = self._leader
        if leader is not None:
            shared = shared_prefix(self.prompts[leader], self.prompts[position])
            is_close = shared - self._common >= MIN_SHARED and 2 * shared >= len(self.prompts[position])
            if is_close:
                return leader if leader in self._waiting else None
        self._leader = position
        self._waiting[position] = []
        return None


T = TypeVar("T")


class Background:
    """One event loop, one daemon thread, started on first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_turn, args=(self._loop,), name="aifeedback calls", daemon=True).start()
            return self._loop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs to the end and returns; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs ``last``, then ends the thread; nothing happens where it never started."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or not loop.is_running():
            return

        async def end() -> None:
            await last()
            loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    """A loop until it is stopped; then the files that it holds are given back."""
    try:
        loop.run_forever()
    finally:
        loop.close()


class Stream:
    """Items from a coroutine to a synchronous reader, with a limit on how many are under way or not yet taken care of.

    The coroutine takes a ``slot`` before it starts an item and ``put``s it when it is done. The reader gets batches;
    asking for the next one frees the slots of the last.
    """

    def __init__(self, slots: int) -> None:
        self._slots = asyncio.Semaphore(slots)
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def slot(self) -> None:
        await self._slots.acquire()

    def put(self, item: Any) -> None:
        self._items.put((item, None))

    def read(self, background: Background, work: Callable[[Stream], Coroutine[Any, Any, None]]) -> Generator[list[Any]]:
        """Batches of items until ``work`` ends; raises what it raised after all earlier items were handed out."""
        future = asyncio.run_coroutine_threadsafe(self._work(work), background.loop)
        try:
            while True:
                batch, end = self._batch()
                if batch:
                    yield batch
                    background.loop.call_soon_threadsafe(self._free, len(batch))
                if end is not None:
                    future.result()
                    return
        finally:
            future.cancel()

    async def _work(self, work: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
        try:
            await work(self)
        finally:
            self._items.put((None, "end"))

    def _batch(self) -> tuple[list[Any], str | None]:
        """What has arrived, at least one item or the end."""
        batch: list[Any] = []
        item, end = self._items.get()
        while end is None:
            batch.append(item)
            try:
                item, end = self._items.get_nowait()
            except queue.Empty:
                return batch, None
        return batch, end

    def _free(self, slots: int) -> None:
        for _ in range(slots):
            self._slots.release()


TRANSIT = frozenset({Problem.SERVER_ERROR, Problem.TIMEOUT, Problem.NO_LOGPROBS})
"""Problems that say something about the server rather than about the question."""
RETRIED = frozenset({408, 409, 425, 429})
DOOR = {
    401: "the key was not accepted",
    402: "payment is required",
    403: "access is forbidden",
    404: "the server does not know this model or address",
}
_POLICY = re.compile(r"content[_ ](?:filter|policy|management)|safety system|ResponsibleAI", re.I)
_MOST_BYTES = 16_000_000
BY_OPTION = "command line: --set server.NAME=VALUE"
NO_LOGPROBS_FIX = f"set readout to 'votes' or 'parsed' for this server ({BY_OPTION})"
ADVICE_SLOW = f"raise attempt_timeout_s, or lower concurrency ({BY_OPTION})"
_CLOSED_AFTER = 3
_KEY_LIKE = re.compile(r"\b(?:sk|key|pk|rk)-[A-Za-z0-9*_.-]{6,}|(?i:bearer)\s+\S+")


class Limits(Config):
    """How hard a server is pressed, and how long it is waited for."""

    concurrency: int = Field(default=32, ge=1)
    """Calls in flight; one is in flight until its answer is committed."""
    requests_per_minute: float | None = Field(default=None, gt=0.0)
    tokens_per_minute: float | None = Field(default=None, gt=0.0)
    """Prompt and answer tokens, estimated before a call."""
    attempts: int = Field(default=8, ge=1)
    """How often one call is tried in all."""
    attempt_timeout_s: float = Field(default=60.0, gt=0.0)
    deadline_s: float = Field(default=600.0, gt=0.0)
    """For one call with all its attempts and waits."""
    backoff_first_s: float = Field(default=0.5, gt=0.0)
    backoff_most_s: float = Field(default=30.0, gt=0.0)
    longest_wait_s: float = Field(default=300.0, gt=0.0)
    """A server that asks for a longer wait than this ends the run, which can be resumed later."""
    dead_after: int = Field(default=8, ge=1)
    """So many calls in a row that failed in all their attempts end the run."""
    seed: int = 0
    """Of the back-off's jitter."""


class Answer(NamedTuple, Generic[T]):
    """What a successful call gave."""

    value: T
    body: dict[str, Any]
    attempts: int
    seconds: float
    """From the first attempt's start."""
    causes: tuple[str, ...]
    """Why earlier attempts failed."""
    batch: str | None = None
    """The server's batch that the response came with."""


class CallFailed(Exception):
    """A call that failed in all its attempts, or for good; the record gets ``problem``."""

    def __init__(self, problem: Problem, causes: tuple[str, ...], *, attempts: int, seconds: float) -> None:
        super().__init__(causes[-1] if causes else problem)
        self.problem, self.causes, self.attempts, self.seconds = problem, causes, attempts, seconds


class Failed(NamedTuple):
    """One attempt that failed."""

    problem: Problem
    cause: str
    tries: int | None = None
    wait_s: float | None = None
    """What the server asked for."""


class Pace:
    """Spaces calls out for both per-minute limits, and holds all of them back while the server asks to wait."""

    def __init__(self, limits: Limits) -> None:
        self._per_call_s = 60.0 / limits.requests_per_minute if limits.requests_per_minute else 0.0
        self._per_token_s = 60.0 / limits.tokens_per_minute if limits.tokens_per_minute else 0.0
        self._next_call = self._next_token = self._not_before = -math.inf

    def pause(self, wait_s: float) -> None:
        """No call starts in the next ``wait_s`` seconds."""
        self._not_before = max(self._not_before, time.monotonic() + wait_s)

    async def turn(self, tokens: float) -> None:
        """Returns when a call of so many tokens may start."""
        now = time.monotonic()
        start = max(now, self._next_call, self._next_token)
        self._next_call = start + self._per_call_s
        self._next_token = start + tokens * self._per_token_s
        while (wait_s := max(start, self._not_before) - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)


class Caller:
    """Sends JSON to one server. Raises JudgeUnavailable or ModelError when continuing is pointless."""

    def __init__(
        self,
        base_url: str,
        key: str | None,
        limits: Limits,
        *,
        headers: Mapping[str, str] | None = None,
        query: str = "",
    ) -> None:
        """``headers`` go with every request, the one that carries the key included; ``query`` ends every address."""
        self.base_url, self.limits, self.pace = base_url.rstrip("/"), limits, Pace(limits)
        self._key, self._query = key, query
        self._sent_headers = {"Content-Type": "application/json", **(headers or {})}
        self._last_failed: Failed | None = None
        self.listed: tuple[str, ...] = ()
        """Names of the models that the server lists, where it was asked."""
        self._session: aiohttp.ClientSession | None = None
        self._failed_in_a_row = self._refused_in_a_row = 0
        self.answered = self.retries = 0
        """Calls that were answered, and attempts beyond the first, since this object was made."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None

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
        """``read`` makes the answer's JSON a value or raises Unusable. ``key`` seeds the jitter. Raises CallFailed."""
        tokens = charge.characters / charge.spending.characters_per_token + max_tokens
        data = json.dumps(body).encode("utf-8", "surrogatepass")
        causes: list[str] = []
        attempt, started = 0, time.monotonic()
        while True:
            attempt += 1
            await self.pace.turn(tokens)
            if attempt == 1:
                started = time.monotonic()
            if await charge.open(max_tokens):
                outcome = await self._attempt(path, data, read, charge)
            else:
                outcome = Failed(Problem.OVER_BUDGET, "the spend cap is reached", tries=1)
            seconds = time.monotonic() - started
            if not isinstance(outcome, Failed):
                self._failed_in_a_row = self._refused_in_a_row = 0
                self.answered += 1
                return Answer(*outcome, attempt, seconds, tuple(causes))
            causes.append(self.redacted(outcome.cause))
            wait_s = self._wait(outcome, attempt, key)
            is_last = attempt >= min(self.limits.attempts, outcome.tries or self.limits.attempts)
            if is_last or seconds + wait_s > self.limits.deadline_s:
                break
            self.retries += 1
            await asyncio.sleep(wait_s)
        self._note_failure(outcome)
        raise CallFailed(outcome.problem, tuple(causes), attempts=attempt, seconds=seconds)

    async def get(self, path: str) -> tuple[int, bytes]:
        """One attempt, status and body; raises OSError or TimeoutError where the server is not reached."""
        try:
            async with self._open().get(
                self.base_url + path + self._query, headers=self._sent_headers, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except aiohttp.ClientError as error:
            raise OSError(str(error)) from error

    async def raise_if_dead(self) -> None:
        """After a job in which nothing was answered: raises JudgeUnavailable if the server is not even reached, and
        ModelError if it answers, but never with log-probabilities."""
        if self._failed_in_a_row == 0:
            return
        if self.answered == 0 and self._last_failed is not None and self._last_failed.problem is Problem.NO_LOGPROBS:
            raise ModelError(f"{self.base_url}: {self.redacted(self._last_failed.cause)}", fix=NO_LOGPROBS_FIX)
        problem = self._last_failed.problem if self._last_failed else None
        try:
            status, _ = await asyncio.wait_for(self.get("/models"), 10.0)
        except (OSError, TimeoutError, ValueError) as error:
            why = str(error) or "no answer to GET /models within 10 s"
            raise self._dead(f"not one call was answered ({self.redacted(why)})", problem) from None
        if status >= 500:
            raise self._dead(f"not one call was answered, and the server reports HTTP {status}")

    def redacted(self, text: str) -> str:
        """A text that may have come from the server, without the key and without anything that looks like one."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return _KEY_LIKE.sub("[key]", text)[:300]

    async def _attempt(
        self, path: str, data: bytes, read: Callable[[dict[str, Any]], T], charge: Charge
    ) -> tuple[T, dict[str, Any]] | Failed:
        usage: Usage | None = None
        was_answered = True
        try:
            async with self._open().post(
                self.base_url + path + self._query, data=data, headers=self._sent_headers, allow_redirects=False
            ) as response:
                was_answered = response.status in (200, 201)
                body = await limited(response)
            if was_answered and (inner := _status_in(body)) is not None:
                was_answered = False
                return self._refusal(inner, response.headers, body)
            if not was_answered:
                return self._refusal(response.status, response.headers, body)
            answer = payload(body)
            usage = usage_of(answer)
            return read(answer), answer
        except Unusable as unusable:
            return Failed(unusable.problem, unusable.cause, unusable.tries)
        except TimeoutError:
            return Failed(Problem.TIMEOUT, f"no answer within {self.limits.attempt_timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            was_answered = was_answered and not isinstance(error, aiohttp.ClientConnectorError)
            return Failed(Problem.SERVER_ERROR, f"{type(error).__name__}: {error}")
        finally:
            charge.close(usage, was_answered=was_answered)

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> Failed:
        message = body[:500].decode("utf-8", "replace").strip()
        cause = f"HTTP {status}: {message}" if message else f"HTTP {status}"
        if status == 429 and "insufficient_quota" in message:
            raise self._dead(f"the account's quota is used up ({self.redacted(cause)})")
        if status in RETRIED or status >= 500:
            wait_s = retry_after(headers)
            if wait_s is not None:
                self._hold(wait_s, cause)
            return Failed(Problem.SERVER_ERROR, cause, wait_s=wait_s)
        if status in (400, 413, 422) and (status == 413 or speaks_of_length(message)):
            return Failed(Problem.TOO_LONG, cause, tries=1)
        if status == 400 and _POLICY.search(message):
            return Failed(Problem.REFUSED, cause, tries=1)
        self._refused_in_a_row += 1
        if self.answered == 0 and self._refused_in_a_row >= _CLOSED_AFTER:
            what = DOOR.get(status, "the server refuses the request")
            fix = _hint(status, message)
            if 300 <= status < 400 and (target := headers.get("Location")):
                shown = self.redacted(target.partition("?")[0])
                fix = (
                    f"redirects are not followed, so that the key goes nowhere else; name the target's address: {shown}"
                )
            if status == 404 and self.listed:
                fix = f"the server lists {', '.join(self.listed[:8])}: name one of them, or check the base URL"
            raise ModelError(f"{self.base_url}: {what} ({self.redacted(cause)})", fix=fix)
        return Failed(Problem.SERVER_ERROR, cause, tries=None if status in DOOR else 3)

    def _hold(self, wait_s: float, cause: str) -> None:
        if wait_s > self.limits.longest_wait_s:
            raise self._dead(f"the server asks to wait {wait_s:.0f} s ({self.redacted(cause)})")
        self.pace.pause(wait_s)

    def _wait(self, failed: Failed, attempt: int, key: str) -> float:
        most = min(self.limits.backoff_most_s, self.limits.backoff_first_s * 2 ** (attempt - 1))
        jittered = most * (0.5 + 0.5 * Random(f"{self.limits.seed}/{key}/{attempt}").random())
        return max(jittered, failed.wait_s or 0.0)

    def _note_failure(self, failed: Failed) -> None:
        self._last_failed = failed
        if failed.problem not in TRANSIT:
            self._failed_in_a_row = 0
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.limits.dead_after:
            raise self._dead(
                f"{self._failed_in_a_row} calls in a row failed in all their attempts ({self.redacted(failed.cause)})",
                failed.problem,
            )

    def _dead(self, cause: str, problem: Problem | None = None) -> AIFeedbackError:
        if problem is Problem.NO_LOGPROBS and self.answered == 0:
            return ModelError(f"{self.base_url}: {cause}", fix=NO_LOGPROBS_FIX)
        help_first = f"{ADVICE_SLOW}; " if problem is Problem.TIMEOUT else ""
        return JudgeUnavailable(
            f"{self.base_url}: {cause}\n  → {help_first}everything answered is kept; run the same command again"
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            is_local = re.match(r"https?://(?:127\.|localhost|\[::1\])", self.base_url) is not None
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=self.limits.attempt_timeout_s),
                trust_env=not is_local,
                auto_decompress=True,
            )
        return self._session


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by ``Retry-After`` (seconds or a date) or ``retry-after-ms``; None where neither says."""
    in_ms = _number(headers.get("retry-after-ms"))
    if in_ms is not None:
        return in_ms / 1000.0
    header = headers.get("Retry-After")
    if header is None:
        return None
    seconds = _number(header)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0.0 else None


async def limited(response: aiohttp.ClientResponse) -> bytes:
    """The body; raises ValueError where it does not end."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise ValueError(f"the answer is longer than {_MOST_BYTES} bytes")
    return b"".join(parts)


def _status_in(body: bytes) -> int | None:
    """The status of an error that came with status 200: ``{"error": {"code": 429}}``, ``{"object": "error", …}``."""
    if len(body) > 20_000 or b"choices" in body or (b"code" not in body and b"status" not in body):
        return None
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    inner = content.get("error")
    error: dict[str, Any] = inner if isinstance(inner, dict) else content
    is_error = error is not content or content.get("object") == "error" or "error" in content
    codes = [error.get(key) for key in ("code", "status", "status_code")] if is_error else []
    return next((code for code in codes if type(code) is int and 400 <= code < 600), None)


def _hint(status: int, message: str) -> str:
    if status in DOOR:
        return "check the key in the environment, the model's name and the base URL"
    setting = setting_for(message)
    return (
        f"{setting} ({BY_OPTION})"
        if setting
        else "compare the request (--dry-run shows one) with what the server accepts"
    )
