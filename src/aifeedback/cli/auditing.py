"""The body of `aifeedback audit`: every probe on every judge, a table, findings as JSON and a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.cli.single import require
from aifeedback.cli.terminal import console, one_bar, table
from aifeedback.errors import RecipeError

STYLES = {"bad": "red", "watch": "yellow", "fine": "green", "unknown": "dim"}


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
    """Audits each judge on the same pairs; the first failing input stops before any call.

    ``workers``: processes that share the questions of a local model; None: as many as suit it.
    """
    from aifeedback import files
    from aifeedback.audit.ahead import CHUNK
    from aifeedback.audit.judge import audit_judge
    from aifeedback.audit.judge_report import MARKS, write_judge_report
    from aifeedback.runs import make_folder, write_json
    from aifeedback.stages import Job, resolve

    if data is None:
        raise RecipeError("an audit needs pairs", key="--data", fix="give a file of comparisons")
    names = [name for spec in specs.values() for name in resolve.outside_judge(spec)]
    require([str(data), *names])
    read = files.read_comparisons(data, seed, limit=limit)
    console.print(f"[dim]{read.report.sentence()}[/]")
    make_folder(out)
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
    for found in audits:
        rows = [(f"[{STYLES[f.level]}]{MARKS[f.level]}[/] {f.probe}", f.sentence) for f in found.findings]
        title = f"{found.judge}: {found.pairs:,} pairs, {found.asked:,} asked, {found.seconds:.0f} s"
        table(title, ("  probe", "finding"), rows, text=("finding",))
    told = {"judges": [found.as_dict() for found in audits]}
    write_json(out / "audit.json", told)
    if json_file:
        write_json(json_file, told)
    report = write_judge_report(audits, out / "report.html")
    console.print(f"report: [bold]{report}[/]")
