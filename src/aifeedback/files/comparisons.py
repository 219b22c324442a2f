"""Files of comparisons, with or without a verdict, in; labelled files that TRL loads as they are, out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

from pydantic import Field

from aifeedback.errors import FileError
from aifeedback.files.pairs import PairItem, read_pairs
from aifeedback.files.report import ReadReport
from aifeedback.files.shapes import HUMAN
from aifeedback.files.tables import write_rows
from aifeedback.records import Comparison, Preference, Probability, Problem, Record

_ADDED = ("prompt", "first", "second", "chosen", "rejected", "p_first", "chosen_probability", "judge", "position_gap",
          "problem", "human_p_first", "first_source", "second_source", "comparison_id", "tags",
          "reference")  # fmt: skip


class LabelledRow(Record):
    """One line of a labelled file: the comparison, what a labeler said, what people said, the input's own columns."""

    comparison: Comparison
    p_first: Probability | None
    judge: str
    position_gap: float | None = None
    problem: Problem | None = None
    human_p_first: Probability | None = None
    """The verdict of people that came with the input, about storage order; None where there is none."""
    extra: Mapping[str, Any] = Field(default_factory=dict)


class Rows(Sequence[Comparison]):
    """Comparisons that are made when they are first asked for: their ids cost as much as reading the file does."""

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
    """People's verdict as p_first: 1 the first, 0 the second, 0.5 a tie, several votes their mean; None: not known."""
    report: ReadReport
    inputs: list[Mapping[str, Any]]
    """The row as it stood in the file."""
    recorded: list[tuple[float, str] | None]
    """A model's verdict that the file carries: (p_first, who said so); None where there is none."""


def read_comparisons(
    path: str | Path,
    seed: int = 0,
    *,
    columns: Mapping[str, str] | None = None,
    criterion: str | None = None,
    limit: int | None = None,
) -> Comparisons:
    """Reads pairs of any known format. Raises FileError where the file as a whole cannot be used.

    ``columns`` maps our names to the file's (``{"prompt": "question", "first": "a", "second": "b"}``); ``criterion``
    picks the verdict where a file has several ("safer" in PKU-SafeRLHF, an attribute in HelpSteer2); ``limit`` is the
    most comparisons to read. Where the file puts the better answer first, ``seed`` draws each pair's storage order.
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


def read_labelled(
    path: str | Path, seed: int = 0, *, columns: Mapping[str, str] | None = None, criterion: str | None = None
) -> list[LabelledRow]:
    """Reads labels: a file of ``write_labelled``, or any comparisons file that carries a verdict, people's included.

    A row without one has ``p_first`` None and a problem. Raises FileError as ``read_comparisons`` does.
    """
    items, _ = read_pairs(path, seed, columns, criterion, None)
    return [_as_labelled(item) for item in items]


def read_judged(path: str | Path, seed: int = 0) -> list[LabelledRow]:
    """As ``read_labelled``, of a model's verdicts: people are no judge of themselves. A row without one is unknown.

    Raises FileError where no row carries a model's verdict.
    """
    rows = [
        row.model_copy(update={"p_first": None, "problem": Problem.MISSING}) if _is_people(row.judge) else row
        for row in read_labelled(path, seed)
    ]
    if all(row.p_first is None and row.problem in (None, Problem.MISSING) for row in rows):
        raise FileError("no model verdict in this file", file=path, fix="run `aifeedback label` first")
    return rows


def _is_people(judge: str) -> bool:
    """Whether a verdict is people's, be they simulated by the lab."""
    return judge == HUMAN or judge.startswith("people:")


def labelled(comparisons: Comparisons | Sequence[Comparison], preferences: Sequence[Preference]) -> list[LabelledRow]:
    """Joins comparisons and what a labeler said about them, in order; ids must agree."""
    if isinstance(comparisons, Comparisons):
        rows, human, inputs = comparisons.rows, comparisons.human, comparisons.inputs
    else:
        rows, human, inputs = comparisons, [None] * len(comparisons), [{}] * len(comparisons)
    joined = []
    for comparison, said, known, row in zip(rows, preferences, human, inputs, strict=True):
        if said.comparison_id != comparison.id:
            raise ValueError(f"preference for {said.comparison_id} stands beside comparison {comparison.id}")
        joined.append(
            LabelledRow(
                comparison=comparison,
                p_first=said.p_first,
                judge=said.source,
                position_gap=said.position_gap,
                problem=said.problem,
                human_p_first=known,
                extra=_extra(row),
            )
        )
    return joined


def write_labelled(path: str | Path, rows: Iterable[LabelledRow], *, only_known: bool = False) -> int:
    """Writes labelled rows as JSONL, JSONL.gz or Parquet; returns how many.

    Rows without a label stay in the file with ``chosen`` and ``rejected`` null and their problem named; trainers must
    drop them, or ``only_known`` leaves them out here. One file is either all text or all messages.
    """
    rows = [row for row in rows if row.p_first is not None or not only_known]
    conversational = any(_is_dialogue(row) for row in rows)
    schema = dict.fromkeys(("p_first", "chosen_probability", "position_gap", "human_p_first"), "double")
    schema |= dict.fromkeys(("problem", "judge", "first", "second"), "string")
    return write_rows(path, (_as_cells(row, conversational) for row in rows), schema=schema)


def _as_cells(row: LabelledRow, conversational: bool) -> dict[str, Any]:
    comparison, p_first = row.comparison, row.p_first
    prompt = comparison.prompt
    first, second = comparison.first.text, comparison.second.text
    chosen, rejected = (None, None) if p_first is None else (first, second) if p_first >= 0.5 else (second, first)
    as_answer = (
        (lambda text: text and [{"role": "assistant", "content": text}]) if conversational else (lambda text: text)
    )
    cells = {
        **row.extra,
        "prompt": [m.model_dump() for m in prompt.messages] if conversational else prompt.text,
        "first": first,
        "second": second,
        "chosen": as_answer(chosen),
        "rejected": as_answer(rejected),
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


def _is_dialogue(row: LabelledRow) -> bool:
    messages = row.comparison.prompt.messages
    return len(messages) != 1 or messages[0].role != "user"


def _as_labelled(item: PairItem) -> LabelledRow:
    row, pair = item.row, item.pair
    human = pair.p_first if pair.by == HUMAN else None
    judge, p_first, problem, gap = pair.by or "unknown", pair.p_first, None, None
    if "p_first" in row and "judge" in row:  # written by write_labelled
        judge, p_first = str(row["judge"]), row["p_first"]
        gap = row.get("position_gap")
        problem = Problem(row["problem"]) if row.get("problem") else None
    if p_first is None and problem is None:
        problem = Problem.MISSING
    return LabelledRow(
        comparison=item.comparison(),
        p_first=p_first,
        judge=judge,
        position_gap=gap,
        problem=problem,
        human_p_first=human,
        extra=_extra(row),
    )


def _extra(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain(value) for key, value in row.items() if key not in _ADDED and key != "_rows"}


def plain(value: Any) -> Any:
    """A cell as JSON can hold it: NaN becomes null, dates and other objects their text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value)
