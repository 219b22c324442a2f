"""Commands made of steps: options from the settings, a progress line, the metrics, one verdict line."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aifeedback.audit import gate
from aifeedback.audit.gate import FailOn, Requirement
from aifeedback.cli.commands import Verb
from aifeedback.cli.options import COMMON, Json, Seed, Sets, Workers, chosen_settings, options_of, with_parameters
from aifeedback.errors import JudgeUnavailable
from aifeedback.steps import step_class

if TYPE_CHECKING:
    from aifeedback.steps.step import Figures

KEYWORD, EMPTY = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty


def command(name: str, verb: Verb) -> Any:
    """The command of a step."""
    schema = step_class(verb.kind)
    options = options_of(schema, schema.further)
    parameters = [
        inspect.Parameter(
            option.parameter,
            KEYWORD,
            default=... if _is_required(option) else None,
            annotation=Annotated[option.kind, option.info],
        )
        for option in options
    ]
    parameters = [p if p.default is not ... else p.replace(default=EMPTY) for p in parameters]
    parameters += _common(name, verb, schema)

    def run(**values: Any) -> None:
        run_verb(name, verb, options, values)

    run.__name__ = name.replace(" ", "_")
    run.__doc__ = inspect.cleandoc(schema.__doc__ or "")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name.rpartition(" ")[2])(with_parameters(run, parameters))
    return typer.main.get_command(app)


def _is_required(option: Any) -> bool:
    return option.kind is str or (isinstance(option.info, typer.models.ArgumentInfo))


def _common(name: str, verb: Verb, schema: Any) -> list[inspect.Parameter]:
    options: list[tuple[str, Any, Any]] = [("sets", Sets, None)]
    if verb.has_out:
        out: Any = typer.Option("-o", "--out", help=verb.out_help, rich_help_panel=COMMON, metavar="PATH")
        options.append(("out", Annotated[Path, out], Path(verb.default_out) if verb.default_out else EMPTY))
    options.append(("seed", Seed, 0))
    if name in ("label", "grid", "score", "audit"):
        options.append(("workers", Workers, None))
    if verb.has_out:
        dry = typer.Option(
            "--dry-run", help="Print the forecast, and one prompt if there is a judge; no call.", rich_help_panel=COMMON
        )
        options.append(("dry_run", Annotated[bool, dry], False))
    if name == "audit":
        option: Any = typer.Option(
            "--fail-on", help="Exit with code 6 if a finding is this serious.", rich_help_panel=COMMON
        )
        options.append(("fail_on", Annotated[FailOn | None, option], None))
    if name in ("compare", "rejudge"):
        option = typer.Option("--require", help="Exit with code 6 unless the result is: independent, length-controlled.",
                            rich_help_panel=COMMON)  # fmt: skip
        options.append(("required", Annotated[list[str] | None, option], None))
    if name == "label":
        form = typer.Option("--format", help="rows; trl: TRL's columns only; dataset: a Hugging Face dataset folder.")
        options.append(("form", Annotated[str, form], "rows"))
    options.append(("json_file", Json, None))
    return [inspect.Parameter(key, KEYWORD, annotation=kind, default=default) for key, kind, default in options]


def run_verb(name: str, verb: Verb, options: Sequence[Any], values: dict[str, Any]) -> None:
    """The body of every generated command."""
    schema = step_class(verb.kind)
    chosen = chosen_settings(schema, options, values, values.get("sets"))
    step = schema.from_options(chosen.settings, chosen.chosen)
    if values.get("dry_run"):
        from aifeedback.cli.dry_run import show_forecast_of

        show_forecast_of(step, values["seed"])
        return
    run_one(
        step,
        command=name,
        out=values.get("out"),
        seed=values["seed"],
        json_file=values["json_file"],
        workers=values.get("workers", 1),
        form=values.get("form", "rows"),
        fail_on=values.get("fail_on"),
        required=gate.requirements(values.get("required") or ()),
    )


def run_one(
    step: Any,
    *,
    command: str,
    out: Path | None,
    seed: int,
    json_file: Path | None = None,
    workers: int | None = 1,
    form: str = "rows",
    fail_on: FailOn | None = None,
    required: Sequence[Requirement] = (),
) -> Any:
    """Run a step with a progress line, hand its result over, print its metrics and its verdict."""
    from aifeedback.cli.exports import Exports
    from aifeedback.cli.show import show_figures_of
    from aifeedback.cli.terminal import console, progress_line, show_spent
    from aifeedback.models.journal.digests import seal
    from aifeedback.pipeline.checks import require
    from aifeedback.pipeline.command import Destination, run_step
    from aifeedback.steps.step import Context
    from aifeedback.storage import write_json

    if out is None:
        require(step)
        with progress_line(command) as progress:
            figures = step.run(Context(Path(), Path(), seed=seed, progress=progress))
        show_figures_of(step.kind, figures, json_file)
        _end(figures)
        return figures
    exports = Exports.of(form, out) if command == "label" else None
    destination = exports.destination if exports else Destination(out, step.main)
    with progress_line(command) as progress:
        done = run_step(step, destination, command=command, seed=seed, workers=workers, progress=progress)
    if done.extends is not None:
        console.print(f"[dim]extends the first {done.extends:,}; finished calls were not repeated[/]")
    if done.was_done:
        console.print("[dim]Already complete with these settings; no calls made.[/]")
    show_figures_of(step.kind, done.figures, json_file)
    if (report := step.report(done.figures, done.spent, destination.folder, seed)) is not None:
        seal(destination.folder, destination.folder / "journal.sqlite", rewritten=[report])
        console.print(f"report: [bold]{report}[/]", soft_wrap=True)
    show_spent(done.spent)
    beside = f"  [dim](records and journal in {destination.folder})[/]" if destination.is_file else ""
    console.print(f"→ [bold]{done.result}[/]{beside}", soft_wrap=True)
    if exports:
        exports.write(step)
    if json_file and step.kind in ("compare", "audit", "grid", "probe", "rejudge"):
        write_json(json_file, done.figures.as_json())
    _end(done.figures)
    if fail_on:
        gate.require_audits(done.figures.as_json()["judges"], fail_on)
    if required:
        figures = done.figures.as_json()
        gate.require_comparison(figures.get("comparison", {}) if step.kind == "rejudge" else figures, required)
    return done.figures


def _end(figures: Figures) -> None:
    """The verdict is the last line; a command that could read nothing ends as one whose judge is unreachable."""
    from aifeedback.cli.terminal import show_verdict

    verdict = figures.verdict()
    if verdict is not None:
        show_verdict(verdict)
    if figures.is_unread:
        raise typer.Exit(JudgeUnavailable.exit_code)
