"""What raters are shown: a prompt with one response, two, or three to eight, in an order of the rater's own.

An item is harmful where its prompt's tags say so (``harmful: true``, or ``label: unsafe`` as in XSTest), or all are.
Its id depends on the prompt and on the texts alone, never on their order or on who wrote them: a rating stays with its
item when a file is reordered, read with another seed, or labelled the other way round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import Literal, NamedTuple

from aifeedback.errors import InputError
from aifeedback.types import Comparison, Completion, Prompt, Rating, content_id, text_id

MOST_ANSWERS = 8
Purpose = Literal["rating", "repeat", "gold", "calibration"]


class Scale(NamedTuple):
    """What is asked about a single response: yes or no, or a whole number from ``low`` to ``high``."""

    asks: str
    question: str
    low: int = 0
    high: int = 1

    @property
    def is_yes_no(self) -> bool:
        return (self.low, self.high) == (0, 1)


SCALES = {
    "harmful": Scale("harmful", "Is this response harmful?"),
    "refused": Scale("refused", "Does this response refuse to help?"),
    "score": Scale("score", "How good is this response?", 1, 10),
}


class Expected(NamedTuple):
    """The agreed verdict of a gold or calibration item, in storage order, and the reason for it."""

    p_first: float
    reason: str = ""


class Item(NamedTuple):
    id: str
    prompt: Prompt
    answers: tuple[Completion, ...]
    """Responses with different texts, in storage order."""
    is_harmful: bool = False
    """Its texts are hidden until the rater asks to see them, and that is counted."""
    scale: Scale | None = None
    """The question for an item with a single response."""
    purpose: Purpose = "rating"
    expected: Expected | None = None

    @property
    def is_pair(self) -> bool:
        return len(self.answers) == 2

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(text_id(answer.text) for answer in self.answers)

    def order_for(self, rater: str, seed: int) -> tuple[int, ...]:
        """Storage index of the response at each position; differs between raters, stays the same for each of them.

        It is drawn for the texts, so that a rater sees them in the same order however they are stored.
        """
        places = self._by_text
        Random(content_id("order", seed, rater, self.id)).shuffle(places)
        return tuple(places)

    def written(self, order: Sequence[int]) -> str:
        """An order shown as a form holds it, independent of how the responses are stored."""
        return "-".join(str(self._by_text.index(i)) for i in order)

    def order_of(self, written: str) -> tuple[int, ...] | None:
        """The order shown that ``written`` stands for; None where it is none of this item."""
        parts = written.split("-")
        if sorted(parts) != [str(i) for i in range(len(self.answers))]:
            return None
        return tuple(self._by_text[int(part)] for part in parts)

    @property
    def _by_text(self) -> list[int]:
        return sorted(range(len(self.answers)), key=self.texts.__getitem__)


def item_id(prompt_id: str, texts: Sequence[str], scale: Scale | None = None) -> str:
    """The id of an item with these texts (their ``text_id``), in any order."""
    return content_id("item", prompt_id, sorted(texts), *([] if scale is None else [scale.asks, scale.low, scale.high]))


def items_of_comparisons(
    comparisons: Sequence[Comparison], *, harmful: bool = False, purpose: Purpose = "rating"
) -> list[Item]:
    """One item per different pair of texts; ``harmful`` says that all of them are."""
    items: dict[str, Item] = {}
    for comparison in comparisons:
        prompt, answers = comparison.prompt, (comparison.first, comparison.second)
        identity = item_id(prompt.id, [text_id(answer.text) for answer in answers])
        items.setdefault(
            identity, Item(identity, prompt, answers, harmful or is_tagged_harmful(prompt), purpose=purpose)
        )
    return list(items.values())


def is_tagged_harmful(prompt: Prompt) -> bool:
    tags = {key: value.strip().casefold() for key, value in prompt.tags.items()}
    return tags.get("harmful") in ("true", "yes", "1") or tags.get("label") == "unsafe"


def items_of_completions(
    prompts: Sequence[Prompt], completions: Sequence[Completion], *, harmful: bool = False
) -> list[Item]:
    """One item per prompt with all its different texts, to be ranked. Raises InputError beyond eight of them.

    A text that several sources wrote is shown once; what is said of it counts for each of them (``people.policy_pairs``).
    """
    items = []
    for prompt, answers in _by_prompt(prompts, completions):
        if len(answers) > MOST_ANSWERS:
            raise InputError(
                f"{len(answers)} responses to one prompt; a rater can rank {MOST_ANSWERS}",
                key="completion",
                fix="give fewer responses per prompt",
            )
        if len(answers) > 1:
            identity = item_id(prompt.id, [text_id(answer.text) for answer in answers])
            items.append(Item(identity, prompt, answers, harmful or is_tagged_harmful(prompt)))
    return items


def single_items(
    prompts: Sequence[Prompt], completions: Sequence[Completion], scale: Scale, *, harmful: bool = False
) -> list[Item]:
    """One item per prompt and different text."""
    return [
        Item(
            item_id(prompt.id, [text_id(answer.text)], scale),
            prompt,
            (answer,),
            harmful or is_tagged_harmful(prompt),
            scale,
        )
        for prompt, answers in _by_prompt(prompts, completions)
        for answer in answers
    ]


def _by_prompt(
    prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> list[tuple[Prompt, tuple[Completion, ...]]]:
    grouped: dict[str, tuple[Prompt, dict[str, Completion]]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        grouped.setdefault(prompt.id, (prompt, {}))[1].setdefault(completion.text, completion)
    return [(prompt, tuple(by_text.values())) for prompt, by_text in grouped.values()]


class Catalogue:
    """Finds the item that a rating is about, also where the rating was stored in another order of the responses."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = {item.id: item for item in items}

    def id_of(self, stored_id: str) -> str | None:
        """The id of the item that was stored under this id; None for an item of another file."""
        return stored_id if stored_id in self.items else self._earlier.get(stored_id, (None, ()))[0]

    def match(self, rating: Rating) -> Rating | None:
        """The rating as one of its item, in that item's storage order; None where it belongs to none."""
        item = self.items.get(rating.item_id)
        order: tuple[int, ...] | None
        if item is None:
            identity, order = self._earlier.get(rating.item_id, (None, None))
            item = self.items.get(identity or "")
        else:
            order = _order(rating.answers, item.texts)
        if item is None or order is None or not _fits(rating, len(item.answers)):
            return None
        return reordered(rating, order).model_copy(
            update={"item_id": item.id, "prompt_id": item.prompt.id, "answers": item.texts}
        )

    def matched(self, ratings: Sequence[Rating]) -> tuple[list[Rating], list[Rating]]:
        """Ratings of these items, and those that belong to none of them."""
        pairs = [(rating, self.match(rating)) for rating in ratings]
        return [match for _, match in pairs if match is not None], [r for r, match in pairs if match is None]

    @cached_property
    def _earlier(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Ids that depended on the order of the responses and on their sources, as older files of ratings have them."""
        known: dict[str, tuple[str, tuple[int, ...]]] = {}
        for item in self.items.values():
            if item.is_pair:
                comparison = Comparison.of(item.prompt, *item.answers)
                known[comparison.id] = item.id, (0, 1)
                known[comparison.swapped().id] = item.id, (1, 0)
            elif len(item.answers) > 2:
                old = content_id("item", item.prompt.id, [answer.id for answer in item.answers])
                known[old] = item.id, tuple(range(len(item.answers)))
        return known


def _order(stored: Sequence[str], texts: Sequence[str]) -> tuple[int, ...] | None:
    """Index among ``texts`` of each stored text; a rating that names no texts is in the item's order."""
    if not stored:
        return tuple(range(len(texts)))
    return tuple(texts.index(text) for text in stored) if Counter(stored) == Counter(texts) else None


def _fits(rating: Rating, count: int) -> bool:
    return len(rating.order_shown) == count and (rating.ranking is None or len(rating.ranking) == count)


def reordered(rating: Rating, order: Sequence[int]) -> Rating:
    """The same verdict where response i is stored at ``order[i]``."""
    if list(order) == list(range(len(order))):
        return rating
    ranking = None
    if rating.ranking is not None:
        ranks = dict(zip(order, rating.ranking, strict=True))
        ranking = tuple(ranks[i] for i in range(len(order)))
    choice = rating.choice
    if choice in ("first", "second"):
        choice = ("first", "second")[order[("first", "second").index(choice)]]
    shown = tuple(order[i] for i in rating.order_shown)
    return rating.model_copy(update={"choice": choice, "ranking": ranking, "order_shown": shown})


def current(ratings: Sequence[Rating]) -> list[Rating]:
    """The last rating of each rater on each item, in the order in which the items were first rated."""
    last: dict[tuple[str, str], Rating] = {}
    for rating in ratings:
        known = last.get((rating.item_id, rating.rater))
        if known is None or rating.revision >= known.revision:
            last[rating.item_id, rating.rater] = rating
    return list(last.values())


class Route(NamedTuple):
    """Items whose prompt has this tag go to raters with this role alone."""

    tag: str
    value: str
    role: str

    def takes(self, item: Item) -> bool:
        return item.prompt.tags.get(self.tag) == self.value


class Staff(NamedTuple):
    """Who may rate what."""

    raters: Sequence[str]
    volunteers: Sequence[str] | None = None
    """Raters who alone get harmful items; everyone where there are none."""
    roles: Mapping[str, frozenset[str]] = {}
    routes: Sequence[Route] = ()

    def able(self, item: Item) -> list[str]:
        needed = {route.role for route in self.routes if route.takes(item)}
        willing = self.volunteers if item.is_harmful and self.volunteers else self.raters
        return [rater for rater in willing if needed <= self.roles.get(rater, frozenset())]

    def require_known(self, items: Sequence[Item]) -> None:
        """Raises InputError for a volunteer who is not a rater, and for items that no rater may rate."""
        if self.volunteers and not set(self.volunteers) <= set(self.raters):
            unknown = sorted(set(self.volunteers) - set(self.raters))[0]
            raise InputError(f"'{unknown}' is not a rater", key="volunteers", fix="name volunteers among the raters")
        for route in self.routes:
            if not any(route.takes(item) for item in items):
                raise InputError(
                    f"no item has the tag {route.tag}={route.value}", key="route", fix="check the tags of the file"
                )
        left = [item for item in items if not self.able(item)]
        if left:
            roles = sorted({route.role for route in self.routes if route.takes(left[0])})
            raise InputError(
                f"{len(left)} of {len(items)} items need a rater with the role {' and '.join(roles)}; there is none",
                key="route",
                fix=f"add one, for example --rater ana:{','.join(roles)}",
            )


def shares(
    items: Sequence[Item],
    raters: Sequence[str],
    *,
    per_item: int | None,
    seed: int,
    volunteers: Sequence[str] | None = None,
    roles: Mapping[str, frozenset[str]] | None = None,
    routes: Sequence[Route] = (),
    rated: Mapping[str, set[str]] | None = None,
) -> Mapping[str, list[Item]]:
    """Assign every item to ``per_item`` raters (all of them by default), with equal loads, each in an order of their own.

    ``rated`` names who has rated an item already, raters who have left included: those ratings count first, and an
    item stays with whoever rated it. Harmful items go to ``volunteers`` alone, where some are named, and routed items
    to raters with the role.
    """
    staff, rated = Staff(raters, volunteers, roles or {}, routes), rated or {}
    staff.require_known(items)
    wanted = per_item or len(raters)
    most = len(raters) + max((len(rated.get(i.id, set()) - set(raters)) for i in items), default=0)
    if per_item is not None and not 1 <= per_item <= most:
        raise InputError(
            f"{per_item} ratings per item from {len(raters)} raters",
            key="per_item",
            fix="name more raters or ask for fewer",
        )
    queues: dict[str, list[Item]] = {
        rater: [item for item in items if rater in rated.get(item.id, ())] for rater in raters
    }
    for item in sorted(items, key=lambda item: content_id("share", seed, item.id)):
        done = rated.get(item.id, set())
        free = [rater for rater in staff.able(item) if rater not in done]
        free.sort(key=lambda rater: (len(queues[rater]), content_id("share", seed, rater, item.id)))
        for rater in free[: len(free) if per_item is None else max(0, wanted - len(done))]:
            queues[rater].append(item)
    for rater, own in queues.items():
        own.sort(key=lambda item: turn(item, rater, seed))
    return queues


def turn(item: Item, rater: str, seed: int) -> float:
    """When this rater sees the item, from 0 to 1: a repeat half a round after its original."""
    if item.purpose == "repeat":
        return turn(item._replace(id=original_id(item), purpose="rating"), rater, seed) + 0.5
    return int(content_id("turn", seed, rater, item.id), 16) / 16**16


def original_id(item: Item) -> str:
    return item_id(item.prompt.id, item.texts, item.scale)


def repeats(own: Sequence[Item], rater: str, *, share: float, seed: int) -> list[Item]:
    """Items of the first half of a rater's turn to be shown once more, ``share`` of all of them on average."""
    return [
        item._replace(id=content_id("repeat", item.id), purpose="repeat", expected=None)
        for item in own
        if item.purpose == "rating" and not item.is_harmful
        if turn(item, rater, seed) < 0.5
        if int(content_id("again", seed, rater, item.id), 16) / 16**16 < 2 * share
    ]
