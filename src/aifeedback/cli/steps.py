"""Commands made of steps: options from the settings, a progress line, the metrics, one verdict line."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from aifeedback.cli.options import COMMON, Json, Seed, Sets, Workers, given_settings, options_of, with_parameters
from aifeedback.errors import JudgeUnavailable
from aifeedback.steps import step_class
from aifeedback.steps.step import Figures

KEYWORD, EMPTY = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty


class Verb(NamedTuple):
    """One command: which step it runs, under which heading it stands, and what it prints in the list of commands."""

    kind: str
    summary: str
    panel: str
    out_help: str = "A .jsonl or .parquet file, or a folder for everything."
    has_out: bool = True
    default_out: str | None = None


FEEDBACK, TRAINING, MEASURING = "Feedback", "Training", "Measurement"
VERBS = {
    "sample": Verb("sample", "Draw completions from a model.", FEEDBACK),
    "pair": Verb("pair", "Pair completions of one prompt.", FEEDBACK),
    "label": Verb("label", "Label pairs with a judge model.", FEEDBACK),
    "grid": Verb(
        "grid",
        "Label pairs under every combination of judges and prompts.",
        FEEDBACK,
        "A folder for labels and metrics.",
    ),
    "score": Verb("score", "Score completions with a judge model.", FEEDBACK),
    "revise": Verb("revise", "Critique and revise responses under a constitution.", FEEDBACK),
    "evaluate": Verb(
        "evaluate", "Measure a labelled file: agreement, calibration, win rate.", MEASURING, has_out=False
    ),
    "audit": Verb(
        "audit",
        "Audit judges: bias, agreement with people, attacks.",
        MEASURING,
        "A folder for findings, report and journal.",
        default_out="runs/audit",
    ),
    "compare": Verb(
        "compare",
        "Compare policies on held-out prompts.",
        MEASURING,
        "A folder for responses, preferences, metrics and report.",
    ),
}
TRAIN_VERBS = {
    "sft": Verb("sft", "Fine-tune a model on completions.", TRAINING, "The model folder to write."),
    "reward": Verb("reward_model", "Fit a reward model on soft labels.", TRAINING, "The model folder to write."),
    "dpo": Verb("dpo", "Optimise a policy directly on soft preferences.", TRAINING, "The model folder to write."),
    "rl": Verb("rl", "Train a policy by policy gradient with a KL penalty.", TRAINING, "The model folder to write."),
}
EXAMPLES = {
    "sample": "aifeedback sample --model hf:DIR --prompts prompts.jsonl -o samples.jsonl",
    "pair": "aifeedback pair --completions samples.jsonl -o pairs.jsonl",
    "label": "aifeedback label --data pairs.jsonl --judge openai:NAME --base-url http://localhost:8000/v1 -o labels.jsonl",
    "grid": "aifeedback grid --data pairs.jsonl --judge hf:DIR --prompt summary-base --prompt summary-detailed -o grid",
    "score": "aifeedback score --data samples.jsonl --judge hf:DIR -o scores.jsonl",
    "revise": "aifeedback revise --data samples.jsonl --model hf:DIR --constitution harmless -o revised.jsonl",
    "audit": "aifeedback audit openai:NAME --data pairs.jsonl -o audit",
    "evaluate": "aifeedback evaluate --data labels.jsonl",
    "compare": "aifeedback compare before=hf:DIR after=hf:NEW --prompts test.jsonl --judge hf:JUDGE -o comparison",
    "train sft": "aifeedback train sft --model hf:DIR --data demonstrations.jsonl -o policy",
    "train reward": "aifeedback train reward --model hf:DIR --data labels.jsonl --heldout human.jsonl -o reward-model",
    "train dpo": "aifeedback train dpo --model hf:DIR --data labels.jsonl -o policy",
    "train rl": "aifeedback train rl --policy hf:DIR --prompts prompts.jsonl --reward rm:reward-model -o policy",
}


def command(name: str, verb: Verb) -> typer.Typer:
    """A typer app of one command for a step."""
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
    run.__doc__ = f"{inspect.cleandoc(schema.__doc__ or '')}\n\nExample: {EXAMPLES[name]}" if name in EXAMPLES else (
        inspect.cleandoc(schema.__doc__ or "")
    )  # fmt: skip
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name.rpartition(" ")[2])(with_parameters(run, parameters))
    return app


def _is_required(option: Any) -> bool:
    return option.kind is str or (isinstance(option.info, typer.models.ArgumentInfo))


def _common(name: str, verb: Verb, schema: Any) -> list[inspect.Parameter]:
    found: list[tuple[str, Any, Any]] = [("sets", Sets, None)]
    if verb.has_out:
        out: Any = typer.Option("-o", "--out", help=verb.out_help, rich_help_panel=COMMON, metavar="PATH")
        found.append(("out", Annotated[Path, out], Path(verb.default_out) if verb.default_out else EMPTY))
    found.append(("seed", Seed, 0))
    if name in ("label", "grid", "score", "audit"):
        found.append(("workers", Workers, None))
    if verb.has_out:
        dry = typer.Option(
            "--dry-run", help="Print the forecast, and one prompt if there is a judge; no call.", rich_help_panel=COMMON
        )
        found.append(("dry_run", Annotated[bool, dry], False))
    if name == "label":
        form = typer.Option("--format", help="rows; trl: TRL's columns only; dataset: a Hugging Face dataset folder.")
        found.append(("form", Annotated[str, form], "rows"))
    found.append(("json_file", Json, None))
    return [inspect.Parameter(key, KEYWORD, annotation=kind, default=default) for key, kind, default in found]


def run_verb(name: str, verb: Verb, options: Sequence[Any], values: dict[str, Any]) -> None:
    """The body of every generated command."""
    schema = step_class(verb.kind)
    given = given_settings(schema, options, values, values.get("sets"))
    step = schema.from_options(given.settings, given.chosen)
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
) -> Any:
    """Run a step with a progress line, hand its result over, print its metrics and its verdict."""
    from aifeedback.cli.exports import Exports
    from aifeedback.cli.show import show_figures_of
    from aifeedback.cli.terminal import console, progress_line, show_spent
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
        console.print(f"report: [bold]{report}[/]", soft_wrap=True)
    show_spent(done.spent)
    beside = f"  [dim](records and journal in {destination.folder})[/]" if destination.is_file else ""
    console.print(f"→ [bold]{done.result}[/]{beside}", soft_wrap=True)
    if exports:
        exports.write(step)
    if json_file and step.kind in ("compare", "audit", "grid"):
        write_json(json_file, done.figures.as_json())
    _end(done.figures)
    return done.figures


def _end(figures: Figures) -> None:
    """The verdict is the last line; a command that could read nothing ends as one whose judge is unreachable."""
    from aifeedback.cli.terminal import show_verdict

    verdict = figures.verdict()
    if verdict is not None:
        show_verdict(verdict)
    if figures.is_unread:
        raise typer.Exit(JudgeUnavailable.exit_code)
