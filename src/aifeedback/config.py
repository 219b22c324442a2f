"""Settings: frozen pydantic models that refuse unknown keys, and how a mistake in one is told."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from os import PathLike
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from aifeedback.errors import InputError, RecipeError


class Config(BaseModel):
    """Root of every settings class: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Config)


def parse(
    schema: type[C],
    values: Mapping[str, Any],
    *,
    file: str | PathLike[str] | None = None,
    prefix: str = "",
    error: type[InputError] = RecipeError,
) -> C:
    """Validates ``values`` into ``schema``; raises ``error`` naming every wrong key, with the nearest valid one."""
    try:
        return schema.model_validate(dict(values))
    except ValidationError as invalid:
        problems = [describe(problem, schema, prefix) for problem in invalid.errors()]
        keys = [f"{prefix}{_key(problem)}" for problem in invalid.errors()]
        raise error(
            "; ".join(problems),
            file=file,
            key=keys[0] if len(keys) == 1 else None,
            fix="correct the key" if len(keys) == 1 else f"correct these {len(keys)} keys",
        ) from None


def describe(problem: Mapping[str, Any], schema: type[BaseModel], prefix: str = "") -> str:
    """One pydantic error as a sentence; an unknown key gets the nearest valid one."""
    key = f"{prefix}{_key(problem)}"
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(problem["loc"][-1]), list(schema.model_fields), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(schema.model_fields)}"
        return f"unknown key '{key}'{hint}"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    return f"'{key}' = {problem['input']!r}: {problem['msg'].lower()}"


def _key(problem: Mapping[str, Any]) -> str:
    """Where it is, as the user wrote it: the tag of a union (in brackets) is no key of the file."""
    return ".".join(str(part) for part in problem["loc"] if not str(part).startswith("("))
