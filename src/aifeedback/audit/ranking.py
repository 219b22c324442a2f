"""The report's table of policies by strength: Bradley–Terry over all meetings, and each policy against every other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.audit.story import Est, display, estimate

CERTAIN = 0.05
FEWEST = 3
"""With two policies the win rate says it all."""


class Place(NamedTuple):
    label: str
    strength: Est | None
    """Log-odds, mean 0 over the policies; None where no finite strength exists."""
    against: Sequence[Est | None]
    """Win rate over each policy, in the order of the places; None against itself and where the two never met."""
    certain: Sequence[bool]
    """Whether each of them is away from 50 % after the correction over all meetings."""
    standing: str = ""
    """``above`` or ``below`` the policies with a strength, for one that won or lost everything; ``apart``; else ''."""


class RankingPart(NamedTuple):
    places: Sequence[Place]
    method: str
    notes: Sequence[str]


def ranking_part(figures: Mapping[str, Any]) -> RankingPart | None:
    """From the figures of a comparing stage, strongest first; None where fewer than three policies met."""
    told = figures.get("ranking") or {}
    names = list(told.get("names") or ())
    if len(names) < FEWEST:
        return None
    matrix, n = told["matrix"], int(told["n"])
    strengths = {
        name: None if value is None else Est(value, low, high, n)
        for name, value, low, high in zip(names, told["value"], told["low"], told["high"], strict=True)
    }
    standings = _standings(told, names, strengths, matrix)
    # a summary of an earlier version has no order of its own
    order = list(
        told.get("order") or sorted(names, key=lambda n: _worth(standings[n], strengths[n], matrix[n]), reverse=True)
    )
    places = [
        Place(
            display(name),
            strengths[name],
            [estimate(matrix[name].get(other)) for other in order],
            [_is_certain(matrix[name].get(other)) for other in order],
            standings[name],
        )
        for name in order
    ]
    return RankingPart(places, str(told["method"]), list(told.get("notes") or ()))


def ranking_of_run(summary: Mapping[str, Any]) -> RankingPart | None:
    """Of the first stage that has one."""
    for stage in (summary.get("stages") or {}).values():
        if found := ranking_part(stage.get("figures") or {}):
            return found
    return None


def _is_certain(told: Mapping[str, Any] | None) -> bool:
    p = (told or {}).get("p_adjusted")
    return p is not None and p < CERTAIN


def _standings(
    told: Mapping[str, Any], names: Sequence[str], strengths: Mapping[str, Est | None], matrix: Mapping[str, Any]
) -> dict[str, str]:
    """Place of each policy beside those with a strength; '' for these, and where no policy has one."""
    if told.get("places"):
        return {
            name: "" if place == "ranked" else str(place) for name, place in zip(names, told["places"], strict=True)
        }
    if all(strength is None for strength in strengths.values()):
        return dict.fromkeys(names, "")
    return {
        name: "" if strengths[name] is not None else "above" if _mean_rate(matrix[name]) > 0.5 else "below"
        for name in names
    }


def _worth(standing: str, strength: Est | None, against: Mapping[str, Any]) -> tuple[int, float]:
    """By standing, then by strength or, where there is none, by mean win rate."""
    level = {"above": 1, "below": -1, "apart": -2}.get(standing, 0)
    return level, strength.value if strength is not None else _mean_rate(against)


def _mean_rate(against: Mapping[str, Any]) -> float:
    rates = [figure.value for figure in map(estimate, against.values()) if figure is not None]
    return sum(rates) / len(rates) if rates else -math.inf
