"""``ServerModel``: any OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama, hosted ones) as a Model.

Labels are read from the top log-probabilities of one answer token (Lee et al. 2023, arXiv 2309.00267, section 3.1: the
same readout as a local model's, as far as the server shows it). Servers without log-probabilities are asked for n
sampled votes, or one written verdict; the model's ``readout`` says so, and it is part of the card.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import numpy as np

from aifeedback.config import parse
from aifeedback.errors import JudgeUnavailable, ModelError
from aifeedback.models.decisions import FORMATS
from aifeedback.models.dialects import OWN_DEFAULTS, STRUCTURED, Structured
from aifeedback.models.fake import as_text
from aifeedback.models.journal import canonical
from aifeedback.models.journaled import Answered
from aifeedback.models.label_logprobs import LabelSet, as_array
from aifeedback.models.openai.batches import BatchCaller, Waiting
from aifeedback.models.openai.budget import Charge, Forecast, Spending, price_of
from aifeedback.models.openai.client import Background, Caller, CallFailed, Limits, Schedule, Stream
from aifeedback.models.openai.requests import Asker, Job
from aifeedback.models.openai.settings import (
    ANTHROPIC_URL,
    URL_VARIABLE,
    Readout,
    ServerSettings,
    checked_url,
    continuing_of,
    described,
    family_of,
    headers_of,
    key_of,
    listed,
    require_effect,
)
from aifeedback.models.openai.wire import Continuing
from aifeedback.types import ModelCard, Problem, PromptLike, Reading, Reply, Sampling


def connect(name: str, **options: Any) -> ServerModel:
    """What ``models.connect("openai:NAME", …)`` calls. Options: the fields of ``ServerSettings`` and of ``Limits``.

    Raises ModelError for an unknown option, a missing key, or a spend cap on a model without a price.
    """
    return _connected("openai", name, options)


def connect_anthropic(name: str, **options: Any) -> ServerModel:
    """A model behind Anthropic's Messages format. It shows no log-probabilities: verdicts are written.

    Raises ModelError for a readout or a form of verdict that this format does not have.
    """
    own = {"base_url": ANTHROPIC_URL, "api_key_env": "ANTHROPIC_API_KEY", "readout": "parsed", "continuing": "fold"}
    options = {**own, **options, "api": "messages"}
    if options["readout"] == "logprobs":
        raise ModelError(
            "the Messages format shows no log-probabilities", key="readout", fix="set readout to 'parsed' or 'votes'"
        )
    if options.get("structured", "off") != "off":
        raise ModelError("the Messages format cannot hold a verdict to labels", key="structured", fix="set it to 'off'")
    return _connected("anthropic", name, options)


def connect_systemone(name: str, **options: Any) -> ServerModel:
    """A decision model behind the System One API. Raises ModelError where no server is named."""
    if not options.get("base_url") and not os.environ.get(URL_VARIABLE):
        raise ModelError("the server is not named", key="base_url", fix=f"set base_url, or the variable {URL_VARIABLE}")
    return _connected("systemone", name, {**options, "api": "systemone"})


def connect_decisions(name: str, **options: Any) -> ServerModel:
    """A decision model behind the Decisions API."""
    return _connected("decisions", name, {**options, "api": "decisions"})


def _connected(scheme: str, name: str, options: dict[str, Any]) -> ServerModel:
    if scheme in FORMATS and options.get("readout", "logprobs") != "logprobs":
        raise ModelError(
            "a decision model writes no verdict; its probabilities are read", key="readout", fix="leave readout out"
        )
    limits = {key: options.pop(key) for key in list(options) if key in Limits.model_fields}
    if limits:
        options["limits"] = {**dict(options.get("limits") or {}), **limits}
    settings = parse(ServerSettings, options, error=ModelError)
    require_effect(settings, scheme)
    return ServerModel(name, settings, scheme=scheme)


T = TypeVar("T")


class Pending(NamedTuple):
    """What of the job under way is not answered yet."""

    calls: int
    characters: int


class ServerModel:
    """One model of one server. Synchronous outside; one event loop in a thread inside, so close it when done."""

    def __init__(self, name: str, settings: ServerSettings | None = None, *, scheme: str = "openai") -> None:
        self.name, self.settings, self.scheme = name, settings or ServerSettings(), scheme
        self._url = checked_url(self.settings.base_url)
        price = price_of(name, self.settings.prices, in_batch=self.settings.batch_api)
        self.spending = Spending(price, cap_usd=self.settings.cap_usd, spent_usd=self.settings.spent_usd)
        self._caller = self._connected()
        self._background = Background()
        self._close = weakref.finalize(self, _shut, self._background, self._caller)
        self._described: dict[str, Any] | None = None
        self._pending = Pending(0, 0)
        self._started_at: float | None = None

    def _connected(self) -> Caller:
        settings = self.settings
        key = key_of(settings)
        headers = headers_of(settings, key)
        query = f"?{urlencode({'api-version': settings.api_version})}" if settings.api_version else ""
        if not settings.batch_api:
            return Caller(self._url, key, settings.limits, headers=headers, query=query)
        if settings.api in FORMATS:
            raise ModelError("decision models have no batch API", key="batch_api", fix="leave it out")
        if settings.batch_folder is None:
            what = "no folder for the records of submitted batches"
            raise ModelError(what, key="batch_folder", fix="name one that the next start can read")
        return BatchCaller(
            self._url,
            key,
            settings.limits,
            self.spending,
            Path(settings.batch_folder),
            headers=headers,
            query=query,
            is_anthropic=settings.api == "messages",
            most_requests=settings.batch_requests,
        )

    # ---------------------------------------------------------------- what it is

    @property
    def answers_later(self) -> bool:
        """Whether calls wait in batches, so that a job is best asked as a whole."""
        return self.settings.batch_api

    @property
    def readout(self) -> Readout:
        """How label probabilities come about."""
        return self.settings.readout

    @property
    def has_chat_template(self) -> bool:
        return self.settings.api not in ("completions", *FORMATS)

    @property
    def card(self) -> ModelCard:
        """Asks the server once what it runs, unless ``probe`` is off. Raises JudgeUnavailable where none is reached."""
        report = self._reported()
        return ModelCard(
            uri=f"{self.scheme}:{report.get('id', self.name)}",
            revision=f"{self._url} {self._digest(report)}",
            family=self.settings.family or family_of(report.get("id", self.name)),
            context_window=self.settings.context_window or report.get("context_window"),
        )

    @property
    def continuing(self) -> Continuing:
        """How a started answer is continued."""
        chosen = self.settings.continuing
        return continuing_of(self._reported()) if chosen == "auto" else chosen

    def _digest(self, reported: Mapping[str, Any]) -> str:
        """Everything beside the prompt that bears on an answer."""
        own = self.settings.model_dump(
            include={
                "api",
                "readout",
                "top",
                "either_space",
                "extra_body",
                "revision",
                "max_tokens_name",
            }
        )
        if self.settings.api_version:
            own["api_version"] = self.settings.api_version
        if self.readout != "logprobs":
            own |= self.settings.model_dump(include={"votes", "votes_temperature", "answer_tokens"})
            if self.settings.structured != "off":
                own["structured"] = self._structured(reported)
        form = canonical([own, self.continuing, dict(reported)])
        return hashlib.sha256(form.encode()).hexdigest()[:16]

    def _reported(self) -> dict[str, Any]:
        if self._described is None:
            self._described = self._background.run(self._probe()) if self.settings.probe else {}
        return self._described

    async def _probe(self) -> dict[str, Any]:
        cause = ""
        for attempt in range(self.settings.limits.attempts):
            if attempt:
                await asyncio.sleep(min(self.settings.limits.backoff_first_s * 2 ** (attempt - 1), 10.0))
            try:
                status, body = await self._caller.get("/models")
            except (OSError, TimeoutError) as error:
                cause = self._caller.redacted(str(error) or type(error).__name__)
                continue
            if status == 200:
                models = listed(body)
                if models is not None:
                    self._caller.listed = tuple(model["id"] for model in models)
                    return described(models, self.name)
            elif status < 500 and status not in (408, 425, 429):
                return {}
            cause = f"HTTP {status}"
        raise JudgeUnavailable(f"{self._url}: not reached ({cause})\n  → start the server, or check base_url")

    # ---------------------------------------------------------------- asking

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        return _in_order(self.iter_labels(prompts, labels), len(prompts))

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        return _in_order(self.iter_replies(prompts, sampling), len(prompts))

    def label_logprobs(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> np.ndarray:
        """(N, K) float64: log P(label | prompt), unnormalised over the labels, NaN where not known."""
        return as_array(self.read_labels(prompts, labels), labels=len(labels))

    def iter_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> Generator[list[Answered]]:
        """Readings in batches, as they come; see ``models.journaled.Streaming``."""
        asker, label_set = self._asker(), LabelSet(tuple(labels), self.settings.either_space)

        form = self.settings.api

        async def ask(job: Job) -> Answered:
            if form == "systemone" or form == "decisions":
                return await asker.decide(job, form, labels)
            if self.readout == "logprobs":
                return await asker.read(job, label_set)
            return await asker.vote(job, labels)

        return self._stream(prompts, ask)

    def iter_replies(self, prompts: Sequence[PromptLike], sampling: Sampling) -> Generator[list[Answered]]:
        """Replies in batches, as they come. Raises ModelError for a decision model, which writes no text."""
        if self.settings.api in FORMATS:
            raise ModelError(f"{self.scheme}:{self.name} is a decision model and writes no text")
        asker = self._asker()

        async def ask(job: Job) -> Answered:
            return await asker.reply(job, sampling)

        return self._stream(prompts, ask)

    def _asker(self) -> Asker:
        reported = self._reported()
        return Asker(
            reported.get("id", self.name),
            self.settings,
            self.continuing,
            self._caller,
            self.spending,
            has_own_defaults=str(reported.get("owned_by", "")).lower() in OWN_DEFAULTS,
            structured=self._structured(reported),
        )

    def _structured(self, reported: Mapping[str, Any]) -> Structured | None:
        chosen = self.settings.structured
        if chosen == "auto":
            return STRUCTURED.get(str(reported.get("owned_by", "")).lower())
        return None if chosen == "off" else chosen

    def _stream(
        self, prompts: Sequence[PromptLike], ask: Callable[[Job], Coroutine[Any, Any, Answered]]
    ) -> Generator[list[Answered]]:
        if isinstance(self._caller, BatchCaller):
            return self._stream_batches(prompts, ask, self._caller)
        texts = [as_text(prompt) for prompt in prompts]
        schedule = Schedule(texts, warm=self.settings.warm)
        stream = Stream(self.settings.limits.concurrency)
        self._pending = Pending(len(texts), sum(map(len, texts)))
        self._started_at = self._started_at or time.monotonic()
        answered_before = self._caller.answered

        async def work(stream: Stream) -> None:
            arrived = asyncio.Event()

            async def one(place: int) -> None:
                job = Job(place, prompts[place], len(texts[place]))
                stream.put(await ask(job))
                self._pending = Pending(self._pending.calls - 1, self._pending.characters - job.characters)
                schedule.done(place)
                arrived.set()

            try:
                async with asyncio.TaskGroup() as tasks:
                    while True:
                        await stream.slot()
                        while (place := schedule.take()) is None and len(schedule):
                            arrived.clear()
                            await arrived.wait()
                        if place is None:
                            break
                        tasks.create_task(one(place))
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            if self._caller.answered == answered_before:
                await self._caller.raise_if_dead()

        return stream.read(self._background, work)

    def _stream_batches(
        self,
        prompts: Sequence[PromptLike],
        ask: Callable[[Job], Coroutine[Any, Any, Answered]],
        caller: BatchCaller,
    ) -> Generator[list[Answered]]:
        """What the ended batches answer; then raises BatchPending if any question has to wait."""
        slots = self.settings.limits.concurrency
        stream = Stream(slots)

        async def work(stream: Stream) -> None:
            async with caller.round():
                waiting, answered = 0, set[str]()
                for place, prompt in enumerate(prompts):
                    caller.read.clear()
                    try:
                        outcome = await ask(Job(place, prompt, len(as_text(prompt))))
                    except Waiting:
                        waiting += 1
                        continue
                    await stream.slot()
                    stream.put(outcome)
                    if outcome.answer.problem is not Problem.OVER_BUDGET:
                        answered |= caller.read
                for _ in range(slots):  # until every answer that was handed out is committed
                    await stream.slot()
                caller.raise_if_unreadable()
                caller.forget(answered)
                if waiting:
                    raise await caller.submit()

        return stream.read(self._background, work)

    def complete(
        self, bodies: Sequence[Mapping[str, Any]], read: Callable[[dict[str, Any]], T], *, max_tokens: int
    ) -> list[T]:
        """Post each body to the completions endpoint; what ``read`` makes of the answers, in order.

        All of them count: raises ModelError where one fails in all its attempts.
        """
        slots = asyncio.Semaphore(self.settings.limits.concurrency)
        name = self._reported().get("id", self.name)

        async def one(place: int, fields: Mapping[str, Any]) -> T:
            body = {"model": name, **fields, **self.settings.extra_body}
            body = {key: value for key, value in body.items() if value is not None}
            charge = Charge(self.spending, len(canonical(body)))
            async with slots:
                posted = self._caller.post(
                    "/completions", body, read, charge=charge, max_tokens=max_tokens, key=str(place)
                )
                return (await posted).value

        async def work() -> list[T]:
            try:
                async with asyncio.TaskGroup() as tasks:
                    started = [tasks.create_task(one(place, body)) for place, body in enumerate(bodies)]
            except BaseExceptionGroup as failed:
                raise failed.exceptions[0] from None
            return [task.result() for task in started]

        try:
            return self._background.run(work())
        except CallFailed as failed:
            raise ModelError(f"{self._url}: {failed}") from failed

    # ---------------------------------------------------------------- money and time

    def forecast(self, prompts: Sequence[PromptLike], *, max_tokens: int = 1, calls_each: int = 1) -> Forecast:
        """What asking these prompts will take; nothing is sent."""
        characters = sum(len(as_text(prompt)) for prompt in prompts) * calls_each
        return self.spending.forecast(characters, len(prompts) * calls_each, max_tokens, calls_per_s=self._rate())

    def figures(self) -> dict[str, float]:
        """For progress bars: dollars spent, forecast of the whole job now under way, retries."""
        figures: dict[str, float] = {"retries": self._caller.retries}
        if self.spending.price is not None:
            spent = self.spending.spent_usd
            rest = self.spending.forecast(self._pending.characters, self._pending.calls, 1)
            figures |= {"cost_usd": spent, "forecast_usd": spent + (rest.cost_usd or 0.0)}
        return figures

    def close(self) -> None:
        """Ends the connections and the thread; the model cannot be asked any more."""
        self._close()

    def _rate(self) -> float | None:
        if self._started_at is None or not self._caller.answered:
            return None
        return self._caller.answered / max(time.monotonic() - self._started_at, 1e-9)


def _in_order(batches: Iterator[list[Answered]], count: int) -> list[Any]:
    answers: list[Any] = [None] * count
    for batch in batches:
        for answered in batch:
            answers[answered.place] = answered.answer
    return answers


def _shut(background: Background, caller: Caller) -> None:
    background.stop(caller.close)
