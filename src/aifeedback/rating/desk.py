"""What each rater gets next, and what a form that comes back means. No web in here."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aifeedback.rating.book import RatingBook
from aifeedback.rating.items import Item, shares
from aifeedback.records import Rating

LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
LONGEST_COMMENT = 2000
FORM_LASTS_S = 24 * 3600.0
NOT_READ = "(not read)"
"""Comment of a harmful item that was left unread."""


@dataclass(frozen=True)
class Desk:
    """Everything the page needs to know."""

    book: RatingBook
    items: Sequence[Item]
    raters: Sequence[str]
    question: str = "Which response is better?"
    most_harmful: int | None = None
    """Harmful items that one person may see, over all sittings; no limit when not given."""
    volunteers: Sequence[str] | None = None
    """Raters who alone get harmful items; everyone when not given."""
    per_item: int | None = None
    """Raters per item; everyone rates everything when not given."""
    seed: int = 0
    hosts: Sequence[str] = LOOPBACK
    """Host names that requests may carry."""
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    saved: Callable[[int, int], None] = lambda done, total: None
    """Told after each new rating: ratings of this desk's shares that are there, and all that are wanted."""
    given: Mapping[str, list[Item]] = field(init=False)

    def __post_init__(self) -> None:
        split = shares(
            self.items, self.raters, per_item=self.per_item, seed=self.seed, volunteers=self.volunteers or None
        )
        object.__setattr__(self, "given", split)

    def next_for(self, rater: str, skip: str = "") -> Item | None:
        """The first item of this person's share that is not rated yet and may be shown; a skipped one comes last."""
        waiting = self.waiting(rater)
        return next((item for item in waiting if item.id != skip), waiting[0] if waiting else None)

    def waiting(self, rater: str) -> list[Item]:
        done, held = self.book.rated_by(rater), {item.id for item in self.held_back(rater)}
        return [item for item in self.given.get(rater, ()) if item.id not in done and item.id not in held]

    def held_back(self, rater: str) -> list[Item]:
        """Harmful items that this person is spared because enough others were seen."""
        seen = self.book.exposed_to(rater)
        if self.most_harmful is None or len(seen) < self.most_harmful:
            return []
        done = self.book.rated_by(rater)
        return [i for i in self.given.get(rater, ()) if i.is_harmful and i.id not in seen and i.id not in done]

    def item(self, rater: str, item_id: str) -> Item | None:
        return next((item for item in self.given.get(rater, ()) if item.id == item_id), None)

    def is_hidden(self, rater: str, item: Item) -> bool:
        return item.is_harmful and item.id not in self.book.exposed_to(rater)

    def progress(self) -> tuple[int, int]:
        """Ratings given and wanted, over all raters."""
        done = sum(len({i.id for i in own} & self.book.rated_by(rater)) for rater, own in self.given.items())
        return done, sum(len(own) for own in self.given.values())


def read_form(desk: Desk, rater: str, form: Mapping[str, str]) -> tuple[Rating | None, str]:
    """The rating that a form holds, or None and what is wrong with it."""
    item, problem = signed_item(desk, rater, form)
    if item is None:
        return None, problem
    order, hidden = item.order_for(rater, desk.seed), desk.is_hidden(rater, item)
    choice, ranking = _pair_choice(form, order) if item.is_pair else _ranking(form, order)
    if choice is None and ranking is None:
        return None, "Please choose an answer first." if item.is_pair else "Please give every response a rank first."
    if hidden and choice != "cannot_tell":
        return None, "Please have the texts shown first, or choose not to read them."
    comment = form.get("comment", "").strip()[:LONGEST_COMMENT] or None
    rating = Rating(
        item_id=item.id,
        rater=rater,
        choice=choice,
        ranking=ranking,
        order_shown=order,
        seconds=round(desk.now() - float(form["shown_at"]), 1),
        at=stamp(desk),
        comment=NOT_READ if hidden else comment,
    )
    return rating, ""


def signed_item(desk: Desk, rater: str, form: Mapping[str, str]) -> tuple[Item | None, str]:
    """The item that a form is about, if this page made the form for this person less than a day ago."""
    item = desk.item(rater, form.get("item", ""))
    if item is None:
        return None, "This item is not one of yours."
    shown_at, order = form.get("shown_at", ""), item.order_for(rater, desk.seed)
    if not desk.book.is_signed(form.get("signature", ""), rater, item.id, order, shown_at):
        return None, "This form was not made for you, or it was changed. Please answer the question below."
    if not 0 <= desk.now() - float(shown_at) <= FORM_LASTS_S:
        return None, "This form is more than a day old. Please answer the question below."
    return item, ""


def stamp(desk: Desk) -> str:
    return datetime.fromtimestamp(desk.now(), UTC).isoformat(timespec="seconds")


def _pair_choice(form: Mapping[str, str], order: Sequence[int]) -> tuple[Any, None]:
    """Storage side of the chosen place, tie or cannot_tell; None where nothing was chosen."""
    chosen = form.get("choice", "")
    if chosen in ("tie", "cannot_tell"):
        return chosen, None
    if chosen in ("0", "1"):
        return ("first", "second")[order[int(chosen)]], None
    return None, None


def _ranking(form: Mapping[str, str], order: Sequence[int]) -> tuple[Any, tuple[int, ...] | None]:
    """Rank of each answer in storage order; ties allowed; everything must be ranked, or nothing with 'cannot tell'."""
    if form.get("choice") == "cannot_tell":
        return "cannot_tell", None
    ranks = [form.get(f"rank-{place}", "") for place in range(len(order))]
    if any(rank not in {str(r) for r in range(1, len(order) + 1)} for rank in ranks):
        return None, None
    stored = [0] * len(order)
    for place, rank in enumerate(ranks):
        stored[order[place]] = int(rank)
    return None, tuple(stored)
