"""Step 1 of chain of thought: a written rationale, once (greedy) or several times (self-consistency)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import Field

from aifeedback.config import Config
from aifeedback.feedback.seeds import derived_seed
from aifeedback.protocols import Model, PromptLike
from aifeedback.records import Problem, Sampling
from aifeedback.standards.judge import JudgePrompt


class Rationale(Config):
    """How rationales are written. The defaults are the paper's: one, greedy."""

    samples: int = Field(default=1, ge=1)
    """How many rationales are written and averaged (self-consistency)."""
    temperature: float = Field(default=0.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    """40 in the paper's self-consistency runs."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Overrides the prompt file's limit."""


class RationaleText(NamedTuple):
    text: str
    problem: Problem | None
    call_id: str | None


def write_rationales(
    model: Model,
    prompt: JudgePrompt,
    settings: Rationale,
    requests: Sequence[PromptLike],
    samples: Sequence[int],
    seed: int,
) -> list[RationaleText]:
    """One rationale per request, in order; requests with the same sample number share one call of the model.

    A rationale that hit its length limit is used as it is: the verdict is read after it all the same.
    """
    answers: dict[int, RationaleText] = {}
    for sample in sorted(set(samples)):
        chosen = [i for i, number in enumerate(samples) if number == sample]
        replies = model.reply([requests[i] for i in chosen], _sampling(prompt, settings, sample, seed))
        for i, reply in zip(chosen, replies, strict=True):
            answers[i] = RationaleText(reply.text.strip(), reply.problem, reply.call_id)
    return [answers[i] for i in range(len(requests))]


def _sampling(prompt: JudgePrompt, settings: Rationale, sample: int, seed: int) -> Sampling:
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=None,
        max_new_tokens=settings.max_tokens or prompt.rationale_max_tokens,
        stop=prompt.rationale_stop,
        seed=derived_seed(seed, "rationale", sample),
    )
