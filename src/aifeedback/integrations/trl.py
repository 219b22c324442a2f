"""TRL: our rewards in its trainers, and its RLOO trainer as another engine for ``train rl``.

In a TRL script of your own:

    from aifeedback.integrations.trl import reward_function
    judge = reward_function("judge:openai:NAME", prompt="rating", base_url="http://…/v1")
    trainer = RLOOTrainer(model=…, reward_funcs=judge, …)

A completion that could not be scored is None. TRL 1.16 leaves such a sample out of baseline and gradient; check what
an earlier version does with None before relying on it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from aifeedback.errors import MissingExtra, RecipeError
from aifeedback.protocols import Progress, RewardFn, silent
from aifeedback.records import Prompt

SUPPLIED = ("trainer_state", "log_extra", "log_metric", "completion_ids")
"""Keywords that TRL adds for its own purposes; rewards do not see them."""


class TrlReward:
    """A reward function as TRL calls it: conversational completions become text, TRL's own keywords are dropped."""

    def __init__(
        self, reward: RewardFn, *, name: str, missing_eos_penalty: float = 0.0, eos_ids: frozenset[int]
    ) -> None:
        self.reward, self.penalty, self.eos_ids = reward, missing_eos_penalty, eos_ids
        self.__name__ = name

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]
    ) -> list[float | None]:
        given = {name: values for name, values in columns.items() if name not in SUPPLIED}
        values = list(self.reward(list(prompts), [as_text(c) for c in completions], **given))
        if not self.penalty:
            return values
        ended = [bool(ids) and ids[-1] in self.eos_ids for ids in columns["completion_ids"]]
        return [None if v is None else v - self.penalty * (not e) for v, e in zip(values, ended, strict=True)]


def reward_function(
    reward: str | RewardFn, *, journal: str | PathLike[str] | None = None, seed: int = 0, **judge: Any
) -> TrlReward:
    """A reward for ``reward_funcs`` of any TRL trainer.

    ``reward``: ``rm:DIR`` (a reward model), ``python:FILE.py:FUNCTION``, ``judge:MODEL`` (its expected 1–10 score,
    asked live: d-RLAIF), or any function or combinator of ``train.rewards``. Further keywords are settings of the
    judge (``prompt``, ``rationale``, ``base_url``, ``spend_cap_usd`` …). ``journal``: file that keeps every call of
    the judge and answers repeated ones; a temporary one by default. Raises InputError for a reward that is not there.
    """
    if not isinstance(reward, str):
        from aifeedback.train.rewards import name_of

        return TrlReward(reward, name=name_of(reward), eos_ids=frozenset())
    from aifeedback.stages.base import Job
    from aifeedback.stages.rewards import reward_function as build

    spec = _spec(reward, judge)
    folder = Path(journal).parent if journal else Path(tempfile.mkdtemp(prefix="aifeedback-"))
    file = Path(journal) if journal else folder / "journal.sqlite"
    return TrlReward(build(spec, Job(folder, file, folder, seed)), name=reward, eos_ids=frozenset())


def _spec(reward: str, judge: dict[str, Any]) -> Any:
    from aifeedback.config import parse
    from aifeedback.stages.inputs import input_problem
    from aifeedback.stages.rewards import RewardSpec

    if reward.startswith("judge:"):
        given: dict[str, Any] = {"judge": {"model": reward.partition(":")[2], **judge}}
    elif judge:
        raise RecipeError(f"{', '.join(judge)}: settings of a judge, but the reward is '{reward}'", key="reward")
    else:
        given = {"source": reward}
    spec = parse(RewardSpec, given, prefix="reward.")
    problems = [problem for name in spec.inputs() if (problem := input_problem(name))]
    if problems:
        raise RecipeError("\n  ".join(problems), key="reward", fix="correct this first; nothing was run")
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

    ``config`` is an ``RLConfig``. ``trl_options`` go to ``RLOOConfig`` (``use_vllm=True``, ``deepspeed=FILE``,
    ``bf16=True``, ``gradient_checkpointing=True`` …); run under ``accelerate launch`` for several devices. Raises
    RecipeError for settings that TRL's trainer has no counterpart for, MissingExtra without TRL.
    """
    try:
        from datasets import Dataset
        from trl.trainer.rloo_trainer import RLOOTrainer
    except ImportError as missing:
        raise MissingExtra("trl", "trl") from missing
    from aifeedback.engine.chat import Encoding
    from aifeedback.train import folders
    from aifeedback.train.rewards import name_of
    from aifeedback.train.rollout import encode_prompts

    _supported(config)
    tokenizer = folders.load_tokenizer(policy_dir)
    model = folders.load_policy(policy_dir)
    encoded = encode_prompts(tokenizer, prompts, max_prompt_tokens=config.max_prompt_tokens)
    function = TrlReward(
        reward,
        name=name_of(reward),
        missing_eos_penalty=config.missing_eos_penalty,
        eos_ids=Encoding.of(tokenizer, model).stops,
    )
    arguments = rloo_config(config, Path(out) / "training", rows=len(encoded.prompts), **trl_options)
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
    )
    trainer.train()
    return _conclude(trainer, tokenizer, config, clock, out, policy_dir, encoded)


def rloo_config(config: Any, folder: Path, *, rows: int, **trl_options: Any) -> Any:
    """The RLOOConfig that trains as ``config`` says; β in TRL's form (reward − β·KL)."""
    import torch
    from trl.trainer.rloo_config import RLOOConfig

    from aifeedback.train.reinforce import planned_steps

    steps = planned_steps(rows, config)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    schedule: dict[str, Any] = {"lr_scheduler_type": config.schedule}
    if config.schedule == "trapezoid":
        decay = max(1, round(config.decay_share * steps))
        schedule = {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": decay, "decay_type": "linear"},
        }
    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": config.prompts_per_step * config.samples_per_prompt // processes,
        "num_generations": config.samples_per_prompt,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "beta": config.beta / (1 - config.beta) if config.kl_form == "paper" else config.beta,
        "normalize_advantages": config.normalise_advantage,
        "learning_rate": config.learning_rate,
        "optim": "adafactor" if config.optimizer == "adafactor" else "adamw_torch_fused",
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_grad_norm if config.max_grad_norm is not None else 0.0,
        "warmup_steps": config.warmup_steps,
        "seed": config.seed,
        "disable_dropout": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **schedule,
    }
    return RLOOConfig(**{**given, **trl_options})


def dataset_row(prompt: Prompt, tokenizer: Any) -> dict[str, Any]:
    """One row of TRL's data set: messages where the tokenizer has a chat template, the same text as ours otherwise."""
    from aifeedback.engine.chat import Encoding

    return {"prompt": Encoding.of(tokenizer).messages(prompt.messages), "reference": prompt.reference, **prompt.tags}


def _supported(config: Any) -> None:
    unsupported = {
        "baseline": config.chosen_baseline != "leave_one_out",
        "zscore_samples": config.zscore_samples is not None,
        "lora": config.lora is not None,
        "shard": config.shard,
    }
    wrong = [name for name, is_set in unsupported.items() if is_set]
    if wrong:
        raise RecipeError(
            f"TRL's RLOO trainer cannot do this: {', '.join(wrong)}",
            fix="leave these out (baseline: leave_one_out with samples_per_prompt ≥ 2), or use our own engine",
        )


def _clock(progress: Progress, total: int) -> Any:
    """Times each step and passes TRL's log lines on."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        seconds: list[float]
        lines: list[dict[str, float]]

        def __init__(self) -> None:
            self.seconds, self.lines, self.began = [], [], 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            line = {k: float(v) for k, v in (logs or {}).items() if isinstance(v, int | float)}
            self.lines.append({"step": state.global_step, **line})
            progress(state.global_step, total, line)

    return Clock()


def _conclude(trainer: Any, tokenizer: Any, config: Any, clock: Any, out: Any, policy_dir: Any, encoded: Any) -> Any:
    from aifeedback.train import folders
    from aifeedback.train.journal import peak_memory_mb
    from aifeedback.train.session import TrainResult

    lines = clock.lines
    figures = {k: v for line in lines if "reward" in line for k, v in line.items() if k != "step"}
    tokens = [line.get("num_tokens", 0.0) for line in lines if "num_tokens" in line]
    seconds = statistics.median(clock.seconds)
    result = TrainResult(
        folder=str(out),
        steps=trainer.state.global_step,
        rows=len(encoded.prompts),
        skipped={"prompt_too_long": encoded.too_long} if encoded.too_long else {},
        seconds_per_step=seconds,
        tokens_per_s=tokens[-1] / sum(clock.seconds) if tokens else float("nan"),
        peak_memory_mb=peak_memory_mb(trainer.accelerator.device),
        figures=figures,
    )
    trainer.accelerator.wait_for_everyone()
    if trainer.accelerator.is_main_process:
        model = trainer.accelerator.unwrap_model(trainer.model)
        settings = {**config.model_dump(mode="json"), "engine": "trl"}
        text = folders.card(
            "Policy trained by TRL's RLOO",
            summary="Rewards by aifeedback.",
            base=str(policy_dir),
            settings=settings,
            figures=figures,
        )
        folders.save_folder(model, tokenizer, out, card=text)
        training = Path(out) / "training"
        training.mkdir(parents=True, exist_ok=True)
        (training / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        (training / "result.json").write_text(result.model_dump_json(indent=2), encoding="utf-8")
    return result
