"""Win rates by slice as tables: which cells are too few to test, which are significantly worse, what stands in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from aifeedback.metrics.slices import JOINT
from aifeedback.reports.run_results import display

State = Literal["few", "worse", "fine"]


class Shown(NamedTuple):
    state: State
    value: float | None
    low: float | None
    high: float | None
    n: int
    why: str
    """What makes it red or grey; empty otherwise."""


class Table(NamedTuple):
    """One dimension, or the matrix of all: ``columns`` are the tags of the last dimension."""

    title: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Shown | None]]]


class PolicySlices(NamedTuple):
    policy: str
    worse: Sequence[str]
    """Slices that are significantly worse, in words."""
    few: int
    tables: Sequence[Table]


class CoveragePart(NamedTuple):
    rows: int
    """Fewest prompts of a slice that is tested."""
    policies: Sequence[PolicySlices]


def coverage_part(summary: Mapping[str, Any]) -> CoveragePart | None:
    """From the figures of any stage that has slices; None where there is none."""
    stages = (summary.get("stages") or {}).values()
    record = next((found for s in stages if (found := (s.get("figures") or {}).get("slices"))), None)
    return None if not record or "cells" not in record else part_of(record)


def part_of(record: Mapping[str, Any]) -> CoveragePart:
    return CoveragePart(
        record["rows"], [_policy(display(name), cells, record["dimensions"]) for name, cells in record["cells"].items()]
    )


def _policy(name: str, cells: Sequence[Mapping[str, Any]], dimensions: Sequence[str]) -> PolicySlices:
    shown = {(cell["dimension"], cell["name"]): _shown(cell) for cell in cells}
    values = {d: [cell["name"] for cell in cells if cell["dimension"] == d] for d in dimensions}
    tables = [Table(d, ["win rate"], [(value, [shown[d, value]]) for value in values[d]]) for d in dimensions]
    if len(dimensions) > 1:
        joint, columns = JOINT.join(dimensions), values[dimensions[-1]]
        heads = [""]
        for dimension in dimensions[:-1]:
            heads = [f"{head}{JOINT}{value}" if head else value for head in heads for value in values[dimension]]
        rows = [(head, [shown.get((joint, f"{head}{JOINT}{column}")) for column in columns]) for head in heads]
        tables.append(Table(joint, columns, rows))
    worse = [f"{key[1]} ({cell.why})" for key, cell in shown.items() if cell.state == "worse"]
    return PolicySlices(name, worse, sum(cell.state == "few" for cell in shown.values()), tables)


def _shown(cell: Mapping[str, Any]) -> Shown:
    reasons = [
        *(["below the rest"] if cell["is_worse"] else []),
        *(["loses to the reference"] if cell["is_below_half"] else []),
    ]
    state: State = "few" if cell["is_few"] else "worse" if reasons else "fine"
    why = ("no prompt" if not cell["n"] else "too few to test") if state == "few" else " and ".join(reasons)
    return Shown(state, cell["value"], cell["low"], cell["high"], cell["n"], why)
