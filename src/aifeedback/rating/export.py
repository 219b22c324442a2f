"""Ratings as files that the other commands read.

``ratings.jsonl``   every rating as it was stored (who, what, order shown, seconds), whatever file it belongs to
``labelled.jsonl``  pairs with ``human_p_first``, the mean of people's verdicts; where the rated file carries a model's
                    verdict, it stays in ``p_first``, so ``evaluate`` and ``calibrate`` compare the two; else ``p_first``
                    is people's own, ready to train on
``scored.jsonl``    instead of it for single responses: the mean of people's values
``summary.json``    counts, agreement, win rates by people, and how good each rater is
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import files
from aifeedback.files.shapes import HUMAN
from aifeedback.rating.draw import weighted_mean
from aifeedback.rating.items import Catalogue, Item, current, item_id
from aifeedback.rating.people import PeopleLabeler, win_rates
from aifeedback.rating.quality import rater_quality
from aifeedback.rating.results import summarise
from aifeedback.rating.task import Task, weight_of
from aifeedback.records import Comparison, Preference, Problem, Rating, text_id
from aifeedback.storage import make_folder, write_json

SOURCE = "human"


class Exported(NamedTuple):
    summary: dict[str, Any]
    labelled: int
    """Pairs, or single responses, with a verdict of people."""
    strays: int
    """Ratings that belong to no item of the file; they are in ``ratings.jsonl`` and count nowhere else."""
    file: Path


def export(
    task: Task,
    ratings: Sequence[Rating],
    folder: str | Path,
    *,
    exclude: Sequence[str] = (),
    reference: str = "",
    gold: Sequence[Item] = (),
) -> Exported:
    """Write the three files into ``folder``. ``exclude`` names raters whose ratings do not count; they are kept in
    ``ratings.jsonl``. ``reference`` is the policy that the others are compared with; ``gold`` has the items with an
    agreed verdict that were mixed in."""
    out = Path(folder)
    make_folder(out)
    files.write_records(out / "ratings.jsonl", ratings)
    own = Catalogue(task.items)
    counting = [rating for rating in ratings if rating.rater not in exclude]
    matched = current(own.matched([rating for rating in counting if rating.purpose == "rating"])[0])
    people = PeopleLabeler(matched, name=SOURCE)
    summary = summarise(task.items, counting)
    if task.completions is not None:
        file = out / "scored.jsonl"
        labelled, summary["values"] = _write_scores(file, task, matched)
    else:
        file = out / "labelled.jsonl"
        rows = _of_pairs(task.pairs, people) if task.pairs is not None else _of_rankings(task.items, people)
        summary["weighted_agreement"] = _weighted_agreement(rows)
        rows = [row for row in rows if row.human_p_first is not None]
        labelled = files.write_labelled(file, rows)
        rates = win_rates(task.meetings, people, reference=reference, weights=task.weights)
        summary["win_rates"] = rates or None
    summary["excluded"] = sorted(set(exclude))
    summary["rater_quality"] = rater_quality([*task.items, *gold], ratings) or None
    write_json(out / "summary.json", summary)
    return Exported(summary, labelled, summary["ratings_of_other_items"], file)


def _weighted_agreement(rows: Sequence[files.LabelledRow]) -> dict[str, Any] | None:
    """Of a sample of ``draw``: how often the judge in the file decides as people do, over all rows it stands for."""
    weights = [weight_of(row.extra) for row in rows]
    judged = [row.p_first if row.judge != SOURCE else None for row in rows]
    known = [weight for weight in weights if weight is not None]
    if not rows or len(known) < len(rows) or all(p is None for p in judged):
        return None
    agrees = [
        None if p is None or h is None or h == 0.5 else 0.5 if p == 0.5 else float((p > 0.5) == (h > 0.5))
        for p, h in zip(judged, (row.human_p_first for row in rows), strict=True)
    ]
    return weighted_mean(agrees, [weight for weight, _ in known], [stratum for _, stratum in known]).as_dict()


def _of_pairs(pairs: files.Comparisons, people: PeopleLabeler) -> list[files.LabelledRow]:
    said = people.label(pairs.rows)
    rows = files.labelled(pairs, said)
    joined = zip(rows, said, pairs.recorded, pairs.inputs, strict=True)
    return [
        row.model_copy(
            update={
                "human_p_first": human.p_first,
                "extra": _extra(row),
                **_of_model(recorded, cells),
            }
        )
        for row, human, recorded, cells in joined
    ]


def _extra(row: files.LabelledRow) -> dict[str, Any]:
    """The input's own columns, the item's id, and people's verdict that the file came with."""
    comparison = row.comparison
    texts = [text_id(completion.text) for completion in (comparison.first, comparison.second)]
    earlier = {} if row.human_p_first is None else {"human_p_first_before": row.human_p_first}
    return {**row.extra, "item_id": item_id(comparison.prompt.id, texts), **earlier}


def _of_model(recorded: tuple[float, str] | None, cells: Mapping[str, Any]) -> dict[str, Any]:
    """A model's verdict in the file, also where people's stood beside it, and also one that is unknown."""
    if recorded is not None:
        return {"p_first": recorded[0], "judge": recorded[1], "problem": None, **_gap(cells)}
    judge = cells.get("judge")
    is_stored = all(key in cells for key in ("first", "second", "p_first"))  # else p_first may be about another order
    if not (is_stored and isinstance(judge, str) and judge and judge != HUMAN and not judge.startswith("people:")):
        return {}
    p_first = cells["p_first"]
    if p_first is None:
        return {"p_first": None, "judge": judge, "problem": Problem(cells.get("problem") or Problem.MISSING)}
    return {"p_first": float(p_first), "judge": judge, "problem": None, **_gap(cells)}


def _gap(cells: Mapping[str, Any]) -> dict[str, Any]:
    gap = cells.get("position_gap")
    return {"position_gap": float(gap)} if isinstance(gap, int | float) else {}


def _of_rankings(items: Sequence[Item], people: PeopleLabeler) -> list[files.LabelledRow]:
    """Every two responses of an item, in storage order."""
    pairs = [
        Comparison.of(item.prompt, item.answers[i], item.answers[j])
        for item in items
        for i, j in combinations(range(len(item.answers)), 2)
    ]
    said: list[Preference] = people.label(pairs)
    rows = files.labelled(pairs, said)
    return [row.model_copy(update={"human_p_first": p.p_first}) for row, p in zip(rows, said, strict=True)]


def _write_scores(path: Path, task: Task, ratings: Sequence[Rating]) -> tuple[int, dict[str, Any]]:
    """One row per response that somebody rated, and the mean of each source."""
    answers, scale = task.completions, task.items[0].scale
    assert answers is not None
    assert scale is not None
    values: dict[str, list[float]] = defaultdict(list)
    for rating in ratings:
        if rating.value is not None:
            values[rating.item_id].append(rating.value)
    rows, by_source = [], defaultdict(list)
    for prompt, completion, cells in zip(answers.prompts, answers.rows, answers.inputs, strict=True):
        said = values.get(item_id(prompt.id, [text_id(completion.text)], scale))
        if said:
            mean = sum(said) / len(said)
            rows.append({**cells, f"human_{scale.asks}": mean, "human_raters": len(said)})
            by_source[completion.source].append((prompt.id, mean))
    files.write_rows(path, rows)
    return len(rows), {source: _mean(pairs, scale.is_yes_no) for source, pairs in sorted(by_source.items())}


def _mean(pairs: Sequence[tuple[str, float]], is_share: bool) -> dict[str, Any]:
    """Mean over responses with its 95 % interval, clustered by prompt."""
    import numpy as np

    from aifeedback.evaluate.columns import groups
    from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate
    from aifeedback.evaluate.intervals import share_interval, t_of, variance_of_mean

    values = np.array([value for _, value in pairs])
    clusters = groups([prompt for prompt, _ in pairs], np.ones(len(values), dtype=bool))
    mean, (variance, df) = float(values.mean()), variance_of_mean(values, clusters)
    if is_share:
        interval = share_interval(values, clusters)
        low, high, method = interval.low, interval.high, "share, Wilson interval over prompts"
    else:
        reach = t_of(0.95, df) * float(np.sqrt(variance)) if df >= 1 else NOT_KNOWN
        low, high, method = mean - reach, mean + reach, "mean, t interval over prompts"
    return Estimate(mean, low, high, len(values), method, standard_error=float(np.sqrt(variance))).as_dict()
