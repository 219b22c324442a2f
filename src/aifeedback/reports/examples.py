"""Side-by-side examples chosen by rule: one side's clearest win, its clearest loss, and one drawn by a hash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aifeedback.types import Comparison, Preference, Prompt, content_id

UNSAFE = ("unsafe", "harmful", "toxic", "sensitive")
"""Values of the tag ``label`` that hide an example until it is clicked."""
FLAGS = ("unsafe", "harmful", "toxic", "sensitive")
"""Tags that do the same where they are true."""


def pick_examples(
    comparisons: Sequence[Comparison],
    preferences: Sequence[Preference],
    *,
    first: str,
    second: str,
    each: int = 1,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """``each`` best, worst and random examples for ``first``, as the report shows them; unknown preferences never.

    Where ``first`` won, or lost, no comparison there is no such example; a tie is neither.
    An example is sensitive where its prompt is tagged unsafe; the ids let a reader of assessments add its own.

    Among equal preferences the order is that of a hash of seed and comparison, so no one's taste decides.
    """
    known = [
        (label.p_first, content_id("example", seed, c.id), c)
        for c, label in zip(comparisons, preferences, strict=True)
        if label.p_first is not None
    ]
    by_preference = sorted(known, key=lambda item: (-item[0], item[1]))
    by_chance = sorted(known, key=lambda item: item[1])
    picked: dict[str, dict[str, Any]] = {}
    for rule, rows in (
        (f"where {first} won most clearly over {second}", [row for row in by_preference if row[0] > 0.5]),
        (f"where {first} lost most clearly to {second}", [row for row in by_preference[::-1] if row[0] < 0.5]),
        (f"drawn by chance: {first} and {second}", by_chance),
    ):
        fresh = [row for row in rows if row[2].id not in picked][:each]
        for p_first, _, comparison in fresh:
            picked[comparison.id] = {
                "rule": rule,
                "prompt": comparison.prompt.text,
                "answers": {first: comparison.first.text, second: comparison.second.text},
                "scores": {first: p_first, second: 1.0 - p_first},
                "completions": {first: comparison.first.id, second: comparison.second.id},
                "sensitive": is_sensitive(comparison.prompt),
            }
    return list(picked.values())


def is_sensitive(prompt: Prompt) -> bool:
    """Whether the prompt's tags call it unsafe: ``label: unsafe``, or one of the flags set."""
    tags = {str(key).lower(): str(value).strip().lower() for key, value in (prompt.tags or {}).items()}
    return tags.get("label") in UNSAFE or any(tags.get(flag) in ("true", "1", "yes") for flag in FLAGS)
