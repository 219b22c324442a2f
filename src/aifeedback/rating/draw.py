"""Which rows people see: a random sample, stratified by tag, with a declared share of uncertain rows, and its weights.

Every row of the population has a known probability of being drawn, so a weighted mean over the sample estimates the
mean over all rows without bias, however many uncertain rows were added (Horvitz & Thompson 1952). A row's weight is
the number of rows it stands for: its stratum's size over the number drawn from it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from random import Random
from typing import NamedTuple

from aifeedback.errors import InputError
from aifeedback.evaluate.estimate import NOT_KNOWN, Estimate


class Drawn(NamedTuple):
    """One row of the sample."""

    row: int
    """Its place in the population, from 0."""
    weight: float
    """How many rows of the population it stands for; the weights add up to the size of the population."""
    stratum: str


def draw(
    size: int,
    n: int,
    *,
    strata: Sequence[Hashable] | None = None,
    uncertain: Sequence[bool] | None = None,
    uncertain_share: float = 0.0,
    seed: int = 0,
) -> list[Drawn]:
    """Draw ``n`` of ``size`` rows without replacement, in their order.

    ``strata`` has one tag per row: each gets its share of the sample, and at least two rows where it has two.
    ``uncertain`` marks rows that a judge could not decide or whose raters disagreed; ``uncertain_share`` of the sample
    is drawn from them. Raises InputError where the sample cannot be drawn as declared.
    """
    if not 1 <= n <= size:
        raise InputError(f"{n} of {size} rows cannot be drawn", key="n", fix=f"a number from 1 to {size}")
    if not 0 <= uncertain_share < 1:
        raise InputError(f"{uncertain_share} is out of range", key="uncertain_share", fix="at least 0, below 1")
    marks = [False] * size if uncertain is None or not uncertain_share else [bool(mark) for mark in uncertain]
    tags = [""] * size if strata is None else ["" if tag is None else str(tag) for tag in strata]
    if len(marks) != size or len(tags) != size:
        raise InputError("one tag and one mark per row are needed", key="strata")
    cells: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for row, cell in enumerate(zip(marks, tags, strict=True)):
        cells[cell].append(row)
    counts = _allocate(n, {cell: len(rows) for cell, rows in cells.items()}, uncertain_share)
    sample = []
    for cell, rows in sorted(cells.items()):
        name = " · ".join(part for part in ("uncertain" if cell[0] else "", cell[1]) if part) or "all"
        chosen = Random(f"draw {seed} {cell}").sample(rows, counts[cell])
        sample += [Drawn(row, len(rows) / counts[cell], name) for row in chosen]
    return sorted(sample)


def _allocate(n: int, sizes: Mapping[tuple[bool, str], int], share: float) -> dict[tuple[bool, str], int]:
    """Rows per cell: in proportion within the uncertain and within the other rows, every cell at least two."""
    least = {cell: min(2, size) for cell, size in sizes.items()}
    if sum(least.values()) > n:
        raise InputError(
            f"{len(sizes)} strata need at least {sum(least.values())} rows, {n} were asked for",
            key="n",
            fix="draw more rows, or stratify by a tag with fewer values",
        )
    total = {mark: sum(size for cell, size in sizes.items() if cell[0] == mark) for mark in (False, True)}
    if share and not total[True]:
        raise InputError("no row is uncertain", key="uncertain_share", fix="leave it out")
    wanted = {True: round(n * share), False: n - round(n * share)} if share else {True: 0, False: n}
    for mark in (True, False):  # a part with too few rows gives its places to the other
        spare = wanted[mark] - total[mark]
        if spare > 0:
            wanted[mark] -= spare
            wanted[not mark] += spare
    counts = dict(least)
    ideal = {cell: wanted[cell[0]] * size / total[cell[0]] for cell, size in sizes.items()}
    for _ in range(n - sum(counts.values())):
        open_cells = [cell for cell, size in sizes.items() if counts[cell] < size]
        cell = max(open_cells, key=lambda cell: (ideal[cell] - counts[cell], cell))
        counts[cell] += 1
    return counts


def weighted_mean(
    values: Sequence[float | None], weights: Sequence[float], strata: Sequence[str], *, confidence: float = 0.95
) -> Estimate:
    """Mean over the population of ``draw`` from the values of its sample, with a stratified t interval.

    Σ_h W_h·ȳ_h, variance Σ_h W_h²·(1 − n_h/N_h)·s_h²/n_h (Cochran 1977, 5.2), W_h = N_h/N and N_h the sum of the
    weights in stratum h. Unknown values are dropped and counted; their stratum keeps its size. A stratum with no known
    value makes the mean unknown; one with a single value has no variance, and a note says so.
    """
    import numpy as np

    from aifeedback.evaluate.intervals import t_of

    if not len(values) == len(weights) == len(strata):
        raise InputError("one weight and one stratum per value are needed", key="weights")
    if any(not math.isfinite(w) or w < 1 - 1e-9 for w in weights):
        raise InputError("a weight is the number of rows that a row stands for, at least 1", key="weights")
    sizes: dict[str, float] = defaultdict(float)
    known: dict[str, list[float]] = defaultdict(list)
    for value, weight, stratum in zip(values, weights, strata, strict=True):
        sizes[stratum] += weight
        if value is not None and not math.isnan(value):
            known[stratum].append(value)
    n = sum(map(len, known.values()))
    dropped, method = len(values) - n, f"weighted mean over {len(sizes)} strata, t interval"
    if not sizes or any(not known[stratum] for stratum in sizes):
        note = "nothing to measure: no row" if not sizes else "a stratum has no known value"
        return Estimate(NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, n, method, dropped, (note,))
    total, notes = sum(sizes.values()), []
    mean = sum(sizes[s] / total * float(np.mean(known[s])) for s in sizes)
    variances, freedom = [], []
    for stratum, size in sizes.items():
        own = np.array(known[stratum])
        if len(own) < 2:
            if size > 1:
                notes.append(f"stratum '{stratum}' has one known value: its spread is left out of the interval")
            continue
        part = (size / total) ** 2 * max(0.0, 1 - len(own) / size) * float(own.var(ddof=1)) / len(own)
        variances.append(part)
        freedom.append(len(own) - 1)
    variance = sum(variances)
    if variance == 0:
        whole = all(len(known[s]) >= size - 1e-9 for s, size in sizes.items())
        notes.append("every row is known: there is no sampling error" if whole else "no spread within the strata")
        low, high = (mean, mean) if whole else (NOT_KNOWN, NOT_KNOWN)
        return Estimate(mean, low, high, n, method, dropped, tuple(notes), 0.0 if whole else NOT_KNOWN)
    df = variance**2 / sum(v**2 / f for v, f in zip(variances, freedom, strict=True) if v)  # Satterthwaite
    reach = t_of(confidence, df) * math.sqrt(variance)
    return Estimate(mean, mean - reach, mean + reach, n, method, dropped, tuple(notes), math.sqrt(variance))


def is_due(number: int, *, every: int, start: int = 0) -> bool:
    """Whether a spot check falls on this batch (or week): on ``start`` and every ``every`` ones after it."""
    if every < 1:
        raise InputError(f"every {every} batches", key="every", fix="1 or more")
    return number >= start and (number - start) % every == 0
