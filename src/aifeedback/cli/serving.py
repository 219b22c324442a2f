"""serve, rate, plan: what others connect to, and what to do next."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    del app
