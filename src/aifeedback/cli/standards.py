"""standards list | show | check | diff | log: list, test and compare constitutions, rubrics and judge prompts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from aifeedback.cli.options import Json, with_server_options
from aifeedback.cli.terminal import console, table
from aifeedback.errors import StandardsError

app = typer.Typer()

KINDS = ("constitutions", "judges", "rubrics", "exemplars")
CHECKED = ("constitutions", "rubrics", "judges")
Judge = Annotated[str | None, typer.Option(help="Also run this judge: hf:DIR_OR_ID, openai:NAME.")]
PromptName = Annotated[str, typer.Option(help="A judge prompt that shows a principle.")]
Rationale = Annotated[bool, typer.Option("--rationale", "--cot", help="Let the judge reason before its verdict.")]
Data = Annotated[Path | None, typer.Option(help="Pairs to try the principles on.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the journal of calls.")]


@app.command("list")
def list_files() -> None:
    """List everything that ships, by kind."""
    from aifeedback.prompts import registry

    table("", ("kind", "names"), [(kind, ", ".join(registry.shipped(kind))) for kind in KINDS], text=("names",))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A shipped name, lab:NAME, or a file.")],
    kind: Annotated[
        str | None, typer.Option(help=f"Which kind, if several share the name: {', '.join(KINDS)}.")
    ] = None,
) -> None:
    """Print a constitution, judge prompt, rubric or few-shot example file unchanged, ready to copy."""
    if kind is not None and kind not in KINDS:
        raise StandardsError(f"no kind '{kind}'", key="--kind", fix=f"one of: {', '.join(KINDS)}")
    typer.echo(_file(name, KINDS if kind is None else (kind,)).read_bytes(), nl=False)


def _file(name: str, kinds: Sequence[str]) -> Path:
    """The first of ``kinds`` that has the name. Raises StandardsError that lists all names."""
    from aifeedback.lab import zoo
    from aifeedback.prompts import registry

    if Path(name).is_file():
        return Path(name)
    lab = {"constitutions": zoo.CONSTITUTIONS, "judges": zoo.PROMPTS}
    known = {
        kind: {shipped: registry.find(kind, shipped) for shipped in registry.shipped(kind)}
        | {f"lab:{path.stem}": path for path in (sorted(lab[kind].glob("*.yaml")) if kind in lab else ())}
        for kind in kinds
    }
    if named := next((files[name] for files in known.values() if name in files), None):
        return named
    close = difflib.get_close_matches(name, [one for files in known.values() for one in files], n=1)
    listed = "\n    ".join(f"{kind}: {', '.join(files)}" for kind, files in known.items())
    raise StandardsError(
        f"unknown name '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""),
        fix=f"give the path of a .yaml file, or one of\n    {listed}",
    )


@app.command()
@with_server_options
def check(
    name: Annotated[str, typer.Argument(help="A file, or a shipped name, of a constitution, rubric or judge prompt.")],
    kind: Annotated[str | None, typer.Option(help=f"Where several share the name: {', '.join(CHECKED)}.")] = None,
    judge: Judge = None,
    prompt: PromptName = "principle",
    rationale: Rationale = False,
    data: Data = None,
    out: Out = Path("runs/standards"),
    json_file: Json = None,
    *,
    served: dict[str, Any],
) -> None:
    """List every fault of a constitution, rubric or judge prompt at once.

    With a judge, a constitution's own test cases are tried; with data, redundancy and conflicts of its principles.
    """
    from aifeedback.judging.principles import inspect, labeler_for
    from aifeedback.prompts.lint import check_other
    from aifeedback.storage import write_json

    if data is not None and judge is None:
        raise StandardsError("trying principles on data needs a judge", key="--data", fix="give --judge as well")
    if kind is not None and kind not in CHECKED:
        raise StandardsError(f"no kind '{kind}'", key="--kind", fix=f"one of: {', '.join(CHECKED)}")
    path = _file(name, CHECKED if kind is None else (kind,))
    findings = check_other(path)
    if findings is not None:
        if judge is not None:
            raise StandardsError("only a constitution has test cases to try", key="--judge", fix="leave it out")
        _show_findings(findings)
        if json_file:
            write_json(json_file, {"is_clean": not findings, "findings": [finding._asdict() for finding in findings]})
        if findings:
            raise typer.Exit(2)
        console.print("[green]✓[/] clean")
        return
    inspection = inspect(path, _ask(judge, prompt, rationale, out, labeler_for, served), _comparisons(data))
    _show_findings(inspection.findings)
    for result in inspection.results:
        mark = "[green]✓[/]" if result.can_apply else "[red]✗[/]"
        console.print(f"{mark} {result.principle_id}: {result.right} of {result.n} test cases")
    for one in inspection.overlaps:
        if one.is_redundant():
            console.print(f"[yellow]![/] {one.one} and {one.other} never disagree")
    if json_file:
        write_json(json_file, inspection.figures())
    if not inspection.is_clean:
        raise typer.Exit(2)
    console.print("[green]✓[/] clean")


def _show_findings(findings: Sequence[Any]) -> None:
    for finding in findings:
        console.print("[red]✗[/]", escape(str(finding)), highlight=False, soft_wrap=True)


@app.command()
@with_server_options
def diff(
    old: str,
    new: str,
    judge: Judge = None,
    prompt: PromptName = "principle",
    rationale: Rationale = False,
    data: Data = None,
    out: Out = Path("runs/standards"),
    json_file: Json = None,
    *,
    served: dict[str, Any],
) -> None:
    """List what changed between two versions of a constitution, rubric or judge prompt.

    Wording that changed under the same version ends with exit code 2. With a judge and data, also which labels flip
    because of a changed constitution.
    """
    from aifeedback.judging.principles import VersionDiff, compare_versions, constitutional_judge
    from aifeedback.prompts.constitution import Constitution
    from aifeedback.prompts.lint import diff_any, load_standard, unversioned
    from aifeedback.storage import write_json

    if (judge is None) != (data is None):
        present, other = ("--data", "--judge") if judge is None else ("--judge", "--data")
        raise StandardsError("counting flipped labels needs a judge and data", key=present, fix=f"give {other} as well")
    before, after = (load_standard(_file(name, CHECKED)) for name in (old, new))
    if isinstance(before, Constitution) and isinstance(after, Constitution):
        difference = compare_versions(
            before, after, _ask(judge, prompt, rationale, out, constitutional_judge, served), _comparisons(data)
        )
    elif judge is not None:
        raise StandardsError(
            "flips are counted for constitutions only", key="--judge", fix="leave --judge and --data out"
        )
    else:
        difference = VersionDiff(diff_any(before, after), None)
    fault = unversioned(before, after, difference.changes)
    for change in difference.changes:
        console.print(str(change), markup=False, highlight=False)
    if difference.flips is not None and difference.flips.share is not None:
        console.print(f"labels that flip: {difference.flips.share:.1%} of {difference.flips.n}")
    if not difference.changes:
        console.print("no difference")
    if json_file:
        findings = [fault._asdict()] if fault else []
        write_json(json_file, {**difference.figures(), "findings": findings})
    if fault:
        _show_findings([fault])
        raise typer.Exit(2)


@app.command()
def log(
    name: Annotated[str, typer.Argument(help="A file of a constitution, rubric or judge prompt.")],
    by: Annotated[str | None, typer.Option(help="Log the version that the file has now: who decided it.")] = None,
    why: Annotated[str | None, typer.Option(help="Why it changed.")] = None,
    answers: Annotated[str, typer.Option(help="The challenge that this change answers.")] = "",
    flips: Annotated[Path | None, typer.Option(help="What `standards diff --json FILE` wrote about it.")] = None,
) -> None:
    """Show, or add to, the log of a standards file: who changed it, why, and which labels flipped.

    The log is NAME.log.jsonl beside the file. Wording that no entry holds ends with exit code 2.
    """
    from aifeedback.prompts import history
    from aifeedback.prompts.lint import Finding, load_standard, wording_digest
    from aifeedback.storage import read_json

    path = _file(name, CHECKED)
    standard = load_standard(path)
    digest = wording_digest(standard)
    if (by is None) != (why is None):
        raise StandardsError("an entry needs a name and a reason", key="--by" if by is None else "--why")
    if by is None and (answers or flips):
        raise StandardsError("nothing is logged without a name", key="--by", fix="give --by and --why")
    if by is not None and why is not None:
        measured = (read_json(flips) or {}).get("flips") if flips else None
        if flips and not measured:
            fix = "standards diff OLD NEW --judge MODEL --data PAIRS --json FILE"
            raise StandardsError("holds no flips", file=flips, key="--flips", fix=fix)
        history.append(
            path, version=str(standard.version), digest=digest, by=by, why=why, answers=answers, flips=measured
        )
    entries = history.read_log(path)
    for entry in entries:
        console.print(f"{entry.digest}  {entry}", markup=False, highlight=False, soft_wrap=True)
    if not entries or entries[-1].digest != digest:
        message = f"the wording of version {standard.version} ({digest}) is not logged"
        _show_findings([Finding("unlogged", standard.name, message, "log it: --by NAME --why REASON")])
        raise typer.Exit(2)


def _ask(judge: str | None, prompt: str, rationale: bool, out: Path, make: Any, served: dict[str, Any]) -> Any:
    """What asks the judge, or None without one."""
    if judge is None:
        return None
    from aifeedback.config import parse
    from aifeedback.errors import RecipeError
    from aifeedback.judging.pairwise import JudgeSettings
    from aifeedback.judging.pairwise import Rationale as Thought
    from aifeedback.judging.spec import JudgeSpec
    from aifeedback.pipeline.checks import modules_of, require_modules
    from aifeedback.refs import ModelRef, PromptRef, problems_of
    from aifeedback.steps.step import Context
    from aifeedback.storage import make_folder

    server = parse(JudgeSpec, {"model": judge, "prompt": prompt, **served}, prefix="--").server_options
    asking = PromptRef(prompt)
    refs = [ModelRef(judge), asking]
    require_modules(modules_of(refs))
    if problems := problems_of(iter(refs)):
        raise RecipeError("\n  ".join(problems), fix="nothing was run; fix this first")
    make_folder(out)
    model = Context(out, out).connect(judge, server)
    return make(model, asking.load(), JudgeSettings(rationale=Thought() if rationale else None))


def _comparisons(data: Path | None) -> Any:
    from aifeedback.data import read_comparisons

    return read_comparisons(data).rows if data else ()
