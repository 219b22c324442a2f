"""sample, pair, label, score, revise, calibrate: a feedback step on files; running it again goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.single import Destination, run_stage

OutFile = Annotated[Path, typer.Option("-o", "--out", help="A .jsonl or .parquet file, or a folder for everything.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also save the printed figures here.")]
Limit = Annotated[int | None, typer.Option(help="Use only so many rows.")]
Seed = Annotated[int, typer.Option(help="Every random choice depends on it.")]
JudgeName = Annotated[str, typer.Option(help="hf:DIR_OR_ID, openai:NAME, fake:NAME, lab:NAME, rm:DIR.")]
PromptName = Annotated[str | None, typer.Option(help="Judge prompt: a shipped name, lab:NAME, or a YAML file.")]
BaseUrl = Annotated[str | None, typer.Option(help="Address of an OpenAI-compatible server.")]
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
    from aifeedback.stages.feedback import Sample, SamplingSettings

    sampling = SamplingSettings(temperature=temperature, max_new_tokens=max_new_tokens)
    stage = Sample(
        model=model, prompts=str(prompts), per_prompt=per_prompt, limit=limit, sampling=sampling, base_url=base_url
    )
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
    judge: JudgeName,
    out: OutFile,
    prompt: PromptName = None,
    constitution: Annotated[str | None, typer.Option(help="Judge by its principles: a shipped name or a file.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="A file of `aifeedback calibrate` for this judge.")] = None,
    by: Annotated[str, typer.Option(help="pairs, or ratings of each response alone.")] = "pairs",
    orders: Annotated[str, typer.Option(help="both, or one drawn by seed.")] = "both",
    average: Annotated[str, typer.Option(help="probabilities or logits.")] = "probabilities",
    rationale: Annotated[
        bool, typer.Option("--rationale", "--cot", help="Chain of thought before the verdict.")
    ] = False,
    samples: Annotated[int, typer.Option(help="Rationales per reading (self-consistency).")] = 1,
    temperature: Annotated[float, typer.Option(help="Of sampled rationales; 0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Of sampled rationales.")] = None,
    shots: Annotated[int | None, typer.Option(help="Exemplars to show, of those the prompt has.")] = None,
    base_url: BaseUrl = None,
    spend_cap_usd: Annotated[float | None, typer.Option(help="Most that the calls may cost.")] = None,
    column: Columns = None,
    criterion: Annotated[str | None, typer.Option(help="Which verdict, where a file has several.")] = None,
    limit: Limit = None,
    seed: Seed = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one rendered prompt and the forecast; no call.")
    ] = False,
    json_file: Json = None,
) -> None:
    """AI preferences with soft labels from log-probabilities, both orders; the file loads in TRL as it is."""
    from aifeedback.stages.feedback import Label

    thought = {"samples": samples, "temperature": temperature, "top_k": top_k} if rationale else None
    spec = judge_spec(
        judge,
        prompt or ("principle" if constitution else None),
        by=by,
        orders=orders,
        average=average,
        rationale=thought,
        shots=shots,
        constitution=constitution,
        calibration=str(calibration) if calibration else None,
        base_url=base_url,
        spend_cap_usd=spend_cap_usd,
    )
    stage = Label(comparisons=str(comparisons), judge=spec, limit=limit, columns=_columns(column), criterion=criterion)
    if dry_run:
        from aifeedback.cli.dry_run import show_label_forecast

        show_label_forecast(stage, seed)
        return
    run_stage(stage, Destination(out, "labelled.jsonl"), seed=seed, json_file=json_file)


def score(
    completions: Annotated[Path, typer.Option("--data", "--completions", help="A file of completions.")],
    judge: JudgeName,
    out: OutFile,
    prompt: PromptName = "rating",
    rationale: Annotated[bool, typer.Option("--rationale", "--cot", help="Chain of thought before the score.")] = False,
    base_url: BaseUrl = None,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """A judge's expected 1–10 score of each completion, read from log-probabilities."""
    from aifeedback.stages.feedback import Score

    spec = judge_spec(judge, prompt, rationale={} if rationale else None, base_url=base_url)
    stage = Score(completions=str(completions), judge=spec, limit=limit)
    run_stage(stage, Destination(out, "scores.jsonl"), seed=seed, json_file=json_file)


def revise(
    completions: Annotated[Path, typer.Option("--data", "--completions", help="Responses to improve.")],
    model: Annotated[str, typer.Option(help="Who criticises and rewrites: hf:DIR_OR_ID, openai:NAME.")],
    out: OutFile,
    constitution: Annotated[str, typer.Option(help="A shipped constitution's name or a file.")] = "harmless",
    rounds: Annotated[int, typer.Option(help="At most so many rounds, each under another principle.")] = 2,
    temperature: float = 0.7,
    helpful: Annotated[Path | None, typer.Option(help="Helpful completions to mix in.")] = None,
    helpful_share: Annotated[float, typer.Option(help="Share of the training data that is helpful data.")] = 0.0,
    base_url: BaseUrl = None,
    limit: Limit = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Critique and revision under a constitution; training data for `train sft` comes out."""
    from aifeedback.stages.feedback import Revise

    stage = Revise(
        completions=str(completions),
        model=model,
        constitution=constitution,
        settings={"rounds": rounds, "temperature": temperature},
        helpful=str(helpful) if helpful else None,
        helpful_share=helpful_share,
        limit=limit,
        base_url=base_url,
    )
    run_stage(stage, Destination(out, "sft.jsonl"), seed=seed, json_file=json_file)


def calibrate(
    labelled: Annotated[Path, typer.Option("--data", "--labelled", help="A labelled file with people's verdicts.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="NAME.json, for --calibration.")],
    kind: Annotated[str, typer.Option(help="temperature, platt or isotonic.")] = "temperature",
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Fits a map from a judge's confidence to how often people agree; cross-validated error before and after."""
    from aifeedback import files
    from aifeedback.cli.terminal import console, show_figures
    from aifeedback.errors import FileError
    from aifeedback.feedback.calibrate import fit_calibration

    rows = files.read_labelled(labelled, seed)
    judges = {row.judge for row in rows if row.p_first is not None}
    if len(judges) != 1:
        raise FileError(f"holds labels of {len(judges)} judges", file=labelled, fix="give labels of exactly one judge")
    fitted = fit_calibration(
        [row.p_first for row in rows],
        [row.human_p_first for row in rows],
        name=out.stem,
        judge=judges.pop(),
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
    )
    path = fitted.save(out.parent)
    show_figures(fitted.fit.model_dump(exclude={"reliability_before", "reliability_after"}), json_file)
    console.print(f"→ [bold]{path}[/]")


def judge_spec(model: str, prompt: str | None, **settings: Any) -> Any:
    """Command-line values as a JudgeSpec; mistakes name the option."""
    from aifeedback.config import parse
    from aifeedback.stages.resolve import JudgeSpec

    given = {key: value for key, value in settings.items() if value is not None}
    if prompt is None and model.startswith("lab:"):
        prompt = "lab:rating" if settings.get("by") == "ratings" else "lab:pairwise"
    return parse(JudgeSpec, {"model": model, **({"prompt": prompt} if prompt else {}), **given}, prefix="--")


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
