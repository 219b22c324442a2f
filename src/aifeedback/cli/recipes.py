"""demo, run, check, show: whole recipes and what they left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.options import Json, Seed
from aifeedback.cli.terminal import RunWatcher, bars, console, show_spent, table

Sets = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: a setting, STAGE.KEY, seed or workers.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="The run folder; runs/NAME by default.")]


def add_to(app: typer.Typer) -> None:
    for command in (demo, run, check, show):
        app.command(rich_help_panel="Whole runs")(command)


def demo(
    seed: Seed = 0,
    out: Out = None,
    short: Annotated[
        bool, typer.Option("--short", help="A minute instead of four: too small for firm figures.")
    ] = False,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """Align a small policy three ways in the built-in lab, compare the results, and write report.html."""
    from aifeedback.pipeline.recipe import assign, load

    overrides = {"seed": seed, **dict(assign(text) for text in sets or [])}
    recipe = load("demo-short" if short else "demo", overrides)
    _execute(recipe, out or Path("runs") / recipe.name, json_file)


def run(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    sets: Sets = None,
    out: Out = None,
    json_file: Json = None,
) -> None:
    """Run a recipe; rerun the same command to resume."""
    from aifeedback.pipeline.recipe import assign, load

    loaded = load(recipe, dict(assign(text) for text in sets or []))
    _execute(loaded, out or Path("runs") / loaded.name, json_file)


def _execute(recipe: Any, folder: Path, json_file: Path | None) -> None:
    from aifeedback.models.journal.journal import Spent
    from aifeedback.pipeline.run import require, run_recipe
    from aifeedback.storage import write_json

    require(recipe, folder)
    console.print(f"[bold]{recipe.name}[/] seed {recipe.seed} → {folder}")
    with bars() as progress:
        finished = run_recipe(recipe, folder, RunWatcher(progress))
    summary = dict(finished.summary)
    print_summary(summary)
    show_spent(Spent(summary["calls"], summary["tokens"], summary["cost_usd"]))
    if json_file:
        write_json(json_file, finished.summary)
    console.print(f"\nreport: [bold]{finished.report}[/]")


def print_summary(summary: dict[str, Any]) -> None:
    """The table a run ends with: one line per policy, then everything else in the summary's own names."""
    from aifeedback.cli.terminal import estimate, flatten

    policies = summary.get("policies") or {}
    if policies:
        rows = []
        for name, figures in policies.items():
            rows.append(
                (
                    name,
                    *(estimate(figures[k], 100) if figures.get(k) else "–" for k in _COLUMNS),
                    f"{figures['mean_length']:.1f}" if figures.get("mean_length") is not None else "–",
                    f"{figures['kl']:.2f}" if figures.get("kl") is not None else "–",
                )
            )
        table(
            "win rate against SFT, %, 95 % interval",
            ("policy", "win rate", "length-controlled", "independent judge", "length", "KL"),
            rows,
        )
    shown = {k: summary[k] for k in ("judge", "reward_model", "head_to_head") if summary.get(k)}
    table("", ("figure", "value"), list(flatten(shown)))


_COLUMNS = ("win_rate", "length_controlled", "win_rate_independent")


def check(recipe: str, sets: Sets = None) -> None:
    """Shows a recipe's settings and all that they fill in, names every problem at once, and forecasts its model calls."""
    import yaml
    from rich.markup import escape

    from aifeedback.pipeline.checks import missing_modules
    from aifeedback.pipeline.recipe import assign, load
    from aifeedback.pipeline.runner import check_inputs, required_modules

    loaded = load(recipe, dict(assign(text) for text in sets or []))
    console.print(yaml.safe_dump(loaded.resolved(), sort_keys=False, allow_unicode=True), markup=False)
    told = {name: "–" if value in (None, "") else str(value) for name, value in loaded.settings.items()}
    table("settings: --set NAME=VALUE", ("setting", "value"), list(told.items()), text=("value",))
    show_forecast(loaded)
    missing = missing_modules(required_modules(loaded))
    problems = [*([missing] if missing else []), *check_inputs(loaded)]
    for problem in problems:
        console.print(f"[red]✗[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(2)
    console.print("[green]✓[/] nothing missing; nothing was run")


def show_forecast(loaded: Any) -> None:
    """One line per stage: model calls as far as the files tell, memory of training, and what the stage waits for."""
    from aifeedback.pipeline.forecast import forecast

    found = forecast(loaded)
    rows = [
        (
            stage.id,
            stage.kind,
            "not known yet" if found[stage.id] is None else f"{found[stage.id]:,}",
            as_memory(stage.step.memory()),
            ", ".join(stage.needs) or "–",
        )
        for stage in loaded.stages
    ]
    known = [calls for calls in found.values() if calls is not None]
    rows.append(("all", "", f"{sum(known):,}" + ("" if len(known) == len(found) else " and more"), "", ""))
    table("forecast", ("stage", "kind", "model calls", "training state", "waits for"), rows)


def as_memory(count: int | None) -> str:
    """Bytes for people; activations are not in them."""
    return "–" if count is None else f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file that a command left.")],
    item: Annotated[str, typer.Argument(help="An id or its beginning: comparison, completion, prompt.")] = "",
) -> None:
    """What a run did, its figures and files; with an id one item, from prompt to verdict: both orders, log-probabilities."""
    from aifeedback.cli.show import run_folder, show_run
    from aifeedback.pipeline.provenance import trace

    place = run_folder(folder)
    if item:
        console.print(trace(place, item), markup=False, highlight=False)
    else:
        show_run(place)
