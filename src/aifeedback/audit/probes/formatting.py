"""Formatting: the same words as a bold-headed list, against the same words as plain lines."""

from __future__ import annotations

import re

from aifeedback.audit.contrast import mark_finding
from aifeedback.audit.finding import Finding, Ground
from aifeedback.records import Completion

_MARKUP = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#+)\s+|\*\*", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def formatting(ground: Ground) -> list[Finding]:
    return [
        mark_finding(
            ground,
            "formatting",
            group="bias",
            title="Formatting",
            told="that is set as a list with bold type",
            mark=lambda completion, pair: _as_list(completion),
            control=lambda completion, pair: "\n".join(_lines(completion)),
        )
    ]


def _as_list(completion: Completion) -> str:
    """Every sentence an item, its first word in bold."""
    items = []
    for line in _lines(completion):
        first, _, rest = line.partition(" ")
        items.append(f"- **{first}** {rest}".rstrip())
    return "\n".join(items)


def _lines(completion: Completion) -> list[str]:
    """The sentences, without any markup that stood there before."""
    bare = _MARKUP.sub("", completion.text)
    return [s.strip() for part in bare.splitlines() for s in _SENTENCE.split(part) if s.strip()] or [bare]
