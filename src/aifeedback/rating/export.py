"""Ratings as files that the other commands read: records one by one, and labelled pairs.

``ratings.jsonl``   every rating as it was given (who, what, order shown, seconds)
``labelled.jsonl``  pairs with ``human_p_first``, the mean of people's verdicts; where the rated file carries a model's
                    verdict, it stays in ``p_first``, so ``evaluate`` and ``calibrate`` compare the two; else ``p_first``
                    is people's own, ready to train on
``summary.json``    counts and agreement
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import files
from aifeedback.rating.items import Item
from aifeedback.rating.results import judgement, preference_of, preferences, summarise
from aifeedback.rating.task import Task
from aifeedback.records import Comparison, Preference, Rating
from aifeedback.storage import make_folder, write_json

SOURCE = "human"


class Exported(NamedTuple):
    summary: dict[str, Any]
    labelled: int
    """Pairs with a verdict of people."""


def export(task: Task, ratings: Sequence[Rating], folder: str | Path) -> Exported:
    """Writes the three files into ``folder``."""
    out = Path(folder)
    make_folder(out)
    known = {item.id for item in task.items}
    ratings = [rating for rating in ratings if rating.item_id in known]
    files.write_records(out / "ratings.jsonl", ratings)
    rows = _of_pairs(task, task.pairs, ratings) if task.pairs is not None else _of_rankings(task.items, ratings)
    rated = [row for row in rows if row.human_p_first is not None]
    files.write_labelled(out / "labelled.jsonl", rated)
    summary = summarise(task.items, ratings)
    write_json(out / "summary.json", summary)
    return Exported(summary, len(rated))


def _of_pairs(task: Task, pairs: files.Comparisons, ratings: Sequence[Rating]) -> list[files.LabelledRow]:
    said = preferences(pairs.rows, ratings, source=SOURCE)
    rows = files.labelled(pairs, said)
    return [
        row.model_copy(update={"human_p_first": human.p_first, **_of_model(recorded)})
        for row, human, recorded in zip(rows, said, pairs.recorded, strict=True)
    ]


def _of_model(recorded: tuple[float, str] | None) -> dict[str, Any]:
    return {} if recorded is None else {"p_first": recorded[0], "judge": recorded[1], "problem": None}


def _of_rankings(items: Sequence[Item], ratings: Sequence[Rating]) -> list[files.LabelledRow]:
    """Every two answers of an item, in storage order."""
    by_item: dict[str, list[Rating]] = {}
    for rating in ratings:
        by_item.setdefault(rating.item_id, []).append(rating)
    rows = []
    for item in items:
        for i, j in combinations(range(len(item.answers)), 2):
            comparison = Comparison.of(item.prompt, item.answers[i], item.answers[j])
            said = _of_two(comparison, (i, j), by_item.get(item.id, []))
            row = files.labelled([comparison], [said])[0]
            rows.append(row.model_copy(update={"human_p_first": said.p_first}))
    return rows


def _of_two(comparison: Comparison, places: tuple[int, int], ratings: Sequence[Rating]) -> Preference:
    i, j = places
    judgements = []
    for rating in ratings:
        p_first = None
        if rating.ranking is not None:
            one, other = rating.ranking[i], rating.ranking[j]
            p_first = 0.5 if one == other else float(one < other)
        elif rating.choice is not None and len(rating.order_shown) == 2:
            p_first = {"first": 1.0, "second": 0.0, "tie": 0.5}.get(rating.choice)
        shown_swapped = rating.order_shown.index(i) > rating.order_shown.index(j)
        judgements.append(judgement(comparison, rating, p_first, shown_swapped))
    return preference_of(comparison, judgements, SOURCE)
