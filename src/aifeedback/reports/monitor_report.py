"""The page of a monitor: open alarms, how far every chart is from one, what each round measured, the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aifeedback.reports import figures
from aifeedback.reports.figures import Curve, Panel
from aifeedback.reports.page import render
from aifeedback.reports.provenance import Fact

ALARM, LEVEL = "#b3261e", "#3b82c4"
MOST_ROUNDS = 60
"""Rounds in the table; the folder holds all of them."""
QUIET = 0.2
"""Charts that never came closer to an alarm are not drawn."""


class ChartView(NamedTuple):
    """One control chart."""

    title: str
    sentence: str
    """The latest round in words; empty before the first round after the baseline."""
    levels: Sequence[float]
    """Per round since the baseline; 1 is an alarm."""

    @property
    def level(self) -> str:
        """fine, watch or bad: how far the latest round is from an alarm."""
        if not self.levels:
            return "unknown"
        return "bad" if self.levels[-1] >= 1.0 else "watch" if self.levels[-1] >= 0.5 else "fine"


class Series(NamedTuple):
    """One metric over rounds, the baseline first; None where a round did not measure it."""

    title: str
    values: Sequence[float | None]
    lows: Sequence[float | None]
    highs: Sequence[float | None]


class EventRow(NamedTuple):
    at: str
    kind: str
    id: str
    text: str
    by: str
    state: str
    """open, closed, or how it was closed."""
    is_open: bool


class MonitorView(NamedTuple):
    """Everything that the page shows."""

    title: str
    headline: str
    level: str
    """fine, watch or bad."""
    facts: Sequence[Fact]
    alarms: Sequence[EventRow]
    charts: Sequence[ChartView]
    metrics: Sequence[Series]
    columns: Sequence[str]
    rounds: Sequence[Sequence[str]]
    """Rows of the table of rounds, the latest first."""
    events: Sequence[EventRow]
    versions: Sequence[tuple[str, str, str]]
    """Model as it reports itself, first and last round that saw it."""
    rate: str
    cautions: Sequence[str]


def write_monitor_report(view: MonitorView, path: Path) -> Path:
    """Write the page and return its path."""
    page = render(
        "monitor.html.j2",
        view=view,
        level_plot=_levels(view.charts),
        metric_plot=_metrics(view.metrics),
        mark={"bad": "✗", "watch": "!", "fine": "✓", "unknown": "?"},
        most=MOST_ROUNDS,
    )
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _levels(charts: Sequence[ChartView]) -> str | None:
    shown = [chart for chart in charts if len(chart.levels) > 1 and max(chart.levels) > QUIET]
    if not shown:
        return None
    panels = []
    for chart in shown:
        x = list(range(1, len(chart.levels) + 1))
        ceiling = Curve("alarm", x, [1.0] * len(x), colour=ALARM, is_thin=True)
        panels.append(Panel(chart.title, [Curve("distance from the usual", x, chart.levels, colour=LEVEL), ceiling]))
    return figures.curves(panels, x_label="round since the baseline")


def _metrics(metrics: Sequence[Series]) -> str | None:
    panels = []
    for series in metrics:
        known = [place for place, value in enumerate(series.values) if value is not None]
        if len(known) < 2 or not any(series.values):
            continue
        y = [float(series.values[place] or 0.0) for place in known]
        ends = [[values[place] for place in known] for values in (series.lows, series.highs)]
        low, high = ([float(e) for e in of if e is not None] for of in ends)
        has_ends = len(low) == len(high) == len(known)
        curve = Curve(
            "measured, with 95 % interval", known, y, low if has_ends else None, high if has_ends else None, LEVEL
        )
        panels.append(Panel(series.title, [curve]))
    return figures.curves(panels, x_label="round, 0 is the baseline") if panels else None
