"""Trailing periods and spaces are taken off before judging, and what went is told.

Source: Lee et al. 2023 (arXiv 2309.00267), post-RL response formatting: policies learn to end in runs of such symbols.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from aifeedback.records import Completion, Prompt


class CleanedUp(NamedTuple):
    completions: list[Completion]
    changed: int
    """How many lost anything."""
    characters: int
    """How many characters went, in all."""
    share: float | None
    """Of all characters; None where there were none."""
    endings: dict[str, int]
    """What went, with how often; the most frequent five."""


def clean_up(prompts: Sequence[Prompt], completions: Sequence[Completion], *, trailing: str = " .\n\t") -> CleanedUp:
    """Removes these characters from the ends; the period that ends a sentence stays. Source names are kept."""
    cleaned, characters, total = [], 0, 0
    endings: Counter[str] = Counter()
    for prompt, completion in zip(prompts, completions, strict=True):
        text = _cleaned(completion.text, trailing)
        if text != completion.text:
            endings[completion.text[len(text) :]] += 1
        total += len(completion.text)
        characters += len(completion.text) - len(text)
        cleaned.append(
            completion
            if text == completion.text
            else Completion.of(
                prompt,
                text,
                source=completion.source,
                sampling=completion.sampling,
                finish_reason=completion.finish_reason,
            )
        )
    share = characters / total if total else None
    return CleanedUp(cleaned, endings.total(), characters, share, dict(endings.most_common(5)))


def _cleaned(text: str, trailing: str) -> str:
    kept = text.rstrip(trailing)
    spaces, period, _ = text[len(kept) :].partition(".")
    return kept + spaces + period if kept and period and not spaces.strip(" ") else kept
