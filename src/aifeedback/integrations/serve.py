"""Any reward over HTTP: a judge, a reward model or a function, for trainers that run elsewhere.

POST /score        {"prompts": […], "completions": […], further columns} → {"rewards": [float or null …]}
POST /get_reward   OpenRLHF's: {"query": […], "prompts": […], "labels": […]} → {"rewards", "scores", "extra_logs"}
POST /v1/systemone, /v1/decisions   typed questions about responses (``integrations/decisions.py``)
GET /health        name of the reward, rows scored and not scored

verl calls a Python function; ``integrations/verl.py`` is that function and calls ``/score``.

A prompt is a text (one user message) or a list of messages; the text parts of a message are joined and its further keys
ignored. OpenRLHF sends prompts as its chat template rendered them: with the tokenizer of ``template``, or the reward
model's own, they become messages again, so that a reward never takes a rendered template for what a user wrote.

A completion that could not be scored is null on ``/score``. OpenRLHF has no value for "unknown", so its request gets
status 503 with the reason, which it retries and then stops on: a number is never made up. Rows of requests that arrive
together are scored in one call of the reward; where that fails, each request is scored by itself, so that a request
fails for its own rows only.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from aifeedback.config import Config
from aifeedback.errors import AIFeedbackError, InputError, MissingExtra, RecipeError
from aifeedback.integrations.decisions import Decider, Unanswerable, decisions, systemone
from aifeedback.types import Message, RewardFn

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
    template: str | None = None
    """Model folder whose chat template rendered the prompts of /get_reward; by default the reward model's own."""
    end_marks: tuple[str, ...] = ()
    """Texts removed from the end of completions, such as "<|im_end|>": OpenRLHF sends special tokens along."""


class Row(NamedTuple):
    prompt: Any
    completion: str
    columns: dict[str, Any]


class Batcher:
    """Scores rows of concurrent requests together, one call of the reward at a time, in a thread."""

    def __init__(self, reward: RewardFn, config: ServeConfig) -> None:
        from aifeedback.training.rewards import adapted

        self.reward, self.config = adapted(reward), config
        self.lock = threading.Lock()
        """Held while the reward, or the judge behind it, is called."""
        self.waiting: asyncio.Queue[tuple[list[Row], asyncio.Future[list[float | None]]]] = asyncio.Queue()
        self.scored = self.unscored = self.calls = 0

    async def score(self, rows: list[Row]) -> list[float | None]:
        """Rewards of these rows, in order; raises what the reward raised."""
        answer: asyncio.Future[list[float | None]] = asyncio.get_running_loop().create_future()
        await self.waiting.put((rows, answer))
        return await answer

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            taken = [await self.waiting.get()]
            await asyncio.sleep(self.config.wait_s)
            while not self.waiting.empty() and sum(len(r) for r, _ in taken) < self.config.rows_per_call:
                taken.append(self.waiting.get_nowait())
            try:
                values = await asyncio.to_thread(self._call, [row for part, _ in taken for row in part])
            except Exception as failed:
                for part, answer in taken:
                    await self._alone(part, answer, failed if len(taken) == 1 else None)
                continue
            for part, answer in taken:
                if not answer.done():
                    answer.set_result(values[: len(part)])
                values = values[len(part) :]

    async def _alone(
        self, rows: list[Row], answer: asyncio.Future[list[float | None]], failed: Exception | None
    ) -> None:
        """Score one request by itself, or pass on how that failed already."""
        values: list[float | None] = []
        if failed is None:
            try:
                values = await asyncio.to_thread(self._call, rows)
            except Exception as own:
                failed = own
        if answer.done():
            return
        if failed is None:
            answer.set_result(values)
        else:
            answer.set_exception(failed)

    def _call(self, rows: Sequence[Row]) -> list[float | None]:
        from aifeedback.training.rewards import checked_rewards

        names = sorted({name for row in rows for name in row.columns})
        values: list[float | None] = []
        for start in range(0, len(rows), self.config.rows_per_call):
            part = rows[start : start + self.config.rows_per_call]
            columns = {name: [row.columns.get(name) for row in part] for name in names}
            with self.lock:
                rewards = self.reward([row.prompt for row in part], [row.completion for row in part], **columns)
            values += checked_rewards(rewards, len(part))
            self.calls += 1
        self.scored += sum(v is not None for v in values)
        self.unscored += sum(v is None for v in values)
        return values


def require_token(config: ServeConfig) -> None:
    """Raises RecipeError for an address that other machines reach, without a token."""
    if config.host not in LOOPBACK and not config.token:
        raise RecipeError(f"{config.host} is open to other machines", key="token", fix="set a token")


def create_app(
    reward: RewardFn, config: ServeConfig | None = None, *, name: str | None = None, decider: Decider | None = None
) -> FastAPI:
    """The application; ``decider`` answers typed questions. Raises RecipeError as ``require_token`` does."""
    config = config or ServeConfig()
    require_token(config)
    batcher = Batcher(reward, config)
    encoding = _encoding(reward, config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()

    app = FastAPI(title="aifeedback rewards", lifespan=lifespan, openapi_url=None)
    routes = APIRouter(prefix=f"/{config.token}" if config.token else "")

    async def body(request: Request) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise HTTPException(415, "send JSON with content-type application/json")
        try:
            parsed = await request.json()
        except ValueError:
            raise HTTPException(400, "the body is not JSON") from None
        if not isinstance(parsed, dict):
            raise HTTPException(422, "the body must be an object")
        return parsed

    async def rewards_of(rows: list[Row] | str) -> list[float | None]:
        if isinstance(rows, str):
            raise HTTPException(422, rows)
        if len(rows) > config.max_rows:
            raise HTTPException(413, f"{len(rows)} rows; at most {config.max_rows} in one request")
        try:
            return await batcher.score(rows) if rows else []
        except InputError as wrong:
            raise HTTPException(422, str(wrong)) from wrong
        except AIFeedbackError as failed:
            raise HTTPException(503, str(failed)) from failed
        except Exception as failed:
            raise HTTPException(500, f"the reward failed: {type(failed).__name__}: {failed}") from failed

    @routes.post("/score")
    async def score(request: Request) -> dict[str, Any]:
        return {"rewards": await rewards_of(score_rows(await body(request), config.end_marks))}

    @routes.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, Any]:
        values = await rewards_of(openrlhf_rows(await body(request), config.end_marks, encoding))
        unscored = [i for i, value in enumerate(values) if value is None]
        if unscored:
            raise HTTPException(503, f"{len(unscored)} of {len(values)} rows could not be scored: rows {unscored[:10]}")
        return {"rewards": values, "scores": values, "extra_logs": {}}

    async def decided(answer: Callable[..., dict[str, Any] | None], body: dict[str, Any]) -> dict[str, Any]:
        from aifeedback.training.rewards import name_of

        def locked() -> dict[str, Any] | None:
            with batcher.lock:
                return answer(body, decider or Decider(), str(body.get("model") or name or name_of(reward)))

        try:
            decision = await asyncio.to_thread(locked)
        except Unanswerable as refused:
            raise HTTPException(422, str(refused)) from None
        except AIFeedbackError as failed:
            raise HTTPException(503, str(failed)) from failed
        if decision is None:
            raise HTTPException(503, "the responses could not be judged")
        return decision

    @routes.post("/v1/systemone")
    async def answer_systemone(request: Request) -> dict[str, Any]:
        return await decided(systemone, await body(request))

    @routes.post("/v1/decisions")
    async def answer_decisions(request: Request) -> dict[str, Any]:
        return await decided(decisions, await body(request))

    @routes.get("/health")
    async def health() -> dict[str, Any]:
        from aifeedback.training.rewards import name_of

        status = {"reward": name or name_of(reward), "calls": batcher.calls}
        return {**status, "scored": batcher.scored, "unscored": batcher.unscored}

    app.include_router(routes)
    app.state.batcher = batcher
    return app


def score_rows(body: dict[str, Any], end_marks: Sequence[str]) -> list[Row] | str:
    """Rows of a ``/score`` request, or what is wrong with it."""
    prompts, completions = body.get("prompts"), body.get("completions")
    if not isinstance(prompts, list) or not isinstance(completions, list) or len(prompts) != len(completions):
        return "'prompts' and 'completions' must be lists of one length"
    columns = {name: values for name, values in body.items() if name not in ("prompts", "completions")}
    for name, values in columns.items():
        if not isinstance(values, list) or len(values) != len(prompts):
            return f"column '{name}' must be a list of {len(prompts)} values"
    rows = []
    for i, (sent, completion) in enumerate(zip(prompts, completions, strict=True)):
        prompt, text = read_prompt(sent), read_completion(completion)
        if isinstance(prompt, Wrong):
            return f"prompt {i}: {prompt}; every prompt must be a text or a list of {{role, content}} messages"
        if isinstance(text, Wrong):
            return f"completion {i}: {text}; every completion must be a text or its message"
        rows.append(Row(prompt, without_end(text, end_marks), {name: values[i] for name, values in columns.items()}))
    return rows


def openrlhf_rows(body: dict[str, Any], end_marks: Sequence[str], encoding: Any = None) -> list[Row] | str:
    """Rows of an OpenRLHF request: a query is prompt and response in one text, the prompt shows where to cut.

    ``encoding``: that of the policy, which turns rendered prompts into messages again.
    """
    queries, prompts = body.get("query"), body.get("prompts")
    if not isinstance(queries, list) or not all(isinstance(q, str) for q in queries):
        return "'query' must be a list of texts"
    if not isinstance(prompts, list) or len(prompts) != len(queries):
        return "'prompts' must come along, one per query: without it prompt and response cannot be separated"
    labels = body.get("labels") or [None] * len(queries)
    if len(labels) != len(queries):
        return "'labels' must be as many as queries"
    marks = () if encoding is None else tuple(encoding.control)
    ends = (*end_marks, *(() if encoding is None else encoding.end_marks))
    rows = []
    for i, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        response = after_prompt(query, prompt, marks) if isinstance(prompt, str) else None
        if response is None:
            return f"query {i} does not start with its prompt"
        response = without_end(response, ends)
        messages = None if encoding is None else encoding.parse(prompt)
        if encoding is None or messages is None:
            rows.append(Row(prompt, response, {"reference": label}))
        else:
            is_text = [m.role for m in messages] == ["user"]
            context = messages[0].content if is_text else [m.model_dump() for m in messages]
            rows.append(Row(context, encoding.prefill + response, {"reference": label}))
    return rows


def after_prompt(query: str, prompt: str, marks: Sequence[str]) -> str | None:
    """What follows the prompt in a query; None where the query does not start with it.

    Decoding may add or drop control tokens (a second BOS) and white space around them ("<s> [INST]" for "<s>[INST]"):
    where the two differ in these alone, they are the same prompt.
    """
    if query.startswith(prompt):
        return query[len(prompt) :]
    skipped = re.compile("|".join([r"\s+", *(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))]))
    at = 0
    for char in skipped.sub("", prompt):
        while between := skipped.match(query, at):
            at = between.end()
        if query[at : at + 1] != char:
            return None
        at += 1
    rest = query[at:]
    tail = re.search(f"(?:{skipped.pattern})*$", prompt)
    for part in skipped.findall(tail[0] if tail else ""):
        rest = rest.removeprefix(part) if rest.startswith(part) or not part.isspace() else rest.lstrip()
    return rest.removeprefix(" ")


class Wrong(str):
    """Why a value of a request cannot be used."""


def read_prompt(value: Any) -> str | list[dict[str, str]] | Wrong:
    """A prompt of a request as rewards take it: text, or messages with a role and a text each."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return Wrong(f"{type(value).__name__} instead of a text or messages" if value != [] else "no messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            return Wrong("a message without 'role' or 'content'")
        text = read_content(message["content"])
        if isinstance(text, Wrong):
            return text
        try:
            messages.append(Message(role=message["role"], content=text).model_dump())
        except ValidationError:
            return Wrong(f"a message of the role {message['role']!r} cannot be scored")
    return messages


def read_content(value: Any) -> str | Wrong:
    """The text of a message: a string, or the joined text parts of a list."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return Wrong(f"a message whose content is {type(value).__name__}")
    texts = []
    for part in value:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            return Wrong(f"a content part of the type {kind!r} cannot be scored")
        texts.append(text)
    return "".join(texts)


def read_completion(value: Any) -> str | Wrong:
    """A completion as text; TRL and chat APIs give it as one message, or as a list of one."""
    message = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(message, dict) and message.get("role", "assistant") == "assistant" and "content" in message:
        return read_content(message["content"])
    return value if isinstance(value, str) else Wrong(f"{type(value).__name__} instead of a text")


def _encoding(reward: RewardFn, config: ServeConfig) -> Any:
    """The encoding that turns rendered prompts into messages: that of ``template``, else the reward model's."""
    if config.template is None:
        return getattr(reward, "encoding", None)
    from aifeedback.inference.encoding import Encoding
    from aifeedback.training.folders import load_tokenizer

    return Encoding.of(load_tokenizer(config.template.removeprefix("hf:")))


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
    """Serve until interrupted. An open address without a token gets a random one, printed once."""
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
