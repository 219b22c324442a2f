"""demo, run, check, show: whole recipes and what they left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.options import Json, Seed
from aifeedback.cli.terminal import RunWatcher, bars, clock, console, show_spent, table

Sets = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: a setting, STAGE.KEY, seed or workers.")]
Out = Annotated[Path | None, typer.Option("-o", "--out", help="The run folder; runs/NAME by default.")]


app = typer.Typer()


@app.command()
def demo(
    seed: Seed = 0,
    out: Out = None,
    short: Annotated[
        bool, typer.Option("--short", help="Run in a minute instead of four: too small for firm conclusions.")
    ] = False,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """Align a small policy three ways in the built-in lab, compare the results, and write report.html."""
    from aifeedback.pipeline.recipe import assign, load

    overrides = {"seed": seed, **dict(assign(text) for text in sets or [])}
    recipe = load("demo-short" if short else "demo", overrides)
    _execute(recipe, out or Path("runs") / recipe.name, json_file)


@app.command()
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
    """The table at the end of a run: one line per policy, then all other metrics of the summary."""
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
    table("", ("metric", "value"), list(flatten(shown)))


_COLUMNS = ("win_rate", "length_controlled", "win_rate_independent")


@app.command()
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one.")],
    sets: Sets = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Forecast time and cost from this run of the recipe; runs/NAME by default."),
    ] = None,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Also print the recipe with everything filled in.")
    ] = False,
) -> None:
    """Check a recipe before it runs: its settings, model calls, cost and time per stage, and every problem at once."""
    from rich.markup import escape

    from aifeedback.pipeline.checks import missing_modules
    from aifeedback.pipeline.recipe import assign, load
    from aifeedback.pipeline.runner import check_inputs, required_modules

    loaded = load(recipe, dict(assign(text) for text in sets or []))
    missing = missing_modules(required_modules(loaded))
    problems = [*([missing] if missing else []), *check_inputs(loaded)]
    shown = {name: "–" if value in (None, "") else str(value) for name, value in loaded.settings.items()}
    table("settings: --set NAME=VALUE", ("setting", "value"), list(shown.items()), text=("value",))
    show_forecast(loaded, like or Path("runs") / loaded.name)
    if resolved:
        import yaml

        console.print(yaml.safe_dump(loaded.resolved(), sort_keys=False, allow_unicode=True), markup=False)
    for problem in problems:
        console.print(f"[red]✗[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(2)
    console.print("[green]✓[/] nothing missing; nothing was run")


def show_forecast(loaded: Any, before: Path) -> None:
    """One line per stage: model calls, cost, time as in the run ``before`` if there is one, memory of training."""
    from aifeedback.pipeline.forecast import as_before, forecast

    expected = as_before(forecast(loaded), before)
    costs = {stage.id: _cost(stage.step, expected[stage.id], loaded.seed) for stage in loaded.stages}
    rows = [
        (
            stage.id,
            stage.kind,
            _or_unknown(expected[stage.id].calls, "{:,}".format),
            _or_unknown(costs[stage.id], "${:,.2f}".format),
            _or_unknown(expected[stage.id].seconds, clock),
            as_memory(stage.step.memory()),
            ", ".join(stage.needs) or "–",
        )
        for stage in loaded.stages
    ]
    seconds = [one.seconds for one in expected.values()]
    sums = (
        _total([one.calls for one in expected.values()], "{:,}".format),
        _total(list(costs.values()), "${:,.2f}".format),
        _total(seconds, clock),
    )
    heads = ("stage", "kind", "model calls", "cost", "time", "training state", "waits for")
    table("forecast", heads, [*rows, ("all", "", *sums, "", "")])
    if any(value is not None for value in seconds):
        console.print(f"[dim]time as in {before}, scaled to the calls[/]")
    else:
        console.print(f"[dim]time is unknown before a first run; then it is forecast from {before} (--like RUN)[/]")


def as_memory(count: int | None) -> str:
    """Bytes for people; activations are not in them."""
    return "–" if count is None else f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _cost(step: Any, expected: Any, seed: int) -> float | None:
    """USD: none without calls of a server, by the price table where prompts can be made, else as before."""
    from aifeedback.cli.dry_run import cost_of
    from aifeedback.errors import AIFeedbackError
    from aifeedback.refs import ModelRef

    served = [ref for ref in step.inputs() if isinstance(ref, ModelRef) and ref.is_served]
    if expected.calls == 0 or not served:
        return 0.0
    try:
        cost = cost_of(step, seed)
    except (AIFeedbackError, OSError):  # a file that an earlier stage writes, or a problem that is listed below
        cost = None
    return expected.cost_usd if cost is None else cost


def _or_unknown(value: float | None, form: Callable[[float], str]) -> str:
    return "unknown" if value is None else form(value)


def _total(values: list[Any], form: Callable[[float], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "unknown"
    return form(sum(known)) + ("" if len(known) == len(values) else " and more")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a file that a command wrote.")],
    item: Annotated[str, typer.Argument(help="An id or its beginning: comparison, completion, prompt.")] = "",
) -> None:
    """Show what a run did, its metrics and files; or one item: prompt, both orders, log-probabilities, verdict."""
    from aifeedback.cli.show import run_folder, show_run
    from aifeedback.pipeline.provenance import trace

    place = run_folder(folder)
    if item:
        console.print(trace(place, item), markup=False, highlight=False)
    else:
        show_run(place)
