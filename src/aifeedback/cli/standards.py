"""standards list | show: the shipped judge prompts and constitutions."""

from __future__ import annotations

import typer

from aifeedback.cli.terminal import console

app = typer.Typer(no_args_is_help=True)


@app.command()
def show(name: str) -> None:
    """Prints a judge prompt as it stands in its file."""
    from aifeedback.standards import shelf

    console.print(shelf.find("judges", name).read_text(encoding="utf-8"), markup=False, highlight=False)
