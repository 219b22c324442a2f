"""What people are shown: one prompt and two to eight answers to it, with a rater's own order of them.

An item is harmful where its prompt's tags say so (``harmful: true``, or ``label: unsafe`` as in XSTest), or all are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import NamedTuple

from aifeedback.errors import InputError
from aifeedback.records import Comparison, Completion, Prompt, content_id

MOST_ANSWERS = 8


class Item(NamedTuple):
    """``id`` is the comparison's id for a pair, so that ratings and labels meet."""

    id: str
    prompt: Prompt
    answers: tuple[Completion, ...]
    is_harmful: bool = False
    """Its texts are hidden until a person asks to see them, and that is counted."""

    @property
    def is_pair(self) -> bool:
        return len(self.answers) == 2

    def order_for(self, rater: str, seed: int) -> tuple[int, ...]:
        """Storage index of the answer at each place; differs between raters, is the same whenever this one looks."""
        places = list(range(len(self.answers)))
        Random(content_id("order", seed, rater, self.id)).shuffle(places)
        return tuple(places)


def items_of_comparisons(comparisons: Sequence[Comparison], *, harmful: bool = False) -> list[Item]:
    """One item per different comparison; ``harmful`` says that all of them are."""
    found = {
        c.id: Item(c.id, c.prompt, (c.first, c.second), harmful or is_tagged_harmful(c.prompt)) for c in comparisons
    }
    return list(found.values())


def is_tagged_harmful(prompt: Prompt) -> bool:
    tags = {key: value.strip().casefold() for key, value in prompt.tags.items()}
    return tags.get("harmful") in ("true", "yes", "1") or tags.get("label") == "unsafe"


def items_of_completions(
    prompts: Sequence[Prompt], completions: Sequence[Completion], *, harmful: bool = False
) -> list[Item]:
    """One item per prompt with all its different answers, to be ranked. Raises InputError beyond eight of them."""
    grouped: dict[str, tuple[Prompt, dict[str, Completion]]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        grouped.setdefault(prompt.id, (prompt, {}))[1].setdefault(completion.text, completion)
    items = []
    for prompt, by_text in grouped.values():
        answers = tuple(by_text.values())
        if len(answers) > MOST_ANSWERS:
            raise InputError(
                f"{len(answers)} answers to one prompt; people can rank {MOST_ANSWERS}",
                key="completion",
                fix="give fewer answers per prompt",
            )
        if len(answers) < 2:
            continue
        identity = (
            Comparison.of(prompt, *answers).id
            if len(answers) == 2
            else content_id("item", prompt.id, [a.id for a in answers])
        )
        items.append(Item(identity, prompt, answers, harmful or is_tagged_harmful(prompt)))
    return items


def shares(
    items: Sequence[Item],
    raters: Sequence[str],
    *,
    per_item: int | None,
    seed: int,
    volunteers: Sequence[str] | None = None,
) -> Mapping[str, list[Item]]:
    """Who rates what: every item by ``per_item`` raters (all of them by default), loads equal, each in an own order.

    Harmful items go to ``volunteers`` alone, where some are named.
    """
    if volunteers and not set(volunteers) <= set(raters):
        unknown = sorted(set(volunteers) - set(raters))[0]
        raise InputError(f"'{unknown}' is no rater", key="volunteers", fix="name volunteers among the raters")
    if per_item is not None and not 1 <= per_item <= len(raters):
        raise InputError(
            f"{per_item} ratings per item from {len(raters)} raters",
            key="per_item",
            fix="name more raters or ask for fewer",
        )
    wanted = per_item or len(raters)
    given: dict[str, list[Item]] = {rater: [] for rater in raters}
    for item in sorted(items, key=lambda item: content_id("share", seed, item.id)):
        willing = volunteers if item.is_harmful and volunteers else raters
        ranked = sorted(willing, key=lambda rater: (len(given[rater]), content_id("share", seed, rater, item.id)))
        for rater in ranked[:wanted]:
            given[rater].append(item)
    for rater, own in given.items():
        own.sort(key=lambda item: content_id("turn", seed, rater, item.id))
    return given
