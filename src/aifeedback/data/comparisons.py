"""Comparisons in, with or without a verdict; labelled files that TRL loads as they are, out.

``read_comparisons`` detects the format of a file from its columns (``formats``), drops unusable rows with a reason, and
merges several votes on one pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

from pydantic import Field

from aifeedback.data.formats import HUMAN
from aifeedback.data.pairs import PairItem, read_pairs
from aifeedback.data.prompts import Completions
from aifeedback.data.tables import ReadReport, Skipped, write_rows
from aifeedback.data.transcripts import is_messages
from aifeedback.errors import FileError
from aifeedback.types import Comparison, Preference, Probability, Problem, Record

_PAIR = frozenset(("prompt", "first", "second", "chosen", "rejected", "human_p_first", "first_source", "second_source",
                   "tags", "reference"))  # fmt: skip
"""Columns of the input that the pair itself holds."""
_LABEL = frozenset(("p_first", "chosen_probability", "judge", "position_gap", "problem", "comparison_id"))
"""Columns that a label adds; a file's own columns of these names are kept under ``input_NAME``."""


class LabelledRow(Record):
    """One line of a labelled file: the comparison, its label, the human verdict, the input's own columns."""

    comparison: Comparison
    p_first: Probability | None
    judge: str
    position_gap: float | None = None
    problem: Problem | None = None
    human_p_first: Probability | None = None
    """The human verdict of the input, about storage order; None if it has none."""
    stored_as_chat: bool = False
    """Whether the input had ``first`` and ``second`` as message lists, so that they are written as such."""
    extra: Mapping[str, Any] = Field(default_factory=dict)

    @property
    def margin(self) -> Any:
        """By how much the better response should lead, from the file's column of this name; as TRL reads it."""
        return self.extra.get("margin")


class Rows(Sequence[Comparison]):
    """Comparisons made on first access: their ids cost as much as reading the file does."""

    def __init__(self, items: Sequence[PairItem]) -> None:
        self._items = items
        self._made: dict[int, Comparison] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Comparison: ...
    @overload
    def __getitem__(self, place: slice) -> list[Comparison]: ...
    def __getitem__(self, place: int | slice) -> Comparison | list[Comparison]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        if place not in self._made:
            self._made[place] = self._items[place].comparison()
        return self._made[place]


class Comparisons(NamedTuple):
    """A file of comparisons. All lists run parallel to ``rows``."""

    rows: Sequence[Comparison]
    human: list[float | None]
    """The human verdict as p_first: 1 the first, 0 the second, 0.5 a tie, several votes their mean; None: unknown."""
    report: ReadReport
    inputs: list[Mapping[str, Any]]
    """The row as it stood in the file."""
    recorded: list[tuple[float, str] | None]
    """A model's verdict that the file carries: (p_first, the model); None if there is none."""


def read_comparisons(
    path: str | Path,
    seed: int = 0,
    *,
    columns: Mapping[str, str] | None = None,
    criterion: str | None = None,
    limit: int | None = None,
) -> Comparisons:
    """Read pairs of any known format. Raises FileError where the file as a whole cannot be used.

    ``columns`` maps our names to the file's (``{"prompt": "question", "first": "a", "second": "b"}``); ``criterion``
    picks the verdict if a file has several ("safer" in PKU-SafeRLHF, an attribute in HelpSteer2); ``limit`` is the
    most comparisons to read. If the file puts the better response first, ``seed`` draws each pair's storage order.
    """
    items, report = read_pairs(path, seed, columns, criterion, limit)
    return Comparisons(
        rows=Rows(items),
        human=[item.pair.p_first if item.pair.by == HUMAN else None for item in items],
        report=report,
        inputs=[item.row for item in items],
        recorded=[
            (item.pair.p_first, item.pair.by)
            if item.pair.by not in (None, HUMAN) and item.pair.p_first is not None
            else None
            for item in items
        ],
    )


class Labelled(NamedTuple):
    """A file of labels: its rows, and what became of each row of the file."""

    rows: list[LabelledRow]
    report: ReadReport


def load_labelled(
    path: str | Path, seed: int = 0, *, columns: Mapping[str, str] | None = None, criterion: str | None = None
) -> Labelled:
    """Read labels: a file of ``write_labelled``, or any comparisons file that carries a verdict, human ones included.

    A row without one has ``p_first`` None and a problem. Raises FileError as ``read_comparisons`` does.
    """
    items, report = read_pairs(path, seed, columns, criterion, None)
    return Labelled([_as_labelled(item) for item in items], report)


def read_labelled(
    path: str | Path, seed: int = 0, *, columns: Mapping[str, str] | None = None, criterion: str | None = None
) -> list[LabelledRow]:
    """``load_labelled(...).rows``: the labels alone."""
    return load_labelled(path, seed, columns=columns, criterion=criterion).rows


def load_judged(path: str | Path, seed: int = 0, *, or_people: bool = False) -> Labelled:
    """As ``load_labelled``, of a model's verdicts only; a row without one is unknown.

    Pairs with empty or equal responses stay in: they were judged, and their verdicts count. Raises FileError if no
    row carries a model's verdict; with ``or_people``, if none carries one of people either.
    """
    items, report = read_pairs(path, seed, None, None, None, with_verdict=True)
    rows = [
        row.model_copy(update={"p_first": None, "problem": Problem.MISSING}) if _is_people(row.judge) else row
        for row in map(_as_labelled, items)
    ]
    is_judged = any(row.p_first is not None or row.problem not in (None, Problem.MISSING) for row in rows)
    if not is_judged and not (or_people and any(row.human_p_first is not None for row in rows)):
        raise FileError("no model verdict in this file", file=path, fix="run `aifeedback label` first")
    return Labelled(rows, report)


def read_judged(path: str | Path, seed: int = 0) -> list[LabelledRow]:
    """``load_judged(...).rows``: the labels alone."""
    return load_judged(path, seed).rows


def load_preferred(path: str | Path, seed: int = 0) -> Completions:
    """Read the preferred response of each labelled pair, by ``p_first`` as DPO and reward models follow it.

    Ties and unknown labels prefer none: their rows are skipped and counted. Raises FileError if no pair has a winner.
    """
    items, report = read_pairs(path, seed, None, None, None)
    kept: list[tuple[LabelledRow, Mapping[str, Any]]] = []
    skipped = list(report.skipped)
    for item in items:
        row = _as_labelled(item)
        if row.p_first is not None and row.p_first != 0.5:
            kept.append((row, item.row))
        else:
            reason = "is a tie, so neither response is preferred" if row.p_first is not None else "is unknown"
            skipped.append(Skipped(row=item.number, key="p_first", reason=reason))
    if not kept:
        raise FileError("no pair in this file has a preferred response", file=path, fix="run `aifeedback label` first")
    pairs = [row.comparison for row, _ in kept]
    return Completions(
        [pair.prompt for pair in pairs],
        [pair.first if row.p_first > 0.5 else pair.second for pair, (row, _) in zip(pairs, kept, strict=True)],  # type: ignore[operator]
        report.model_copy(update={"kept": len(kept), "skipped": tuple(sorted(skipped, key=lambda s: s.row))}),
        [values for _, values in kept],
    )


def _is_people(judge: str) -> bool:
    """Whether a verdict comes from people, including the lab's simulated ones."""
    return judge == HUMAN or judge.startswith("people:")


def labelled(comparisons: Comparisons | Sequence[Comparison], preferences: Sequence[Preference]) -> list[LabelledRow]:
    """Join comparisons with a labeler's preferences about them, in order; ids must agree."""
    if isinstance(comparisons, Comparisons):
        rows, human, inputs = comparisons.rows, comparisons.human, comparisons.inputs
    else:
        rows, human, inputs = comparisons, [None] * len(comparisons), [{}] * len(comparisons)
    joined = []
    for comparison, preference, known, row in zip(rows, preferences, human, inputs, strict=True):
        if preference.comparison_id != comparison.id:
            raise ValueError(f"preference for {preference.comparison_id} does not match comparison {comparison.id}")
        joined.append(
            LabelledRow(
                comparison=comparison,
                p_first=preference.p_first,
                judge=preference.source,
                position_gap=preference.position_gap,
                problem=preference.problem,
                human_p_first=known,
                stored_as_chat=is_messages(row.get("first")),
                extra=_extra(row),
            )
        )
    return joined


def write_labelled(path: str | Path, rows: Iterable[LabelledRow], *, only_known: bool = False) -> int:
    """Write labelled rows as JSONL, JSONL.gz or Parquet; return how many.

    Rows without a label stay in the file with ``chosen`` and ``rejected`` null and their problem named; trainers must
    drop them, or ``only_known`` leaves them out here. Each row keeps the form of its input: text, or messages.
    """
    rows = [row for row in rows if row.p_first is not None or not only_known]
    schema = dict.fromkeys(("p_first", "chosen_probability", "position_gap", "human_p_first"), "double")
    schema |= dict.fromkeys(("problem", "judge"), "string")
    return write_rows(path, map(_as_cells, rows), schema=schema)


def _as_cells(row: LabelledRow) -> dict[str, Any]:
    comparison, p_first = row.comparison, row.p_first
    prompt = comparison.prompt
    first, second = comparison.first.text, comparison.second.text
    chosen, rejected = (None, None) if p_first is None else (first, second) if p_first >= 0.5 else (second, first)
    is_chat = prompt.is_chat or prompt.is_dialogue
    cells = {
        **row.extra,
        "prompt": [m.model_dump() for m in prompt.messages] if is_chat else prompt.text,
        "first": _response(first, row.stored_as_chat),
        "second": _response(second, row.stored_as_chat),
        "chosen": _response(chosen, is_chat),
        "rejected": _response(rejected, is_chat),
        "p_first": p_first,
        "chosen_probability": None if p_first is None else max(p_first, 1.0 - p_first),
        "judge": row.judge,
        "position_gap": row.position_gap,
        "problem": row.problem.value if row.problem else None,
        "human_p_first": row.human_p_first,
        "first_source": comparison.first.source,
        "second_source": comparison.second.source,
        "comparison_id": comparison.id,
    }
    if prompt.tags:
        cells["tags"] = dict(prompt.tags)
    if prompt.reference is not None:
        cells["reference"] = prompt.reference
    return cells


def _response(text: str | None, is_chat: bool) -> Any:
    return [{"role": "assistant", "content": text}] if is_chat and text is not None else text


def _as_labelled(item: PairItem) -> LabelledRow:
    row, pair = item.row, item.pair
    human = pair.p_first if pair.by == HUMAN else None
    judge, p_first, problem, gap = pair.by or "unknown", pair.p_first, None, None
    if pair.label is not None:
        p_first = pair.p_first if pair.by == pair.label.judge else pair.label.p_first
        judge, gap, problem = pair.label.judge, pair.label.position_gap, pair.label.problem
    if p_first is None and problem is None:
        problem = Problem.MISSING
    return LabelledRow(
        comparison=item.comparison(),
        p_first=p_first,
        judge=judge,
        position_gap=gap,
        problem=problem,
        human_p_first=human,
        stored_as_chat=is_messages(row.get("first")),
        extra=_extra(row, is_labelled=pair.label is not None),
    )


def _extra(row: Mapping[str, Any], *, is_labelled: bool = False) -> dict[str, Any]:
    """The input's own columns. Those of an earlier label give way to the new one."""
    is_labelled = is_labelled or "comparison_id" in row
    extra = {}
    for key, value in row.items():
        if key in _PAIR or key == "_rows" or (key in _LABEL and is_labelled):
            continue
        extra[f"input_{key}" if key in _LABEL else key] = plain(value)
    return extra


def plain(value: Any) -> Any:
    """A cell as JSON can hold it: NaN becomes null, dates and other objects become text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value)
