"""Single cells, whatever they mean: which hold nothing, what kind a value is, lists and objects written as text."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from typing import Any

_NOTHING = {"", "nan", "none", "null", "na", "n/a", "<na>", "[]", "{}"}
_MESSAGE_LIST = re.compile(r"\s*\[\s*\{\s*['\"](role|from|content|value)['\"]\s*:")


def is_missing(value: Any) -> bool:
    """Whether a cell is absent: null, NaN, or text without a character."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing, however its writer spelled that: also 'nan', 'null', '[]', an empty list."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return is_missing(value) or (isinstance(value, (list, tuple, Mapping)) and not value)


def name_in(row: Mapping[str, Any], key: str, default: str = "data") -> str:
    """A name from a cell; ``default`` where the cell holds nothing."""
    value = row.get(key)
    return default if is_missing(value) else str(value)


def kind_of(value: Any) -> str:
    """What a JSON value is, in plain words."""
    names = {str: "text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    if type(value) is int and abs(value) >= 10**20:
        return "a number of more than 20 digits"
    if type(value) in (int, float):
        return f"a number ({value})"
    return names.get(type(value), type(value).__name__)


class TornList(ValueError):
    """A cell that is written like a list of messages and cannot be read as one; ``args[0]`` is its column."""


def unfolded(row: dict[str, Any]) -> dict[str, Any]:
    """The row with lists of messages that are written as text turned into lists. Raises TornList."""
    written = [key for key, value in row.items() if isinstance(value, str) and _MESSAGE_LIST.match(value)]
    if not written:
        return row
    row = dict(row)
    for key in written:
        row[key] = parsed(row[key])
        if not isinstance(row[key], list):
            raise TornList(key)
    return row


def parsed(text: str) -> Any:
    """The list or object that a text spells out, as JSON or as Python prints it; the text itself if it spells none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
    return value if isinstance(value, (list, dict)) else text
