"""A file read as something to rate: pairs of any known format, several responses per prompt to be ranked, or single
responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from aifeedback import files
from aifeedback.errors import FileError
from aifeedback.files.pairs import map_columns
from aifeedback.files.report import RowFault
from aifeedback.files.shapes import shape_of
from aifeedback.rating.items import Expected, Item, Scale, items_of_comparisons, items_of_completions, single_items
from aifeedback.rating.people import meetings
from aifeedback.records import Comparison, Completion, content_id

ANSWER_COLUMNS = ("completion", "response", "output", "answer")
PAIR_COLUMNS = ("first", "second", "chosen", "rejected", "response_a", "response_b")
WEIGHT, STRATUM = "sampling_weight", "sampling_stratum"
STORAGE_SEED = 0
"""Draws the storage order of pairs whose file puts the better response first. It is the same for every run: ratings
must not depend on the seed of one sitting."""


Weight: TypeAlias = tuple[float, str]


class Task(NamedTuple):
    items: list[Item]
    pairs: files.Comparisons | None
    """The pairs as they were read, with the verdicts in the file; None for responses to be ranked or rated singly."""
    sentence: str
    """What was read."""
    meetings: list[Comparison]
    """Every two responses by different sources, those with the same text included: what win rates are about."""
    completions: files.Completions | None = None
    """Single responses as they were read."""
    weights: list[Weight] | None = None
    """Sampling weight and stratum of each of the ``meetings``, where the file is a sample of ``draw``."""


def read_task(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    harmful: bool = False,
    scale: Scale | None = None,
) -> Task:
    """Raises FileError where the file cannot be used or holds nothing to rate.

    ``harmful`` says that all items are, whatever their tags. ``scale`` asks about every response by itself.
    """
    if scale is not None or _holds_answers(path, columns):
        answers = files.read_completions(path, columns=columns)
        if scale is not None:
            items = single_items(answers.prompts, answers.rows, scale, harmful=harmful)
            return Task(items, None, answers.report.sentence(), [], answers)
        items = items_of_completions(answers.prompts, answers.rows, harmful=harmful)
        task = Task(items, None, answers.report.sentence(), meetings(answers.prompts, answers.rows))
    else:
        pairs = files.read_comparisons(path, STORAGE_SEED, columns=columns)
        items = items_of_comparisons(pairs.rows, harmful=harmful)
        met = list(_meetings(path, columns))
        weights = [weight for _, weight in met if weight is not None]
        task = Task(
            items,
            pairs,
            pairs.report.sentence(),
            [comparison for comparison, _ in met],
            weights=weights if met and len(weights) == len(met) else None,
        )
    if not task.items:
        raise FileError(
            "no prompt has two different responses",
            file=path,
            fix="give pairs, or several responses per prompt; --ask harmful, refused or score rates each by itself",
        )
    return task


def sampled(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most ``limit`` items, drawn at random by ``seed``; a larger limit keeps those of a smaller one."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = {item.id for item in sorted(items, key=lambda item: content_id("sample", seed, item.id))[:limit]}
    return [item for item in items if item.id in drawn]


def _meetings(path: str | Path, columns: Mapping[str, str] | None) -> Iterator[tuple[Comparison, Weight | None]]:
    """Pairs of every row whose responses have different sources, each with its sampling weight: repeated and identical
    ones too, which ``read_comparisons`` leaves out because no judge needs to see them."""
    for row in map_columns(path, files.read_rows(path), columns):
        shape = None if row.fault else shape_of(row.values)
        if shape is None:
            continue
        try:
            pairs = list(shape.read(row.values, None))
        except (RowFault, KeyError, TypeError, AttributeError, ValueError):
            continue  # reported by read_comparisons
        for pair in pairs:
            if pair.sources[0] != pair.sources[1]:
                prompt = pair.prompt.record()
                first = Completion.of(prompt, pair.first, source=pair.sources[0])
                second = Completion.of(prompt, pair.second, source=pair.sources[1])
                yield Comparison.of(prompt, first, second), weight_of(row.values)


def weight_of(row: Mapping[str, Any]) -> Weight | None:
    """The sampling weight of a row of ``draw``, and its stratum."""
    weight = row.get(WEIGHT)
    return (float(weight), str(row.get(STRATUM))) if isinstance(weight, int | float) and weight >= 1 else None


def _holds_answers(path: str | Path, columns: Mapping[str, str] | None) -> bool:
    """Whether the first row has one answer rather than two; a column map that names an answer decides."""
    if columns:
        return "completion" in columns
    first: Any = next(iter(files.read_rows(path)), None)
    names = set(first.values) if first is not None else set()
    return bool(names & set(ANSWER_COLUMNS)) and not names & set(PAIR_COLUMNS)


def agreed_items(path: str | Path, purpose: Literal["gold", "calibration"]) -> list[Item]:
    """Pairs whose verdict in the file is the agreed one, for the calibration round or to be mixed in.

    A column ``reason`` is shown as the explanation. Raises FileError where a pair has no verdict of people.
    """
    pairs = files.read_comparisons(path, STORAGE_SEED)
    items = []
    for comparison, p_first, cells in zip(pairs.rows, pairs.human, pairs.inputs, strict=True):
        if p_first is None:
            raise FileError(
                f"{comparison.prompt.text[:60]!r} has no agreed verdict",
                file=path,
                key="human_p_first",
                fix="give chosen and rejected, or human_p_first, in every row",
            )
        (item,) = items_of_comparisons([comparison], purpose=purpose)
        items.append(item._replace(expected=Expected(p_first, str(cells.get("reason") or ""))))
    return items
