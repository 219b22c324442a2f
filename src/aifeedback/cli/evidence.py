"""compare, report: measurement and evidence from files and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.terminal import console, estimate, table

Json = Annotated[Path | None, typer.Option("--json", help="Also save the printed figures here.")]


def add_to(app: typer.Typer) -> None:
    for command in (compare, report):
        app.command()(command)


def compare(
    policies: Annotated[
        list[str], typer.Argument(help="Two or more policies: NAME=hf:DIR or hf:DIR; the first is the reference.")
    ],
    prompts: Annotated[Path, typer.Option(help="Held-out prompts.")],
    judge: Annotated[list[str], typer.Option(help="Judge model, several times for several; the first decides.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for completions, preferences and figures.")],
    prompt: Annotated[str | None, typer.Option(help="Judge prompt: a shipped name, lab:NAME, or a YAML file.")] = None,
    by: Annotated[str, typer.Option(help="pairs, or ratings of each response alone.")] = "pairs",
    rationale: Annotated[
        bool, typer.Option("--rationale", "--cot", help="Chain of thought before the verdict.")
    ] = False,
    trained_by: Annotated[list[str] | None, typer.Option(help="Models whose feedback trained a policy.")] = None,
    temperature: float = 0.9,
    max_new_tokens: int = 128,
    limit: Annotated[int | None, typer.Option(help="Use only so many prompts.")] = None,
    seed: int = 0,
    json_file: Json = None,
) -> None:
    """Policies against the first one and each other: win rates with intervals, raw and at equal length."""
    from aifeedback.cli.single import Destination, run_stage
    from aifeedback.cli.steps import judge_spec
    from aifeedback.stages.evidence import Compare
    from aifeedback.stages.feedback import SamplingSettings

    named = dict(_named(text) for text in policies)
    thought = {} if rationale else None
    stage = Compare(
        policies=named,
        reference=next(iter(named)),
        prompts=str(prompts),
        judges={name: judge_spec(name, prompt, by=by, rationale=thought) for name in judge},
        trained_by=trained_by or [],
        limit=limit,
        sampling=SamplingSettings(temperature=temperature, max_new_tokens=max_new_tokens),
    )
    outcome = run_stage(stage, Destination(out, "figures.json"), seed=seed, json_file=json_file)
    rows = [
        (name, estimate(row["win_rate"], 100), estimate(row["length_controlled"], 100), f"{row['mean_length']:.0f}")
        for name, row in outcome.figures["policies"].items()
    ]
    table(f"win rate against {stage.reference}, %", ("policy", "win rate", "length-controlled", "characters"), rows)


def _named(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    return (name, model) if equals else (Path(text.partition(":")[2] or text).name, text)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
) -> None:
    """Writes summary.json and report.html of a run again."""
    from aifeedback.audit.report import write_report
    from aifeedback.summary import summarise

    path = write_report(summarise(folder), folder)
    console.print(f"report: [bold]{path}[/]")
