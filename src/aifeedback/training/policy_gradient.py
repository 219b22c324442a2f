"""Policy gradient on a terminal reward: REINFORCE as published for RLAIF (Lee et al. 2023, arXiv 2309.00267).

Objective, paper form: E[(1−β)·r(x, y) − β·KL(π‖π_ref)]. With samples y of π the KL is estimated by
k1 = Σ_t log π(a_t) − log π_ref(a_t) and put *into the reward*, which is then

    R(y) = (1−β)·r(x, y) − β·k1(y)          (``kl_form="usual"``: r − β·k1; β of one form is β/(1−β) of the other)
    gradient = −Σ_t ∇log π(a_t | x_t) · (R − b)      γ = 1, so the return of every token is R

∇k1 itself has zero expectation, so leaving it out of the gradient is exact. ``b`` is a baseline (``advantages.py``).
Several updates on the same samples, ratios, clipping and a KL as a loss are in ``policy_update.py``.

Where we differ from common code: log-probabilities come from sampling (they equal a recomputation, so one policy
forward per step is saved); they are taken at the sampling temperature, for the reference too; losses are summed over
tokens, never divided by a sample's own length (arXiv 2503.20783); a sample that could not be scored is left out of
baseline and gradient as if it had not been drawn. Generation runs in evaluation mode, and so does the gradient pass:
with dropout the two would be different policies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.inference.forward import engine_of
from aifeedback.training import compute, folders, loop
from aifeedback.training.advantages import GroupDecoupled, Value, make_baseline
from aifeedback.training.examples import Order
from aifeedback.training.loop import Loss, Plan, Session, Title, TrainResult
from aifeedback.training.losses import importance
from aifeedback.training.objective import Share, largest, share_of
from aifeedback.training.optim import Rate
from aifeedback.training.policy_update import Micro, Samples, Weighed, micro_batches, policy_loss
from aifeedback.training.rewards import Criteria, adapted, mix, name_of, require_columns, score, score_criteria
from aifeedback.training.rollout import (
    AdaptersOff,
    Clock,
    EncodedPrompts,
    Kept,
    Rollout,
    SampleFacts,
    Sampler,
    as_rewards,
    criteria_figures,
    encode_prompts,
    reference_logp,
    roll_out,
    sample_facts,
    step_figures,
    uniforms,
    whole_model,
)
from aifeedback.training.settings import RLConfig, SampledConfig
from aifeedback.types import Progress, Prompt, RewardFn, content_id, silent


def optimised_reward(reward_B: Tensor, k1_B: Tensor, *, beta: float, kl_form: str) -> Tensor:
    """R = (1−β)·r − β·k1 (paper) or r − β·k1 (usual); NaN rewards stay NaN. Shape (B,)."""
    weight = 1.0 - beta if kl_form == "paper" else 1.0
    return weight * reward_B - beta * k1_B


def other_form(beta: float, kl_form: str) -> str:
    """The same objective in the other form, as a sentence for people."""
    if kl_form == "paper":
        return f"(1−β)·r − β·KL with β = {beta:g} is r − β′·KL with β′ = {beta / (1 - beta):.4g}"
    return f"r − β·KL with β = {beta:g} is (1−β′)·r − β′·KL with β′ = {beta / (1 + beta):.4g}"


def train_rl(
    policy_dir: str | PathLike[str],
    prompts: Sequence[Prompt],
    reward: RewardFn | Sequence[tuple[RewardFn, float]],
    config: RLConfig,
    out: str | PathLike[str],
    *,
    reference: Any = None,
    hook: Hook | None = None,
    stop: loop.Stop | None = None,
    reward_name: str | None = None,
    sampler: Sampler | None = None,
    progress: Progress = silent,
) -> TrainResult:
    """Train the causal LM of a folder on a reward, or several with weights, and write the folder ``out``; run again, it
    resumes or returns.

    ``reference``: the frozen model that the KL is measured to, in memory (default: a copy of the starting policy, or
    with adapters the policy itself while they are off). A
    judge that is the same checkpoint takes this object, so that nothing is loaded twice. ``hook`` gives figures on
    held-out prompts every ``evaluate_every`` steps, ``stop`` ends the run on what they show (``monitor.py`` makes both); a
    run so ended goes back to the step that the hook's ``best`` names. Raises TrainingError, ModelError, and whatever the
    reward raises: the steps made until then are kept, and the same call resumes after them. ``sampler`` draws the
    completions with another engine (``importance_cap`` weighs them).
    """
    tokenizer = folders.load_tokenizer(policy_dir)
    encoded = encode_prompts(
        tokenizer,
        prompts,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        context_window=folders.context_window(policy_dir),
    )
    reward = mix(reward) if isinstance(reward, Sequence) else adapted(reward)
    require_columns(reward, encoded.prompts)
    reward_name = reward_name or name_of(reward)
    drawn_by = [name_of(sampler)] if sampler is not None else []  # type: ignore[arg-type]
    digest = content_id([p.id for p in encoded.prompts], reward_name, *drawn_by)
    if config.chosen_baseline == "gdpo" and len(getattr(reward, "weights", ())) < 2:
        what = f"gdpo normalises the criteria of a reward one by one, and {reward_name} is a single one"
        raise RecipeError(what, key="baseline", fix="give a mix of rewards or a judge with a rubric, or take grpo")
    session = Session(f"rl {digest}", base=policy_dir, out=out, config=config, rows=[])
    if (done := session.finished()) is not None:
        return done
    if config.trl:
        raise RecipeError("are options of TRL's trainer", key="trl", fix="choose the engine trl, or leave them out")
    if config.evaluate_every is not None and hook is None:
        raise RecipeError(
            "nothing evaluates this run", key="evaluate_every", fix="give a monitor (in Python: hook), or leave it out"
        )
    share = share_of(session.accelerator)
    check_share(config, share)
    policy = folders.load_policy(policy_dir, dtype=session.dtype)
    if reference is None and config.lora is None:
        reference = copy.deepcopy(policy)
    policy = session.adapt(policy)
    if reference is None:
        reference = AdaptersOff(policy, session.adapters)
    else:
        reference.eval().requires_grad_(False).to(session.accelerator.device)
    engine_of(policy)  # tries the model out, which wants whole weights: before any sharding
    clock = Clock(Path(out) / "training" / "phases.jsonl" if share.rank == 0 else None)
    kept = Kept(Path(out) / "training" / "rollouts.jsonl" if share.rank == 0 else None, config.keep_rollouts)
    objective = PolicyObjective(
        policy,
        reference,
        tokenizer,
        encoded,
        reward,
        config,
        share=share,
        clock=clock,
        sampler=sampler,
        kept=kept,
    )
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
        f"{other_form(config.beta, config.kl_form)}. {KL_TERMS[config.kl_term]}",
    )
    return session.conclude(policy, tokenizer, outcome, title, rows=len(encoded.prompts), skipped=encoded.skipped)


def planned_steps(prompts: int, config: SampledConfig) -> int:
    """Optimizer steps of a run."""
    return (
        config.steps if config.steps is not None else max(1, round(config.epochs * prompts / config.prompts_per_step))
    )


def check_share(config: SampledConfig, share: Share) -> None:
    """Raises RecipeError where a step cannot be shared by the processes."""
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

        figures = [hook(step, view) if objective.share.rank == 0 else None]
        dist.broadcast_object_list(figures, src=0)
        return figures[0] or {}

    return evaluate


KL_TERMS = {
    "reward": "The KL is in the reward (k1): the gradient of KL(π‖π_ref).",
    "k1": "The KL is a loss (k1), whose expected gradient is zero: nothing holds the policy to its reference.",
    "k3": "The KL is a loss (k3): the gradient of KL(π_ref‖π) of each next token, on the policy's prefixes.",
}
"""What each place of the KL descends."""
UNSCORED_STEPS = 3
"""The run stops when this many steps in a row had no sample that could be used: the judge is unreachable."""


class Policy(NamedTuple):
    """What hooks see of a run: the policy as it stands, its frozen reference, and how to draw from either."""

    model: Any
    reference: Any
    tokenizer: Any
    config: RLConfig


Hook = Callable[[int, Policy], Mapping[str, float]]
"""hook(step, policy): figures to log every ``evaluate_every`` steps; must not change the policy."""


class PolicyObjective(nn.Module):
    """Samples, scores and weighs in ``plan``; the policy-gradient loss in ``forward``."""

    def __init__(
        self,
        policy: Any,
        reference: Any,
        tokenizer: Any,
        prompts: EncodedPrompts,
        reward: RewardFn,
        config: RLConfig,
        *,
        share: Share,
        clock: Clock,
        kept: Kept | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.baseline = make_baseline(config.chosen_baseline)
        self.value = Value(policy, recomputes=config.gradient_checkpointing) if self.baseline.learned else None
        self.prompts, self.reward, self.config, self.share = prompts, reward, config, share
        self.tokenizer, self.sampler = tokenizer, sampler
        self.order = Order(len(prompts.prompts), batch=config.prompts_per_step, seed=config.seed)
        self.clock, self.kept = clock, kept or Kept(None, 0)
        self.scale: tuple[float, float] | None = None if config.zscore_samples else (0.0, 1.0)
        self.unscored_steps = 0
        # Not a submodule: neither trained nor sharded nor part of a checkpoint.
        self._reference = (reference,)

    @property
    def reference(self) -> Any:
        return self._reference[0]

    def rates(self, parameter: nn.Parameter) -> Rate:
        """The value network has its own learning rate; the policy waits until it is warm."""
        config = self.config
        if self.value is None:
            return Rate()
        if any(parameter is own for own in self.value.parameters()):
            factor = (config.value_learning_rate or config.learning_rate) / config.learning_rate
            return Rate(factor=factor, max_grad_norm=config.value_max_grad_norm)
        return Rate(starts_after=config.value_warmup_steps)

    def train(self, mode: bool = True) -> PolicyObjective:
        """Always in evaluation mode: the policy that is trained is the one that was sampled."""
        del mode
        return super().train(False)

    def plan(self, step: int) -> Plan:
        config = self.config
        chosen = self._mine(self.order.step(step))
        self.clock.start(step)
        sampler = whole_model(self.policy)
        if self.scale is None:
            self.scale = self._measure_scale(sampler)
        with self.clock.phase("generate"):
            rollout = self._sample(sampler, chosen, uniforms(*self._shape, seed=config.seed, step=step))
        with self.clock.phase("reward"):
            raw_B, criteria_BC = self._score(chosen, rollout.texts)
        row_prompts = [self.prompts.prompts[i] for i in chosen for _ in range(config.samples_per_prompt)]
        self.kept.write(step, row_prompts, rollout.texts, raw_B, self.reward)
        sampled_T = torch.cat(rollout.logp)
        rollout, weight = self._recomputed(sampler, rollout)
        with self.clock.phase("reference"):
            reference = self._logp(self.reference, rollout)
        facts = self._gather(sample_facts(rollout, raw_B, reference))
        reward_B = self._optimised(facts)
        criteria_BC = self._gather(criteria_BC)
        weighed = self._weighed(reward_B, facts, criteria_BC)
        self._require_some(~weighed.advantage_B.isnan(), step)
        micro = micro_batches(
            Samples(rollout, reference, weight),
            weighed,
            config,
            self.share,
            most=lambda mine: largest(mine, self.share),
        )
        self.clock.start_update()
        tokens = sum(rollout.lengths) + sum(len(p) for p in rollout.prompt_ids)
        # Facts are those of all processes already; the loop adds figures up, so only the first process gives them.
        counts = float(self.share.rank == 0)
        figures = step_figures(facts, reward_B, ~weighed.advantage_B.isnan()) | criteria_figures(criteria_BC)
        figures = {name: counts * value for name, value in figures.items()}
        if self.sampler is not None:
            gap_T = (torch.cat(rollout.logp) - sampled_T.to(rollout.logp[0])).abs()
            figures["sampler_gap"] = float(gap_T.sum()) / float(facts.length_B.sum())
        return Plan(micro, tokens, figures, config.updates_per_rollout)

    def forward(self, micro: Micro) -> Loss:
        logp_T = torch.cat(
            compute.sequence_logprobs(
                self.policy,
                micro.prompt_ids,
                micro.completion_ids,
                temperature=self.config.temperature,
                grad=True,
            )
        )
        value_T = None if self.value is None else self.value(micro.prompt_ids, micro.completion_ids)
        return policy_loss(logp_T, micro, self.config, value_T=value_T)

    def state(self) -> Mapping[str, Tensor]:
        state = {f"baseline/{k}": v for k, v in self.baseline.state().items()}
        state["unscored_steps"] = torch.tensor(self.unscored_steps)
        if self.scale is not None:
            state["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        named = {k.removeprefix("baseline/"): v for k, v in state.items() if k.startswith("baseline/")}
        if named:
            self.baseline.load_state(named)
        self.unscored_steps = int(state["unscored_steps"])
        if "scale" in state:
            mean, sd = state["scale"].tolist()
            self.scale = (mean, sd)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.config.prompts_per_step * self.config.samples_per_prompt, self.config.max_new_tokens

    def _mine(self, rows: list[int]) -> list[int]:
        each = len(rows) // self.share.world
        return rows[self.share.rank * each : (self.share.rank + 1) * each]

    def _sample(self, model: Any, chosen: list[int], uniform_BT: Tensor, *, samples: int | None = None) -> Rollout:
        each = len(uniform_BT) // self.share.world
        return (self.sampler or roll_out)(
            model,
            self.tokenizer,
            [self.prompts.ids[i] for i in chosen],
            samples=samples or self.config.samples_per_prompt,
            temperature=self.config.temperature,
            max_new_tokens=self.config.max_new_tokens,
            uniform_BT=uniform_BT[self.share.rank * each : (self.share.rank + 1) * each],
        )

    def _logp(self, model: Any, rollout: Rollout) -> list[Tensor]:
        config = self.config
        return reference_logp(model, rollout, temperature=config.temperature, forward_tokens=config.forward_tokens)

    def _recomputed(self, model: Any, rollout: Rollout) -> tuple[Rollout, list[Tensor] | None]:
        """The rollout with the policy's own log-probabilities, and the weights that correct for another sampler's."""
        config = self.config
        if self.sampler is None and config.importance_cap is None:
            return rollout, None
        with self.clock.phase("recompute"):
            own = self._logp(model, rollout)
        weight = None
        if config.importance_cap is not None:
            length_B = torch.tensor(rollout.lengths)
            old_T, sampled_T = torch.cat(own), torch.cat(rollout.logp).to(own[0])
            level, cap = config.importance_level, config.importance_cap
            weight = list(importance(old_T, sampled_T, length_B, level=level, cap=cap).split(rollout.lengths))
        return rollout._replace(logp=own), weight

    def _score(self, chosen: list[int], texts: list[str]) -> tuple[list[float | None], Tensor]:
        """The reward of each text, and those of its criteria (B, C), NaN where not scored."""
        samples = len(texts) // len(chosen)
        prompts = [self.prompts.prompts[i] for i in chosen for _ in range(samples)]
        if not isinstance(self.reward, Criteria):
            return score(self.reward, prompts, texts), torch.empty(len(texts), 0, dtype=torch.float64)
        columns = score_criteria(self.reward, prompts, texts)
        return self.reward.total(columns), torch.cat([as_rewards(values, samples=1) for values in columns], 1)

    def _measure_scale(self, model: Any) -> tuple[float, float]:
        """Mean and standard deviation of the reward on reference samples (the policy before its first step)."""
        n = self.config.zscore_samples or 0
        each = -(-n // self.share.world)
        chosen = self._mine(
            Order(len(self.prompts.prompts), batch=each * self.share.world, seed=self.config.seed).step(1)
        )
        columns = self.config.max_new_tokens
        uniform_BT = uniforms(each * self.share.world, columns, seed=self.config.seed, step=0, purpose="scale")
        rollout = self._sample(model, chosen, uniform_BT, samples=1)
        reward_B = self._gather(as_rewards(self._score(chosen, rollout.texts)[0], samples=1)).flatten()
        known_B = reward_B[~reward_B.isnan()]
        if len(known_B) < 2 or float(known_B.std()) == 0:
            raise TrainingError(
                f"the reward cannot be z-scored: {len(known_B)} of {len(reward_B)} samples of the starting policy"
                " were scored, all alike\n  → check the reward on a few completions, or set zscore_samples to null"
            )
        return float(known_B.mean()), float(known_B.std())

    def _optimised(self, facts: SampleFacts) -> Tensor:
        mean, sd = self.scale or (0.0, 1.0)
        reward_B = (facts.reward_B - mean) / sd - self.config.missing_eos_penalty * facts.truncated_B
        if self.config.mask_truncated:
            reward_B = torch.where(facts.truncated_B > 0, torch.nan, reward_B)
        k1_B = facts.k1_B if self.config.kl_term == "reward" else torch.zeros_like(facts.k1_B)
        return optimised_reward(reward_B, k1_B, beta=self.config.beta, kl_form=self.config.kl_form)

    def _weighed(self, reward_B: Tensor, facts: SampleFacts, criteria_BC: Tensor) -> Weighed:
        """Every sample's advantage, over all processes."""
        samples = self.config.samples_per_prompt
        if isinstance(self.baseline, GroupDecoupled) and isinstance(self.reward, Criteria):
            used_BC = torch.where(reward_B.isnan()[:, None], torch.nan, criteria_BC)
            criteria_PGC = used_BC.view(-1, samples, used_BC.shape[1])
            advantage_B = self.baseline.of_criteria(criteria_PGC, self.reward.weights).flatten()
            return Weighed(advantage_B, advantage_B, facts.length_B)
        reward_PG = reward_B.view(-1, samples)
        target_PG = reward_PG - self.baseline.subtrahend(reward_PG)
        divisor = getattr(self.baseline, "divisor", None)
        advantage_B = (target_PG / divisor(reward_PG) if divisor else target_PG).flatten()
        self.baseline.observe(reward_PG)
        is_weighed_B = ~advantage_B.isnan()
        if self.config.normalise_advantage and int(is_weighed_B.sum()) > 1:
            advantage_B = advantage_B / (advantage_B[is_weighed_B].std() + 1e-8)
        return Weighed(advantage_B, target_PG.flatten(), facts.length_B)

    def _require_some(self, weighed_B: Tensor, step: int) -> None:
        self.unscored_steps = 0 if bool(weighed_B.any()) else self.unscored_steps + 1
        if self.unscored_steps >= UNSCORED_STEPS:
            raise TrainingError(
                f"step {step}: no sample of the last {UNSCORED_STEPS} steps could be scored"
                f"{' and ended in time' if self.config.mask_truncated else ''}"
                "\n  → look at what the reward returns; run again to resume from the last checkpoint"
            )

    def _gather(self, mine: Any) -> Any:
        """Tensors (or a tuple of them) of all processes, one after another along the first axis."""
        if self.share.world == 1:
            return mine
        import torch.distributed as dist

        parts: list[Any] = [None] * self.share.world
        dist.all_gather_object(parts, mine)
        if isinstance(mine, Tensor):
            return torch.cat(parts)
        return type(mine)(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
