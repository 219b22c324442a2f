"""Settings: frozen pydantic models that refuse unknown keys, and how a mistake in one is reported."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from aifeedback.errors import InputError, RecipeError


class Cli(NamedTuple):
    """What the command line needs to know of a setting beyond its type, default and description."""

    names: tuple[str, ...] = ()
    """Option names; ``--`` and the field's name by default."""
    flatten: tuple[type[BaseModel], ...] = ()
    """Settings classes whose fields become options of their own; the first to use a name keeps it."""
    only: tuple[str, ...] = ()
    """Of the flattened classes, these fields alone; the others are reached by --set."""
    is_argument: bool = False
    is_hidden: bool = False
    """Reached by --set and recipes only."""
    is_repeated: bool = False
    """May be given several times where the setting is a single value: ``from_options`` makes one of them."""
    metavar: str = ""
    panel: str = ""
    """The heading it stands under in --help."""
    value: Any = None
    """What a bare flag stands for; the option is then a flag."""


class Config(BaseModel):
    """Root of every settings class: frozen, unknown keys refused, defaults checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


C = TypeVar("C", bound=Config)

LONGEST_SHOWN = 80
"""Characters of a wrong value that are worth repeating; a whole file's content says nothing."""


def parse(
    schema: type[C],
    values: Mapping[str, Any],
    *,
    file: str | PathLike[str] | None = None,
    prefix: str = "",
    by_set: Collection[str] = (),
    error: type[InputError] = RecipeError,
) -> C:
    """Validate ``values`` into ``schema``; raises ``error`` naming every wrong key, with the nearest valid one.

    With the prefix "--" a key is named by its option, or, if it is among ``by_set`` (keys as written after --set), by
    ``--set KEY``.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as invalid:
        problems = faults(invalid)
        one = "correct the key" if problems[0]["type"] in ("extra_forbidden", "missing") else "correct the value"
        fix = one if len(problems) == 1 else f"correct these {len(problems)} keys"
        failure = error("; ".join(describe(p, schema, prefix, by_set) for p in problems), file=file, fix=fix)
        # the sentence names the key already, so it is kept for programs and not printed a second time
        failure.key = _key(problems[0], prefix, by_set) if len(problems) == 1 else None
        raise failure from None


def describe(
    problem: Mapping[str, Any], schema: type[BaseModel], prefix: str = "", by_set: Collection[str] = ()
) -> str:
    """One pydantic error as a sentence; an unknown key gets the nearest valid one."""
    key = _key(problem, prefix, by_set)
    if problem["type"] == "extra_forbidden":
        known = list(_nested(schema, problem["loc"][:-1]).model_fields)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
        return f"unknown key '{key}'{hint}"
    if problem["type"] == "missing":
        return f"key '{key}' is missing"
    # our own validators word the message; pydantic's begin with a capital
    is_ours = problem["type"] == "value_error"
    message = problem["msg"].removeprefix("Value error, ") if is_ours else problem["msg"].lower()
    is_whole = isinstance(problem["input"], Mapping)
    if is_ours and (not problem["loc"] or (prefix == "--" and is_whole)):  # about several keys, which it names
        return message
    value = repr(problem["input"])
    where = f"'{key}'" if is_whole or len(value) > LONGEST_SHOWN else f"'{key}' = {value}"
    return f"{where}: {message}"


def _nested(schema: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The settings class at a path of keys; the outer one where the path leads to no class."""
    for part in loc:
        if isinstance(part, int) or str(part).startswith("(") or part not in schema.model_fields:
            continue
        inner = _model_in(schema.model_fields[part].annotation)
        schema = inner or schema
    return schema


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def faults(invalid: ValidationError) -> list[Any]:
    """Its errors, each mistake once: a misspelled key is not told a second time as the key that is missing."""
    errors = invalid.errors()
    unknown = [error["loc"] for error in errors if error["type"] == "extra_forbidden"]

    def is_misspelled(loc: tuple[int | str, ...]) -> bool:
        written = [str(other[-1]) for other in unknown if other[:-1] == loc[:-1]]
        return bool(difflib.get_close_matches(str(loc[-1]), written, n=1))

    return [error for error in errors if error["type"] != "missing" or not is_misspelled(error["loc"])]


def _key(problem: Mapping[str, Any], prefix: str, by_set: Collection[str]) -> str:
    """Where it is, as the user wrote it: the tag of a union (in brackets) is not a key of the file.

    After the bare prefix of an option, "--", that is ``--set KEY`` for what was given so, else the option: its last
    name, with dashes.
    """
    parts = [str(part) for part in problem["loc"] if not str(part).startswith("(")]
    if prefix == "--":
        named = [part for part in parts if not part.isdigit()]
        if written := _as_written(named, by_set):
            return f"--set {written}"
        return f"--{named[-1].replace('_', '-')}" if named else "options"
    return f"{prefix}{'.'.join(parts)}".strip()


def _as_written(path: Sequence[str], by_set: Collection[str]) -> str:
    """The part of a path that was given by --set: a command's keys may leave out the settings they are nested in."""
    for key in by_set:
        parts = key.split(".")
        for start in range(len(path)):
            rest = list(path[start:])
            shared = min(len(rest), len(parts))
            if rest[:shared] == parts[:shared]:
                return ".".join(rest)
    return ""
