"""Versions of a standards file, kept in the file itself: when it changed, who decided it, and why."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, field_validator

from aifeedback.config import Config


class Version(Config):
    version: str = Field(min_length=1)
    at: str = Field(min_length=1)
    """Date."""
    by: str = Field(min_length=1)
    """Who decided it."""
    why: str = Field(min_length=1)

    @field_validator("version", "at", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads 1.0 as a number and 2026-11-30 as a date."""
        return value if isinstance(value, str | dict | list) or value is None else str(value)

    def __str__(self) -> str:
        return f"{self.version} ({self.at}, {self.by}): {self.why}"


def in_one_line(history: Iterable[Version]) -> str | None:
    """One line, the oldest first; None where nothing is recorded."""
    return "; ".join(map(str, history)) or None
