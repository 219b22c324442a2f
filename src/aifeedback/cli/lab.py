"""lab list | build | sample: the built-in offline world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.terminal import console, table

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """The lab's shipped models, with what was measured when they were built."""
    from aifeedback.lab import zoo

    rows = []
    for name in zoo.names():
        card = zoo.card(name)
        figures = card.get("figures", card)
        told = ", ".join(f"{k} {v:.3g}" for k, v in figures.items() if isinstance(v, int | float))
        rows.append((f"lab:{name}", told[:90]))
    table("", ("model", "measured"), rows)


@app.command()
def sample(
    count: Annotated[int, typer.Argument()] = 2,
    seed: int = 0,
) -> None:
    """Prints posts, candidate summaries and their gold scores."""
    from aifeedback.lab import gold, samples

    for comparison in samples.comparisons(count, split="test", seed=seed):
        console.print(f"[bold]{comparison.prompt.text}[/]", highlight=False)
        facts = gold.facts_of(comparison.prompt)
        for completion in (comparison.first, comparison.second):
            console.print(f"  {gold.score(facts, completion.text):4.1f}  {completion.text}", markup=False)
        console.print()


@app.command()
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Models to build; all by default.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the model folders go.")] = Path("runs/lab"),
) -> None:
    """Trains the lab's models from scratch, exactly as the shipped ones were trained."""
    from aifeedback.cli.terminal import one_bar
    from aifeedback.lab.build import build as build_models
    from aifeedback.lab.recipes import RECIPES

    with one_bar("lab build") as progress:
        build_models(names or list(RECIPES), out, progress=progress)
    console.print(f"→ [bold]{out}[/]")
