"""On-policy distillation: the policy's own samples, moved towards a teacher's next-token distribution.

The teacher is a judge's or any other model with the same vocabulary, and it gives a whole distribution per token instead of
one number per response. What falls is the reverse KL of responses,

    KL(π‖π_T) = E_{y∼π} Σ_t KL_t,   KL_t = Σ_v π(v | x, y_<t)·log(π/π_T)(v | x, y_<t)

with each KL_t summed over the vocabulary. Its gradient is E[Σ_t ∇KL_t] (Agarwal et al. 2024, arXiv 2306.13649, with reverse
KL on the student's samples) plus E[Σ_t ∇log π(y_t)·Σ_{s>t} KL_s], which makes prefixes less likely that lead away from the
teacher (Gu et al. 2024, arXiv 2306.08543). ``credit`` takes the first term alone, or both.

Where we differ: losses are summed over tokens and averaged over responses, so a long response is not discounted; logits exist for
a few rows at a time and are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aifeedback.errors import RecipeError
from aifeedback.inference.forward import ROWS, engine_of
from aifeedback.training import compute, folders
from aifeedback.training.examples import Order
from aifeedback.training.loop import Loss, Plan, Session, Title, TrainResult
from aifeedback.training.losses import next_token_kl
from aifeedback.training.objective import Share, largest, share_of
from aifeedback.training.policy_gradient import check_share, planned_steps
from aifeedback.training.rollout import EncodedPrompts, encode_prompts, roll_out, row_batches, uniforms, whole_model
from aifeedback.training.settings import DistillConfig
from aifeedback.types import Progress, Prompt, content_id, silent


class Micro(NamedTuple):
    """Responses of one gradient pass. ``scale`` divides their summed loss; an empty pass has scale 0."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    scale: float


class DistillObjective(nn.Module):
    """Samples in ``plan``; the KL to the teacher in ``forward``."""

    def __init__(
        self, policy: Any, teacher: Any, tokenizer: Any, prompts: EncodedPrompts, config: DistillConfig, *, share: Share
    ) -> None:
        super().__init__()
        self.policy, self.tokenizer, self.prompts = policy, tokenizer, prompts
        self.config, self.share = config, share
        self.order = Order(len(prompts.prompts), batch=config.prompts_per_step, seed=config.seed)
        # Not a submodule: neither trained nor sharded nor part of a checkpoint.
        self._teacher = (teacher,)

    def train(self, mode: bool = True) -> DistillObjective:
        """Always in evaluation mode: the policy that is trained is the one that was sampled."""
        del mode
        return super().train(False)

    def plan(self, step: int) -> Plan:
        config, share = self.config, self.share
        each, samples = config.prompts_per_step // share.world, config.samples_per_prompt
        mine = slice(share.rank * each, (share.rank + 1) * each)
        drawn_BT = uniforms(config.prompts_per_step * samples, config.max_new_tokens, seed=config.seed, step=step)
        rollout = roll_out(
            whole_model(self.policy),
            self.tokenizer,
            [self.prompts.ids[i] for i in self.order.step(step)[mine]],
            samples=samples,
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            uniform_BT=drawn_BT[mine.start * samples : mine.stop * samples],
        )
        scale = 1.0 / len(drawn_BT)
        batches = row_batches(rollout, range(each * samples), limit=config.forward_tokens)

        def micro(rows: Sequence[int], scale: float) -> Micro:
            return Micro([rollout.prompt_ids[i] for i in rows], [rollout.completion_ids[i] for i in rows], scale)

        micros = [micro(rows, scale) for rows in batches]
        micros += [micro([0], 0.0)] * (largest(len(batches), share) - len(batches))
        figures = {"length": scale * sum(rollout.lengths), "truncated": scale * rollout.finished.count(False)}
        return Plan(micros, sum(rollout.lengths) + sum(map(len, rollout.prompt_ids)), figures)

    def forward(self, micro: Micro) -> Loss:
        texts = micro.prompt_ids, micro.completion_ids
        own = compute.next_tokens(self.policy, *texts, grad=True)
        other = compute.next_tokens(self._teacher[0], *texts, grad=False)
        token_T = torch.tensor([t for ids in micro.completion_ids for t in ids], device=own.state_RX.device)
        parts = [
            checkpoint(self._distances, own, other, token_T, slice(at, at + ROWS), use_reentrant=False)
            for at in range(0, len(token_T), ROWS)
        ]
        kl_T, logp_T = (torch.cat(column) for column in zip(*parts, strict=True))
        loss = kl_T.sum()
        if self.config.credit == "response":
            loss = loss + (logp_T * still_to_come(kl_T.detach(), [len(ids) for ids in micro.completion_ids])).sum()
        kl, surprise = kl_T.detach().sum() * micro.scale, -logp_T.detach().sum() * micro.scale
        return Loss(loss * micro.scale, {"kl": kl, "surprise": surprise})

    def _distances(
        self, own: compute.NextTokens, other: compute.NextTokens, token_T: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor]:
        """KL to the teacher and log π(token) of some rows, at the sampling temperature."""
        logits_CV = own.logits(rows) / self.config.temperature
        other_CV = other.logits(rows)[:, : logits_CV.shape[1]] / self.config.temperature
        logp_C = logits_CV.log_softmax(-1).gather(1, token_T[rows, None]).squeeze(1)
        return next_token_kl(logits_CV, other_CV.to(logits_CV)), logp_C

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        del state


def still_to_come(value_T: Tensor, lengths: Sequence[int]) -> Tensor:
    """Σ of the later values of the same response, for every token of the responses in a row. Shape (T,)."""
    return torch.cat([part.sum() - part.cumsum(0) for part in value_T.split(list(lengths))])


def train_distill(
    policy_dir: str | PathLike[str],
    teacher_dir: str | PathLike[str],
    prompts: Sequence[Prompt],
    config: DistillConfig,
    out: str | PathLike[str],
    *,
    progress: Progress = silent,
) -> TrainResult:
    """Distil a teacher's next-token distribution into the causal LM of a folder, on its own samples; write ``out``.

    Both read a prompt in the policy's encoding. Run again, it resumes or returns. Raises RecipeError where the vocabularies
    differ, TrainingError and ModelError.
    """
    session = Session(
        f"distill {content_id([p.id for p in prompts])}",
        base=policy_dir,
        out=out,
        config=config,
        rows=[],
        further=[teacher_dir],
    )
    if (done := session.finished()) is not None:
        return done
    if config.evaluate_every is not None:
        raise RecipeError("distillation has no held-out evaluation", key="evaluate_every", fix="leave it out")
    tokenizer = folders.load_tokenizer(policy_dir)
    windows = [w for folder in (policy_dir, teacher_dir) if (w := folders.context_window(folder)) is not None]
    encoded = encode_prompts(
        tokenizer,
        prompts,
        max_prompt_tokens=config.max_prompt_tokens,
        max_new_tokens=config.max_new_tokens,
        context_window=min(windows, default=None),
    )
    share = share_of(session.accelerator)
    check_share(config, share)
    policy = folders.load_policy(policy_dir, dtype=session.dtype)
    teacher = folders.load_policy(teacher_dir, dtype=session.dtype).eval().requires_grad_(False)
    require_same_vocabulary(tokenizer, policy, folders.load_tokenizer(teacher_dir), teacher)
    policy = session.adapt(policy)
    for model in (policy, teacher.to(session.accelerator.device)):
        engine_of(model)  # tries the model out, which wants whole weights: before any sharding
    objective = DistillObjective(policy, teacher, tokenizer, encoded, config, share=share)
    outcome = session.run(objective, steps=planned_steps(len(encoded.prompts), config), progress=progress)
    what = "the exact gradient" if config.credit == "response" else "its gradient with prefixes held fixed"
    title = Title(
        "Policy distilled on its own samples",
        f"Reverse KL to the next-token distribution of `{teacher_dir}`, by {what}.",
    )
    return session.conclude(policy, tokenizer, outcome, title, rows=len(encoded.prompts), skipped=encoded.skipped)


def require_same_vocabulary(tokenizer: Any, policy: Any, other: Any, teacher: Any) -> None:
    """Raises RecipeError unless each token of the policy is the teacher's; the teacher's matrix may have rows to spare."""
    rows, of_teacher = (model.get_output_embeddings().weight.shape[0] for model in (policy, teacher))
    if tokenizer.get_vocab() != other.get_vocab() or of_teacher < rows:
        what = f"has another vocabulary ({of_teacher:,} rows) than the policy ({rows:,} rows), so tokens cannot be compared"
        raise RecipeError(what, key="teacher", fix="take a teacher of the policy's own family")
