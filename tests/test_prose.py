"""Docs, help, errors and report texts keep to one word per thing and to plain phrases."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "aifeedback"
PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")),
]
AVOIDED = {
    r"\bis told of\b|\bare told of\b": "is reported",
    r"\btold apart\b|\btell\w* \w+ apart\b": "distinguish",
    r"\bgo(?:es)? on (?:where|from the last)\b|\brun again, it goes on\b": "resume, continue",
    r"\bgone on with\b": "resumed",
    r"\bstands? twice\b|\bstands in an earlier row\b": "duplicate",
    r"\bas it stands there\b|\bwhat stands there\b": "contents",
    r"\bwhat lies there\b|\bas what lies\b": "contents",
    r"\bis no (?:confidence level|run folder|probability|share|length|class|half-width|model of the lab|constitution)\b": "not a",
    r"\bis none that can be read\b": "unsupported",
    r"\bhad better not\b": "should not",
    r"\band its kin\b|\band their kin\b": "and related",
    r"\bmay be believed\b": "can be trusted",
    r"\bnothing (?:is|was) asked (?:again|or trained)\b": "no calls are repeated",
    r"\bof ours\b": "ours, the package's",
    r"\bthe judge is dead\b|\bstayed dead\b": "unreachable",
    r"\bno fault that is certain\b": "no significant fault",
    r"\bin a way nobody foresaw\b": "unexpected",
    r"\bas far as the copies\b": "limited so that",
    r"\bonly so many\b": "at most N",
    r"\bcan be made here\b": "cannot create",
    r"\bwhich tells? nothing\b": "without information",
}
"""Pattern → what to write instead."""


def strings(path: Path) -> Iterator[str]:
    """Docstrings, messages and help of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts(path: Path) -> str:
    return "\n".join(strings(path)) if path.suffix == ".py" else path.read_text(encoding="utf-8")


SOURCES = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(PACKAGE.rglob("*.j2")),
    *sorted((PACKAGE / "recipes").glob("*.yaml")),
]


@pytest.mark.parametrize(("pattern", "instead"), AVOIDED.items(), ids=AVOIDED.values())
def test_texts_avoid_the_phrase(pattern: str, instead: str) -> None:
    wanted = re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)
    places = {
        str(path.relative_to(ROOT)): match[0] for path in (*PAGES, *SOURCES) if (match := wanted.search(texts(path)))
    }
    assert places == {}, f"write: {instead}"
