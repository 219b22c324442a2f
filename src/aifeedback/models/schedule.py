"""In which order to send prompts, so that a server computes a shared prefix once and finds it in its cache afterwards.

Prompts are sorted, which puts shared prefixes side by side. The first of the job goes alone where all share a
beginning; the first of each group goes ahead of its group, whose others wait for its answer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

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
