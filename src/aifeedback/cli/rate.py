"""rate: people compare or rank answers on a page of this machine; their verdicts become a labelled file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.options import Columns, Json, Limit, Seed, columns
from aifeedback.pipeline import command as record


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="People")(rate)


def rate(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="Pairs in any known format, or completions to rank.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for the book of ratings and its exports.")],
    rater: Annotated[list[str] | None, typer.Option(help="A person's name; several times for several people.")] = None,
    per_item: Annotated[
        int | None, typer.Option(help="People per item; everyone rates everything if not given.")
    ] = None,
    question: Annotated[str, typer.Option(help="What the page asks.")] = "Which response is better?",
    harmful: Annotated[
        bool, typer.Option("--harmful", help="Hide every text until asked for; else only those tagged as harmful.")
    ] = False,
    most_harmful: Annotated[int | None, typer.Option(help="Harmful items that one person may see in all.")] = None,
    volunteer: Annotated[list[str] | None, typer.Option(help="Only these raters get harmful items.")] = None,
    host: Annotated[str, typer.Option(help="Another address than loopback needs TLS in front of it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8765,
    name: Annotated[list[str] | None, typer.Option(help="Host names that browsers will use, behind a proxy.")] = None,
    export_only: Annotated[
        bool, typer.Option("--export", help="Open no page: write the files of the ratings so far.")
    ] = False,
    column: Columns = None,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Opens the rating page, one secret link per person, until Ctrl-C; then exports and says how well people agreed."""
    from aifeedback.cli.terminal import console, progress_line
    from aifeedback.errors import RecipeError
    from aifeedback.rating import RatingBook, export, read_task, serve

    if not export_only and not rater:
        raise RecipeError("nobody is named to rate", key="--rater", fix="for example --rater anna --rater ben")
    task = read_task(data, seed=seed, limit=limit, columns=columns(column), harmful=harmful)
    console.print(f"[dim]{task.told}[/]")
    book = out / "ratings.sqlite"
    if not export_only:
        console.print(f"{len(task.items):,} items. Each person opens their own link, which is a secret; Ctrl-C ends.")
        with progress_line("rated") as progress:
            serve(
                task.items,
                rater or [],
                book,
                host=host,
                port=port,
                names=name or (),
                links=out / "links.json",
                question=question,
                most_harmful=most_harmful,
                volunteers=volunteer,
                per_item=per_item,
                seed=seed,
                tell=lambda line: console.print(line, soft_wrap=True, markup=False),
                saved=lambda done, total: progress(done, total, {}),
            )
    elif not book.is_file():
        raise RecipeError("there are no ratings here", file=book, fix="run without --export first")
    ledger = RatingBook(book)
    try:
        found = export(task, ledger.ratings(), out)
    finally:
        ledger.close()
    _show(found.summary, json_file)
    record.leave(out, record.Record("rate", {"data": str(data), "question": question}, seed, {}, str(out)))
    console.print(
        f"→ [bold]{out / 'labelled.jsonl'}[/]: {found.labelled:,} pairs with a verdict; ratings.jsonl beside it"
    )


def _show(summary: dict[str, Any], json_file: Path | None) -> None:
    from aifeedback.cli.terminal import show_figures

    show_figures({key: value for key, value in summary.items() if value is not None}, json_file, "ratings")
