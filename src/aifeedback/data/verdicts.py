"""Single verdicts: responses with the probability that each is good, as KTO takes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.data.prompts import read_completions
from aifeedback.data.tables import ReadReport, is_missing
from aifeedback.errors import FileError
from aifeedback.types import Completion, Prompt

WORDS = {"true": 1.0, "good": 1.0, "yes": 1.0, "1": 1.0, "false": 0.0, "bad": 0.0, "no": 0.0, "0": 0.0}


class Verdicts(NamedTuple):
    """Responses, their prompts and verdicts; the lists are parallel."""

    prompts: list[Prompt]
    rows: list[Completion]
    p_good: list[float | None]
    """None where the verdict is unknown."""
    report: ReadReport
    judges: list[str]
    """Who gave each verdict; 'human' where only a ``label`` says it, empty where nothing does."""


def load_verdicts(path: str | Path) -> Verdicts:
    """Read responses with ``label`` (true or false, TRL's form), ``p_good`` in [0, 1], or a score ``value`` in [−1, 1],
    of which p_good is (value + 1)/2.

    An empty verdict is unknown. Raises FileError if the file has no such column, or for any other value.
    """
    read = read_completions(path)
    if not any(name in row for row in read.inputs for name in ("p_good", "label", "value")):
        raise FileError("no verdicts", file=path, fix="add a column label (true or false), p_good or value")
    verdicts = [_p_good(row, path, number) for number, row in enumerate(read.inputs, 1)]
    return Verdicts(read.prompts, read.rows, verdicts, read.report, [_judge(row) for row in read.inputs])


def _judge(row: Mapping[str, Any]) -> str:
    if not is_missing(row.get("judge")):
        return str(row["judge"])
    return "" if not is_missing(row.get("p_good")) or is_missing(row.get("label")) else "human"


def _p_good(row: Mapping[str, Any], path: str | Path, number: int) -> float | None:
    name = next((name for name in ("p_good", "label", "value") if not is_missing(row.get(name))), None)
    if name is None:
        return None
    value = row[name]
    if name == "label":
        p_good = WORDS.get(str(value).strip().lower().removesuffix(".0"))
    else:
        try:
            p_good = float(value) if name == "p_good" else (float(value) + 1.0) / 2.0
        except (TypeError, ValueError):
            p_good = None
    if p_good is None or not 0.0 <= p_good <= 1.0:
        meant = {"label": "true or false", "p_good": "a probability in [0, 1]", "value": "a score in [−1, 1]"}[name]
        raise FileError(f"{value!r} is not {meant}", file=path, key=name, fix=f"correct usable row {number}")
    return p_good
