"""monitor init | run | show | note: watch a judge and a policy after deployment, by rounds that a scheduler starts."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from aifeedback.cli.options import Json, Sets, chosen_settings, options_of, with_parameters
from aifeedback.cli.terminal import console, table
from aifeedback.monitoring.records import MonitorSettings

if TYPE_CHECKING:
    from aifeedback.monitoring.monitor import Monitor, Outcome

Folder = Annotated[Path, typer.Argument(metavar="WATCH", help="Folder of the monitor.")]
app = typer.Typer()
OPTIONS = options_of(MonitorSettings)


def init(folder: Path, sets: list[str] | None, json_file: Path | None, **values: Any) -> None:
    """Set up a monitor and take its baseline.

    A baseline asks everything several times (--passes), so that later rounds know how much the judge varies by itself.
    """
    from aifeedback.cli.terminal import progress_line
    from aifeedback.config import parse
    from aifeedback.judging.spec import judge_from_options
    from aifeedback.monitoring.monitor import Monitor
    from aifeedback.monitoring.webhook import address

    chosen = chosen_settings(MonitorSettings, OPTIONS, values, sets)
    judge = judge_from_options(chosen.settings.get("judge", {}))
    settings = parse(MonitorSettings, {**chosen.settings, "judge": judge}, prefix="--", by_set=chosen.chosen)
    if settings.webhook:
        address(settings.webhook)
    with progress_line("baseline") as progress:
        monitor, outcome = Monitor.create(folder, settings, progress=progress)
    _show_round(monitor, outcome, json_file)
    console.print("Start one round at a time, for example every Monday at 03:17, by cron or in CI:")
    console.print(f"  {cron_line(monitor)}", markup=False, soft_wrap=True)
    console.print(f"  {ci_line(monitor)}", markup=False, soft_wrap=True)


def _parameters() -> list[inspect.Parameter]:
    """What typer shall see: the folder, an option per setting, --set and --json."""
    keyword, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    options = [
        inspect.Parameter(
            option.parameter,
            keyword,
            default=empty if option.kind is str else None,
            annotation=Annotated[option.kind, option.info],
        )
        for option in OPTIONS
    ]
    return [
        inspect.Parameter("folder", keyword, annotation=Folder),
        *options,
        inspect.Parameter("sets", keyword, annotation=Sets, default=None),
        inspect.Parameter("json_file", keyword, annotation=Json, default=None),
    ]


app.command("init")(with_parameters(init, _parameters()))


def cron_line(monitor: Monitor) -> str:
    """A line for crontab; an alarm makes the command fail, and cron mails what it printed."""
    when = "17 3 * * 1" if monitor.settings.rounds_per_year <= 60 else "17 3 * * *"
    return f"{when}  cd {Path.cwd()} && aifeedback monitor run {monitor.folder}"


def ci_line(monitor: Monitor) -> str:
    """A step of a scheduled workflow."""
    return f"- run: aifeedback monitor run {monitor.folder}  # exit code 6 while an alarm is open"


@app.command()
def run(
    folder: Folder,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", help="POST new alarms here as JSON; $NAME is read from the environment."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Take one dated round: ask everything anew, compare it with all rounds since the baseline.

    Exit code 6 while an alarm is open, 4 where no answer came.
    """
    from aifeedback.cli.terminal import progress_line
    from aifeedback.errors import GateClosed, JudgeUnavailable
    from aifeedback.monitoring.monitor import Monitor
    from aifeedback.monitoring.webhook import address

    monitor = Monitor(folder)
    url = webhook or monitor.settings.webhook
    if url:
        address(url)
    try:
        with progress_line("round") as progress:
            outcome = monitor.run(progress=progress)
    except JudgeUnavailable as failed:
        _post(url, monitor, {"kind": "failed", "text": str(failed).splitlines()[0]})
        raise
    _show_round(monitor, outcome, json_file)
    if outcome.raised:
        _post(url, monitor, {
            "kind": "alarm", "round": outcome.round.name,
            "alarms": [event.model_dump(mode="json", exclude_none=True) for event in outcome.raised],
            "figures": outcome.figures.model_dump(mode="json", exclude_none=True),
        })  # fmt: skip
    if outcome.open:
        names = ", ".join(event.id for event in outcome.open)
        raise GateClosed(
            f"{names} open\n  → look at {monitor.folder / 'report.html'}, then close each: "
            f"aifeedback monitor note {monitor.folder} --close {outcome.open[0].id} --outcome …"
        )


@app.command()
def show(folder: Folder) -> None:
    """Write the page over all rounds, and print the charts and what is open."""
    from aifeedback.monitoring.monitor import Monitor

    monitor = Monitor(folder)
    with monitor.locked():
        pass
    _show(monitor)


@app.command()
def note(
    folder: Folder,
    kind: Annotated[
        Literal["incident", "appeal", "change"] | None,
        typer.Option(
            help="incident; appeal against a verdict; change that was meant: the next round is a new baseline."
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="What happened, or why.")] = "",
    severity: Annotated[
        int | None, typer.Option(min=1, max=4, help="1: somebody may come to harm … 4: for the record.")
    ] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="The pair (comparison_id) that it is about.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="Labelled file with the pair (default: the golden set).")
    ] = None,
    close: Annotated[str | None, typer.Option(metavar="ID", help="Close this alarm, incident or appeal.")] = None,
    outcome: Annotated[
        str | None, typer.Option(help="How it ended; for an appeal upheld or rejected, which people's ratings decide.")
    ] = None,
    verdict: Annotated[
        Literal["first", "second", "tie"] | None,
        typer.Option(help="Human verdict of an appeal, if it was not rated on the page."),
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who notes this; your login by default.")] = "",
) -> None:
    """Add to the log: an incident, an appeal, a change; or close one. Nothing in the log is ever changed."""
    from aifeedback.errors import RecipeError
    from aifeedback.monitoring import notes
    from aifeedback.monitoring.monitor import Monitor

    if (kind is None) == (close is None):
        raise RecipeError("one of --kind and --close is needed", key="--kind", fix="--kind incident, or --close ID")
    if kind is not None and not text.strip():
        raise RecipeError("what happened?", key="--text", fix="say it in one sentence")
    if kind == "incident" and severity is None:
        raise RecipeError("an incident needs a severity", key="--severity", fix="1 (harm) to 4 (for the record)")
    if kind == "appeal" and item is None:
        raise RecipeError("an appeal is about one pair", key="--item", fix="give its comparison_id")
    monitor = Monitor(folder)
    graded: Any = severity
    if close is not None:
        event = notes.close(monitor, close, outcome, text, by=by, verdict=verdict)
    elif kind == "incident":
        event = notes.incident(monitor, text, severity=graded, by=by, item=item)
    elif kind == "change":
        event = notes.change(monitor, text, by=by)
    else:
        event = notes.appeal(monitor, str(item), text, by=by, severity=graded, file=data)
    console.print(f"[green]✓[/] {event.id}, {event.at}, by {event.by}", soft_wrap=True)
    if kind == "change":
        console.print("The next round is a new baseline.")
    if kind == "appeal":
        console.print("Let people decide, then close it:")
        for line in (
            f"aifeedback rate {folder / notes.APPEALS} --rater NAME -o {folder / notes.PEOPLE}",
            f"aifeedback monitor note {folder} --close {event.id}",
        ):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if close is not None and event.human_p_first is not None:
        console.print(f"{event.closes} {event.outcome}; the pair is in the golden set with people's verdict.")


def _show_round(monitor: Monitor, outcome: Outcome, json_file: Path | None) -> None:
    from aifeedback.cli.terminal import show_spent
    from aifeedback.models.journal.journal import Spent
    from aifeedback.storage import write_json

    taken = outcome.round
    console.print(f"{taken.kind} {taken.name}" + (f", {len(taken.passes)} passes" if len(taken.passes) > 1 else ""))
    _show(monitor)
    show_spent(Spent(taken.calls, taken.tokens, taken.cost_usd))
    if json_file:
        write_json(json_file, {
            "figures": outcome.figures.model_dump(mode="json"),
            "raised": [event.model_dump(mode="json", exclude_none=True) for event in outcome.raised],
            "open": [event.model_dump(mode="json", exclude_none=True) for event in outcome.open],
        })  # fmt: skip


def _show(monitor: Monitor) -> None:
    from rich.markup import escape

    from aifeedback.monitoring.monitor import sentence_of

    rows = [
        (chart.title, f"{max(0.0, float(track.level[-1])):.2f}", sentence_of(chart, track))
        for chart, track in monitor.tracks()
        if track.level.size
    ]
    if rows:
        table("an alarm is at level 1", ("chart", "level", "latest round"), rows, text=("latest round",))
    for event in monitor.log.open():
        style = "red" if event.kind == "alarm" else "yellow"
        mark = "✗" if event.kind == "alarm" else "!"
        console.print(f"[{style}]{mark}[/] {event.id}, {event.at}: {escape(event.text)}", soft_wrap=True)
    if not monitor.log.open():
        console.print("[green]✓[/] no open alarms, incidents or appeals")
    console.print(f"report: [bold]{monitor.folder / 'report.html'}[/]", soft_wrap=True)


def _post(url: str | None, monitor: Monitor, message: dict[str, Any]) -> None:
    if url is None:
        return
    from aifeedback.monitoring.webhook import post

    why = post(url, {"monitor": str(monitor.folder), **message})
    if why:
        console.print(f"[yellow]![/] the webhook was not delivered: {why}", markup=True, soft_wrap=True)
