"""The order of calls: every position once, leaders first, groups together."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from aifeedback.models.openai.client import MIN_SHARED, Schedule, shared_prefix


@given(st.text("ab", max_size=30), st.text("ab", max_size=30))
def test_shared_prefix(first: str, second: str) -> None:
    length = shared_prefix(first, second)
    assert first[:length] == second[:length]
    assert first[: length + 1] != second[: length + 1] or length == min(len(first), len(second))


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 8), st.randoms(), st.booleans())
def test_every_position_is_taken_once(contexts: list[int], width: int, draw: Random, warm: bool) -> None:
    prompts = ["J" * MIN_SHARED + f"context {c} " * 60 + f"{n}" for n, c in enumerate(contexts)]
    schedule = Schedule(prompts, warm=warm)
    taken: list[int] = []
    flying: list[int] = []
    while True:
        while len(flying) < width and (position := schedule.take()) is not None:
            taken.append(position)
            flying.append(position)
        if not flying:
            break
        schedule.done(flying.pop(draw.randrange(len(flying))))
        assert len(schedule) == len(prompts) - len(taken)
    assert sorted(taken) == list(range(len(prompts)))


def test_a_group_follows_its_leader() -> None:
    prompts = [f"context {c} " * 60 + f"order {o}" for o in range(3) for c in range(3)]
    schedule = Schedule(prompts)
    leaders = [schedule.take() for _ in range(3)]
    assert [prompts[n or 0] for n in leaders] == [f"context {c} " * 60 + "order 0" for c in range(3)]
    assert schedule.take() is None
    schedule.done(leaders[1] or 0)
    followers = [schedule.take(), schedule.take()]
    assert [prompts[n or 0] for n in followers] == ["context 1 " * 60 + f"order {o}" for o in (1, 2)]
    assert schedule.take() is None


def test_short_shared_beginnings_are_not_warmed_up() -> None:
    schedule = Schedule([f"Judge. item {n}" for n in range(5)])
    assert None not in [schedule.take() for _ in range(5)]
    assert schedule.take() is None
    assert Schedule([]).take() is None
