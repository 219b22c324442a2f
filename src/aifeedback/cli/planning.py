"""plan: how many labels a question needs, from whom, and what they cost; decided before any is bought."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    del app
