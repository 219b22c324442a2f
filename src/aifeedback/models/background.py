"""An event loop in a thread of its own, so that synchronous code can take answers from it as they come."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

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
