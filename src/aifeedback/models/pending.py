"""Work beside calls that wait in a batch: as much as does not depend on them is submitted before a command stops."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from aifeedback.errors import BatchPending

T = TypeVar("T")


def each_before_pending(tasks: Iterable[Callable[[], T]]) -> list[T]:
    """The results of all tasks, in order. Those after a task that waits for a batch run as well, so that one start
    submits everything. Raises BatchPending if any of them waits."""
    results: list[T] = []
    waiting: list[str] = []
    for task in tasks:
        try:
            results.append(task())
        except BatchPending as pending:
            waiting += pending.waiting
    if waiting:
        raise BatchPending(waiting)
    return results


def at_once(model: object, size: int) -> int:
    """``size``, or everything for a model whose calls wait in batches: a part by itself would be a batch of its own."""
    return sys.maxsize if getattr(model, "answers_later", False) else size
