"""TRL: our rewards in its trainers, and its RLOO trainer as another engine for ``train rl``.

In a TRL script of your own:

    from aifeedback.integrations.trl import reward_function
    judge = reward_function("judge:openai:NAME", prompt="rating", base_url="http://…/v1")
    trainer = RLOOTrainer(model=…, reward_funcs=judge, …)

A completion that could not be scored is None. TRL 1.16 leaves such a sample out of baseline and gradient; check what
an earlier version does with None before relying on it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aifeedback.errors import MissingExtra, RecipeError, TrainingError
from aifeedback.types import Progress, Prompt, RewardFn, silent

if TYPE_CHECKING:
    from aifeedback.inference.encoding import Encoding

SUPPLIED = ("trainer_state", "log_extra", "log_metric", "completion_ids")
"""Keywords that TRL adds for its own purposes; rewards do not see them."""


class TrlReward:
    """A reward function as TRL calls it: conversational completions become text, TRL's own keywords are dropped.

    ``encoding``: that of the policy, whose responses then are what our own engine makes of the same ids: with what the
    generation prompt wrote of them, and without the token that ends them.
    """

    def __init__(
        self,
        reward: RewardFn,
        *,
        name: str,
        missing_eos_penalty: float = 0.0,
        eos_ids: frozenset[int],
        encoding: Encoding | None = None,
    ) -> None:
        from aifeedback.training.rewards import adapted

        self.reward, self.penalty, self.eos_ids = adapted(reward), missing_eos_penalty, eos_ids
        self.encoding = encoding
        self.__name__ = name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        further = {name: values for name, values in columns.items() if name not in SUPPLIED}
        ids = columns.get("completion_ids")
        texts = [as_text(c) for c in completions] if self.encoding is None or ids is None else self.encoding.texts(ids)
        values = list(self.reward(list(prompts), texts, **further))
        if not self.penalty:
            return values
        ended = [bool(ids) and ids[-1] in self.eos_ids for ids in columns["completion_ids"]]
        return [None if v is None else v - self.penalty * (not e) for v, e in zip(values, ended, strict=True)]


def reward_function(
    reward: str | RewardFn, *, journal: str | PathLike[str] | None = None, seed: int = 0, **judge: Any
) -> TrlReward:
    """A reward for ``reward_funcs`` of any TRL trainer.

    ``reward``: ``rm:DIR`` (a reward model), ``python:FILE.py:FUNCTION``, ``judge:MODEL`` (its expected 1–10 score,
    asked live: d-RLAIF), or any function or combinator of ``training.rewards``. Further keywords are settings of the
    judge (``prompt``, ``rationale``, ``base_url``, ``spend_cap_usd`` …). ``journal``: file that keeps every call of
    the judge and answers repeated ones; a temporary one by default. Raises InputError for a reward that is not there.
    """
    if not isinstance(reward, str):
        from aifeedback.training.rewards import name_of

        return TrlReward(reward, name=name_of(reward), eos_ids=frozenset())
    from aifeedback.steps.rewards import reward_function as build
    from aifeedback.steps.step import Context

    spec = _spec(reward, judge)
    folder = Path(journal).parent if journal else Path(tempfile.mkdtemp(prefix="aifeedback-"))
    file = Path(journal) if journal else folder / "journal.sqlite"
    return TrlReward(
        build(spec, Context(folder, folder, seed=seed, journal_name=file.name)), name=reward, eos_ids=frozenset()
    )


def _spec(reward: str, judge: dict[str, Any]) -> Any:
    from aifeedback.config import parse
    from aifeedback.refs import problems_of, refs_in
    from aifeedback.steps.rewards import RewardSpec

    if reward.startswith("judge:"):
        values: dict[str, Any] = {"judge": {"model": reward.partition(":")[2], **judge}}
    elif judge:
        raise RecipeError(f"{', '.join(judge)}: settings of a judge, but the reward is '{reward}'", key="reward")
    else:
        values = {"source": reward}
    spec = parse(RewardSpec, values, prefix="reward.")
    if problems := problems_of(refs_in(spec)):
        raise RecipeError("\n  ".join(problems), key="reward", fix="fix this first; nothing was run")
    return spec


def as_text(completion: Any) -> str:
    """A completion as text; TRL gives conversational ones as lists of messages."""
    if isinstance(completion, str):
        return completion
    return "\n\n".join(str(message["content"]) for message in completion)


def run_rloo(
    policy_dir: str | PathLike[str],
    prompts: Sequence[Prompt],
    reward: RewardFn,
    config: Any,
    out: str | PathLike[str],
    *,
    progress: Progress = silent,
    **trl_options: Any,
) -> Any:
    """``train_rl`` with TRL's RLOOTrainer doing the work: same arguments, same result record, same folder.

    ``config`` is an ``RLConfig``; every setting of it is passed on or refused by name. ``trl_options`` and ``config.trl``
    go to ``RLOOConfig`` (``use_vllm=True``, ``deepspeed=FILE``, ``bf16=True``, ``gradient_checkpointing=True`` …); with
    ``gradient_accumulation_steps`` the batch stays as ``config`` says. Run it under ``accelerate launch`` or ``torchrun``
    for several devices. Run again, it resumes from TRL's newest checkpoint, or returns if it is complete. Raises
    RecipeError for settings that TRL's trainer has no counterpart for, MissingExtra without TRL.
    """
    try:
        from datasets import Dataset
        from trl.trainer.rloo_trainer import RLOOTrainer
    except ImportError as missing:
        raise MissingExtra("trl", "trl") from missing
    from aifeedback.inference.encoding import Encoding
    from aifeedback.training import folders
    from aifeedback.training.folders import peft_config
    from aifeedback.training.loop import NOT_IDENTITY
    from aifeedback.training.rewards import adapted, name_of, require_columns
    from aifeedback.training.rollout import encode_prompts
    from aifeedback.types import content_id

    trl_options = {**config.trl, **trl_options}
    refuse_unsupported(config)
    tokenizer = folders.load_tokenizer(policy_dir)
    encoded = encode_prompts(
        tokenizer,
        prompts,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        context_window=folders.context_window(policy_dir),
    )
    reward = adapted(reward)
    require_columns(reward, encoded.prompts)
    name = name_of(reward)
    settings = config.model_dump(mode="json", exclude=NOT_IDENTITY)
    digest = folders.weights_digest(policy_dir)
    identity = content_id("trl", digest, settings, trl_options, [p.id for p in encoded.prompts], name)
    training = Path(out) / "training"
    if (done := _finished(training, identity)) is not None:
        return done
    arguments = rloo_config(config, training, rows=len(encoded.prompts), **trl_options)
    model = folders.load_policy(policy_dir)
    encoding = Encoding.of(tokenizer, model)
    function = TrlReward(
        reward,
        name=name,
        missing_eos_penalty=config.missing_eos_penalty,
        eos_ids=encoding.stops,
        encoding=encoding,
    )
    model.generation_config.eos_token_id = sorted(encoding.stops)  # what TRL stops and cuts at
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    clock = _clock(progress, arguments.max_steps)
    trainer = RLOOTrainer(
        model=model,
        reward_funcs=function,
        args=arguments,
        train_dataset=Dataset.from_list([dataset_row(p, tokenizer) for p in encoded.prompts]),
        processing_class=tokenizer,
        callbacks=[clock],
        peft_config=peft_config(config.lora) if config.lora is not None else None,
    )
    _require_one_job(trainer.accelerator)
    newest = _resumable(training, identity, is_main=trainer.accelerator.is_main_process)
    trainer.accelerator.wait_for_everyone()
    trainer.train(resume_from_checkpoint=newest)
    return _conclude(trainer, tokenizer, config, clock, out, policy_dir, encoded, identity)


PASSED = {
    "steps", "epochs", "prompts_per_step", "samples_per_prompt", "max_prompt_tokens", "max_new_tokens", "temperature",
    "beta", "kl_form", "normalise_advantage", "missing_eos_penalty", "optimizer", "learning_rate", "schedule",
    "decay_share", "warmup_steps", "weight_decay", "max_grad_norm", "seed", "precision", "lora", "checkpoint_every",
    "keep_checkpoints", "trackers", "trl", "mask_truncated", "gradient_checkpointing",
}  # fmt: skip
"""Settings of ``RLConfig`` that reach TRL's trainer; any other is refused unless it is at its default."""
OWN = ("output_dir", "max_steps", "per_device_train_batch_size", "reward_weights")
"""Options of TRL that follow from the settings and the folder."""


def refuse_unsupported(config: Any) -> None:
    """Raises RecipeError naming every setting that TRL's RLOO trainer has no counterpart for."""
    wrong = [
        name
        for name, field in type(config).model_fields.items()
        if name not in PASSED and getattr(config, name) != field.get_default(call_default_factory=True)
    ]
    if config.chosen_baseline == "leave_one_out":
        wrong = [name for name in wrong if name != "baseline"]
    elif "baseline" not in wrong:
        wrong.insert(0, "baseline")
    if wrong:
        raise RecipeError(
            f"TRL's RLOO trainer cannot do this: {', '.join(wrong)}",
            fix="leave these out (baseline: leave_one_out with samples_per_prompt ≥ 2), or use our own engine",
        )


def rloo_config(config: Any, folder: Path, *, rows: int, **trl_options: Any) -> Any:
    """The RLOOConfig that trains as ``config`` says; β in TRL's form (reward − β·KL).

    Raises RecipeError for an option that TRL does not know, that contradicts a setting, or that does not divide the
    batch.
    """
    import torch
    from trl.trainer.rloo_config import RLOOConfig

    from aifeedback.training.policy_gradient import planned_steps

    steps = planned_steps(rows, config)
    on_cpu = not torch.cuda.is_available()
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    has_bf16 = not on_cpu and torch.cuda.is_bf16_supported()
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": _rows_per_device(config, processes, trl_options),
        "num_generations": config.samples_per_prompt,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "beta": config.beta / (1 - config.beta) if config.kl_form == "paper" else config.beta,
        "normalize_advantages": config.normalise_advantage,
        "mask_truncated_completions": config.mask_truncated,
        "learning_rate": config.learning_rate,
        "optim": "adafactor" if config.optimizer == "adafactor" else "adamw_torch_fused",
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm if config.max_grad_norm is not None else 0.0,
        "warmup_steps": config.warmup_steps,
        "seed": config.seed,
        "disable_dropout": True,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_every,
        "save_total_limit": config.keep_checkpoints,
        "report_to": list(config.trackers) or "none",
        "run_name": folder.parent.name,
        "project": "aifeedback",
        "disable_tqdm": True,
        "bf16": config.precision == "bf16" or (config.precision == "auto" and has_bf16),
        "gradient_checkpointing": config.gradient_checkpointing,
        "dataloader_pin_memory": not on_cpu,
        "use_cpu": on_cpu,
        "ddp_backend": "gloo" if on_cpu and processes > 1 else None,
        **_schedule(config, steps),
    }
    free = {"bf16", "gradient_checkpointing", "dataloader_pin_memory", "use_cpu", "ddp_backend", "project", "run_name"}
    known = {field.name for field in dataclasses.fields(RLOOConfig)}
    for name in trl_options:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise RecipeError(f"TRL's RLOOConfig has no option '{name}'{hint}", key="trl")
        if name in OWN or (name in values and name not in free):
            raise RecipeError(f"'{name}' follows from the settings of this run", key="trl", fix="set those instead")
    if config.precision == "fp32" and (trl_options.get("bf16") or trl_options.get("fp16")):
        raise RecipeError("contradicts precision = fp32", key="trl", fix="set precision alone")
    return RLOOConfig(**{**values, **trl_options})


def _rows_per_device(config: Any, processes: int, trl_options: dict[str, Any]) -> int:
    """Completions in one pass of one process, so that a step has those that the settings say."""
    batch = config.prompts_per_step * config.samples_per_prompt
    parts = processes * int(trl_options.get("gradient_accumulation_steps", 1))
    if batch % parts:
        raise RecipeError(
            f"{batch} completions per step cannot be split into {parts} equal parts (processes × accumulation steps)",
            key="prompts_per_step",
            fix=f"make prompts_per_step × samples_per_prompt a multiple of {parts}",
        )
    return batch // parts


def _schedule(config: Any, steps: int) -> dict[str, Any]:
    if config.schedule == "trapezoid":
        decay = max(1, round(config.decay_share * steps))
        kwargs = {"num_decay_steps": decay, "decay_type": "linear"}
        return {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": kwargs}
    # transformers' "constant" ignores warm-up steps.
    is_warmed = config.schedule == "constant" and config.warmup_steps
    return {"lr_scheduler_type": "constant_with_warmup" if is_warmed else config.schedule}


def _require_one_job(accelerator: Any) -> None:
    """Raises TrainingError where several processes were started but do not train together."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise TrainingError(
            f"{started} processes were started, but TRL trains in {accelerator.num_processes}: each would write the folder"
        )


def _finished(training: Path, identity: str) -> Any:
    """The result of this run where it is complete; raises RecipeError where another finished run is in the folder."""
    from aifeedback.training.loop import TrainResult

    file = training / "result.json"
    if not file.is_file():
        return None
    result = TrainResult.model_validate_json(file.read_text(encoding="utf-8"))
    if result.identity != identity:
        what = "holds a finished run with other data, model or settings"
        raise RecipeError(what, file=training.parent, fix="give another output folder, or delete this one first")
    return result


def _resumable(training: Path, identity: str, *, is_main: bool) -> str | None:
    """TRL's newest checkpoint of this run; raises RecipeError for one of another run."""
    file = training / "identity.txt"
    checkpoints = sorted(training.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    if checkpoints and (not file.is_file() or file.read_text(encoding="utf-8") != identity):
        what = "belongs to a run with other data, model or settings"
        raise RecipeError(what, file=checkpoints[-1], fix="give another output folder, or delete this one first")
    if is_main:
        training.mkdir(parents=True, exist_ok=True)
        file.write_text(identity, encoding="utf-8")
    return str(checkpoints[-1]) if checkpoints else None


def dataset_row(prompt: Prompt, tokenizer: Any) -> dict[str, Any]:
    """One row of TRL's data set: messages where the tokenizer has a chat template, the same text as ours otherwise."""
    from aifeedback.inference.encoding import Encoding

    return {"prompt": Encoding.of(tokenizer).messages(prompt.messages), "reference": prompt.reference, **prompt.tags}


def _clock(progress: Progress, total: int) -> Any:
    """Time each step and pass TRL's log lines on."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds: list[float]

        def __init__(self) -> None:
            self.seconds, self.began = [], 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            line = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            progress(state.global_step, total, line)

    return Clock()


def _conclude(
    trainer: Any, tokenizer: Any, config: Any, clock: Any, out: Any, policy_dir: Any, encoded: Any, identity: str
) -> Any:
    from aifeedback.training import folders
    from aifeedback.training.folders import merge
    from aifeedback.training.loop import TrainResult
    from aifeedback.training.metrics_log import peak_memory_mb

    history = trainer.state.log_history  # of earlier starts too
    lines = [{k: float(v) for k, v in line.items() if isinstance(v, int | float)} for line in history]
    figures = {k: v for line in lines if "reward" in line for k, v in line.items() if k != "step"}
    tokens = [line.get("num_tokens", 0.0) for line in lines if "num_tokens" in line]
    seconds = statistics.median(clock.seconds) if clock.seconds else float("nan")
    result = TrainResult(
        folder=str(out),
        steps=trainer.state.global_step,
        rows=len(encoded.prompts),
        skipped=dict(encoded.skipped),
        seconds_per_step=seconds,
        tokens_per_s=tokens[-1] / sum(clock.seconds) if tokens and clock.seconds else float("nan"),
        peak_memory_mb=peak_memory_mb(trainer.accelerator.device),
        figures=figures,
        identity=identity,
    )
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        if config.lora is not None:
            model = merge(model, Path(out) / "adapter")
        settings = {**config.model_dump(mode="json"), "engine": "trl"}
        text = folders.card(
            "Policy trained by TRL's RLOO",
            summary="Rewards by aifeedback.",
            base=str(policy_dir),
            settings=settings,
            figures=figures,
        )
        folders.save_folder(model, tokenizer, out, card=text, dtype=folders.stored_dtype(policy_dir))
        training = Path(out) / "training"
        training.mkdir(parents=True, exist_ok=True)
        (training / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        (training / "result.json").write_text(result.model_dump_json(indent=2), encoding="utf-8")
        for folder in training.glob("checkpoint-*"):
            shutil.rmtree(folder)
    return result
