"""Figures of ratings."""

from __future__ import annotations

from aifeedback.annotation.items import items_of_comparisons
from aifeedback.annotation.results import summarise
from aifeedback.types import Comparison, Completion, Prompt, Rating


def test_the_median_of_an_even_number_of_ratings_is_between_the_middle_two() -> None:
    prompt = Prompt.of("Question?")
    items = items_of_comparisons([Comparison.of(prompt, *(Completion.of(prompt, t, source="s") for t in "ab"))])
    ratings = [
        Rating(item_id=items[0].id, rater=f"r{n}", choice="first", order_shown=(0, 1), seconds=s, at="2026-01-01T00:00:00Z")
        for n, s in enumerate((2.0, 4.0, 10.0, 100.0))
    ]  # fmt: skip
    assert summarise(items, ratings)["median_seconds"] == 7.0
    assert summarise(items, ratings[:3])["median_seconds"] == 4.0
