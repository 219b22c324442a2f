"""audit verify, audit diff, report; and how an audit and the probes of a policy are printed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from aifeedback.cli.options import Json
from aifeedback.cli.terminal import console, table

if TYPE_CHECKING:
    from aifeedback.steps.probe import ProbeFigures

STYLES = {"bad": "red", "watch": "yellow", "fine": "green", "uninformative": "dim", "unknown": "dim"}


app = typer.Typer()


@app.command("audit verify")
def verify(
    runs: Annotated[list[str] | None, typer.Argument(metavar="RUN...", help="Run folders or journal files.")] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="FILE|LINK",
            help="A page, a file of heads, or a link stored elsewhere; detects rows "
            "cut off the end, and a chain rewritten as a whole. Repeat for several.",
        ),
    ] = None,
    json_file: Json = None,
) -> None:
    """Verify that calls, labels, metrics, pages and ratings of a run are unchanged."""
    from aifeedback.errors import FileError, JournalError
    from aifeedback.models.journal.digests import read_heads, verify
    from aifeedback.storage import write_json

    if not runs:
        raise FileError("no run given", fix="aifeedback audit verify RUN, for example runs/demo")
    links = [link for source in heads or () for link in read_heads(source)]
    noted, faults = {}, []
    for run in runs:
        check = verify(Path(run), links)
        noted |= {name: head._asdict() for name, head in check.heads.items()}
        faults += check.faults
        mark, unchanged = ("", "") if check.faults else ("[green]✓[/] ", ", unchanged since they were written")
        for name, head in check.heads.items():
            rows = f"{check.calls[name]:,} calls" if name in check.calls else f"{head.rows:,} ratings"
            console.print(f"{mark}{name}: {rows}{unchanged}; head {head.link}", highlight=False, soft_wrap=True)
        if len(check.calls) > 1:
            console.print(f"{run}: {sum(check.calls.values()):,} calls in {len(check.calls)} journals")
        for folder in check.unsealed:
            console.print(f"[yellow]![/] {folder}: not checked: no digests recorded", soft_wrap=True)
        for fault in check.faults:
            console.print(f"[red]✗[/] {escape(fault)}", highlight=False, soft_wrap=True)
        if not check.faults:
            console.print(f"[green]✓[/] {run}: {check.files:,} files are as they were written",
                          highlight=False, soft_wrap=True)  # fmt: skip
    if json_file:
        write_json(json_file, noted)
    if faults:
        raise JournalError(f"{len(faults)} changed or missing\n  → restore them from a copy; do not rely on this run")


@app.command("audit diff")
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Folder of an audit, or its audit.json.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="A later audit on the same pairs.")],
    fail_on: Annotated[
        Literal["changed"] | None, typer.Option("--fail-on", help="Exit with code 6 if verdicts or a probe changed.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Compare two audits: flipped verdicts on shared pairs, and every probe before and after (Holm-corrected)."""
    from aifeedback.audit.diff import diff_files
    from aifeedback.errors import GateClosed
    from aifeedback.storage import write_json

    diffs = diff_files(old, new)
    for one in diffs:
        rows = [
            (
                f"{'[yellow]![/]' if change.is_changed else ' '} {change.probe}",
                f"{change.before:.3f}",
                f"{change.after:.3f}",
                f"{change.difference:+.3f} [{change.low:+.3f}, {change.high:+.3f}]",
                "–" if change.p_adjusted != change.p_adjusted else f"{change.p_adjusted:.3f}",
            )
            for change in one.changes
        ]
        title = f"{one.before} → {one.after}: {one.pairs:,} pairs in both audits"
        table(title, ("  probe", "before", "after", "difference", "p (Holm)"), rows)
        if one.missing:
            console.print(f"[dim]measured in one of them only: {', '.join(one.missing)}[/]")
        console.print(f"{'[yellow]![/]' if one.is_changed else '[green]✓[/]'} {escape(one.sentence)}", soft_wrap=True)
    if json_file:
        write_json(json_file, {"judges": [one.as_dict() for one in diffs]})
    if fail_on and (moved := [one.after for one in diffs if one.is_changed]):
        raise GateClosed(f"gate closed (--fail-on changed): {', '.join(moved)}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
    paper: Annotated[
        bool, typer.Option("--paper", help="Write paper.html, .json and .md too: the published tables beside this run.")
    ] = False,
) -> None:
    """Write summary.json and report.html of a run again."""
    from aifeedback.models.journal.digests import seal
    from aifeedback.pipeline.run_folder import RunFolder
    from aifeedback.pipeline.summary import summarise
    from aifeedback.reports.run_report import write_report

    summary = summarise(folder)
    paths = [write_report(summary, folder)]
    if paper:
        from aifeedback.reports.paper import write_paper

        paths.append(write_paper(folder, folder.resolve().name))
    seal(folder, RunFolder(folder).journal)
    for path in paths:
        console.print(f"report: [bold]{path}[/]", soft_wrap=True)


def show_findings(audit: Mapping[str, Any]) -> None:
    """One judge's audit, as ``audit.json`` holds it: a line per probe."""
    from aifeedback.reports.judge_report import FEW_PAIRS, MARKS

    rows = [(f"[{STYLES[f['level']]}]{MARKS[f['level']]}[/] {f['probe']}", _sentence(f)) for f in audit["findings"]]
    title = f"{audit['judge']}: {audit['pairs']:,} pairs, {audit['asked']:,} questions, {audit['seconds']:.0f} s"
    table(title, ("  probe", "finding"), rows, text=("finding",))
    few = f" {audit['pairs']} pairs can reveal only a severe fault." if audit["pairs"] < FEW_PAIRS else ""
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
