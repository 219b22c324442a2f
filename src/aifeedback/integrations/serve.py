"""Any reward over HTTP: a judge, a reward model or a function, for trainers that run elsewhere.

POST /score        {"prompts": […], "completions": […], further columns} → {"rewards": [float or null …]}
POST /get_reward   OpenRLHF's: {"query": […], "prompts": […], "labels": […]} → {"rewards", "scores", "extra_logs"}
GET /health        name of the reward, rows scored and not scored

verl calls a Python function; ``integrations/verl.py`` is that function and asks ``/score``.

A completion that could not be scored is null on ``/score``. OpenRLHF has no way to say "not known", so there the answer
is status 503 with the reason, which it retries and then stops on: a number is never made up. Rows of requests that
arrive together are scored in one call of the reward.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import Field

from aifeedback.config import Config
from aifeedback.errors import AIFeedbackError, MissingExtra, RecipeError
from aifeedback.protocols import RewardFn

try:
    from fastapi import APIRouter, FastAPI, HTTPException, Request
except ModuleNotFoundError as missing:
    raise MissingExtra("fastapi", "web") from missing

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ServeConfig(Config):
    """How rewards are served."""

    host: str = "127.0.0.1"
    """Address to listen on; anything but loopback makes a token."""
    port: int = Field(default=8300, ge=0, le=65535)
    token: str | None = None
    """First part of every path, since trainers send no headers: http://HOST:PORT/TOKEN/score."""
    rows_per_call: int = Field(default=256, ge=1)
    """Most rows in one call of the reward."""
    wait_s: float = Field(default=0.01, ge=0.0)
    """How long the first request of a call waits for others."""
    max_rows: int = Field(default=65_536, ge=1)
    """Largest request that is taken."""
    end_marks: tuple[str, ...] = ()
    """Texts removed from the end of completions, such as "<|im_end|>": OpenRLHF sends special tokens along."""


class Row(NamedTuple):
    prompt: Any
    completion: str
    columns: dict[str, Any]


class Batcher:
    """Scores rows of concurrent requests together, one call of the reward at a time, in a thread."""

    def __init__(self, reward: RewardFn, config: ServeConfig) -> None:
        self.reward, self.config = reward, config
        self.waiting: asyncio.Queue[tuple[list[Row], asyncio.Future[list[float | None]]]] = asyncio.Queue()
        self.scored = self.unscored = self.calls = 0

    async def score(self, rows: list[Row]) -> list[float | None]:
        """Rewards of these rows, in order; raises what the reward raised."""
        answer: asyncio.Future[list[float | None]] = asyncio.get_running_loop().create_future()
        await self.waiting.put((rows, answer))
        return await answer

    async def run(self) -> None:
        """Serves until cancelled."""
        while True:
            taken = [await self.waiting.get()]
            await asyncio.sleep(self.config.wait_s)
            while not self.waiting.empty() and sum(len(r) for r, _ in taken) < self.config.rows_per_call:
                taken.append(self.waiting.get_nowait())
            rows = [row for part, _ in taken for row in part]
            try:
                values = await asyncio.to_thread(self._call, rows)
            except Exception as failed:
                for _, answer in taken:
                    if not answer.done():
                        answer.set_exception(failed)
                continue
            for part, answer in taken:
                if not answer.done():
                    answer.set_result(values[: len(part)])
                values = values[len(part) :]

    def _call(self, rows: Sequence[Row]) -> list[float | None]:
        from aifeedback.train.rewards import checked_rewards

        names = sorted({name for row in rows for name in row.columns})
        values: list[float | None] = []
        for start in range(0, len(rows), self.config.rows_per_call):
            part = rows[start : start + self.config.rows_per_call]
            columns = {name: [row.columns.get(name) for row in part] for name in names}
            found = self.reward([row.prompt for row in part], [row.completion for row in part], **columns)
            values += checked_rewards(found, len(part))
            self.calls += 1
        self.scored += sum(v is not None for v in values)
        self.unscored += sum(v is None for v in values)
        return values


def require_token(config: ServeConfig) -> None:
    """Raises RecipeError for an address that other machines reach, without a token."""
    if config.host not in LOOPBACK and not config.token:
        raise RecipeError(f"{config.host} is open to other machines", key="token", fix="set a token")


def create_app(reward: RewardFn, config: ServeConfig | None = None, *, name: str | None = None) -> FastAPI:
    """The application. Raises RecipeError as ``require_token`` does."""
    config = config or ServeConfig()
    require_token(config)
    batcher = Batcher(reward, config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(title="aifeedback rewards", lifespan=lifespan, openapi_url=None)
    routes = APIRouter(prefix=f"/{config.token}" if config.token else "")

    async def body(request: Request) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(415, "send JSON with content-type application/json")
        try:
            given = await request.json()
        except ValueError:
            raise HTTPException(400, "the body is not JSON") from None
        if not isinstance(given, dict):
            raise HTTPException(422, "the body must be an object")
        return given

    async def rewards_of(rows: list[Row] | str) -> list[float | None]:
        if isinstance(rows, str):
            raise HTTPException(422, rows)
        if len(rows) > config.max_rows:
            raise HTTPException(413, f"{len(rows)} rows; at most {config.max_rows} in one request")
        try:
            return await batcher.score(rows) if rows else []
        except AIFeedbackError as failed:
            raise HTTPException(503, str(failed)) from failed

    @routes.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        return {"rewards": await rewards_of(score_rows(await body(request), config.end_marks))}

    @routes.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, Any]:
        values = await rewards_of(openrlhf_rows(await body(request), config.end_marks))
        unscored = [i for i, value in enumerate(values) if value is None]
        if unscored:
            raise HTTPException(503, f"{len(unscored)} of {len(values)} rows could not be scored: rows {unscored[:10]}")
        return {"rewards": values, "scores": values, "extra_logs": {}}

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        from aifeedback.train.rewards import name_of

        told = {"reward": name or name_of(reward), "calls": batcher.calls}
        return {**told, "scored": batcher.scored, "unscored": batcher.unscored}

    app.include_router(routes)
    app.state.batcher = batcher
    return app


def score_rows(given: dict[str, Any], end_marks: Sequence[str]) -> list[Row] | str:
    """Rows of a ``/score`` request, or what is wrong with it."""
    prompts, completions = given.get("prompts"), given.get("completions")
    if not isinstance(prompts, list) or not isinstance(completions, list) or len(prompts) != len(completions):
        return "'prompts' and 'completions' must be lists of one length"
    if not all(isinstance(c, str) for c in completions):
        return "every completion must be a text"
    if not all(_is_prompt(p) for p in prompts):
        return "every prompt must be a text or a list of {role, content} messages"
    columns = {name: values for name, values in given.items() if name not in ("prompts", "completions")}
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != len(prompts):
            return f"column '{name}' must be a list of {len(prompts)} values"
    return [
        Row(p, without_end(c, end_marks), {name: values[i] for name, values in columns.items()})
        for i, (p, c) in enumerate(zip(prompts, completions, strict=True))
    ]


def openrlhf_rows(given: dict[str, Any], end_marks: Sequence[str]) -> list[Row] | str:
    """Rows of an OpenRLHF request: a query is prompt and response in one text, the prompt tells where to cut."""
    queries, prompts = given.get("query"), given.get("prompts")
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        return "'query' must be a list of texts"
    if not isinstance(prompts, list) or len(prompts) != len(queries):
        return "'prompts' must come along, one per query: without it prompt and response cannot be told apart"
    labels = given.get("labels") or [None] * len(queries)
    if len(labels) != len(queries):
        return "'labels' must be as many as queries"
    rows = []
    for i, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        if not isinstance(prompt, str) or not query.startswith(prompt):
            return f"query {i} does not start with its prompt"
        rows.append(Row(prompt, without_end(query[len(prompt) :], end_marks), {"reference": label}))
    return rows


def without_end(text: str, end_marks: Sequence[str]) -> str:
    """The text without any of the marks at its end."""
    stripped = True
    while stripped:
        stripped = False
        for mark in end_marks:
            if mark and text.endswith(mark):
                text, stripped = text[: -len(mark)], True
    return text


def serve(reward: RewardFn, config: ServeConfig | None = None, *, name: str | None = None) -> None:
    """Serves until interrupted. An open address without a token gets a random one, printed once."""
    try:
        import uvicorn
    except ImportError as missing:
        raise MissingExtra("uvicorn", "web") from missing
    config = config or ServeConfig()
    if config.host not in LOOPBACK and not config.token:
        config = config.model_copy(update={"token": secrets.token_urlsafe(16)})
    app = create_app(reward, config, name=name)
    where = f"http://{config.host}:{config.port}" + (f"/{config.token}" if config.token else "")
    print(f"rewards at {where}/score and {where}/get_reward")
    uvicorn.run(app, host=config.host, port=config.port, log_level="warning")


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value)
    )
