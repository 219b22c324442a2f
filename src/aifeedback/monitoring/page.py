"""The monitor's page: rounds, charts and log as what ``reports.monitor_report`` shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aifeedback.models.journal import Journal
from aifeedback.monitoring.figures import RoundFigures, figures_of
from aifeedback.monitoring.monitor import FEW_ITEMS, Monitor, sentence_of
from aifeedback.monitoring.records import Event, Round
from aifeedback.monitoring.rounds import since_baseline
from aifeedback.reports.monitor_report import ChartView, EventRow, MonitorView, Series, write_monitor_report
from aifeedback.reports.provenance import Fact
from aifeedback.reports.wording import count
from aifeedback.steps.step import Measured

LATE = 2.0
"""Intervals after which a missing round is reported."""


def write_page(monitor: Monitor, now: datetime | None = None) -> Path:
    """Write ``report.html`` of a monitor and return its path."""
    return write_monitor_report(view(monitor, now or datetime.now(UTC)), monitor.folder / "report.html")


def view(monitor: Monitor, now: datetime) -> MonitorView:
    """Everything that the page shows."""
    every, events = monitor.rounds(), monitor.log.events()
    rounds = since_baseline(every)
    figures = figures_of(rounds, monitor.golden) if rounds else []
    open_ = monitor.log.open()
    rows = [_event(event, events, open_) for event in reversed(events) if event.kind != "close"]
    alarms = [row for row in rows if row.kind == "alarm" and row.is_open]
    cautions = list(_cautions(monitor, rounds, events, now))
    level = "bad" if alarms else "watch" if cautions or any(row.is_open for row in rows) else "fine"
    tracks = monitor.tracks()
    shown = [name for name, of in METRICS if any(of(one) is not None for one in figures)]
    metrics = [(name, of) for name, of in METRICS if name in shown]
    return MonitorView(
        title=monitor.folder.resolve().name,
        headline=_headline(rounds, alarms, open_),
        level=level,
        facts=_facts(monitor, every),
        alarms=alarms,
        charts=[
            ChartView(
                chart.title,
                sentence_of(chart, track) if track.level.size else "",
                [max(0.0, float(one)) for one in track.level],
            )
            for chart, track in tracks
        ],
        metrics=[_series(name, of, figures) for name, of in metrics],
        columns=("round", "flips: to wrong, right", *shown),
        rounds=[_row(one, metrics) for one in reversed(figures)],
        events=rows,
        versions=_versions(every),
        rate=_rate(monitor, len(tracks)),
        cautions=cautions,
    )


METRICS: tuple[tuple[str, Callable[[RoundFigures], Measured | None]], ...] = (
    ("agreement", lambda one: one.agreement),
    ("by order", lambda one: one.order_dependent),
    ("unread", lambda one: one.unread),
    ("refused", lambda one: one.refused),
    ("length", lambda one: one.length),
    ("attacks", lambda one: one.attacks),
)


def _headline(rounds: Sequence[Round], alarms: Sequence[EventRow], open_: Sequence[Event]) -> str:
    if not rounds:
        return "No round was taken yet."
    later = [one for one in rounds if one.kind == "round"]
    baseline = rounds[0].at[:10].replace("-", "\u2011")  # a date does not break over two lines
    since = f"since the baseline of {baseline}"
    if alarms:
        return f"{count(len(alarms), 'alarm')} open after {count(len(later), 'round')} {since}."
    if not later:
        return f"The baseline of {baseline} was taken; no round since."
    others = [event for event in open_ if event.kind != "alarm"]
    also = f", and {count(len(others), 'incident or appeal', 'incidents or appeals')} open" if others else ""
    return f"No alarm in {count(len(later), 'round')} {since}{also}."


def _cautions(monitor: Monitor, rounds: Sequence[Round], events: Sequence[Event], now: datetime) -> list[str]:
    cautions = []
    golden = monitor.golden
    if len(golden) < FEW_ITEMS:
        cautions.append(f"{len(golden)} golden pairs are few: only a gross change could show.")
    if all(item.human_p_first is None for item in golden):
        cautions.append("No golden pair has a human label, so agreement with people is not watched.")
    if rounds:
        late = timedelta(days=365.25 / monitor.settings.rounds_per_year) * LATE
        if now - datetime.fromisoformat(rounds[-1].at) > late:
            cautions.append(f"The last round is of {rounds[-1].at[:10]}: a round is overdue.")
        failed = [event for event in events if event.kind == "failed" and event.at >= rounds[-1].at]
        if failed:
            cautions.append(f"{count(len(failed), 'round')} failed since: {failed[-1].text}")
    return cautions


def _facts(monitor: Monitor, rounds: Sequence[Round]) -> list[Fact]:
    settings, golden = monitor.settings, monitor.golden
    digests = monitor.inputs
    added = sum(item.origin != "golden" for item in golden)
    names = {item for item in (settings.golden, settings.prompts, settings.redteam) if item}
    with Journal(monitor.folder / "journal.sqlite") as journal:
        head = journal.head()
    judge = getattr(settings.judge, "model", None) or "panel of " + ", ".join(m.model for m in settings.judge.members)  # type: ignore[union-attr]
    return [
        Fact("judge", [str(judge)]),
        Fact("policy", [str(settings.policy or "not watched")]),
        Fact("golden set", [f"{count(len(golden), 'pair')}{f', {added} from appeals' if added else ''}"]),
        Fact("files", [f"{name} (digest {digests.get(str(name), 'not recorded')})" for name in sorted(names)]),
        Fact("rounds", [f"{len(rounds)}: {rounds[0].at[:10]} to {rounds[-1].at[:10]}" if rounds else "none"]),
        Fact("calls", [f"{sum(r.calls for r in rounds):,}, ${sum(r.cost_usd for r in rounds):,.2f}"]),
        Fact("log", [f"{count(head.rows, 'row')}, head {head.link}" if head.rows else "empty"]),
    ]


def _event(event: Event, events: Sequence[Event], open_: Sequence[Event]) -> EventRow:
    closing = next((one for one in events if one.kind == "close" and one.closes == event.id), None)
    is_open = event in open_
    if closing is not None:
        state = f"closed on {closing.at[:10]} by {closing.by}: {closing.outcome}"
    else:
        state = "" if is_open else "closed by a change" if event.kind == "alarm" else ""
    severity = f"severity {event.severity}: " if event.severity else ""
    item = f" (pair {event.item})" if event.item else ""
    return EventRow(event.at[:16].replace("T", " "), event.kind, event.id, f"{severity}{event.text}{item}", event.by,
                    state, is_open)  # fmt: skip


def _series(name: str, of: Callable[[RoundFigures], Measured | None], figures: Sequence[RoundFigures]) -> Series:
    rows = [of(one) for one in figures]
    values, lows, highs = ([getattr(row, field) if row else None for row in rows] for field in ("value", "low", "high"))
    return Series(name, values, lows, highs)


def _row(one: RoundFigures, metrics: Sequence[tuple[str, Callable[[RoundFigures], Measured | None]]]) -> list[str]:
    flips = "baseline"
    if one.flips is not None:
        p = "" if one.flips.p is None else f" (p = {one.flips.p:.2g})"
        flips = f"{one.flips.flipped} of {one.flips.n}: {one.flips.to_wrong}, {one.flips.to_right}{p}"
    return [one.at[:16].replace("T", " "), flips, *(_cell(name, of(one)) for name, of in metrics)]


def _cell(name: str, metric: Measured | None) -> str:
    if metric is None or metric.value is None:
        return "–"
    return f"{metric.value:,.0f}" if name.startswith("length") else f"{100 * metric.value:.1f} %"


def _versions(rounds: Sequence[Round]) -> list[tuple[str, str, str]]:
    seen: dict[str, list[str]] = {}
    for one in rounds:
        for version in one.versions:
            seen.setdefault(f"{version}, revision {version.revision}", []).append(one.at[:16].replace("T", " "))
    return [(name, at[0], at[-1]) for name, at in seen.items()]


def _rate(monitor: Monitor, charts: int) -> str:
    settings = monitor.settings
    often = f"{settings.false_alarms_per_year:g} {'time' if settings.false_alarms_per_year == 1 else 'times'}"
    return (
        f"If nothing changes, {charts} charts together alarm falsely at most {often} in {settings.rounds_per_year:g} rounds "
        "(a year), on average."
    )
