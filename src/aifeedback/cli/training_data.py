"""Files as rows to train on, with a word about every row that was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aifeedback import files
from aifeedback.cli.terminal import console
from aifeedback.errors import FileError


def sft_rows(path: Path, seed: int) -> list[Any]:
    """Prompts with completions; of a file of comparisons, the preferred answers."""
    from aifeedback.train.rows import SftRow

    try:
        read = files.read_completions(path)
    except FileError as not_completions:
        try:
            pairs = files.read_comparisons(path, seed)
        except FileError:
            raise not_completions from None
        console.print(f"[dim]{pairs.report.sentence()}; the preferred answer of each pair is imitated[/]")
        return [
            SftRow(c.prompt, c.first if p > 0.5 else c.second)
            for c, p in zip(pairs.rows, pairs.human, strict=True)
            if p is not None and p != 0.5
        ]
    console.print(f"[dim]{read.report.sentence()}[/]")
    return [SftRow(p, c) for p, c in zip(read.prompts, read.rows, strict=True)]


def pair_rows(path: Path, seed: int) -> list[Any]:
    """Comparisons with their label; rows without one stay in and are counted by the trainer."""
    rows = files.read_labelled(path, seed)
    unknown = sum(row.p_first is None for row in rows)
    console.print(f"[dim]{path}: {len(rows):,} comparisons, {unknown:,} without a label[/]")
    return rows
