"""Who rates what: existing ratings count first, loads are equal, roles and routes are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from aifeedback.annotation.items import Item, Route, items_of_comparisons, shares
from aifeedback.errors import InputError
from aifeedback.types import Comparison, Completion, Prompt

from .pages import assignment, fields, pairs
from .test_app import visitor


def work(folder: Path, items: list[Item], raters: tuple[str, ...], most: int, **settings: object) -> None:
    """Each rater rates at most so many of their items through the page, then the page is closed."""
    where = assignment(folder, items, raters, **settings)
    for rater, token in where.store.invite(raters).items():
        client = visitor(where)
        client.get(f"/r/{token}")
        for _ in range(most):
            form = fields(client.get("/").text)
            if not form:
                break
            client.post("/rate", data={**form, "choice": "0"})
        del rater
    where.store.close()


@pytest.mark.parametrize(
    "sittings",
    [
        [("a", "b", "c"), ("a", "b", "c", "d")],
        [("a", "b", "c"), ("a", "b")],
        [("a", "b"), ("c", "d")],
        [("a", "b", "c"), ("b", "d"), ("a", "b", "c", "d", "e")],
    ],
)
def test_raters_who_come_and_go_never_make_more_ratings_than_wanted(
    tmp_path: Path, sittings: list[tuple[str, ...]]
) -> None:
    items = pairs(20)
    for raters in sittings[:-1]:
        work(tmp_path, items, raters, 6, per_item=2)
    work(tmp_path, items, sittings[-1], 60, per_item=2)
    where = assignment(tmp_path, items, sittings[-1], per_item=2)
    counts = Counter(rating.item_id for rating in where.store.ratings())
    assert set(counts.values()) == {2}
    assert len(counts) == 20


def test_another_seed_between_sittings_makes_no_more_ratings(tmp_path: Path) -> None:
    items = pairs(12)
    work(tmp_path, items, ("a", "b", "c"), 3, per_item=1, seed=0)
    work(tmp_path, items, ("a", "b", "c"), 60, per_item=1, seed=9)
    assert len(assignment(tmp_path, items, ("a",)).store.ratings()) == 12


def test_loads_stay_equal_where_some_have_rated_already() -> None:
    items = pairs(30)
    rated = {item.id: {"a"} for item in items[:10]}
    queues = shares(items, ["a", "b", "c"], per_item=1, seed=0, rated=rated)
    assert {rater: len(own) for rater, own in queues.items()} == {"a": 10, "b": 10, "c": 10}


def tagged(topics: str) -> list[Item]:
    made = []
    for i, topic in enumerate(topics):
        prompt = Prompt.of(f"Q{i}", tags={"topic": {"m": "medical", "l": "law", "o": "other"}[topic]})
        made.append(Comparison.of(prompt, *(Completion.of(prompt, t, source=t) for t in "ab")))
    return items_of_comparisons(made)


ROUTES = (Route("topic", "medical", "medical"), Route("topic", "law", "lawyer"))


def test_routed_items_go_to_the_role_alone(tmp_path: Path) -> None:
    roles = {"ana": frozenset({"medical"}), "leo": frozenset({"lawyer", "medical"}), "tom": frozenset[str]()}
    where = assignment(tmp_path, tagged("mmlloo"), tuple(roles), roles=roles, routes=ROUTES)
    topics = {rater: Counter(i.prompt.tags["topic"] for i in own) for rater, own in where.queues.items()}
    assert topics == {
        "ana": {"medical": 2, "other": 2},
        "leo": {"medical": 2, "law": 2, "other": 2},
        "tom": {"other": 2},
    }


def test_items_that_nobody_may_rate_are_named_before_a_page_opens(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="role lawyer"):
        assignment(tmp_path, tagged("mlo"), ("ana",), roles={"ana": frozenset({"medical"})}, routes=ROUTES)
    with pytest.raises(InputError, match="no item has the tag topic=law"):
        assignment(tmp_path, tagged("mo"), ("ana",), roles={"ana": frozenset({"medical"})}, routes=ROUTES)


def test_too_few_raters_with_the_role_are_counted(tmp_path: Path) -> None:
    roles = {"ana": frozenset({"medical"}), "tom": frozenset[str]()}
    where = assignment(tmp_path, tagged("mmo"), tuple(roles), per_item=2, roles=roles, routes=ROUTES[:1])
    assert where.short() == 2
