"""What a person sees while something runs, and tables of figures."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    from aifeedback.models.journal.journal import Spent
    from aifeedback.steps.verdict import Verdict

console = Console(highlight=False)


def bars() -> Progress:
    """One line per running stage: counter, time, time left, then metrics; on a pipe, one line per finished stage."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[count]}"),
        TextColumn("[dim]{task.fields[figures]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        console=console,
        disable=not console.is_terminal,
    )


class RunWatcher:
    """A runner.Watcher that draws one line per running stage."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.tasks: dict[str, TaskID] = {}

    def started(self, stage_id: str) -> None:
        self.tasks[stage_id] = self.progress.add_task(stage_id, total=None, count="starting", figures="")
        if not console.is_terminal:
            console.print(f"· {stage_id}")

    def advanced(self, stage_id: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if stage_id not in self.tasks:  # its last steps may be reported after its end
            return
        task = self.progress.tasks[self.progress.task_ids.index(self.tasks[stage_id])]
        count = counted(done, total, task.elapsed or 0.0)
        self.progress.update(task.id, completed=done, total=total or None, count=count, figures=brief(figures))

    def finished(self, stage_id: str, *, seconds: float, skipped: bool, verdict: Verdict | None = None) -> None:
        if stage_id in self.tasks:
            self.progress.remove_task(self.tasks.pop(stage_id))
        note = "[dim]already done[/]" if skipped else f"{seconds:.1f} s"
        console.print(f"[green]✓[/] {stage_id:<18} {note}")
        if verdict is not None:
            show_verdict(verdict, indent="  ")


def show_verdict(verdict: Verdict, indent: str = "") -> None:
    """✓ ! ✗, what it means, what to do next."""
    from rich.markup import escape

    style = {"ok": "green", "watch": "yellow", "bad": "red"}[verdict.level]
    console.print(f"{indent}[{style}]{verdict.mark}[/] {escape(verdict.meaning)}", soft_wrap=True)
    if verdict.action:
        console.print(f"{indent}  → {verdict.action}", markup=False, soft_wrap=True)


def show_spent(spent: Spent) -> None:
    """Calls, tokens and cost as the journal has them."""
    if spent.calls:
        cost = f", ${spent.cost_usd:,.4f}" if spent.cost_usd else ""
        console.print(f"[dim]{spent.calls:,} model calls, {spent.tokens:,} tokens{cost}[/]")


def counted(done: int, total: int, elapsed_s: float) -> str:
    """'12/90 · 0:13 · ~1:20 left'; before the first item 'starting' and the time."""
    if not total or not done:
        return f"starting · {clock(elapsed_s)}"
    left = "" if done >= total else f" · ~{clock(elapsed_s / done * (total - done))} left"
    return f"{done:,}/{total:,} · {clock(elapsed_s)}{left}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def progress_line(title: str) -> Generator[Any]:
    """A protocols.Progress for a single step."""
    with bars() as progress:
        watcher = RunWatcher(progress)
        watcher.tasks[title] = progress.add_task(title, total=None, count="starting", figures="")

        def advance(done: int, total: int, figures: Mapping[str, float]) -> None:
            watcher.advanced(title, done, total, figures)

        yield advance


FIRST = ("reward", "kl", "length", "loss", "unknown")
"""Metrics that come first in the progress line."""


def brief(figures: Mapping[str, Any]) -> str:
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    ordered = sorted(numbers, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    return "  ".join(f"{key} {numbers[key]:.3g}" for key in ordered[:4])


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, text: Sequence[str] = ()) -> None:
    """The first column and those named in ``text`` are set flush left, the others, figures, flush right."""
    drawn = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, name in enumerate(header):
        # a name or figure that does not fit goes on in the next line: cut, it would be another one
        drawn.add_column(name, justify="left" if index == 0 or name in text else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    console.print(drawn)


DETAILS = ("judge", "judges", "panel", "cause")
"""Who judged by which words and settings, and what the verdict says: in the saved metrics and the report."""


def show_figures(figures: Mapping[str, Any], json_file: Path | None = None, title: str = "") -> None:
    """Print a nested mapping, less its details, as a two-column table and, if asked, save all of it.

    What a trainer measured, under ``figures`` in its result, is printed by its own name.
    """
    shown = {key: value for key, value in figures.items() if key not in DETAILS or not isinstance(value, Mapping)}
    shown |= shown.pop("figures", {})
    table(title, ("metric", "value"), [(key, value) for key, value in flatten(shown)])
    if json_file:
        from aifeedback.storage import write_json

        write_json(json_file, figures)
        console.print(f"[dim]metrics → {json_file}[/]")


def flatten(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in figures.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
            yield name, estimate(value)
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif isinstance(value, float):
            yield name, f"{value:.4g}"
        elif value is None:
            continue
        elif isinstance(value, str | int | bool):
            first, *more = str(value).splitlines() or [""]
            yield name, first[:60] + ("…" if more or len(first) > 60 else "")
        elif isinstance(value, Sequence) and len(value) <= 6:
            yield name, json.dumps(value, default=str)[:80]


def estimate(value: Mapping[str, Any], scale: float = 1.0) -> str:
    """'0.71 [0.66, 0.75] n=400'."""
    if value.get("value") is None:
        return f"unknown, n={value.get('n', 0)}"
    low, high = value.get("low"), value.get("high")
    interval = f" [{low * scale:.3g}, {high * scale:.3g}]" if low is not None and high is not None else ""
    return f"{value['value'] * scale:.3g}{interval} n={value.get('n', '?')}"


def brief_estimate(value: Mapping[str, Any], *, digits: int, signed: bool = False) -> str:
    """'+0.71 [+0.66, +0.75]': without n, for a table that says it elsewhere."""
    form = f"{{:{'+' if signed else ''}.{digits}f}}"
    value_text, low, high = (form.format(round(value[key], digits) + 0.0) for key in ("value", "low", "high"))
    return f"{value_text} [{low}, {high}]"
