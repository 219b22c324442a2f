"""The body of `aifeedback audit`: every probe on every judge, a table, findings as JSON and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.cli import record
from aifeedback.cli.single import require
from aifeedback.cli.terminal import console, one_bar, table
from aifeedback.errors import RecipeError

STYLES = {"bad": "red", "watch": "yellow", "fine": "green", "uninformative": "dim", "unknown": "dim"}


def audit_judges(
    specs: Mapping[str, Any],
    data: Path | None,
    *,
    probes: Sequence[str] | None,
    n: int,
    limit: int | None,
    out: Path,
    seed: int,
    json_file: Path | None,
    workers: int | None = None,
) -> None:
    """Audits each judge on the same pairs. Raises RecipeError, before any call, for an input that is not there, and where
    the folder holds another audit.

    ``workers``: processes that share the questions of a local model; None: as many as suit it.
    """
    from aifeedback import files
    from aifeedback.audit.ahead import CHUNK
    from aifeedback.audit.judge import audit_judge, require_probes
    from aifeedback.audit.judge_report import write_judge_report
    from aifeedback.runner import digest_input
    from aifeedback.runs import make_folder, write_json
    from aifeedback.stages import Job, resolve

    if data is None:
        raise RecipeError("an audit needs pairs", key="--data", fix="give a file of comparisons")
    require_probes(probes or ())
    names = [name for spec in specs.values() for name in resolve.outside_judge(spec)]
    require([str(data), *names])
    settings = {"judges": {name: spec.model_dump(mode="json") for name, spec in specs.items()}}
    settings |= {"data": str(data), "probes": list(probes) if probes else None, "n": n, "limit": limit}
    told = record.Told("audit", settings, seed, {name: digest_input(name) for name in (str(data), *names)}, str(out))
    record.require_own(out, told, is_there=(out / "audit.json").exists())
    read = files.read_comparisons(data, seed, limit=limit)
    console.print(f"[dim]{read.report.sentence()}[/]")
    make_folder(out)
    record.leave(out, told)
    job = Job(out, out / "journal.sqlite", out, seed, workers=workers)
    # its own journal: a judge asked a second time must not be answered by the first one's
    second = Job(out, out / "journal-again.sqlite", out, seed, workers=workers)
    made: dict[str, Any] = {}
    audits = []
    for name, given in specs.items():
        spec = given.model_copy(update={"batch_size": max(given.batch_size, CHUNK)})
        with one_bar(name) as progress:
            audits.append(
                audit_judge(
                    resolve.labeler(spec, job),
                    read.rows,
                    read.human,
                    probes=probes,
                    n=n,
                    seed=seed,
                    family=resolve.who(spec, job)[0],
                    who=resolve.described(spec, job),
                    made=made,
                    again=resolve.labeler(spec, second),
                    progress=progress,
                )
            )
        resolve.forget_models()  # the next judge gets their memory
    figures = {"judges": [found.as_dict() for found in audits]}
    for one in figures["judges"]:
        show_findings(one)
    write_json(out / "audit.json", figures)
    if json_file:
        write_json(json_file, figures)
    report = write_judge_report(audits, out / "report.html")
    console.print(f"report: [bold]{report}[/]")


def show_findings(audit: Mapping[str, Any]) -> None:
    """One judge's audit, as ``audit.json`` holds it: a line per probe."""
    from aifeedback.audit.judge_report import FEW_PAIRS, MARKS

    rows = [(f"[{STYLES[f['level']]}]{MARKS[f['level']]}[/] {f['probe']}", _told(f)) for f in audit["findings"]]
    title = f"{audit['judge']}: {audit['pairs']:,} pairs, {audit['asked']:,} asked, {audit['seconds']:.0f} s"
    table(title, ("  probe", "finding"), rows, text=("finding",))
    few = f" {audit['pairs']} pairs are few: only a gross fault could show." if audit["pairs"] < FEW_PAIRS else ""
    console.print(f"[dim]✗ serious, ! to watch, ✓ no fault that is certain, ? not measured.{few}[/]")


def _told(finding: Mapping[str, Any]) -> str:
    """The sentence; after a share its interval and n, which sentences about points hold themselves."""
    if finding["unit"] != "share" or finding["low"] is None or finding["high"] is None:
        return finding["sentence"]
    return f"{finding['sentence']} [dim]({100 * finding['low']:.0f}–{100 * finding['high']:.0f} %, n = {finding['n']:,})[/]"
