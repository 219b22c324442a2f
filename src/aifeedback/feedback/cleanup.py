"""Trailing periods and spaces are taken off before judging, and how much that was is told.

Source: Lee et al. 2023 (arXiv 2309.00267), post-RL response formatting: policies learn to end in runs of such symbols.
"""

from __future__ import annotations

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


def clean_up(prompts: Sequence[Prompt], completions: Sequence[Completion], *, trailing: str = " .\n\t") -> CleanedUp:
    """Removes these characters from the ends; one period that ends a sentence stays. Source names are kept."""
    cleaned, characters, total = [], 0, 0
    for prompt, completion in zip(prompts, completions, strict=True):
        text = _cleaned(completion.text, trailing)
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
    changed = sum(new is not old for new, old in zip(cleaned, completions, strict=True))
    return CleanedUp(cleaned, changed, characters, characters / total if total else None)


def _cleaned(text: str, trailing: str) -> str:
    kept = text.rstrip(trailing)
    rest = text[len(kept) :]
    return kept + "." if "." in trailing and kept and rest.startswith(".") else kept
