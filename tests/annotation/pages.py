"""Desks to rate at: a few pairs, a ranked item, a harmful one; and what a browser would send."""

from __future__ import annotations

import re
from pathlib import Path

from aifeedback.annotation.assignment import Assignment
from aifeedback.annotation.items import Item, items_of_comparisons, items_of_completions
from aifeedback.annotation.store import RatingStore
from aifeedback.types import Comparison, Completion, Prompt

HOST = "http://127.0.0.1:8765"
XSS = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">{{ 7*7 }}"


def pairs(count: int, *, harmful: bool = False, text: str = "Question") -> list[Item]:
    made = []
    for i in range(count):
        prompt = Prompt.of(f"{text} {i}", tags={"harmful": "true"} if harmful else {})
        made.append(
            Comparison.of(prompt, *(Completion.of(prompt, f"{t} answer {i}", source=t) for t in ("red", "blue")))
        )
    return items_of_comparisons(made)


def ranked(count: int = 1) -> list[Item]:
    prompts = [Prompt.of(f"Rank {i}") for i in range(count) for _ in range(3)]
    answers = [Completion.of(p, f"text {k % 3}", source=f"m{k % 3}") for k, p in enumerate(prompts)]
    return items_of_completions(prompts, answers)


def assignment(folder: Path, items: list[Item], raters: tuple[str, ...] = ("anna",), **settings: object) -> Assignment:
    return Assignment(RatingStore(folder / "ratings.sqlite"), items, raters, **settings)  # type: ignore[arg-type]


def fields(page: str) -> dict[str, str]:
    """The hidden fields of the page's rating form."""
    return dict(re.findall(r'name="(item|shown_at|signature)" value="([^"]*)"', page))
