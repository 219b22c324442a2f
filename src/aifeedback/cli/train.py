"""train sft | reward | dpo | rl: one training step on files; model folders in, standard model folders out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from aifeedback.cli.options import Json, Limit, Seed
from aifeedback.cli.terminal import console, one_bar, show_figures
from aifeedback.errors import InputError

app = typer.Typer(no_args_is_help=True)

FEW_STEPS = 10
"""A run that its data made so short is told of: a default batch is as large as a small file."""

ModelDir = Annotated[str, typer.Option(help="Where to start: hf:DIR_OR_ID or lab:NAME.")]
Data = Annotated[Path, typer.Option(help="Training data in any known format.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="The model folder to write.")]
Batch = Annotated[int | None, typer.Option(help="Rows per optimizer step.")]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps; by default as many as --epochs need.")]
Epochs = Annotated[float | None, typer.Option(help="Passes over the data.")]
Rate = Annotated[float | None, typer.Option("--lr", "--learning-rate")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: any further setting of the trainer.")]


@app.command()
def sft(
    model: ModelDir,
    data: Data,
    out: Out,
    batch: Batch = None,
    steps: Steps = None,
    epochs: Epochs = None,
    lr: Rate = None,
    seed: Seed = 0,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """Supervised fine-tuning on prompts and completions (or on the preferred answers of a comparisons file)."""
    from aifeedback.cli.training_data import sft_rows
    from aifeedback.train.sft import SftConfig, train_sft

    config = _config(SftConfig, sets, batch=batch, steps=steps, epochs=epochs, learning_rate=lr, seed=seed)
    start = _start("sft", out, config, model=model, data=data)
    rows = sft_rows(data, seed)
    with one_bar("sft") as progress:
        result = train_sft(start, rows, config, out, progress=progress)
    _report(result, config, out, json_file)


@app.command()
def reward(
    model: ModelDir,
    data: Data,
    out: Out,
    heldout: Annotated[Path | None, typer.Option(help="Human comparisons that accuracy is measured on.")] = None,
    batch: Batch = None,
    steps: Steps = None,
    epochs: Epochs = None,
    lr: Rate = None,
    seed: Seed = 0,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """A reward model on soft labels; an AutoModelForSequenceClassification folder comes out."""
    from aifeedback.cli.training_data import pair_rows
    from aifeedback.train.reward_model import RewardModelConfig, fit_reward_model

    config = _config(RewardModelConfig, sets, batch=batch, steps=steps, epochs=epochs, learning_rate=lr, seed=seed)
    start = _start("reward", out, config, model=model, data=data, heldout=heldout)
    rows, held = pair_rows(data, seed), pair_rows(heldout, seed) if heldout else None
    with one_bar("reward") as progress:
        result = fit_reward_model(start, rows, config, out, heldout=held, progress=progress)
    _report(result, config, out, json_file)


@app.command()
def dpo(
    model: ModelDir,
    data: Data,
    out: Out,
    beta: Annotated[float | None, typer.Option(help="Strength of the pull to the reference.")] = None,
    batch: Batch = None,
    steps: Steps = None,
    epochs: Epochs = None,
    lr: Rate = None,
    seed: Seed = 0,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """Direct preference optimisation with per-pair soft labels."""
    from aifeedback.cli.training_data import pair_rows
    from aifeedback.train.dpo import DpoConfig, train_dpo

    config = _config(DpoConfig, sets, batch=batch, steps=steps, epochs=epochs, learning_rate=lr, seed=seed, beta=beta)
    start = _start("dpo", out, config, model=model, data=data)
    rows = pair_rows(data, seed)
    with one_bar("dpo") as progress:
        result = train_dpo(start, rows, config, out, progress=progress)
    _report(result, config, out, json_file)


@app.command()
def rl(
    policy: Annotated[str, typer.Option("--policy", "--model", help="Where to start: hf:DIR_OR_ID or lab:NAME.")],
    prompts: Annotated[Path, typer.Option("--prompts", "--data", help="Prompts to answer.")],
    reward: Annotated[str, typer.Option(help="rm:DIR, python:FILE.py:FUNCTION, or judge:MODEL (d-RLAIF).")],
    out: Out,
    judge_prompt: Annotated[str, typer.Option(help="Rating prompt of a judge reward.")] = "rating",
    rationale: Annotated[bool, typer.Option("--rationale", "--cot", help="A judge reward thinks first.")] = False,
    samples_per_prompt: Annotated[int | None, typer.Option(help="Completions of each prompt in a step.")] = None,
    prompts_per_step: Annotated[int | None, typer.Option(help="Prompts per optimizer step.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Completions are cut here.")] = None,
    steps: Steps = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the KL to the starting policy.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling and of every log-probability.")] = None,
    lr: Rate = None,
    limit: Limit = None,
    monitor: Annotated[
        Path | None, typer.Option(help="Held-out prompts to watch the policy on, by another judge.")
    ] = None,
    monitor_judge: Annotated[
        str | None, typer.Option(help="Who watches; had better not be the reward's judge.")
    ] = None,
    monitor_prompt: Annotated[str | None, typer.Option(help="That judge's prompt.")] = None,
    monitor_every: Annotated[int, typer.Option(help="Steps between two looks.")] = 20,
    stop_when_gamed: Annotated[
        bool, typer.Option("--stop-when-gamed", help="End when the judge's verdict falls while the reward rises.")
    ] = False,
    choose_on: Annotated[
        Path | None, typer.Option(help="More held-out prompts: the best of four checkpoints on them is kept.")
    ] = None,
    engine: Annotated[str, typer.Option(help="own, or trl: TRL's RLOO trainer with the same rewards.")] = "own",
    seed: Seed = 0,
    sets: Sets = None,
    json_file: Json = None,
) -> None:
    """REINFORCE with KL and a baseline on a reward model, a judge's live score, or any Python function."""
    from aifeedback import files
    from aifeedback.stages import Job
    from aifeedback.stages.rewards import reward_function
    from aifeedback.stages.training import Rl
    from aifeedback.train.rl_config import RLConfig

    if engine not in ("own", "trl"):
        raise InputError(f"no engine '{engine}'", key="--engine", fix="own or trl")
    watched = _monitor(monitor, monitor_judge, monitor_prompt, stop_when_gamed, choose_on)
    if watched and engine == "trl":
        raise InputError("TRL's trainer cannot be watched", key="--monitor", fix="leave it out, or use our own engine")
    spec = reward_spec(reward, judge_prompt, rationale)
    config = _config(
        RLConfig,
        sets,
        samples_per_prompt=samples_per_prompt,
        prompts_per_step=prompts_per_step,
        max_new_tokens=max_new_tokens,
        steps=steps,
        beta=beta,
        temperature=temperature,
        learning_rate=lr,
        seed=seed,
        evaluate_every=monitor_every if watched else None,
    )
    told = config.model_dump(mode="json", exclude_unset=True)
    choice: dict[str, Any]
    stage = Rl(model=policy, prompts=str(prompts), reward=spec, monitor=watched, train=told)
    if problems := list(stage.problems()):
        raise InputError("; ".join(problems), fix="nothing was run; correct this first")
    settings = {**stage.model_dump(mode="json", exclude={"train"}), "engine": engine, "limit": limit}
    start = _start("rl", out, config, settings, model=policy, names=list(stage.inputs()))
    read = files.load_prompts(prompts, limit=limit)
    console.print(f"[dim]{read.report.sentence()}[/]")
    with one_bar("rl") as progress:
        job = Job(out, out / "journal.sqlite", out, seed, progress)
        if engine == "trl" and (done := _finished(out)):
            result, choice = done, {}
        elif engine == "trl":
            from aifeedback.integrations.trl import run_rloo

            result = run_rloo(start, read.rows, reward_function(spec, job), config, out, progress=progress)
            choice = {}
        else:
            result, choice, _ = stage.learn(read.rows, job, out)
    _report(result, config, out, json_file, choice)


def _monitor(prompts: Path | None, judge: str | None, prompt: str | None, stop: bool, choose_on: Path | None) -> Any:
    """Settings of the watch over a run; None where nobody watches."""
    from aifeedback.config import parse
    from aifeedback.stages.training import Monitor

    if prompts is None and judge is None and choose_on is None and not stop:
        return None
    if prompts is None or judge is None:
        raise InputError("a watch needs held-out prompts and a judge", fix="give both --monitor and --monitor-judge")
    given = {
        "prompts": str(prompts),
        "judge": {"model": judge, "prompt": prompt},
        "stop_when_gamed": stop,
        "choose_on": str(choose_on) if choose_on else None,
    }
    return parse(Monitor, given, prefix="--monitor ")


def reward_spec(name: str, prompt: str, rationale: bool) -> Any:
    from aifeedback.config import parse
    from aifeedback.stages.rewards import RewardSpec

    if name.startswith("judge:"):
        judge = {"model": name.partition(":")[2], "prompt": prompt, "rationale": rationale}
        return parse(RewardSpec, {"judge": judge}, prefix="--reward ")
    return parse(RewardSpec, {"source": name}, prefix="--reward ")


def _start(
    command: str,
    out: Path,
    config: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    model: str,
    names: Sequence[str] = (),
    **files: Path | None,
) -> str:
    """The folder to start from. Before anything is loaded, every missing input is told at once, and ``out`` is made and
    is this job's: raises RecipeError where it holds a trained model of another job, or one that came from elsewhere."""
    from aifeedback.cli import record
    from aifeedback.cli.single import require
    from aifeedback.runner import digest_input
    from aifeedback.storage import make_folder
    from aifeedback.stages.resolve import outside_model, policy_folder

    given = {name: str(path) for name, path in files.items() if path is not None}
    require([*outside_model(model), *given.values(), *names])
    inputs = {name: digest_input(name) for name in [*given.values(), *names] if name != model}
    trained = config.model_dump(mode="json", exclude={"seed"})
    told = record.Told(
        f"train {command}",
        {"model": model, **given, **(settings or {}), "train": trained},
        config.seed,
        inputs,
        str(out),
    )
    record.require_own(out, told, is_there=(out / "config.json").exists())
    make_folder(out)
    record.leave(out, told)
    if _finished(out):
        console.print("[dim]finished before with these settings and inputs: nothing is trained again[/]")
    return policy_folder(model)


def _finished(out: Path) -> Any:
    """What a finished run in this folder reported of itself; None where there is none."""
    from aifeedback.train.session import TrainResult

    file = out / "training" / "result.json"
    return TrainResult.model_validate_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def _config(schema: type[Any], sets: list[str] | None, **values: Any) -> Any:
    from aifeedback.config import parse
    from aifeedback.recipe import assign, merge, nest

    given = {key: value for key, value in values.items() if value is not None}
    chosen = dict(assign(text) for text in sets or [])
    return parse(schema, merge(given, nest(chosen)), prefix="--", by_set=chosen)


def _report(result: Any, config: Any, out: Path, json_file: Path | None, further: dict[str, Any] | None = None) -> None:
    figures = {**result.model_dump(mode="json", exclude={"identity"}), **(further or {})}
    from aifeedback.storage import write_json

    write_json(out / "figures.json", figures)
    show_figures(figures, json_file)
    if config.steps is None and result.steps < FEW_STEPS:
        made = "1 step was" if result.steps == 1 else f"{result.steps} steps were"
        few = f"{made} made of {result.rows:,} rows, which teaches little: give --steps, or smaller batches"
        console.print(f"[yellow]![/] {few}", highlight=False)
    console.print(f"→ [bold]{out}[/]")
