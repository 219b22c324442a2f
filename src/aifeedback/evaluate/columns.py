"""Columns of numbers in, clean columns out: rows with a missing value are dropped and counted, never filled in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError

Numbers: TypeAlias = Sequence[float | None] | Sequence[float] | Sequence[int] | NDArray[Any]
"""One number per row; None or NaN is 'not known'."""
Floats: TypeAlias = NDArray[np.float64]


class Known(NamedTuple):
    columns: tuple[Floats, ...]
    kept: NDArray[np.bool_]
    """Over the rows that came in."""
    dropped: int


def numbers(values: Any, name: str) -> Floats:
    """(N,) float64, None as NaN. Raises InputError on anything that is not one finite number per row."""
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("holds something that is not a number", key=name, fix="one number or None per row") from None
    if column.ndim != 1:
        raise InputError(f"has shape {column.shape}", key=name, fix="one number or None per row")
    if np.isinf(column).any():
        raise InputError("holds an infinite number", key=name, fix="None where not known")
    return column


def probabilities(values: Any, name: str) -> Floats:
    """Like ``numbers``, within [0, 1]."""
    column = numbers(values, name)
    outside = np.flatnonzero((column < 0) | (column > 1))
    if outside.size:
        raise InputError(
            f"{column[outside[0]]!r} is no probability", row=int(outside[0]) + 1, key=name, fix="numbers in [0, 1]"
        )
    return column


def known_rows(**columns: Floats) -> Known:
    """The rows in which every column is known. Raises InputError where the columns differ in length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"columns differ in length: {lengths}", fix="one value per row in every column")
    kept = ~np.any([np.isnan(column) for column in columns.values()], axis=0)
    return Known(tuple(column[kept] for column in columns.values()), kept, int((~kept).sum()))


def groups(values: Any, kept: NDArray[np.bool_], name: str = "prompts") -> NDArray[np.intp] | None:
    """0..G−1 per kept row for any hashable ids, or None where none were given."""
    if values is None:
        return None
    ids = np.asarray(values)
    if ids.ndim != 1 or len(ids) != len(kept):
        raise InputError(f"has shape {ids.shape} for {len(kept)} rows", key=name, fix="one id per row")
    return np.unique(ids[kept], return_inverse=True)[1]


def shared_prompts(ids: Sequence[Any]) -> Sequence[Any] | None:
    """The ids for ``prompts=``; None where no two rows share one, so that rows get the exact intervals and tests of
    independent rows."""
    return ids if len(set(ids)) < len(ids) else None


def cluster_sums(values: Floats, clusters: NDArray[np.intp] | None) -> Floats:
    """One sum per cluster (rows of ``values``), or the values themselves where there are no clusters."""
    if clusters is None:
        return values
    sums = np.zeros((clusters.max(initial=-1) + 1, *values.shape[1:]))
    np.add.at(sums, clusters, values)
    return sums


def table(values: Any, name: str = "ratings") -> Floats:
    """(items, raters) float64 with NaN for missing; text labels become 0..C−1 in sorted order."""
    try:
        ratings = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        ratings = _coded(np.asarray(values, dtype=object))
    if ratings.ndim != 2:
        raise InputError(f"has shape {ratings.shape}", key=name, fix="one row per item, one column per rater")
    return ratings


def _coded(labels: NDArray[Any]) -> Floats:
    is_missing = np.vectorize(lambda label: label is None or label != label, otypes=[bool])(labels)
    codes = np.full(labels.shape, np.nan)
    codes[~is_missing] = np.unique(labels[~is_missing].astype(str), return_inverse=True)[1]
    return codes
