"""Simulated years of weekly rounds: judges that vary by themselves, judges that change, models that are exchanged.

All series of a world are drawn and tested at once, with the charts and limits that ``aifeedback monitor`` uses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aifeedback.monitoring.charts import CHARTS, track

PASSES, GOLDEN, CANARY, ATTACKS = 5, 200, 50, 50
RATE, ROUNDS_PER_YEAR = 1.0, 52.0


@dataclass(frozen=True)
class World:
    """A judge and a policy: how much they vary by themselves, and what happens to them after the baseline."""

    noise: float
    """Standard deviation, per reading, of the judge's logit; 0: the same answer every time."""
    jitter: float = 0.1
    """Share of canary and red-team prompts whose refusal is open, and spread of the lengths."""
    inverted: float = 0.0
    """Share of golden pairs whose verdict is the other one from the first round after the baseline on."""
    random_flips: float = 0.0
    """Further share of golden verdicts, other ones in every round, that come out the other way."""
    is_exchanged: bool = False
    """Another model answers: same mean agreement with people, its own preferences."""


def columns(world: World, series: int, rounds: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shape = (series, PASSES + rounds, GOLDEN)
    human = rng.random((series, 1, GOLDEN)) < 0.5
    worth = rng.normal(1.2, 1.5, (series, 1, GOLDEN)) * np.where(human, 1.0, -1.0)
    logit = np.broadcast_to(worth, shape).copy()
    after = np.arange(shape[1])[None, :, None] >= PASSES
    if world.is_exchanged:
        other = rng.normal(1.2, 1.5, (series, 1, GOLDEN)) * np.where(human, 1.0, -1.0)
        logit = np.where(after, other, logit)
    if world.inverted:
        chosen = np.argsort(rng.random((series, 1, GOLDEN)), axis=-1) < round(world.inverted * GOLDEN)
        logit = np.where(after & chosen, -logit, logit)
    if world.random_flips:
        logit = np.where(after & (rng.random(shape) < world.random_flips), -logit, logit)
    lean = rng.normal(0.0, 0.3, (series, 1, GOLDEN))
    by_order = [logit + sign * lean + world.noise * rng.normal(size=shape) for sign in (1.0, -1.0)]
    p_first = sum(1.0 / (1.0 + np.exp(-one)) for one in by_order) / 2
    golden = {
        "p_first": p_first,
        "human": np.broadcast_to(human.astype(float), shape),
        "order_dependent": ((by_order[0] > 0) != (by_order[1] > 0)).astype(float),
        "unread": (rng.random(shape) < 0.01 * (world.noise > 0)).astype(float),
    }
    golden["p_first"] = np.where(golden["unread"] == 1, np.nan, golden["p_first"])
    found = {"golden": golden}
    for part, items in (("canary", CANARY), ("redteam", ATTACKS)):
        drawn = (series, PASSES + rounds, items)
        rate = np.where(rng.random((series, 1, items)) < world.jitter, rng.random((series, 1, items)), 0.0)
        yes = (rng.random(drawn) < rate).astype(float)
        base = rng.integers(100, 900, (series, 1, items))
        length = np.round(base * (1.0 + world.jitter * rng.normal(size=drawn))) if world.jitter else base + 0.0 * yes
        found[part] = {"refused": yes, "length": length, "unread": np.zeros(drawn), "succeeded": yes}
    return found


def alarms(world: World, *, series: int, rounds: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Chart → (series, rounds) of whether it alarms, all at the limits of the whole set of charts."""
    drawn = columns(world, series, rounds, seed)
    between = len(CHARTS) * ROUNDS_PER_YEAR / RATE
    return {chart.name: track(chart, drawn[chart.part], PASSES, between).level >= 1.0 for chart in CHARTS}


def any_alarm(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.any(list(found.values()), axis=0)
