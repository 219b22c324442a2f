"""R29: alarms mean what they say: false ones as rare as stated, drift noticed within eight rounds, an exchange at once."""

from __future__ import annotations

import numpy as np
import pytest

from .simulate import RATE, World, alarms, any_alarm

STEADY = {
    "a judge that repeats itself": World(noise=0.0, jitter=0.0),
    "5 % of verdicts differ between two rounds": World(noise=0.3),
    "15 % of verdicts differ between two rounds": World(noise=1.0, jitter=0.3),
}
DRIFT = {
    "ten verdicts turn over": World(noise=0.3, inverted=0.05),
    "ten verdicts turn over, a judge that wavers": World(noise=1.0, inverted=0.05),
    "ten more flips in every round": World(noise=0.3, random_flips=0.05),
    "ten more flips of a judge that repeats itself": World(noise=0.0, random_flips=0.05),
}
EXCHANGED = {
    "a judge that repeats itself": World(noise=0.0, is_exchanged=True),
    "5 % of verdicts differ between two rounds": World(noise=0.3, is_exchanged=True),
    "15 % of verdicts differ between two rounds": World(noise=1.0, is_exchanged=True),
}


def years(world: World, series: int, *, seed: int, rounds: int = 52, at_once: int = 100) -> np.ndarray:
    """(series, rounds): rounds with an alarm of any chart; drawn in parts that fit into memory."""
    found = [
        any_alarm(alarms(world, series=min(at_once, series - start), rounds=rounds, seed=seed + start))
        for start in range(0, series, at_once)
    ]
    return np.concatenate(found)


def false_alarms(world: World, series: int, *, seed: int, rounds: int = 52, at_once: int = 100) -> float:
    """Alarms per year, every chart's counted."""
    total = sum(
        sum(
            int(of.sum())
            for of in alarms(world, series=min(at_once, series - s), rounds=rounds, seed=seed + s).values()
        )
        for s in range(0, series, at_once)
    )
    return total / series * 52 / rounds


def test_an_unchanged_judge_raises_false_alarms_no_more_often_than_stated() -> None:
    """20 years in 40 half-years: 20 are expected at the stated rate; more than 31 would be one chance in a hundred."""
    assert false_alarms(STEADY["5 % of verdicts differ between two rounds"], 40, seed=1, rounds=26) <= 31 / 20 * RATE
    assert false_alarms(STEADY["a judge that repeats itself"], 5, seed=1, rounds=26) == 0.0


@pytest.mark.parametrize("world", list(DRIFT.values()), ids=list(DRIFT))
def test_five_percent_more_flips_are_noticed_within_eight_rounds(world: World) -> None:
    noticed = years(world, 30, seed=2, rounds=8).any(axis=1)
    assert noticed.mean() >= 0.9


@pytest.mark.parametrize("world", list(EXCHANGED.values()), ids=list(EXCHANGED))
def test_another_model_is_noticed_in_the_first_round_by_its_verdicts_alone(world: World) -> None:
    assert years(world, 30, seed=3, rounds=1)[:, 0].all()


def test_without_drift_eight_rounds_seldom_raise_an_alarm() -> None:
    """What the tests of drift count would be worth nothing if it came by itself."""
    assert years(World(noise=0.3), 40, seed=4, rounds=8).any(axis=1).mean() <= 0.3


@pytest.mark.campaign
@pytest.mark.parametrize("world", list(STEADY.values()), ids=list(STEADY))
def test_campaign_false_alarms(world: World) -> None:
    per_year = false_alarms(world, 1000, seed=0)
    print(f"R29 | {world} | {per_year:.3f} false alarms per year")
    assert per_year <= RATE


@pytest.mark.campaign
@pytest.mark.parametrize("world", list(DRIFT.values()), ids=list(DRIFT))
def test_campaign_drift(world: World) -> None:
    rounds = years(world, 1000, seed=0, rounds=8)
    within = [float(rounds[:, :end].any(axis=1).mean()) for end in (1, 2, 4, 8)]
    print(f"R29 | {world} | noticed within 1, 2, 4, 8 rounds: {within}")
    assert within[-1] >= 0.9


@pytest.mark.campaign
@pytest.mark.parametrize("world", list(EXCHANGED.values()), ids=list(EXCHANGED))
def test_campaign_exchange(world: World) -> None:
    first = years(world, 1000, seed=0, rounds=1)[:, 0].mean()
    print(f"R29 | {world} | noticed in the first round: {first:.3f}")
    assert first == 1.0
