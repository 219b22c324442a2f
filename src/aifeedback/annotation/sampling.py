"""Which rows people see: a random sample, stratified by tag, with a declared share of uncertain rows, and its weights.

Every row of the population has a known probability of being drawn, so a weighted mean over the sample estimates the
mean over all rows without bias, however many uncertain rows were added (Horvitz & Thompson 1952). A row's weight is
the number of rows it stands for: its stratum's size over the number drawn from it.

``draw_file`` writes the sample of a file, each row with its sampling weight, as another file.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from aifeedback import data
from aifeedback.annotation.assignment import STRATUM, WEIGHT
from aifeedback.errors import FileError, InputError
from aifeedback.metrics.intervals import NOT_KNOWN, Estimate
from aifeedback.storage import make_folder


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

    from aifeedback.metrics.intervals import t_of

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


class DrawnFile(NamedTuple):
    n: int
    rows: int
    strata: dict[str, tuple[int, int]]
    """Stratum → rows drawn and rows there are."""


def draw_file(
    path: str | Path,
    out: str | Path,
    *,
    n: int | None = None,
    half_width: float | None = None,
    by: str | None = None,
    uncertain: float = 0.0,
    uncertain_below: float = 0.7,
    seed: int = 0,
) -> DrawnFile:
    """Write a sample of ``path`` to ``out``: its rows as they are, and ``sampling_weight`` and ``sampling_stratum``.

    The size is ``n``, or what a 95 % interval of a share with this ``half_width`` takes of a simple random sample. A
    row is uncertain where a judge's ``p_first`` leaves its better response below ``uncertain_below``, or is unknown.
    Raises FileError where the file lacks what is asked for.
    """
    from aifeedback.metrics import sample_size

    if (n is None) == (half_width is None):
        raise InputError("give either a number of rows or a half-width", key="-n", fix="-n 400 or --half-width 0.05")
    source, target = Path(path), Path(out)
    if target.exists() and target.resolve() == source.resolve():
        raise FileError("would be overwritten by its own sample", file=target, fix="give another -o")
    rows = list(data.read_rows(source))
    if fault := next((row for row in rows if row.fault), None):
        raise FileError(str(fault.fault), file=source, row=fault.number, fix="mend or remove the row, then draw again")
    cells = [row.values for row in rows]
    if not cells:
        raise FileError("the file has no rows", file=source, fix="give a file with at least one row")
    if WEIGHT in cells[0]:
        raise FileError(f"has a column {WEIGHT}: it is a sample", file=source, fix="draw from the file that it is of")
    strata = None if by is None else [_tag(row, by) for row in cells]
    if strata is not None and all(tag is None for tag in strata):
        raise FileError("no row has this tag or column", file=source, key=by, fix="check the name")
    marks = [_is_uncertain(row, uncertain_below) for row in cells] if uncertain else None
    if uncertain and not any("p_first" in row for row in cells):
        raise FileError("has no judge's verdict", file=source, key="p_first", fix="run `aifeedback label` first")
    size = n if half_width is None else sample_size(half_width, population=len(cells)).value
    if size is not None and size > len(cells):
        raise FileError(f"has {len(cells):,} rows, {size:,} were asked for", file=source, key="-n", fix="draw fewer")
    sample = draw(len(cells), size or 1, strata=strata, uncertain=marks, uncertain_share=uncertain, seed=seed)
    make_folder(target.parent)
    data.write_rows(target, ({**cells[d.row], WEIGHT: d.weight, STRATUM: d.stratum} for d in sample))
    counts = Counter(d.stratum for d in sample)
    sizes = {d.stratum: round(d.weight * counts[d.stratum]) for d in sample}
    return DrawnFile(len(sample), len(cells), {name: (counts[name], sizes[name]) for name in sorted(counts)})


def _tag(row: Mapping[str, Any], name: str) -> str | None:
    tags = row.get("tags")
    if not isinstance(tags, Mapping) and isinstance(prompt := row.get("prompt"), Mapping):
        tags = prompt.get("tags")
    value = tags[name] if isinstance(tags, Mapping) and name in tags else row.get(name)
    return None if value is None else str(value)


def _is_uncertain(row: Mapping[str, Any], below: float) -> bool:
    p_first = row.get("p_first")
    return not isinstance(p_first, int | float) or max(p_first, 1 - p_first) < below
