"""From the rows of a file to comparisons: which format it is, which rows are usable, which are votes on one pair."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from aifeedback.data.formats import HUMAN, SHAPES, Indices, Pair, Shape, judged_by, named_shape, shape_of
from aifeedback.data.tables import ReadLog, ReadReport, Row, RowFault, is_blank, read_rows
from aifeedback.data.transcripts import PARTS_OF_A_PAIR, PromptCell, require_used, with_context
from aifeedback.errors import FileError
from aifeedback.types import Comparison, Completion, content_id

COLUMNS = ("prompt", "first", "second", "chosen", "rejected", "label", "p_first", "human_p_first", "completion",
           "system", "history", "reference", "id", "topic", "language", "group", "first_source", "second_source",
           "judge")  # fmt: skip
"""The names that a column map may give to a file's own columns."""

Identity: TypeAlias = tuple[tuple[tuple[str, str], ...], frozenset[str]]
"""A pair's prompt and two responses, in any order: rows that share it are votes on one pair."""


class PairItem(NamedTuple):
    """One pair in storage order with the verdict that the file carries, and the row it came from."""

    pair: Pair
    row: Mapping[str, Any]
    number: int

    def comparison(self) -> Comparison:
        prompt, (one, other) = self.pair.prompt.record(), self.pair.sources
        first = Completion.of(prompt, self.pair.first, source=one)
        return Comparison.of(prompt, first, Completion.of(prompt, self.pair.second, source=other))


def read_pairs(
    path: str | Path,
    seed: int,
    columns: Mapping[str, str] | None,
    criterion: str | None,
    limit: int | None,
    *,
    with_verdict: bool = False,
) -> tuple[list[PairItem], ReadReport]:
    """Read the pairs of a file. ``with_verdict`` keeps labelled pairs that nobody could judge anew: equal or empty
    responses."""
    with _uncollected():
        return _read_pairs(path, map_columns(path, read_rows(path), columns), seed, criterion, limit, with_verdict)


@contextmanager
def _uncollected() -> Generator[None]:
    """No garbage collection meanwhile: records form no cycles, and walking over all that were read takes ever longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_pairs(
    path: str | Path, rows: Iterator[Row], seed: int, criterion: str | None, limit: int | None, with_verdict: bool
) -> tuple[list[PairItem], ReadReport]:
    shape, rows = _recognise(path, rows, criterion)
    log = ReadLog(path, shape.name)
    indices = Indices(path, shape.verdicts, shape.indices)
    items: list[PairItem] = []
    place: dict[Identity, int] = {}
    votes: dict[int, int] = {}
    joined = _joined(rows, shape)
    for row in joined:
        if not shape.is_settled(row.values):
            indices.see(row)
        if limit is not None and len(items) >= limit:
            break
        try:
            pairs = _pairs(row, shape, criterion, log, with_verdict)
            _keep(pairs, seed, row, items, place, votes, log)
        except RowFault as fault:
            log.skip_fault(row.number, fault)
    if not shape.is_numbered:
        for row in joined:  # past the limit: what an index means is decided over the whole file
            if not shape.is_settled(row.values):
                indices.see(row)
        indices.close()
    return items, log.report()


def _pairs(row: Row, shape: Shape, criterion: str | None, log: ReadLog, with_verdict: bool) -> list[Pair]:
    if row.fault is not None:
        raise RowFault(row.fault)
    identity = row.values.get("id")
    if isinstance(identity, (str, int)) and (earlier := log.earlier(row.number, ("id", identity))):
        raise RowFault(f"duplicate (first in row {earlier}): {str(identity)[:40]!r}", "id")
    missing = next((column for column in shape.columns if column not in row.values), None)
    if missing:
        raise RowFault("is missing", missing)
    pairs = _read(row.values, shape, criterion)
    if not pairs:
        raise RowFault("has fewer than two responses to compare")
    if with_verdict and all(pair.p_first is not None or pair.label is not None for pair in pairs):
        return pairs
    usable = [pair for pair in pairs if pair.first.strip() and pair.second.strip() and pair.first != pair.second]
    if not usable:
        raise _unusable(pairs[0])
    return usable


def _read(row: Mapping[str, Any], shape: Shape, criterion: str | None) -> list[Pair]:
    """The pairs of a row, with all its parts. Raises RowFault."""
    try:
        pairs = list(shape.read(row, criterion))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as cause:
        raise RowFault(f"does not read as {shape.name}: {str(cause)[:200]}") from None
    parts = row["_rows"][0] if "_rows" in row else row
    if "comparison_id" not in row and is_blank(row.get("human_p_first")) and (by := judged_by(row)) != HUMAN:
        pairs = [pair._replace(by=by) if pair.by == HUMAN else pair for pair in pairs]
    if PARTS_OF_A_PAIR.isdisjoint(parts):
        return pairs
    placed = [pair._replace(prompt=with_context(parts, pair.prompt, shape.columns)) for pair in pairs]
    responses = [text for pair in placed for text in (pair.first, pair.second)]
    for pair in placed[:1]:
        require_used(parts, pair.prompt, shape.columns, responses)
    return placed


def _unusable(pair: Pair) -> RowFault:
    if pair.first == pair.second:
        return RowFault("both responses are the same")
    names = ("chosen", "rejected") if pair.shuffled else ("first", "second")
    return RowFault("is empty", names[0] if not pair.first.strip() else names[1])


def _keep(
    pairs: list[Pair],
    seed: int,
    row: Row,
    items: list[PairItem],
    place: dict[Identity, int],
    votes: dict[int, int],
    log: ReadLog,
) -> None:
    """Add the row's pairs. A further vote of the same source is averaged in; a first verdict is adopted."""
    added = merged = 0
    for pair in pairs:
        pair = _stored(pair, seed)
        both = pair.prompt.turns, frozenset((pair.first, pair.second))
        known = place.get(both)
        if known is None:
            place[both] = len(items)
            items.append(PairItem(pair, row.values, row.number))
            added += 1
        elif pair.p_first is not None and items[known].pair.by in (None, pair.by):
            old, count = items[known].pair, votes.get(known, 1)
            vote = pair.p_first if old.first == pair.first else 1.0 - pair.p_first
            if old.p_first is None:
                items[known] = items[known]._replace(pair=old._replace(p_first=vote, by=pair.by))
            else:
                mean = (old.p_first * count + vote) / (count + 1)
                items[known] = items[known]._replace(pair=old._replace(p_first=mean))
                votes[known] = count + 1
            merged += 1
    if added or merged:
        log.keep()
        log.merged += not added
    else:
        log.skip(row.number, "duplicate pair", is_repeat=True)


def _stored(pair: Pair, seed: int) -> Pair:
    """The pair as it is stored: in an order drawn by ``seed`` if the file puts the better response first."""
    if not pair.shuffled:
        return pair
    # the draw sees the unordered pair only, so the order reveals nothing about the better response
    ascending = int(content_id(seed, pair.prompt.id, sorted((pair.first, pair.second))), 16) % 2 == 1
    if (pair.first < pair.second) == ascending:
        return pair
    p_first = None if pair.p_first is None else 1.0 - pair.p_first
    return pair._replace(first=pair.second, second=pair.first, p_first=p_first, sources=pair.sources[::-1])


def _recognise(path: str | Path, rows: Iterator[Row], criterion: str | None) -> tuple[Shape, Iterator[Row]]:
    """The format, named or detected from the first readable rows; the rows again, from the start."""
    if (named := named_shape(path)) is not None:
        return named, rows
    head: list[Row] = []
    for row in rows:
        head.append(row)
        shape = None if row.fault else shape_of(_as_group(row.values))
        if shape:
            _require_criterion(path, shape, _as_group(row.values), criterion)
            return shape, _chain(head, rows)
        if len(head) >= 50:
            break
    readable = [row for row in head if not row.fault]
    if head and not readable:
        raise FileError(str(head[0].fault), file=path, row=head[0].number, fix="no row can be read; check the file")
    if not head:
        raise FileError("the file has no rows", file=path, fix="give a file with at least one row")
    raise FileError(
        f"no known format of comparisons has the columns {', '.join(map(str, readable[0].values)) or '(none)'}",
        file=path,
        row=readable[0].number,
        key=_nearest_gap(readable[0].values),
        fix="name columns prompt, chosen, rejected (or prompt, first, second), or let `label` map "
        "them: --column prompt=YOURS --column first=YOURS …",
    )


def _require_criterion(path: str | Path, shape: Shape, row: Mapping[str, Any], criterion: str | None) -> None:
    """Raises FileError that lists the verdicts a file of this shape has, where ``criterion`` is none of them."""
    if criterion is None or criterion in (known := list(shape.criteria(row))):
        return
    fix = f"one of: {', '.join(known)}" if known else f"leave it out: '{shape.name}' leaves no choice of verdicts"
    raise FileError(f"has no criterion '{criterion}'", file=path, key="--criterion", fix=fix)


def _nearest_gap(row: Mapping[str, Any]) -> str | None:
    """The one column that the closest format lacks, where only one is lacking."""
    gaps = [[c for c in shape.columns if c not in row] for shape in SHAPES]
    near = [gap[0] for gap, shape in zip(gaps, SHAPES, strict=True) if len(gap) == 1 and len(shape.columns) > 1]
    return near[-1] if near else None


def map_columns(path: str | Path, rows: Iterator[Row], columns: Mapping[str, str] | None) -> Iterator[Row]:
    """Gives the file's columns our names. Raises FileError for a name that we or the file do not know."""
    if not columns:
        return rows
    for ours in columns:
        if ours not in COLUMNS:
            raise FileError("cannot be mapped", file=path, key=ours, fix=f"one of {', '.join(COLUMNS)}")
    head: list[Row] = []
    first = None
    for row in rows:
        head.append(row)
        if not row.fault:
            first = row
            break
    for ours, theirs in columns.items():
        if first is not None and theirs not in first.values:
            raise FileError(
                f"'{ours}' is mapped to '{theirs}', which is not a column of the file",
                file=path,
                row=first.number,
                key=theirs,
                fix=f"one of {', '.join(map(str, first.values))}",
            )
    return (
        row._replace(values={**row.values, **{o: row.values[t] for o, t in columns.items() if t in row.values}})
        for row in _chain(head, rows)
    )


def _joined(rows: Iterator[Row], shape: Shape) -> Iterator[Row]:
    """Rows as the format needs them: in HelpSteer2, neighbours of one prompt together."""
    if shape.columns != ("_rows",):
        yield from rows
        return
    group: list[Row] = []
    for row in rows:
        if row.fault:
            yield row
            continue
        if group and group[0].values.get("prompt") != row.values.get("prompt"):
            yield _grouped(group)
            group = []
        group.append(row)
    if group:
        yield _grouped(group)


def _grouped(group: list[Row]) -> Row:
    if len(group) < 2:
        return group[0]._replace(fault="is the only response to its prompt, so it makes no pair")
    return Row(group[0].number, {"_rows": [row.values for row in group]})


def _as_group(row: Mapping[str, Any]) -> Mapping[str, Any]:
    is_rated = all(column in row for column in ("prompt", "response", "helpfulness"))
    return {"_rows": [row]} if is_rated else row


def _chain(head: list[Row], rest: Iterator[Row]) -> Iterator[Row]:
    yield from head
    yield from rest


def prompt_of(row: Mapping[str, Any], shape: Shape | None = None) -> PromptCell | None:
    """The prompt of a row in a comparisons format (``shape``, or the one that fits), whole; None if it is in none.
    Raises RowFault."""
    shape = shape or shape_of(_as_group(row))
    if shape is None or shape.columns == ("_rows",):
        return None
    pair = next(iter(_read(row, shape, None)), None)
    return pair.prompt if pair else None
