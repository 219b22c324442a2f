"""One rating per person and item; nobody rates without an own token."""

from __future__ import annotations

from pathlib import Path

from aifeedback.annotation.store import RatingBook
from aifeedback.types import Rating


def test_a_second_rating_of_one_item_is_not_stored(tmp_path: Path) -> None:
    book = RatingBook(tmp_path / "r.sqlite")
    rating = Rating(item_id="i", rater="anna", choice="first", order_shown=(0, 1), at="2026-01-01T00:00:00+00:00")
    assert book.add(rating)
    assert not book.add(rating.model_copy(update={"choice": "second"}))
    assert book.ratings() == [rating]


def test_only_the_newest_token_opens_the_page(tmp_path: Path) -> None:
    book = RatingBook(tmp_path / "r.sqlite")
    old = book.invite(["anna"])["anna"]
    new = book.invite(["anna"])["anna"]
    assert (book.rater_of(old), book.rater_of(new), book.rater_of(""), book.rater_of(None)) == (
        None,
        "anna",
        None,
        None,
    )
