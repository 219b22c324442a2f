"""One local model in several processes, which work on different batches of the same questions.

Two threads of one process share a matrix product badly where a model is small; two processes with a thread each do not
share any. What a batch holds is settled before (``cache.Journaled``), and an answer depends neither on who computes it
nor on the number of threads, so answers are the same whatever the number of processes. Only this process writes: it
takes batches too, and hands all answers over in the order of the batches. A process that fails or is killed is reported
in a warning, and its batch is computed here.

Each process holds a copy of the weights; so copies suit small models. Processes start with the first call that is long
enough to pay for it, and end with this one.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, NamedTuple, Protocol

from aifeedback.errors import ModelError
from aifeedback.models import connect
from aifeedback.types import Model, ModelCard, PromptLike, Reading, Reply, Sampling

log = logging.getLogger(__name__)
HELPED_FROM = 6
"""Batches in one call from which on the other processes are used: to start one takes some seconds."""


class Copyable(Model, Protocol):
    """A model that another process can load for itself by its card's URI, such as ``local.LocalModel``."""

    @property
    def has_chat_template(self) -> bool: ...

    @property
    def special_tokens(self) -> tuple[str, ...]: ...

    def with_threads(self, count: int) -> AbstractContextManager[None]:
        """Computes with so many threads inside the block."""
        ...


class Computed(NamedTuple):
    answers: list[Any]
    """Readings or replies, one per prompt of the batch."""
    seconds: float
    """Per prompt."""


class WorkerPool:
    """``model`` here and in ``workers − 1`` further processes with ``threads`` each. Its weights must not change."""

    def __init__(
        self, model: Copyable, *, workers: int, threads: int = 1, options: Mapping[str, Any] | None = None
    ) -> None:
        """``options``: what ``connect`` was given beside the model's URI."""
        self.model, self.workers, self.threads, self.options = model, workers, threads, dict(options or {})
        self._others: list[_Process] | None = None
        self._end = weakref.finalize(self, lambda: None)

    @property
    def card(self) -> ModelCard:
        return self.model.card

    @property
    def has_chat_template(self) -> bool:
        return self.model.has_chat_template

    @property
    def special_tokens(self) -> tuple[str, ...]:
        return self.model.special_tokens

    def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
        """One batch, computed here."""
        return self.model.read_labels(prompts, labels)

    def reply(self, prompts: Sequence[PromptLike], sampling: Sampling) -> list[Reply]:
        """One batch, computed here."""
        return self.model.reply(prompts, sampling)

    def each(
        self, method: str, batches: Sequence[Sequence[PromptLike]], how: Sequence[str] | Sampling
    ) -> Generator[Computed]:
        """What ``method`` (``read_labels`` or ``reply``) gives for each batch, in order, computed by whoever is free.

        Left before the end, it stops the other processes; a later call starts them again.
        """
        others = self._running() if len(batches) >= HELPED_FROM else []
        board = _Board(len(batches))
        for other in others:
            work = (other, board, method, batches, how)
            threading.Thread(target=self._hand_out, args=work, name="aifeedback batches", daemon=True).start()
        finished = False
        try:
            with self.model.with_threads(self.threads) if others else nullcontext():
                for number in range(len(batches)):
                    while number not in board.done:
                        if (own := board.take()) is None:
                            board.wait(number)
                        else:
                            board.put(own, _computed(self.model, method, batches[own], how))
                    yield board.done.pop(number)
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """Ends the other processes."""
        self._end()
        self._others = None

    def _running(self) -> list[_Process]:
        if self._others is None:
            self._others = [_Process(self.card.uri, self.options, self.threads) for _ in range(self.workers - 1)]
            self._end = weakref.finalize(self, _stop, self._others)
        return [other for other in self._others if not other.is_over]

    def _hand_out(
        self, other: _Process, board: _Board, method: str, batches: Sequence[Sequence[PromptLike]], how: Any
    ) -> None:
        """In a thread: gives one process batches until none is left."""
        taken = None
        try:
            with other.lock:
                other.require(self.model.card)
                while (taken := board.take()) is not None:
                    board.put(taken, other.compute(method, batches[taken], how))
        except Exception as failed:  # a killed process, a full memory: whatever it was, the work is done here
            if not other.is_over:
                log.warning("%s: a worker process is lost (%s); its questions are asked here", self.card.uri, failed)
                other.stop()
            if taken is not None:
                board.give_back(taken)


class _Board:
    """Which batches are to be done, and which are done."""

    def __init__(self, count: int) -> None:
        self.done: dict[int, Computed] = {}
        self._open = deque(range(count))
        self._changed = threading.Condition()

    def take(self) -> int | None:
        with self._changed:
            return self._open.popleft() if self._open else None

    def put(self, number: int, computed: Computed) -> None:
        with self._changed:
            self.done[number] = computed
            self._changed.notify_all()

    def give_back(self, number: int) -> None:
        with self._changed:
            self._open.appendleft(number)
            self._changed.notify_all()

    def wait(self, number: int) -> None:
        """Until a batch is done, or one was given back."""
        with self._changed:
            self._changed.wait_for(lambda: number in self.done or self._open)


class _Process:
    """Another process with the same model, and the pipe to it."""

    def __init__(self, uri: str, options: Mapping[str, Any], threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.lock = threading.Lock()
        self.is_over = False
        self._card: ModelCard | None = None
        self.process = context.Process(target=_serve, args=(theirs, uri, dict(options), threads), daemon=True)
        self.process.start()
        theirs.close()

    def require(self, card: ModelCard) -> None:
        """Waits until its model is loaded; raises ModelError where that is another one."""
        self._card = self._card or self._answer()
        if self._card != card:
            raise ModelError("it loaded other weights")

    def compute(self, method: str, prompts: Sequence[PromptLike], how: Any) -> Computed:
        return self._answer((method, list(prompts), how))

    def stop(self) -> None:
        self.is_over = True
        self.process.kill()

    def _answer(self, question: Any = None) -> Any:
        """Raises ModelError with what the process said of its failure, or how it ended."""
        try:
            if question is not None:
                self._pipe.send(question)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise ModelError(f"exit code {self.process.exitcode}") from None
        if isinstance(answer, _Failed):
            raise ModelError(answer.why)
        return answer


class _Failed(NamedTuple):
    why: str


def _stop(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.stop()


def _computed(model: Model, method: str, prompts: Sequence[PromptLike], how: Any) -> Computed:
    started = time.perf_counter()
    answers = getattr(model, method)(prompts, how)
    return Computed(answers, (time.perf_counter() - started) / max(len(prompts), 1))


def _serve(pipe: Any, uri: str, options: dict[str, Any], threads: int) -> None:
    """In the other process: answers batches until the pipe closes. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})
    _plain_bars()
    try:
        model = connect(uri, **options)
        pipe.send(model.card)
        while True:
            method, prompts, how = pipe.recv()
            pipe.send(_computed(model, method, prompts, how))
    except (EOFError, ConnectionError):  # nobody is left to answer to; which of them it is depends on who spoke last
        return
    except Exception as failed:
        with suppress(ConnectionError):
            pipe.send(_Failed(f"{type(failed).__name__}: {failed}"))


def _plain_bars() -> None:
    """tqdm's lock between processes is of no use here, and would outlive a killed one."""
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())
