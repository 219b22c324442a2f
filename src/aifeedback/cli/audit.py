"""audit verify, report; and how an audit and the probes of a policy are printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aifeedback.cli.terminal import console, table

if TYPE_CHECKING:
    from aifeedback.steps.probe import ProbeFigures

STYLES = {"bad": "red", "watch": "yellow", "fine": "green", "uninformative": "dim", "unknown": "dim"}


def add_to(app: typer.Typer) -> None:
    app.command("audit verify", rich_help_panel="Measurement")(verify)
    app.command(rich_help_panel="Whole runs")(report)


def verify(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Run folders or journal files.")] = None,
) -> None:
    """Check that no model call of a run was changed since it was written."""
    from aifeedback.errors import FileError
    from aifeedback.models.journal import Journal
    from aifeedback.pipeline.run_folder import RunFolder

    if not runs:
        raise FileError("no run given", fix="aifeedback audit verify RUN, for example runs/demo")
    for run in runs:
        paths = RunFolder(Path(run)).journals() if Path(run).is_dir() else [Path(run)]
        if not paths or not paths[0].is_file():
            missing = paths[0] if paths else Path(run) / "journal.sqlite"
            raise FileError("no journal", file=missing, fix="give a run folder or a journal file")
        calls = 0
        for path in paths:
            with Journal(path) as journal:
                head = journal.verify()
            calls += head.rows
            console.print(
                f"[green]✓[/] {path}: {head.rows:,} calls, unchanged since they were written; head {head.link[:16]}"
            )
        if len(paths) > 1:
            console.print(f"{run}: {calls:,} calls in {len(paths)} journals")


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
) -> None:
    """Write summary.json and report.html of a run again."""
    from aifeedback.pipeline.summary import summarise
    from aifeedback.reports.run_report import write_report

    path = write_report(summarise(folder), folder)
    console.print(f"report: [bold]{path}[/]", soft_wrap=True)


def show_findings(audit: Mapping[str, Any]) -> None:
    """One judge's audit, as ``audit.json`` holds it: a line per probe."""
    from aifeedback.reports.judge_report import FEW_PAIRS, MARKS

    rows = [(f"[{STYLES[f['level']]}]{MARKS[f['level']]}[/] {f['probe']}", _sentence(f)) for f in audit["findings"]]
    title = f"{audit['judge']}: {audit['pairs']:,} pairs, {audit['asked']:,} questions, {audit['seconds']:.0f} s"
    table(title, ("  probe", "finding"), rows, text=("finding",))
    few = f" {audit['pairs']} pairs are few: only a gross fault could show." if audit["pairs"] < FEW_PAIRS else ""
    console.print(f"[dim]✗ serious, ! to watch, ✓ no significant fault, ? not measured.{few}[/]")


def show_probes(figures: ProbeFigures) -> None:
    """Per policy a line per finding, by the classifier that the verdict goes by; the other one's level beside it."""
    from aifeedback.reports.judge_report import MARKS

    for name, policy in figures.policies.items():
        others = [by for by in policy.findings if by != policy.headline]
        by_rules = {f["probe"]: f for by in others for f in policy.findings[by]}
        rows = [
            (
                f"[{STYLES[f['level']]}]{MARKS[f['level']]}[/] {f['probe']}",
                _sentence(f),
                *([MARKS[by_rules[f["probe"]]["level"]] if f["probe"] in by_rules else "–"] if others else []),
            )
            for f in policy.findings[policy.headline]
        ]
        by = "the judge" if others else "rules"
        unknown = policy.unknown[policy.headline]
        title = f"{name}: {policy.responses:,} responses, classified by {by}, {unknown:,} unknown"
        table(title, ("  probe", "finding", *(["by rules"] if others else [])), rows, text=("finding",))
        if policy.agreement is not None and policy.agreement.value is not None:
            share = f"{100 * policy.agreement.value:.0f} % of the {policy.agreement.n:,} responses known to both"
            console.print(f"[dim]rules and judge agree on {share}[/]")
    console.print("[dim]✗ serious, ! to watch, ✓ no significant fault, ? not measured or not informative.[/]")


def _sentence(finding: Mapping[str, Any]) -> str:
    """The sentence; after a share its interval and n, which sentences about points hold themselves."""
    if finding["unit"] != "share" or finding["low"] is None or finding["high"] is None:
        return finding["sentence"]
    return f"{finding['sentence']} [dim]({100 * finding['low']:.0f}–{100 * finding['high']:.0f} %, n = {finding['n']:,})[/]"
