"""The page of a decision file: what was decided, by whom, on what, and what is not known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from aifeedback.reports.page import render
from aifeedback.reports.provenance import Fact


class Row(NamedTuple):
    """One requirement."""

    id: str
    asks: str
    mark: str
    level: str
    sentence: str
    waiver: str
    file: str


class Question(NamedTuple):
    """One of the six questions."""

    number: int
    title: str
    mark: str
    level: str
    answer: str
    """The gravest requirement's sentence."""
    rows: Sequence[Row]


class FileRow(NamedTuple):
    name: str
    digest: str


class DossierView(NamedTuple):
    """Everything that the page shows. Levels: fine, watch, bad, unknown."""

    title: str
    decision: str
    note: str
    level: str
    summary: str
    facts: Sequence[Fact]
    questions: Sequence[Question]
    waived: Sequence[Row]
    """With a waiver, one that expired included."""
    not_measured: Sequence[str]
    claim: Sequence[tuple[str, str, str, str]]
    """Field, state, what is given, what we measured."""
    questions_back: Sequence[str]
    """For the vendor."""
    signatures: Sequence[tuple[str, str, str, str, str, str]]
    files: Sequence[FileRow]
    heads: Sequence[tuple[str, str]]


CLAIM_LEVELS = {"given": "watch", "missing": "unknown", "checked by us": "fine", "contradicted": "bad"}


def write_dossier_report(view: DossierView, path: Path) -> Path:
    """Write the page and return its path."""
    marks = {"fine": "✓", "watch": "!", "bad": "✗", "unknown": "?"}
    page = render("dossier.html.j2", view=view, mark=marks, claim_levels=CLAIM_LEVELS)
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path
