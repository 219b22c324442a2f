"""Policy gradient on a terminal reward: REINFORCE as published for RLAIF (Lee et al. 2023, arXiv 2309.00267).

Objective, paper form: E[(1−β)·r(x, y) − β·KL(π‖π_ref)]. With samples y of π the KL is estimated by
k1 = Σ_t log π(a_t) − log π_ref(a_t) and put *into the reward*, which is then

    R(y) = (1−β)·r(x, y) − β·k1(y)          (``kl_form="usual"``: r − β·k1; β of one form is β/(1−β) of the other)
    gradient = −Σ_t ∇log π(a_t | x_t) · (R − b)      γ = 1, so the return of every token is R

∇k1 itself has zero expectation, so leaving it out of the gradient is exact. ``b`` is a baseline (``baselines.py``).

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
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from aifeedback.engine.forward import engine_of
from aifeedback.errors import RecipeError, TrainingError
from aifeedback.protocols import Progress, RewardFn, silent
from aifeedback.records import Prompt, content_id
from aifeedback.train import compute, folders, loop
from aifeedback.train.baselines import BaselineName, Value, make_baseline
from aifeedback.train.loop import LoopConfig, Loss, Plan
from aifeedback.train.losses import policy_gradient_loss, value_loss
from aifeedback.train.objective import Share, share_of
from aifeedback.train.rewards import name_of
from aifeedback.train.rollout import (
    Clock,
    EncodedPrompts,
    Rollout,
    SampleFacts,
    as_rewards,
    encode_prompts,
    reference_logp,
    roll_out,
    row_batches,
    sample_facts,
    score,
    step_figures,
    uniforms,
    whole_model,
)
from aifeedback.train.rows import Order
from aifeedback.train.session import Session, Title, TrainResult

UNSCORED_STEPS = 3
"""The run stops when this many steps in a row had no sample that could be used: the judge is dead, not unlucky."""


class RLConfig(LoopConfig):
    """Settings of ``train_rl``. Defaults are the published ones."""

    epochs: float = Field(default=8.0, gt=0.0)
    """Passes over the prompts where ``steps`` is not given."""
    prompts_per_step: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all processes together."""
    samples_per_prompt: int = Field(default=1, ge=1)
    """Completions of each prompt in a step."""
    max_prompt_tokens: int = Field(default=1024, ge=1)
    """Longer prompts are left out and counted."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Completions are cut here; see ``missing_eos_penalty``."""
    temperature: float = Field(default=0.9, gt=0.0)
    """Of sampling, and of every log-probability in gradient and KL."""
    beta: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Weight of the KL to the reference, in the form that ``kl_form`` names."""
    kl_form: Literal["paper", "usual"] = "paper"
    """paper: (1−β)·r − β·KL. usual: r − β·KL."""
    baseline: BaselineName | None = None
    """None: leave_one_out with several samples per prompt, the published learned value with one."""
    missing_eos_penalty: float = Field(default=0.0, ge=0.0)
    """Subtracted from the (z-scored) reward of a completion that was cut before it ended by itself."""
    zscore_samples: int | None = Field(default=None, ge=2)
    """Reward is replaced by (r − mean)/sd with mean and sd of this many reference samples, fixed before step 1."""
    normalise_advantage: bool = False
    """Divides advantages by their standard deviation within the step. Biases the gradient (arXiv 2503.20783); off."""
    value_weight: float = Field(default=0.5, ge=0.0)
    """Weight of the value loss beside the policy loss; the value network shares no weights with the policy."""

    @model_validator(mode="after")
    def _baseline_fits(self) -> RLConfig:
        if self.baseline == "leave_one_out" and self.samples_per_prompt < 2:
            raise ValueError("leave_one_out needs samples_per_prompt of at least 2: one sample has no others")
        return self

    @property
    def chosen_baseline(self) -> BaselineName:
        return self.baseline or ("leave_one_out" if self.samples_per_prompt > 1 else "value")


def optimised_reward(reward_B: Tensor, k1_B: Tensor, *, beta: float, kl_form: str) -> Tensor:
    """R = (1−β)·r − β·k1 (paper) or r − β·k1 (usual); NaN rewards stay NaN. Shape (B,)."""
    weight = 1.0 - beta if kl_form == "paper" else 1.0
    return weight * reward_B - beta * k1_B


def other_form(beta: float, kl_form: str) -> str:
    """The same objective in the other form, as a sentence for people."""
    if kl_form == "paper":
        return f"(1−β)·r − β·KL with β = {beta:g} is r − β′·KL with β′ = {beta / (1 - beta):.4g}"
    return f"r − β·KL with β = {beta:g} is (1−β′)·r − β′·KL with β′ = {beta / (1 + beta):.4g}"


class Policy(NamedTuple):
    """What hooks see of a run: the policy as it stands, its frozen reference, and how to draw from either."""

    model: Any
    reference: Any
    tokenizer: Any
    config: RLConfig


Hook = Callable[[int, Policy], Mapping[str, float]]
"""hook(step, policy): figures to log every ``evaluate_every`` steps; must not change the policy."""


class Micro(NamedTuple):
    """Rows of one gradient pass. ``scale`` divides their summed loss; an empty pass has scale 0."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    advantage_B: Tensor
    """R − b per row; the value network's estimate is subtracted in the pass."""
    reward_B: Tensor
    scale: float


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
    ) -> None:
        super().__init__()
        self.policy = policy
        self.baseline = make_baseline(config.chosen_baseline)
        self.value = Value(policy) if self.baseline.learned else None
        self.prompts, self.reward, self.config, self.share = prompts, reward, config, share
        self.tokenizer = tokenizer
        self.order = Order(len(prompts.prompts), batch=config.prompts_per_step, seed=config.seed)
        self.clock = clock
        self.scale: tuple[float, float] | None = None if config.zscore_samples else (0.0, 1.0)
        self.unscored_steps = 0
        # Not a submodule: neither trained nor sharded nor part of a checkpoint.
        self._reference = (reference,)

    @property
    def reference(self) -> Any:
        return self._reference[0]

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
            raw_B = self._score(chosen, rollout.texts)
        with self.clock.phase("reference"):
            reference = reference_logp(
                self.reference, rollout, temperature=config.temperature, forward_tokens=config.forward_tokens
            )
        facts = self._gather(sample_facts(rollout, raw_B, reference))
        reward_B = self._optimised(facts)
        weighed_B, advantage_B = self._advantage(reward_B)
        self._require_some(weighed_B, step)
        micro = self._micro(rollout, facts, advantage_B, reward_B)
        self.clock.start_update()
        tokens = sum(rollout.lengths) + sum(len(p) for p in rollout.prompt_ids)
        # Facts are those of all processes already; the loop adds figures up, so only the first process gives them.
        counts = float(self.share.rank == 0)
        figures = {name: counts * value for name, value in step_figures(facts, reward_B, weighed_B).items()}
        return Plan(micro, tokens, figures)

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
        lengths = torch.tensor([len(ids) for ids in micro.completion_ids])
        advantage_T = micro.advantage_B.repeat_interleave(lengths).to(logp_T)
        counted_T = torch.ones_like(logp_T)
        figures = {}
        extra = 0.0
        if self.value is not None:
            value_T = self.value(micro.prompt_ids, micro.completion_ids)
            advantage_T = advantage_T - value_T.detach()
            reward_T = micro.reward_B.repeat_interleave(lengths).to(value_T)
            lost = value_loss(value_T, reward_T, counted_T) * micro.scale
            extra = self.config.value_weight * lost
            figures["value_loss"] = lost
        return Loss(policy_gradient_loss(logp_T, advantage_T, counted_T) * micro.scale + extra, figures)

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
        return roll_out(
            model,
            self.tokenizer,
            [self.prompts.ids[i] for i in chosen],
            samples=samples or self.config.samples_per_prompt,
            temperature=self.config.temperature,
            max_new_tokens=self.config.max_new_tokens,
            uniform_BT=uniform_BT[self.share.rank * each : (self.share.rank + 1) * each],
        )

    def _score(self, chosen: list[int], texts: list[str]) -> list[float | None]:
        samples = len(texts) // len(chosen)
        return score(self.reward, [self.prompts.prompts[i] for i in chosen for _ in range(samples)], texts)

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
        reward_B = self._gather(as_rewards(self._score(chosen, rollout.texts), samples=1)).flatten()
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
        return optimised_reward(reward_B, facts.k1_B, beta=self.config.beta, kl_form=self.config.kl_form)

    def _advantage(self, reward_B: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows are weighed, and R − b, both (B,) over all processes."""
        reward_PG = reward_B.view(-1, self.config.samples_per_prompt)
        advantage_B = (reward_PG - self.baseline.subtrahend(reward_PG)).flatten()
        self.baseline.observe(reward_PG)
        weighed_B = ~advantage_B.isnan()
        if self.config.normalise_advantage and int(weighed_B.sum()) > 1:
            advantage_B = advantage_B / (advantage_B[weighed_B].std() + 1e-8)
        return weighed_B, advantage_B

    def _require_some(self, weighed_B: Tensor, step: int) -> None:
        self.unscored_steps = 0 if bool(weighed_B.any()) else self.unscored_steps + 1
        if self.unscored_steps >= UNSCORED_STEPS:
            raise TrainingError(
                f"step {step}: no sample of the last {UNSCORED_STEPS} steps could be scored"
                "\n  → look at what the reward returns; run again to go on from the last checkpoint"
            )

    def _micro(self, rollout: Rollout, facts: SampleFacts, advantage_B: Tensor, reward_B: Tensor) -> list[Micro]:
        """This process's gradient passes; every process gets equally many, so that they stay in step."""
        weighed_B = ~advantage_B.isnan()
        scale = 1.0 / max(1, int(weighed_B.sum()))
        each = len(advantage_B) // self.share.world
        mine = slice(self.share.rank * each, (self.share.rank + 1) * each)
        advantage_B, reward_B = advantage_B[mine], reward_B[mine]
        rows = [i for i in range(each) if bool(weighed_B[mine][i])]
        batches = row_batches(rollout, rows, limit=self.config.forward_tokens)
        passes = max(1, int(self._gather(torch.tensor([float(len(batches))], dtype=torch.float64)).max()))
        micro = [
            Micro(
                [rollout.prompt_ids[i] for i in batch],
                [rollout.completion_ids[i] for i in batch],
                advantage_B[batch],
                reward_B[batch],
                scale,
            )
            for batch in batches
        ]
        empty = torch.zeros(1, dtype=torch.float64)
        idle = Micro(rollout.prompt_ids[:1], rollout.completion_ids[:1], empty, empty, 0.0)
        return micro + [idle] * (passes - len(micro))

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
    held-out prompts every ``evaluate_every`` steps, ``stop`` ends the run on what the figures say (``guard.py`` makes
    both). Raises TrainingError, ModelError, and whatever the reward raises.
    """
    tokenizer = folders.load_tokenizer(policy_dir)
    encoded = encode_prompts(tokenizer, prompts, max_prompt_tokens=config.max_prompt_tokens)
    reward_name = reward_name or name_of(reward)
    asked = content_id([p.id for p in encoded.prompts], reward_name)
    session = Session(f"rl {asked}", base=policy_dir, out=out, config=config, rows=[])
    if (done := session.finished()) is not None:
        return done
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
    )
    clock.write()
    title = Title(
        "Policy trained by reinforcement learning",
        f"REINFORCE with the baseline {config.chosen_baseline} on the reward `{reward_name}`. "
        f"{other_form(config.beta, config.kl_form)}.",
    )
    skipped = {"prompt_too_long": encoded.too_long} if encoded.too_long else {}
    return session.conclude(policy, tokenizer, outcome, title, rows=len(encoded.prompts), skipped=skipped)


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
