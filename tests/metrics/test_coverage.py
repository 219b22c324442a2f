"""95 % intervals hold the truth in 93–97 % of simulated worlds; a small run here, 2,000 draws in the campaign."""

from __future__ import annotations

import pytest

from .simulate import WIDE, WORLDS, coverage


@pytest.mark.parametrize("world", list(WORLDS))
def test_intervals_hold_the_truth(world: str) -> None:
    """120 draws have a standard error of two points: a broken interval shows, a slightly wrong one in the campaign."""
    assert 0.89 <= coverage(world, draws=120) <= (1.0 if world in WIDE else 0.995)


@pytest.mark.campaign
@pytest.mark.parametrize("world", list(WORLDS))
def test_campaign_intervals_hold_the_truth(world: str) -> None:
    inside = coverage(world, draws=2000)
    print(f"{world} | {100 * inside:.1f} %")
    assert 0.93 <= inside <= (1.0 if world in WIDE else 0.97)
