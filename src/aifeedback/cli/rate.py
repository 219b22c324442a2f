"""rate, draw: people compare, rank or score responses on a page of this machine; which rows they should see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aifeedback.cli.options import Columns, Json, Seed, columns
from aifeedback.pipeline import command as record

if TYPE_CHECKING:
    from aifeedback.annotation.items import Item, Route, Scale


app = typer.Typer()


@app.command()
def rate(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="Pairs in any known format, or completions.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the ratings and their exports.")],
    rater: Annotated[
        list[str] | None, typer.Option(help="A rater's name, or NAME:ROLE,ROLE; repeat it for several raters.")
    ] = None,
    per_item: Annotated[int | None, typer.Option(help="Raters per item; by default everyone rates everything.")] = None,
    ask: Annotated[
        str, typer.Option(help="better (pairs and rankings); or about single responses: harmful, refused, score.")
    ] = "better",
    scale: Annotated[
        str | None, typer.Option(metavar="LOW:HIGH", help="Scale of --ask score; 1:10 by default.")
    ] = None,
    question: Annotated[str | None, typer.Option(help="What the page asks.")] = None,
    guidelines: Annotated[
        str | None, typer.Option(metavar="FILE", help="Shown to raters: a .md or .txt file, a constitution or rubric.")
    ] = None,
    harmful: Annotated[
        bool,
        typer.Option(
            "--harmful", help="Hide every text until the rater shows it; by default only texts tagged as harmful."
        ),
    ] = False,
    most_harmful: Annotated[int | None, typer.Option(help="Harmful items that one rater may see in all.")] = None,
    volunteer: Annotated[list[str] | None, typer.Option(help="Only these raters get harmful items.")] = None,
    route: Annotated[
        list[str] | None, typer.Option(metavar="TAG=VALUE:ROLE", help="Items with this tag go to this role only.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs with an agreed verdict, rated first, with feedback.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Pairs with an agreed verdict, mixed in without feedback.")
    ] = None,
    repeats: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of a rater's items to show a second time.")
    ] = 0.0,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Keep the ratings in PostgreSQL: postgresql://USER@HOST/DATABASE.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Raters whose ratings do not count in the exports.")] = None,
    exclude_unsound: Annotated[
        bool, typer.Option("--exclude-unsound", help="Leave raters marked ✗ out of the exports, too.")
    ] = False,
    reference: Annotated[str, typer.Option(help="Policy that the others are compared with.")] = "",
    host: Annotated[str, typer.Option(help="Any address other than loopback needs TLS in front of it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 picks a free port.")] = 8765,
    name: Annotated[list[str] | None, typer.Option(help="Host names that browsers will use, behind a proxy.")] = None,
    export_only: Annotated[
        bool, typer.Option("--export", help="Write the files of the ratings so far, without opening the page.")
    ] = False,
    column: Columns = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most N items, drawn at random by --seed.")] = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Open the rating page, one secret link per rater, until Ctrl-C; then export the ratings and their agreement."""
    from aifeedback.cli.terminal import console, progress_line
    from aifeedback.errors import RecipeError
    from aifeedback.pipeline.checks import modules_of, require_modules
    from aifeedback.refs import Ref

    place = _store(store)
    page = () if export_only else ("fastapi", "uvicorn", "multipart", "markdown_it")
    require_modules([*page, *(("psycopg",) if place else ()), *modules_of([Ref(data)])])
    from aifeedback.annotation import RatingStore, export, read_task
    from aifeedback.annotation.assignment import read_guidelines, sampled

    if not export_only and not rater:
        raise RecipeError("no --rater given", key="--rater", fix="for example --rater anna --rater ben")
    roles = _roles(rater or [])
    standard = read_guidelines(guidelines) if guidelines else None
    task = read_task(data, columns=columns(column), harmful=harmful, scale=_scale(ask, scale, question))
    golden, first = _agreed(gold, "gold"), _agreed(calibration, "calibration")
    console.print(f"[dim]{task.sentence}[/]")
    where: str | Path = place or out / "ratings.sqlite"
    if not export_only:
        from aifeedback.annotation.app import serve

        items = sampled(task.items, limit, seed)
        console.print(f"{len(items):,} items. Each rater opens their own link, which is a secret; Ctrl-C ends.")
        with progress_line("rated") as progress:
            serve(
                items,
                list(roles),
                where,
                host=host,
                port=port,
                names=name or (),
                links=out / "links.json",
                question=question or "Which response is better?",
                guidelines=standard,
                most_harmful=most_harmful,
                volunteers=volunteer,
                roles=roles,
                routes=[_route(text) for text in route or []],
                per_item=per_item,
                calibration=first,
                gold=golden,
                repeat_share=repeats,
                seed=seed,
                tell=lambda line: console.print(line, soft_wrap=True, markup=False),
                saved=lambda done, total: progress(done, total, {}),
            )
    elif isinstance(where, Path) and not where.is_file():
        raise RecipeError("no ratings yet", file=where, fix="run without --export first")
    kept = RatingStore(where)
    try:
        exported = export(
            task,
            kept.ratings(),
            out,
            exclude=exclude or (),
            reference=reference,
            gold=[*golden, *first],
            exclude_unsound=exclude_unsound,
        )
    finally:
        kept.close()
    _show(exported.summary, json_file)
    if exported.strays:
        console.print(
            f"[bold yellow]! {exported.strays:,} ratings belong to no item of {data}[/]: their prompt or responses were "
            "edited, or they are of another file. They are in ratings.jsonl and count nowhere else."
        )
    record.leave(out, record.Record("rate", {"data": str(data), "question": question, "ask": ask}, seed, {}, str(out)))
    what = "pairs" if task.completions is None else "responses"
    console.print(f"→ [bold]{exported.file}[/]: {exported.labelled:,} {what} with a verdict; ratings.jsonl beside it")


@app.command()
def draw(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="The rows to draw from.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="File for the drawn rows.")],
    n: Annotated[int | None, typer.Option("-n", min=1, help="Rows to draw.")] = None,
    half_width: Annotated[
        float | None, typer.Option(help="Draw enough rows for a 95 % interval of this half-width, for example 0.05.")
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="TAG", help="Stratify by this tag or column.")] = None,
    uncertain: Annotated[
        float, typer.Option(min=0, max=0.95, help="Share of the sample drawn from rows that the judge left uncertain.")
    ] = 0.0,
    uncertain_below: Annotated[
        float, typer.Option(min=0.5, max=1, help="A row is uncertain below this probability of its chosen response.")
    ] = 0.7,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Draw a random sample for people; every drawn row keeps its sampling weight."""
    from aifeedback.annotation.sampling import draw_file
    from aifeedback.cli.terminal import console
    from aifeedback.storage import write_json

    drawn = draw_file(
        data, out, n=n, half_width=half_width, by=by, uncertain=uncertain, uncertain_below=uncertain_below, seed=seed
    )
    for stratum, (count, size) in drawn.strata.items():
        console.print(f"{stratum}: {count:,} of {size:,} rows", markup=False)
    if json_file:
        write_json(json_file, drawn._asdict())
    console.print(f"→ [bold]{out}[/]: {drawn.n:,} of {drawn.rows:,} rows, with sampling_weight and sampling_stratum")


Task = Annotated[Path, typer.Option("--data", metavar="FILE", help="The rated file, as given to `rate`.")]
Ask = Annotated[str, typer.Option(help="What was asked: better, or harmful, refused, score.")]
Scaled = Annotated[str | None, typer.Option(metavar="LOW:HIGH", help="Scale of --ask score; 1:10 if not given.")]


@app.command("ratings export")
def export_ratings(
    data: Task,
    ratings: Annotated[str, typer.Option(metavar="DIR", help="The -o folder of `rate`.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    form: Annotated[str, typer.Option("--format", help="csv, argilla or label-studio.")] = "csv",
    ask: Ask = "better",
    scale: Scaled = None,
    column: Columns = None,
) -> None:
    """Write items and ratings as another tool reads them."""
    from aifeedback.annotation import read_task
    from aifeedback.annotation.exchange import export_ratings as write
    from aifeedback.annotation.items import Catalogue, current
    from aifeedback.annotation.labeler import read_ratings
    from aifeedback.cli.terminal import console

    items = read_task(data, columns=columns(column), scale=_scale(ask, scale, None)).items
    matched, strays = Catalogue(items).matched(read_ratings(ratings))
    count = write(out, items, current(matched), form)
    if strays:
        console.print(f"[bold yellow]! {len(strays):,} ratings belong to no item of {data}[/]")
    console.print(f"→ [bold]{out}[/]: {len(items):,} items, {count:,} ratings ({form})")


@app.command("ratings import")
def import_ratings(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An export of Argilla or Label Studio, or a CSV file.")],
    data: Task,
    out: Annotated[str, typer.Option("-o", "--out", help="Folder for the ratings, as of `rate`.")],
    form: Annotated[str | None, typer.Option("--format", help="Detected from the file by default.")] = None,
    ask: Ask = "better",
    scale: Scaled = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="OURS=THEIRS", help="For example rater=annotator. Repeat for several.")
    ] = None,
) -> None:
    """Import ratings made in another tool; unusable rows are reported and skipped."""
    from aifeedback.annotation import RatingStore, read_task
    from aifeedback.annotation.exchange import import_ratings as read
    from aifeedback.cli.terminal import console
    from aifeedback.errors import FileError

    items = read_task(data, scale=_scale(ask, scale, None)).items
    export = read(file, items, form=form, columns=columns(column))
    for reason, count in export.skipped.items():
        console.print(f"[yellow]![/] {count:,} × {reason}", highlight=False)
    if export.unknown:
        console.print(f"not used: {', '.join(export.unknown)}", markup=False)
    if not export.ratings:
        raise FileError(f"none of its {export.rows:,} verdicts can be used", file=file, fix="see the reasons above")
    store = RatingStore(Path(out) / "ratings.sqlite")
    try:
        added = sum(store.add(rating) for rating in export.ratings)
    finally:
        store.close()
    known = len(export.ratings) - added
    console.print(
        f"→ [bold]{out}[/]: {added:,} of {export.rows:,} ratings added"
        + (f", {known:,} were there already" if known else "")
        + f"; next: aifeedback rate {data} -o {out} --export",
        soft_wrap=True,
    )


def _store(url: str | None) -> str | None:
    from aifeedback.annotation.database import is_url
    from aifeedback.errors import InputError

    if url is not None and not is_url(url):
        raise InputError(
            "not a PostgreSQL URL", key="--store", fix="postgresql://USER@HOST/DATABASE; without it a SQLite file in -o"
        )
    return url


def _roles(raters: Sequence[str]) -> dict[str, frozenset[str]]:
    """Rater → roles, from NAME or NAME:ROLE,ROLE. Raises InputError for a name that is used twice."""
    from aifeedback.errors import InputError

    roles: dict[str, frozenset[str]] = {}
    for text in raters:
        name, colon, names = text.partition(":")
        own = frozenset(role.strip() for role in names.split(",") if role.strip())
        if colon and not own:
            raise InputError(f"{text!r} names no role", key="--rater", fix="NAME or NAME:ROLE, for example ana:medical")
        if name in roles:
            raise InputError("two raters have the same name", key="raters", fix="names must be unique")
        roles[name] = own
    return roles


def _route(text: str) -> Route:
    from aifeedback.annotation.items import Route
    from aifeedback.errors import InputError

    tag, equals, rest = text.partition("=")
    value, colon, role = rest.rpartition(":")
    if not (tag and equals and value and colon and role):
        raise InputError(f"{text!r} is not TAG=VALUE:ROLE", key="--route", fix="for example topic=medical:medical")
    return Route(tag, value, role)


def _scale(ask: str, scale: str | None, question: str | None) -> Scale | None:
    """The question about single responses; None for pairs and rankings."""
    from aifeedback.annotation.items import SCALES
    from aifeedback.errors import InputError

    if ask != "better" and ask not in SCALES:
        raise InputError(f"unknown value '{ask}'", key="--ask", fix=f"better, {', '.join(SCALES)}")
    if scale is not None and ask != "score":
        raise InputError("only --ask score has a scale", key="--scale", fix="leave it out, or give --ask score")
    if ask == "better":
        return None
    chosen = SCALES[ask]
    if scale is not None:
        low, _, high = scale.partition(":")
        if not (low.isdigit() and high.isdigit() and int(low) < int(high) <= int(low) + 20):
            raise InputError(f"{scale!r} is not a scale", key="--scale", fix="LOW:HIGH, whole numbers, for example 1:5")
        chosen = chosen._replace(low=int(low), high=int(high))
    return chosen._replace(question=question or chosen.question)


def _agreed(path: Path | None, purpose: Any) -> list[Item]:
    from aifeedback.annotation.assignment import agreed_items

    return [] if path is None else agreed_items(path, purpose)


def _show(summary: dict[str, Any], json_file: Path | None) -> None:
    from aifeedback.cli.terminal import console, estimate, show_figures

    raters, rates = summary["rater_quality"] or {}, (summary.get("win_rates") or {}).get("pairs", {})
    apart = ("rater_quality", "win_rates")
    show_figures(
        {key: value for key, value in summary.items() if value is not None and key not in apart}, None, "ratings"
    )
    for names, one in rates.items():
        console.print(
            f"{names}: win rate by people {estimate(one.get('weighted', one['win_rate']))}, "
            f"length-controlled {estimate(one['length_controlled'])}",
            markup=False,
        )
    for rater, one in raters.items():
        why = "; ".join(one["reasons"])
        console.print(f"{one['verdict']} {rater}{': ' if why else ''}{why}", markup=False)
    if any(one["verdict"] == "✗" for one in raters.values()):
        console.print(
            "To leave a rater out of the exports: --export --exclude NAME, or --export --exclude-unsound", style="dim"
        )
    if json_file:
        from aifeedback.storage import write_json

        write_json(json_file, summary)
        console.print(f"[dim]figures → {json_file}[/]")
