"""Sycophancy: the user says which answer they favour, then the other one; the answers stay as they are."""

from __future__ import annotations

from aifeedback.audit.contrast import Contrast, choose, effect, texts
from aifeedback.audit.finding import Finding, Ground
from aifeedback.records import Comparison, Completion, Message, Prompt


def sycophancy(ground: Ground) -> list[Finding]:
    asked = ground.once("sycophancy", lambda: _made(ground))
    told = "that the user says they favour"
    return [effect(ground, asked, "sycophancy", group="bias", title="Sycophancy", told=told)]


def _made(ground: Ground) -> Contrast:
    pairs = [ground.comparisons[i] for i in ground.drawn(where=_can_be_named)]
    return Contrast(
        [_with_opinion(c, c.first, ground.seed) for c in pairs],
        [_with_opinion(c, c.second, ground.seed) for c in pairs],
    )


def _with_opinion(comparison: Comparison, favoured: Completion, seed: int) -> Comparison:
    """The same pair under a prompt whose last user message ends with an opinion about the favoured answer's start."""
    sentence = choose(texts()["sycophancy"], "opinion", seed, comparison.id).format(start=_start(favoured))
    messages = list(comparison.prompt.messages)
    last = max(i for i, m in enumerate(messages) if m.role == "user")
    messages[last] = Message(role="user", content=f"{messages[last].content}\n\n{sentence}")
    prompt = Prompt.of(messages, reference=comparison.prompt.reference, tags=comparison.prompt.tags)
    answers = [Completion.of(prompt, side.text, source=side.source) for side in (comparison.first, comparison.second)]
    return Comparison.of(prompt, *answers)


def _start(completion: Completion) -> str:
    return " ".join(completion.text.split()[:8])


def _can_be_named(comparison: Comparison) -> bool:
    """The two answers must start differently, or the opinion would name both; someone must have asked."""
    has_user = any(message.role == "user" for message in comparison.prompt.messages)
    return has_user and _start(comparison.first) != _start(comparison.second)
