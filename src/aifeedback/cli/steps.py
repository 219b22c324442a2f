"""sample, pair, label, score, revise, calibrate: a feedback step on files; running it again goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.options import Json, Limit, Seed, Workers
from aifeedback.cli.single import Destination, run_stage

OutFile = Annotated[Path, typer.Option("-o", "--out", help="A .jsonl or .parquet file, or a folder for everything.")]
JUDGES = "hf:DIR_OR_ID, openai:NAME, fake:NAME, lab:NAME, rm:DIR."
PROMPTS = "Judge prompt: a shipped name, lab:NAME, or a YAML file."
JudgeName = Annotated[str, typer.Option(help=JUDGES)]
PromptName = Annotated[str | None, typer.Option(help=PROMPTS)]
Rubric = Annotated[str | None, typer.Option(help="Judge each of its criteria: a shipped name or a file.")]
Rationale = Annotated[bool, typer.Option("--rationale", "--cot", help="Chain of thought before the verdict.")]
Shots = Annotated[int | None, typer.Option(help="Exemplars to show, of those the prompt has.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any other setting of the judge: clamp=[0.4,0.6].")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")]
Prices = Annotated[Path | None, typer.Option(help="Price table (YAML); the shipped one when not given.")]
SpendCap = Annotated[float | None, typer.Option(help="Most that the calls may cost.")]
Columns = Annotated[list[str] | None, typer.Option("--column", help="OUR_NAME=THEIR_NAME for unusual files.")]


def add_to(app: typer.Typer) -> None:
    for command in (sample, pair, label, score, revise, calibrate):
        app.command()(command)


def sample(
    model: Annotated[str, typer.Option(help="hf:DIR_OR_ID, openai:NAME, lab:NAME.")],
    prompts: Annotated[Path, typer.Option(help="A file of prompts.")],
    out: OutFile,
    per_prompt: Annotated[int, typer.Option(help="Completions of each prompt.")] = 2,
    temperature: float = 0.9,
    max_new_tokens: int = 128,
    base_url: BaseUrl = None,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Draws completions from a model."""
    from aifeedback.config import parse
    from aifeedback.stages.feedback import Sample

    given = {
        "model": model,
        "prompts": str(prompts),
        "per_prompt": per_prompt,
        "limit": limit,
        "sampling": {"temperature": temperature, "max_new_tokens": max_new_tokens},
        "base_url": base_url,
    }
    stage = parse(Sample, given, prefix="--")
    run_stage(stage, Destination(out, "completions.jsonl"), seed=seed, json_file=json_file)


def pair(
    completions: Annotated[Path, typer.Option(help="A file of completions, several per prompt.")],
    out: OutFile,
    every: Annotated[
        bool, typer.Option("--all", help="Every two completions of a prompt, not only neighbours.")
    ] = False,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Puts completions of one prompt side by side, ready to be labelled."""
    from aifeedback.stages.feedback import Pair

    stage = Pair(completions=str(completions), per_prompt=None if every else 1, limit=limit)
    run_stage(stage, Destination(out, "comparisons.jsonl"), seed=seed, json_file=json_file)


def label(
    comparisons: Annotated[Path, typer.Option("--data", "--comparisons", help="Pairs in any known format.")],
    judge: Annotated[list[str], typer.Option(help=f"{JUDGES} Several: a panel.")],
    out: OutFile,
    prompt: Annotated[list[str] | None, typer.Option(help=f"{PROMPTS} Several: a panel.")] = None,
    constitution: Annotated[str | None, typer.Option(help="Judge by its principles: a shipped name or a file.")] = None,
    use: Annotated[str | None, typer.Option(help="Principles: drawn, averaged or together.")] = None,
    rubric: Rubric = None,
    calibration: Annotated[str | None, typer.Option(help="Name or file of a map by `aifeedback calibrate`.")] = None,
    by: Annotated[str, typer.Option(help="pairs, or ratings of each response alone.")] = "pairs",
    orders: Annotated[str, typer.Option(help="both, or one drawn by seed.")] = "both",
    average: Annotated[str, typer.Option(help="probabilities or logits.")] = "probabilities",
    combine: Annotated[str, typer.Option(help="A panel's mean, its median, or a file of learned weights.")] = "mean",
    rationale: Rationale = False,
    samples: Annotated[int, typer.Option(min=1, help="Rationales per reading (self-consistency).")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampled rationales; 0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Of sampled rationales.")] = None,
    shots: Shots = None,
    sets: Sets = None,
    base_url: BaseUrl = None,
    prices: Prices = None,
    spend_cap_usd: SpendCap = None,
    column: Columns = None,
    criterion: Annotated[str | None, typer.Option(help="Which verdict, where a file has several.")] = None,
    limit: Limit = None,
    workers: Workers = None,
    seed: Seed = 0,
    form: Annotated[
        str, typer.Option("--format", help="rows (everything), trl (known labels only), dataset (folder with a card).")
    ] = "rows",
    engine: Annotated[str, typer.Option(help="local, or ray: several workers, on one machine or many.")] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one rendered prompt and the forecast; no call.")
    ] = False,
    json_file: Json = None,
) -> None:
    """AI preferences with soft labels from log-probabilities, both orders; the file loads in TRL as it is."""
    from aifeedback.cli.exports import Exports
    from aifeedback.cli.judges import judging, label_stage

    thought = {"samples": samples, "temperature": temperature, "top_k": top_k} if rationale else None
    how = {
        "constitution": constitution, "use": use, "rubric": rubric, "by": by, "orders": orders, "average": average,
        "rationale": thought, "shots": shots, "base_url": base_url, "spend_cap_usd": spend_cap_usd,
    }  # fmt: skip
    spec = judging(judge, prompt, how, sets=sets, prices=prices, combine=combine, calibration=calibration)
    export = Exports.of(form, out)
    stage = label_stage(
        engine,
        workers,
        comparisons=str(comparisons),
        judge=spec,
        limit=limit,
        columns=_columns(column),
        criterion=criterion,
    )
    if dry_run:
        from aifeedback.cli.dry_run import show_label_forecast

        show_label_forecast(stage, seed)
        return
    run_stage(stage, export.destination, seed=seed, json_file=json_file, workers=workers)
    export.write(stage)


def score(
    completions: Annotated[Path, typer.Option("--data", "--completions", help="A file of completions.")],
    judge: JudgeName,
    out: OutFile,
    prompt: PromptName = None,
    rubric: Rubric = None,
    rank: Annotated[str | None, typer.Option(help="Rank the answers to each prompt: all pairs, or tournament.")] = None,
    rounds: Annotated[int, typer.Option(help="Of a tournament.")] = 2,
    rationale: Rationale = False,
    shots: Shots = None,
    sets: Sets = None,
    base_url: BaseUrl = None,
    prices: Prices = None,
    spend_cap_usd: SpendCap = None,
    limit: Limit = None,
    workers: Workers = None,
    seed: Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one rendered prompt and the forecast; no call.")
    ] = False,
    json_file: Json = None,
) -> None:
    """A judge's expected 1–10 score of each completion; by criteria (--rubric), good–bad, or as a ranking (--rank)."""
    from aifeedback.cli.judges import judge_spec
    from aifeedback.config import parse
    from aifeedback.stages.feedback import Score

    how = {
        "rubric": rubric, "by": "pairs" if rank else "ratings", "rationale": {} if rationale else None, "shots": shots,
        "base_url": base_url, "spend_cap_usd": spend_cap_usd,
    }  # fmt: skip
    spec = judge_spec(judge, prompt, how, sets=sets, prices=prices)
    given = {"completions": str(completions), "judge": spec, "rank": rank, "rounds": rounds, "limit": limit}
    stage = parse(Score, given, prefix="--")
    if dry_run:
        from aifeedback.cli.dry_run import show_score_forecast

        show_score_forecast(stage, seed)
        return
    run_stage(stage, Destination(out, "scored.jsonl"), seed=seed, json_file=json_file, workers=workers)


def revise(
    completions: Annotated[Path, typer.Option("--data", "--completions", help="Responses to improve.")],
    model: Annotated[str, typer.Option(help="Who criticises and rewrites: hf:DIR_OR_ID, openai:NAME.")],
    out: OutFile,
    constitution: Annotated[str, typer.Option(help="A shipped constitution's name or a file.")] = "harmless",
    rounds: Annotated[int, typer.Option(min=1, help="At most so many rounds, each under another principle.")] = 2,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.7,
    helpful: Annotated[Path | None, typer.Option(help="Helpful completions to mix in.")] = None,
    helpful_share: Annotated[float, typer.Option(help="Share of the training data that is helpful data.")] = 0.0,
    base_url: BaseUrl = None,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Critique and revision under a constitution; training data for `train sft` comes out."""
    from aifeedback.config import parse
    from aifeedback.stages.revise import Revise

    given = {
        "completions": str(completions),
        "model": model,
        "constitution": constitution,
        "settings": {"rounds": rounds, "temperature": temperature},
        "helpful": str(helpful) if helpful else None,
        "helpful_share": helpful_share,
        "limit": limit,
        "base_url": base_url,
    }
    stage = parse(Revise, given, prefix="--")
    run_stage(stage, Destination(out, "sft.jsonl"), seed=seed, json_file=json_file)


def calibrate(
    labelled: Annotated[Path, typer.Option("--data", "--labelled", help="A labelled file with people's verdicts.")],
    out: Annotated[str, typer.Option("-o", "--out", help="NAME, kept with the judge, or NAME.json.")],
    kind: Annotated[str, typer.Option(help="temperature, platt or isotonic; weights: of a panel.")] = "temperature",
    figure: Annotated[Path | None, typer.Option(help="Draw the reliability figure here (.svg).")] = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Fits a map from a judge's confidence to how often people agree; cross-validated error before and after."""
    from aifeedback.cli.calibrating import fit_map, fit_panel
    from aifeedback.cli.terminal import console, show_figures

    if kind == "weights":
        path, figures = fit_panel(labelled, out, seed)
    else:
        path, figures = fit_map(labelled, out, kind, seed, figure)
    show_figures(figures, json_file)
    console.print(f"→ [bold]{path}[/]")


def _columns(pairs: list[str] | None) -> dict[str, str] | None:
    from aifeedback.errors import RecipeError

    mapped = {}
    for pair in pairs or []:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise RecipeError(
                f"--column {pair!r} is not OUR_NAME=THEIR_NAME", fix="for example --column prompt=question"
            )
        mapped[ours] = theirs
    return mapped or None
