"""A run of policy gradient training: from a folder, prompts and a reward to the trained policy's folder.

The method, and where it differs from others, stands at the head of ``policy_gradient.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from aifeedback.engine.forward import engine_of
from aifeedback.errors import RecipeError
from aifeedback.protocols import Progress, RewardFn, silent
from aifeedback.records import Prompt, content_id
from aifeedback.train import folders, loop
from aifeedback.train.objective import Share, share_of
from aifeedback.train.policy_gradient import Hook, Policy, PolicyObjective
from aifeedback.train.rewards import adapted, name_of
from aifeedback.train.rl_config import other_form
from aifeedback.train.rollout import (
    Clock,
    encode_prompts,
    require_columns,
    whole_model,
)
from aifeedback.train.session import Session, Title, TrainResult
from aifeedback.train.settings import RLConfig


def train_rl(
    policy_dir: str | PathLike[str],
    prompts: Sequence[Prompt],
    reward: RewardFn,
    config: RLConfig,
    out: str | PathLike[str],
    *,
    reference: Any = None,
    hook: Hook | None = None,
    stop: loop.Stop | None = None,
    reward_name: str | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Trains the causal LM of a folder on a reward and writes the folder ``out``; run again, it goes on or returns.

    ``reference``: the frozen model that the KL is measured to, in memory (default: a copy of the starting policy). A
    judge that is the same checkpoint takes this object, so that nothing is loaded twice. ``hook`` gives figures on
    held-out prompts every ``evaluate_every`` steps, ``stop`` ends the run on what they show (``guard.py`` makes both); a
    run so ended goes back to the step that the hook's ``best`` names. Raises TrainingError, ModelError, and whatever the
    reward raises: the steps made until then are kept, and the same call resumes after them.
    """
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
    reward_name = reward_name or name_of(reward)
    asked = content_id([p.id for p in encoded.prompts], reward_name)
    session = Session(f"rl {asked}", base=policy_dir, out=out, config=config, rows=[])
    if (done := session.finished()) is not None:
        return done
    if config.trl:
        raise RecipeError("are options of TRL's trainer", key="trl", fix="choose the engine trl, or leave them out")
    if config.evaluate_every is not None and hook is None:
        raise RecipeError(
            "nothing evaluates this run", key="evaluate_every", fix="give a monitor (in Python: hook), or leave it out"
        )
    share = share_of(session.accelerator)
    _check_share(config, share)
    policy = folders.load_policy(policy_dir)
    if reference is None:
        reference = copy.deepcopy(policy)
    reference.eval().requires_grad_(False).to(session.accelerator.device)
    policy = session.adapt(policy)
    engine_of(policy)  # tries the model out, which wants whole weights: before any sharding
    clock = Clock(Path(out) / "training" / "phases.jsonl" if share.rank == 0 else None)
    objective = PolicyObjective(policy, reference, tokenizer, encoded, reward, config, share=share, clock=clock)
    outcome = session.run(
        objective,
        steps=planned_steps(len(encoded.prompts), config),
        progress=progress,
        evaluate=_evaluation(hook, objective),
        stop=stop,
        best=getattr(hook, "best", None) if stop else None,
    )
    clock.write()
    title = Title(
        "Policy trained by reinforcement learning",
        f"REINFORCE with the baseline {config.chosen_baseline} on the reward `{reward_name}`. "
        f"{other_form(config.beta, config.kl_form)}.",
    )
    return session.conclude(policy, tokenizer, outcome, title, rows=len(encoded.prompts), skipped=encoded.skipped)


def planned_steps(prompts: int, config: RLConfig) -> int:
    """Optimizer steps of a run."""
    return (
        config.steps if config.steps is not None else max(1, round(config.epochs * prompts / config.prompts_per_step))
    )


def _check_share(config: RLConfig, share: Share) -> None:
    if config.prompts_per_step % share.world:
        raise RecipeError(
            f"{config.prompts_per_step} prompts per step cannot be shared by {share.world} processes",
            key="prompts_per_step",
            fix=f"take a multiple of {share.world}",
        )
    if config.shard and config.lora is not None and share.world > 1:
        raise RecipeError("sharded weights and adapters do not go together here", key="shard", fix="leave one out")


def _evaluation(hook: Hook | None, objective: PolicyObjective) -> loop.Evaluate | None:
    """The hook, run by the first process; the others get its figures."""
    if hook is None:
        return None

    def evaluate(step: int) -> Mapping[str, float]:
        view = Policy(whole_model(objective.policy), objective.reference, objective.tokenizer, objective.config)
        if objective.share.world == 1:
            return hook(step, view)
        import torch.distributed as dist

        told = [hook(step, view) if objective.share.rank == 0 else None]
        dist.broadcast_object_list(told, src=0)
        return told[0] or {}

    return evaluate
