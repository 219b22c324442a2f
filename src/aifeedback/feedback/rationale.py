"""Step 1 of chain of thought: a written rationale, once (greedy) or several times (self-consistency)."""

from __future__ import annotations

import re
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

    A rationale that hit its length limit is used as it is: the verdict is read after it all the same. One that goes on
    to state the verdict by itself is cut there, since the forced ending follows.
    """
    answers: dict[int, RationaleText] = {}
    for sample in sorted(set(samples)):
        chosen = [i for i, number in enumerate(samples) if number == sample]
        replies = model.reply([requests[i] for i in chosen], _sampling(prompt, settings, sample, seed))
        for i, reply in zip(chosen, replies, strict=True):
            answers[i] = RationaleText(before_verdict(reply.text, prompt).strip(), reply.problem, reply.call_id)
    return [answers[i] for i in range(len(requests))]


def _sampling(prompt: JudgePrompt, settings: Rationale, sample: int, seed: int) -> Sampling:
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=None,
        max_new_tokens=settings.max_tokens or prompt.rationale_max_tokens,
        stop=default_stops(prompt),
        seed=derived_seed(seed, "rationale", sample),
    )


def default_stops(prompt: JudgePrompt) -> tuple[str, ...]:
    """Where a rationale ends: the prompt's own stops, else the first words of its ending.

    Examples teach "rationale, then verdict", so a base model writes its verdict, and further samples, before the forced
    ending comes.
    """
    words = _ending_words(prompt)
    return prompt.rationale_stop or ((words,) if words else ())


def before_verdict(text: str, prompt: JudgePrompt) -> str:
    """The part of a rationale before a line that begins as the prompt's ending does, whatever its capitals and marks."""
    words = re.findall(r"\w+", _ending_words(prompt))
    if not words or prompt.rationale_stop:
        return text
    spaced = r"[^\w\n]+".join(map(re.escape, words))
    ending = rf"^[^\w\n]*{spaced}[^\w\n]*[=:]"
    found = re.search(ending, text, re.IGNORECASE | re.MULTILINE)
    return text[: found.start()] if found else text


def _ending_words(prompt: JudgePrompt) -> str:
    """What the ending's last line says, up to where the label stands: "Preferred Response=" or "Rating:"."""
    lines = [line.strip() for line in prompt.ending.split("\n") if line.strip()]
    return lines[-1] if lines and re.fullmatch(r"[^={}]*\w\s*[=:]", lines[-1]) else ""
