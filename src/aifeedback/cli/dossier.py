"""dossier init | add | check | sign | build: a decision on a policy, as a file with requirements, evidence and names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from aifeedback.cli.options import Json
from aifeedback.cli.terminal import console

app = typer.Typer()
Folder = Annotated[Path, typer.Argument(metavar="DOSSIER", help="Folder of the dossier.")]
STYLES = {"met": "green", "unchecked": "yellow", "waived": "yellow", "broken": "red", "open": "cyan"}


@app.command()
def init(
    folder: Folder,
    policy: Annotated[str, typer.Option(metavar="MODEL", help="The policy to decide on: hf:DIR, openai:NAME.")],
    use: Annotated[str, typer.Option("--for", help="Intended use: purpose, place, languages.")],
    owner: Annotated[str, typer.Option(metavar="NAME", help="Who is responsible for the decision.")],
    template: Annotated[
        list[str] | None,
        typer.Option(help="ship, internal, vendor, rubric, reward-hacking, deployment, or a file. Repeat for several."),
    ] = None,
    claim: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A vendor's claim (YAML); the template is then vendor.")
    ] = None,
) -> None:
    """Start a dossier: dossier.yaml with the requirements of a template, to be edited."""
    from aifeedback.dossier.dossier import SETTINGS, Dossier

    names = template or (["vendor"] if claim is not None else ["ship"])
    made = Dossier.create(folder, policy=policy, use=use, owner=owner, names=names, claim=claim)
    console.print(f"→ [bold]{folder / SETTINGS}[/]: {len(made.settings.requirements)} requirements", soft_wrap=True)
    console.print(f"  aifeedback dossier add {folder} RUN…", markup=False, soft_wrap=True)


@app.command()
def add(
    folder: Folder,
    paths: Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Results and standards files.")] = None,
    answer: Annotated[list[str] | None, typer.Option(metavar="ID=TEXT", help="Answer to an open question.")] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Your name.")] = "",
) -> None:
    """Add results as evidence, with digests of every file; and answers, with a name."""
    from aifeedback.dossier.dossier import Dossier
    from aifeedback.errors import RecipeError

    dossier = Dossier(folder)
    if not paths and not answer:
        raise RecipeError("nothing to add", key="FILE", fix="name folders of audit, compare, rate, monitor, or files")
    if answer and not by.strip():
        raise RecipeError("an answer needs a name", key="--by", fix='--by "N. N."')
    answers = [text.partition("=") for text in answer or []]
    if wrong := [id_ for id_, equals, text in answers if not equals or not text.strip()]:
        raise RecipeError(
            f"'{wrong[0]}' is not ID=TEXT", key="--answer", fix='--answer rollback="N. N., within the hour"'
        )
    for one in dossier.add(paths or []):
        console.print(f"[green]✓[/] {one.path}: {one.kind}, {len(one.files):,} files", soft_wrap=True)
    for id_, _, text in answers:
        dossier.answer(id_, text.strip(), by)
        console.print(f"[green]✓[/] {id_}, answered by {by}", soft_wrap=True)


@app.command()
def check(folder: Folder, json_file: Json = None) -> None:
    """Check every requirement: exits with 0 if all are met, 1 if one is open, 2 if one is broken."""
    from rich.markup import escape

    from aifeedback.dossier.dossier import Dossier
    from aifeedback.dossier.page import summary
    from aifeedback.dossier.records import MARKS, QUESTIONS
    from aifeedback.storage import write_json

    dossier = Dossier(folder)
    results = dossier.check()
    for number, title in QUESTIONS.items():
        console.print(f"[bold]{number} {title}[/]")
        for row in results.of(number):
            mark = f"[{STYLES[row.level]}]{MARKS[row.level]}[/]"
            waiver = f" ({row.waiver})" if row.waiver else ""
            console.print(f"  {mark} {escape(row.id)}: {escape(row.sentence)}{escape(waiver)}", soft_wrap=True)
    if back := [row.question for row in results.claim if row.question]:
        console.print("[bold]Questions to send back[/]")
        for question in back:
            console.print(f"  - {question}", markup=False, soft_wrap=True)
    if questions := [
        row.asks for row in results.rows if row.level == "open" and row.sentence == "Nobody has answered."
    ]:
        console.print("[bold]Questions for people[/]")
        for question in questions:
            console.print(f"  - {question}", markup=False, soft_wrap=True)
    console.print(summary(results), markup=False, soft_wrap=True)
    if json_file:
        write_json(json_file, {
            "code": results.code, "state": results.state,
            "requirements": [row.model_dump(mode="json") for row in results.rows],
            "claim": [row._asdict() for row in results.claim], "not_measured": results.not_measured,
        })  # fmt: skip
    if results.code:
        raise typer.Exit(results.code)


@app.command()
def sign(
    folder: Folder,
    by: Annotated[str, typer.Option("--as", metavar="NAME", help="Who decides.")],
    role: Annotated[str, typer.Option(help="In which role.")],
    decision: Annotated[Literal["ship", "ship-with-conditions", "reject"], typer.Option(help="The decision.")],
    until: Annotated[str | None, typer.Option(metavar="DATE", help="When the decision ends, YYYY-MM-DD.")] = None,
    note: Annotated[str, typer.Option(help="Conditions and reasons.")] = "",
) -> None:
    """Sign a decision on the dossier as it is now, and write the page; a later change of a file voids it."""
    from aifeedback.dossier.dossier import Dossier

    dossier = Dossier(folder)
    results = dossier.check()
    signature = dossier.sign(results, by=by, role=role, decision=decision, until=until, note=note)
    console.print(f"[green]✓[/] {signature.decision}, {signature.by}, {signature.role}, {signature.at}", soft_wrap=True)
    console.print(f"page: [bold]{dossier.build(results)}[/]", soft_wrap=True)


@app.command()
def build(folder: Folder) -> None:
    """Write dossier.html and manifest.json: decision, six questions, waivers, what was not measured, digests."""
    from aifeedback.dossier.dossier import Dossier

    dossier = Dossier(folder)
    console.print(f"page: [bold]{dossier.build(dossier.check())}[/]", soft_wrap=True)
