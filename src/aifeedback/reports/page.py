"""HTML from the templates beside this module: every text escaped, SVG alone let through as it is."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from aifeedback.reports.figures import MINUS


def render(template: str, **values: Any) -> str:
    """Render a template; undefined names are errors."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda text: Markup(text)  # our own plots, never input
    environment.filters["css"] = lambda name: Markup(_source(str(name)))
    environment.filters["duration"] = duration
    environment.filters["visible"] = visible
    environment.filters["typeset"] = typeset
    return environment


def _source(name: str) -> str:
    return (files("aifeedback.reports") / "templates" / name).read_text(encoding="utf-8")


def duration(seconds: float | None) -> str:
    """85 → '1 min 25 s'."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def minus(text: str) -> str:
    """A hyphen before a number that no letter or digit precedes becomes a minus sign."""
    return re.sub(r"(?<![\w.\-–])-(?=\.?\d)", MINUS, text)


def typeset(text: str) -> str:
    """Real minus signs, and no line break between a number and its percent sign."""
    return re.sub(r"(?<=\d) %", "\u00a0%", minus(text))


def visible(text: Any) -> str:
    """Control and invisible formatting characters as what they are, so that nothing hides in a judged text."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _is_hidden(c) else c for c in str(text))


def _is_hidden(character: str) -> bool:
    # the zero-width joiner stays: emoji are made with it
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") and character not in "\n\t\u200d"
