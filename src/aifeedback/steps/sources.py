"""Files that a trainer takes its rows from: one, or several with a weight each, and how many rows each of them gave."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, Self, TypeVar

from pydantic import Field, model_validator

from aifeedback.config import Cli
from aifeedback.errors import RecipeError
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Rows
from aifeedback.steps.trained import Trained

R = TypeVar("R")
Weight = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class Weighted(NamedTuple):
    """A row, and what multiplies its loss."""

    row: Any
    weight: float


class Gathered(NamedTuple):
    rows: list[Weighted]
    """File after file."""
    by_source: dict[str, int] | None
    """Usable rows taken of each file; None for a single file."""


class FromFiles(Trained):
    """Root of the steps that train on the rows of files."""

    data: Annotated[Ref, Cli(metavar="FILE", is_repeated=True)]
    """Rows to train on. Repeat to mix several files, each FILE or FILE=WEIGHT."""
    weight: Annotated[Weight, Cli(is_hidden=True)] = 1.0
    """Weight of the rows of ``data``: multiplies their loss."""
    mix: Annotated[dict[Ref, Weight], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further files → weight of their rows."""
    equal_sizes: bool = False
    """Draw equally many usable rows of every file, by seed: as many as the smallest has."""

    @model_validator(mode="after")
    def _once_each(self) -> Self:
        if self.data in self.mix:
            raise ValueError(f"data: {self.data} is given twice, and a file has one weight")
        return self

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Self:
        return super().from_options(one_or_mixed(settings), chosen)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.equal_sizes and not self.mix:
            yield "equal_sizes needs several files: give further ones in mix (--data FILE once more)"

    @property
    def weights(self) -> Mapping[Ref, float]:
        """Every file with the weight of its rows."""
        return {self.data: self.weight, **self.mix}

    def gather(self, parts: Mapping[Ref, Sequence[R]], is_usable: Callable[[R], bool], context: Context) -> Gathered:
        """The rows of all files, each with the weight of its file. Raises RecipeError where a file that equal sizes are
        to be drawn of has no usable row."""
        usable = {path: [row for row in rows if is_usable(row)] for path, rows in parts.items()}
        counts = {context.named(path): len(rows) for path, rows in usable.items()}
        taken: Mapping[Ref, Sequence[R]] = parts
        if self.equal_sizes:
            if empty := [name for name, count in counts.items() if not count]:
                raise RecipeError(f"{empty[0]} has no usable row", key="equal_sizes", fix="leave the file out")
            taken = dict(zip(usable, _equal(list(usable.values()), context.seed), strict=True))
            counts = {context.named(path): len(rows) for path, rows in taken.items()}
        rows = [Weighted(row, self.weights[path]) for path, rows in taken.items() for row in rows]
        return Gathered(rows, counts if self.mix else None)


def _equal(parts: Sequence[Sequence[R]], seed: int) -> list[list[R]]:
    """As many rows of each part as the smallest has, drawn without replacement and kept in order."""
    import numpy as np

    size = min(map(len, parts))
    drawn = [
        sorted(np.random.default_rng([seed, at]).permutation(len(rows))[:size].tolist())
        for at, rows in enumerate(parts)
    ]
    return [[rows[i] for i in chosen] for rows, chosen in zip(parts, drawn, strict=True)]


def one_or_mixed(settings: dict[str, Any]) -> dict[str, Any]:
    """``data`` repeated as FILE or FILE=WEIGHT → the first as ``data`` and ``weight``, the others as ``mix``."""
    data = settings.get("data")
    if not isinstance(data, list):
        return settings
    named = [_weighted(text) for text in data]
    (first, weight), *more = named
    if twice := [path for i, (path, _) in enumerate(named) if path in [other for other, _ in named[:i]]]:
        raise RecipeError(f"{twice[0]} is given twice", key="--data", fix="give each file once, as FILE=WEIGHT")
    own = {} if weight is None else {"weight": weight}
    mix = {path: 1.0 if weight is None else weight for path, weight in more}
    return {**settings, "data": first, **own, **({"mix": {**settings.get("mix", {}), **mix}} if mix else {})}


def _weighted(text: str) -> tuple[str, float | None]:
    path, equals, weight = text.rpartition("=")
    try:
        number = float(weight) if equals else math.nan
    except ValueError:
        return text, None
    return (path, number) if equals else (text, None)


def total_rows(parts: Sequence[Rows]) -> Rows:
    """Rows of several files together."""
    reasons = {reason for part in parts for reason in part.skipped}
    skipped = {reason: sum(part.skipped.get(reason, 0) for part in parts) for reason in sorted(reasons)}
    return Rows(read=sum(part.read for part in parts), kept=sum(part.kept for part in parts), skipped=skipped)
