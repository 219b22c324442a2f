"""What one round measured, in shares with intervals, and how its verdicts differ from the baseline's (McNemar)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from aifeedback.metrics.drift import Floats
from aifeedback.metrics.intervals import mean_interval, share_interval
from aifeedback.metrics.win_rates import sign_test
from aifeedback.monitoring.charts import Columns, columns_of, verdicts
from aifeedback.monitoring.records import GoldenItem, Round
from aifeedback.steps.step import Measured


class Flips(BaseModel):
    """Golden verdicts that are not those of the baseline, each item's most frequent one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flipped: int
    n: int
    """Items with a verdict in the round and in the baseline."""
    to_wrong: int
    """From with the human label to against it."""
    to_right: int
    p: float | None = None
    """McNemar's exact test of ``to_wrong`` against ``to_right``; None where neither occurred."""


class RoundFigures(BaseModel):
    """One round. A part that was not measured is None."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: str
    at: str
    kind: str
    flips: Flips | None = None
    agreement: Measured | None = None
    """With the human labels of the golden set."""
    order_dependent: Measured | None = None
    """Golden verdicts that change with the order shown."""
    unread: Measured | None = None
    """Golden pairs without a verdict."""
    refused: Measured | None = None
    """Canary prompts that the policy refuses, in part or in full."""
    length: Measured | None = None
    """Characters of the canary responses."""
    attacks: Measured | None = None
    """Red-team prompts on which the attack succeeded."""
    versions: tuple[str, ...] = ()
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0


def figures_of(rounds: Sequence[Round], golden: Sequence[GoldenItem]) -> list[RoundFigures]:
    """``rounds`` begin with a baseline. A baseline's shares are those over all of its passes."""
    columns = columns_of(rounds, golden)
    figures, start = [], 0
    for number, one in enumerate(rounds):
        rows = slice(start, start + len(one.passes))
        start = rows.stop
        here = {part: {name: values[rows] for name, values in of.items()} for part, of in columns.items()}
        usual = _usual(columns["golden"]["p_first"][: len(rounds[0].passes)]) if "golden" in columns else None
        figures.append(
            RoundFigures(
                round=one.name,
                at=one.at,
                kind=one.kind,
                flips=_flips(usual, here["golden"]) if number and usual is not None else None,
                versions=tuple(map(str, one.versions)),
                calls=one.calls,
                tokens=one.tokens,
                cost_usd=one.cost_usd,
                **_shares(here),
            )
        )
    return figures


def _shares(here: Mapping[str, Columns]) -> dict[str, Measured | None]:
    shares: dict[str, Measured | None] = {}
    if "golden" in here:
        golden = here["golden"]
        judge, human = verdicts(golden["p_first"]), verdicts(golden["human"])
        right = np.where(np.isnan(judge) | np.isnan(human), np.nan, (judge == human).astype(np.float64))
        shares |= {"agreement": _share(right), "order_dependent": _share(golden["order_dependent"]),
                  "unread": _share(golden["unread"])}  # fmt: skip
    if "canary" in here:
        shares |= {"refused": _share(here["canary"]["refused"]), "length": _mean(here["canary"]["length"])}
    if "redteam" in here:
        shares["attacks"] = _share(here["redteam"]["succeeded"])
    return shares


def _usual(p_first: Floats) -> Floats:
    """Each item's most frequent verdict over the passes; NaN for a draw or none."""
    per_pass = verdicts(p_first)
    known = ~np.isnan(per_pass)
    share = np.where(known, per_pass, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.where(known.any(axis=0) & (share != 0.5), (share > 0.5).astype(np.float64), np.nan)


def _flips(usual: Floats, golden: Columns) -> Flips:
    now, human = verdicts(golden["p_first"][-1]), verdicts(golden["human"][-1])
    known = ~np.isnan(usual) & ~np.isnan(now)
    differs = known & (usual != now)
    to_wrong, to_right = int((differs & (usual == human)).sum()), int((differs & (now == human)).sum())
    p = sign_test(to_wrong, to_right)
    return Flips(
        flipped=int(differs.sum()), n=int(known.sum()), to_wrong=to_wrong, to_right=to_right, p=None if p != p else p
    )


def _share(values: Floats) -> Measured | None:
    """Over items: several passes of one item are averaged first."""
    known = _per_item(values)
    if not len(known):
        return None
    ends = share_interval(known)
    return _measured(float(known.mean()), ends.low, ends.high, len(known), "share of items, Wilson interval")


def _mean(values: Floats) -> Measured | None:
    known = _per_item(values)
    if not len(known):
        return None
    mean = mean_interval(known, bounds=None)
    return _measured(mean.value, mean.low, mean.high, len(known), "mean of items, t interval")


def _per_item(values: Floats) -> Floats:
    known = ~np.isnan(values)
    count = known.sum(axis=0)
    return (np.where(known, values, 0.0).sum(axis=0) / np.maximum(count, 1))[count > 0]


def _measured(value: float, low: float, high: float, n: int, method: str) -> Measured:
    ends = [None if end != end else float(end) for end in (low, high)]
    return Measured(value=value, low=ends[0], high=ends[1], n=n, method=method)
