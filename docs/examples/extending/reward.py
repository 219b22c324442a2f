"""A reward: the prompt's own words, repeated as few as possible, as `train rl --reward python:reward.py:no_echo`."""

from __future__ import annotations

from collections.abc import Sequence


def no_echo(prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
    """Minus the share of a completion's words that the prompt has too, in [-1, 0]; None for an empty completion."""
    return [_score(set(str(p).split()), c.split()) for p, c in zip(prompts, completions, strict=True)]


def _score(seen: set[str], words: list[str]) -> float | None:
    return -sum(word in seen for word in words) / len(words) if words else None
