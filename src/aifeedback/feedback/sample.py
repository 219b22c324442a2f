"""Completions from a model: k answers to each prompt, each from its own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aifeedback.feedback.seeds import derived_seed
from aifeedback.models.dialects import written
from aifeedback.protocols import Model, Progress, silent
from aifeedback.records import Completion, Problem, Prompt, Sampling


class Unanswered(NamedTuple):
    prompt_id: str
    sample: int
    problem: Problem
    call_id: str | None = None


class Sampled(NamedTuple):
    completions: list[Completion]
    """Prompt by prompt, each in order of its samples; what could not be answered is left out of here."""
    unanswered: list[Unanswered]
    thinking_removed: int = 0
    """Completions from which blocks of thinking were taken out."""


def sample_completions(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    per_prompt: int = 1,
    sampling: Sampling | None = None,
    source: str | None = None,
    batch_size: int = 256,
    progress: Progress = silent,
) -> Sampled:
    """``per_prompt`` answers to each prompt. An answer is kept as it came, spaces included, even when it is empty; only
    thinking before it is taken out, and an answer that never got beyond its thinking is not one.

    The same seed gives the same answers, whatever the batch size. ``source`` is the model's URI when not given.
    """
    sampling, source = sampling or Sampling(), source or model.card.uri
    found: dict[tuple[str, int], Completion] = {}
    unanswered: list[Unanswered] = []
    total, done, thinking_removed = len(prompts) * per_prompt, 0, 0
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        for sample in range(per_prompt):
            drawn = sampling.model_copy(update={"seed": derived_seed(sampling.seed, "sample", sample)})
            for prompt, reply in zip(batch, model.reply([list(p.messages) for p in batch], drawn), strict=True):
                if reply.problem is not None:
                    unanswered.append(Unanswered(prompt.id, sample, reply.problem, reply.call_id))
                    continue
                answer = written(reply.text)
                if not answer.text and reply.text:
                    is_cut = reply.finish_reason == "length"
                    problem = Problem.TRUNCATED if is_cut else Problem.EMPTY
                    unanswered.append(Unanswered(prompt.id, sample, problem, reply.call_id))
                    continue
                thinking_removed += answer.blocks > 0
                found[prompt.id, sample] = Completion.of(
                    prompt, answer.text or "", source=source, sampling=drawn, finish_reason=reply.finish_reason
                )
            done += len(batch)
            progress(done, total, {"unanswered": len(unanswered)})
    ordered = [found[p.id, s] for p in prompts for s in range(per_prompt) if (p.id, s) in found]
    return Sampled(ordered, sorted(unanswered, key=lambda missing: missing.sample), thinking_removed)
