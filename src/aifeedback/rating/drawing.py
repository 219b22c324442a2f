"""A sample of the rows of a file, each with its sampling weight, as another file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import files
from aifeedback.errors import FileError, InputError
from aifeedback.rating.draw import draw
from aifeedback.rating.task import STRATUM, WEIGHT
from aifeedback.storage import make_folder


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
    from aifeedback.evaluate import sample_size

    if (n is None) == (half_width is None):
        raise InputError("give either a number of rows or a half-width", key="-n", fix="-n 400 or --half-width 0.05")
    source, target = Path(path), Path(out)
    if target.exists() and target.resolve() == source.resolve():
        raise FileError("would be overwritten by its own sample", file=target, fix="give another -o")
    rows = list(files.read_rows(source))
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
    files.write_rows(target, ({**cells[d.row], WEIGHT: d.weight, STRATUM: d.stratum} for d in sample))
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
