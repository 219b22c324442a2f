"""Where is it worst? One estimate per slice (topic, language, group, length …), each tested against the rest.

With many slices some look bad by luck: p-values are corrected over all slices of all dimensions at once, and a slice
counts as worse only if its corrected p-value says so. Slices with fewer than ``min_rows`` rows are shown, not tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NOT_KNOWN,
    Correction,
    Estimate,
    Floats,
    Numbers,
    adjust,
    groups,
    known_rows,
    probabilities,
    share_interval,
    variance_of_mean,
)
from aifeedback.metrics.win_rates import size_notes, two_sample_test, win_rate


@dataclass(frozen=True)
class Slice(Estimate):
    dimension: str = ""
    """Which tag: topic, language …"""
    name: str = ""
    rest: float = NOT_KNOWN
    """The same share over all other rows."""
    p_value: float = NOT_KNOWN
    """Two-sided, slice against rest; NaN when it was too small to test."""
    p_adjusted: float = NOT_KNOWN
    is_worse: bool = False
    """Below the rest, and the corrected p-value is under 1 − confidence."""


def by_slice(
    values: Numbers,
    slices: Mapping[str, Sequence[Any]],
    *,
    correction: Correction = "holm",
    min_rows: int = 10,
    prompts: Any = None,
    confidence: float = 0.95,
) -> list[Slice]:
    """Mean of ``values`` per slice, worst first; values are in [0, 1] and higher is better (right, harmless, p_first).

    ``slices`` maps a dimension to one tag per row; None is 'no tag' and no slice. Rows with an unknown value are
    dropped and counted per slice. Test: Fisher's exact on yes/no values, Welch's t otherwise or with ``prompts``.
    Order: slices that are worse after correction, then the other tested ones by value, then those too small to test.
    """
    (known,), kept, _ = known_rows(values=probabilities(values, "values"))
    clusters = groups(prompts, kept)
    parts = []
    for dimension, tags in slices.items():
        if len(tags) != len(kept):
            raise InputError(f"has {len(tags)} tags for {len(kept)} rows", key=dimension, fix="one tag or None per row")
        everything = np.array([None if tag is None else str(tag) for tag in tags], dtype=object)
        inside, lost = everything[kept], everything[~kept]
        for name in sorted({tag for tag in everything if tag is not None}):
            of_slice = np.asarray(inside == name)
            part = _slice(known, of_slice, clusters, min_rows=min_rows, confidence=confidence)
            parts.append(replace(part, dimension=dimension, name=name, dropped=int((lost == name).sum())))
    adjusted = adjust([part.p_value for part in parts], correction)
    judged = [
        replace(part, p_adjusted=float(p), is_worse=bool(part.value < part.rest and p < 1 - confidence))
        for part, p in zip(parts, adjusted, strict=True)
    ]
    return sorted(judged, key=_worst_first)


def _worst_first(part: Slice) -> tuple[int, float]:
    rank = 0 if part.is_worse else 1 if np.isfinite(part.p_value) else 2
    return rank, part.value if part.is_known else np.inf


def _slice(
    values: Floats, inside: NDArray[np.bool_], clusters: NDArray[np.intp] | None, *, min_rows: int, confidence: float
) -> Slice:
    part, rest = values[inside], values[~inside]
    part_clusters, rest_clusters = _within(clusters, inside), _within(clusters, ~inside)
    interval = share_interval(part, part_clusters, confidence=confidence)
    testable = len(part) >= min_rows and len(rest) >= min_rows
    notes = size_notes(len(part), 0) if testable else (f"{len(part)} rows against {len(rest)}: too few to test",)
    return Slice(
        value=float(part.mean()) if len(part) else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=len(part),
        method="mean of the slice, Wilson interval",
        notes=notes,
        standard_error=float(np.sqrt(variance_of_mean(part, part_clusters).variance)),
        rest=float(rest.mean()) if len(rest) else NOT_KNOWN,
        p_value=two_sample_test(part, rest, part_clusters, rest_clusters) if testable else NOT_KNOWN,
    )


def _within(clusters: NDArray[np.intp] | None, inside: NDArray[np.bool_]) -> NDArray[np.intp] | None:
    return None if clusters is None else np.unique(clusters[inside], return_inverse=True)[1]


JOINT = " × "
"""Between the dimensions, and the values, of a cell of the coverage matrix."""


class Sample(NamedTuple):
    """One measured thing, such as a policy against the reference: a number in [0, 1] and the tags of every row."""

    values: Numbers
    slices: Mapping[str, Sequence[Any]]
    """Dimension → one tag or None per row."""
    prompts: Sequence[Any] | None = None
    """One id per row where rows share a prompt."""


@dataclass(frozen=True)
class Cell(Slice):
    """A slice, or a combination of tags (dimension ``topic × language``), tested against the rest and against one half."""

    p_half: float = NOT_KNOWN
    """Two-sided, against one half; NaN when it was too small to test."""
    p_half_adjusted: float = NOT_KNOWN
    is_few: bool = False
    """Fewer known rows than a test needs: neither good nor bad."""
    is_below_half: bool = False
    """Below one half, and the corrected p-value is under 1 − confidence."""


def coverage(samples: Mapping[str, Sample], *, min_rows: int = 30, confidence: float = 0.95) -> dict[str, list[Cell]]:
    """Every slice of every sample and, where there are several dimensions, every combination of their tags.

    One correction by Holm over all tests of all samples, against the rest and against one half. Combinations that occur
    in no sample are cells with n = 0. The order of a sample's cells: dimensions as given, then the combinations.
    """
    found: dict[str, list[Cell]] = {}
    for name, sample in samples.items():
        dimensions = dict(sample.slices)
        if len(dimensions) > 1:
            dimensions[JOINT.join(dimensions)] = _combined(list(sample.slices.values()))
        parts = by_slice(
            sample.values,
            dimensions,
            correction="none",
            min_rows=min_rows,
            prompts=sample.prompts,
            confidence=confidence,
        )
        known = {(part.dimension, part.name): part for part in parts}
        found[name] = [
            _cell(known.get(key), key, sample, dimensions, min_rows) for key in _keys(dimensions, samples.values())
        ]
    every = [cell for cells in found.values() for cell in cells]
    adjusted = adjust([p for cell in every for p in (cell.p_value, cell.p_half)], "holm")
    settled = iter(
        replace(
            cell,
            p_adjusted=float(rest),
            p_half_adjusted=float(half),
            is_worse=bool(cell.value < cell.rest and rest < 1 - confidence),
            is_below_half=bool(cell.value < 0.5 and half < 1 - confidence),
        )
        for cell, rest, half in zip(every, adjusted[::2], adjusted[1::2], strict=True)
    )
    return {name: [next(settled) for _ in cells] for name, cells in found.items()}


def _combined(columns: Sequence[Sequence[Any]]) -> list[str | None]:
    return [None if None in tags else JOINT.join(str(tag) for tag in tags) for tags in zip(*columns, strict=True)]


def _keys(dimensions: Mapping[str, Sequence[Any]], samples: Any) -> list[tuple[str, str]]:
    """Every value of every dimension in any sample, and every combination of these, in alphabetical order."""
    plain = [name for name in dimensions if JOINT not in name]
    values = {
        name: sorted({str(tag) for sample in samples for tag in sample.slices.get(name, ()) if tag is not None})
        for name in plain
    }
    keys = [(name, value) for name in plain for value in values[name]]
    joint = next((name for name in dimensions if JOINT in name), None)
    if joint is None:
        return keys
    combinations = [""]
    for name in plain:
        combinations = [f"{left}{JOINT}{value}" if left else value for left in combinations for value in values[name]]
    return [*keys, *((joint, one) for one in combinations)]


def _cell(
    part: Slice | None,
    key: tuple[str, str],
    sample: Sample,
    dimensions: Mapping[str, Sequence[Any]],
    min_rows: int,
) -> Cell:
    dimension, name = key
    if part is None:
        notes = ("no row",)
        return Cell(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, 0, "", 0, notes, dimension=dimension, name=name, is_few=True)
    own = {field.name: getattr(part, field.name) for field in fields(part)}
    if part.n < min_rows:
        return Cell(**own, is_few=True)
    inside = [str(tag) == name if tag is not None else False for tag in dimensions[dimension]]
    values = [value for value, is_in in zip(sample.values, inside, strict=True) if is_in]
    prompts = None
    if sample.prompts is not None:
        prompts = [prompt for prompt, is_in in zip(sample.prompts, inside, strict=True) if is_in]
    return Cell(**own, p_half=win_rate(values, prompts=prompts).p_value)
