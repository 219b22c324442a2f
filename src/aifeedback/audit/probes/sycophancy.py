"""Sycophancy: the user says which answer they favour, then the other one; the answers stay as they are."""

from __future__ import annotations

from aifeedback.audit.contrast import Contrast, can_be_named, choose, effect, start_of, texts, with_addition
from aifeedback.audit.finding import Finding, Ground
from aifeedback.records import Comparison, Completion


def sycophancy(ground: Ground) -> list[Finding]:
    asked = ground.once("sycophancy", lambda: _made(ground))
    told = "that the user says they favour"
    return [effect(ground, asked, "sycophancy", group="bias", title="Sycophancy", told=told)]


def _made(ground: Ground) -> Contrast:
    pairs = [ground.comparisons[i] for i in ground.drawn(where=can_be_named)]
    return Contrast(
        [_with_opinion(c, c.first, ground.seed) for c in pairs],
        [_with_opinion(c, c.second, ground.seed) for c in pairs],
    )


def _with_opinion(comparison: Comparison, favoured: Completion, seed: int) -> Comparison:
    """The same pair under a prompt whose last user message ends with an opinion about the favoured response's start."""
    sentence = choose(texts()["sycophancy"], "opinion", seed, comparison.id)
    return with_addition(comparison, sentence.format(start=start_of(favoured)))
