"""Reading a verdict or a score out of free text, strictly: what is not said plainly is not known.

Used only where a server gives no log-probabilities. Two tiers of evidence:

1. *Plain*: the whole answer is the value; a line that holds a heading and the value and nothing else ("Rating: 7/10");
   a value marked as final ("overall: 7", "[[A]]", ``\\boxed{7}``). If there are any, all of them must agree.
2. *Inline*: "I would give it 7 out of 10 because …", "Response 2 is better". Only where nothing is plain, and only if
   all of them agree.

Thinking is taken out first (``dialects``), and an answer that may still be thinking is not read. Anything negated,
conditional, approximate, said of something else, out of range or on another scale is no evidence, or ends the reading.
The rules are English; an answer in another language is read where it follows tier 1, and is abstained from otherwise.
The patterns are in ``phrases``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from aifeedback.models import dialects, phrases
from aifeedback.models.phrases import Forms, label_forms, score_forms
from aifeedback.records import FinishReason, Problem

V = TypeVar("V")


class Parsed(NamedTuple, Generic[V]):
    """A value that was read, or None and why not."""

    value: V | None
    problem: Problem | None = None


def parse_score(text: str, *, low: int = 1, high: int = 10, finish_reason: FinishReason = "stop") -> Parsed[float]:
    """The score that an answer states, in [low, high]; None with a problem where it does not state exactly one."""
    return _parse(text, score_forms(low, high), finish_reason)


def parse_label(text: str, labels: Sequence[str], *, finish_reason: FinishReason = "stop") -> Parsed[str]:
    """Which of ``labels`` an answer chooses (one of them exactly, spaces included); None with a problem otherwise.

    Labels that are the numbers 1..K with K > 2 are read as scores: 7.5 is none of them.
    """
    names = [label.strip() for label in labels]
    if len(names) > 2 and names == [str(number) for number in range(1, len(names) + 1)]:
        score = parse_score(text, low=1, high=len(names), finish_reason=finish_reason)
        if score.value is None:
            return Parsed(None, score.problem)
        whole = int(score.value)
        return Parsed(labels[whole - 1]) if whole == score.value else Parsed(None, Problem.UNREADABLE)
    return _parse(text, label_forms(tuple(labels)), finish_reason)


def _parse(text: str, forms: Forms, finish_reason: FinishReason) -> Parsed:
    answer = dialects.spoken(text)
    if answer.text is None:
        return Parsed(None, Problem.UNREADABLE)
    plain = phrases.plain(answer.text)
    if finish_reason == "length":
        # The conclusion may be what was cut off, "1" may be half of "10", and without a mark that closes it all of it
        # may be thinking that the chat template opened: only a finished first line after such a mark counts.
        first, newline, _ = plain.lstrip().partition("\n")
        is_whole = bool(newline) and answer.blocks > 0
        return (_agreed(_stated(first, forms)) if is_whole else None) or Parsed(None, Problem.TRUNCATED)
    if not plain.strip():
        return Parsed(None, Problem.EMPTY)
    parsed = _agreed(_stated(plain, forms))
    if parsed is None and not forms.spoils.search(plain):
        parsed = _agreed(_said(plain, forms))
    return parsed or Parsed(None, _why_not(plain))


def _why_not(plain: str) -> Problem:
    if phrases.REFUSAL.search(plain):
        return Problem.REFUSED
    return Problem.ABSTAINED if phrases.UNDECIDED.search(plain) else Problem.UNREADABLE


def _agreed(found: Iterable[object]) -> Parsed | None:
    """The one value that all evidence names; None without evidence; unreadable where it differs."""
    values = set(found)
    if len(values) == 1:
        value = values.pop()
        return Parsed(None, value) if isinstance(value, Problem) else Parsed(value)
    return Parsed(None, Problem.UNREADABLE) if values else None


def _stated(plain: str, forms: Forms) -> Iterator[object]:
    """Tier 1. A plain statement that cannot be a value (out of range, a tie) is a Problem, so nothing else is taken."""
    lines = phrases.lines(plain)
    for place, line in enumerate(lines):
        match = forms.line.fullmatch(line)
        if match is not None and phrases.OTHER_HEADING.search(line[: match.start(match.lastindex or 0)]):
            continue
        if match is None and _may_be_bare(place, lines, forms):
            match = forms.bare.fullmatch(line)
        if match is not None:
            yield _value(match, forms)
        elif phrases.TIED_LINE.fullmatch(line):
            yield Problem.ABSTAINED
    yield from _said(plain, forms, (forms.final,))


def _said(plain: str, forms: Forms, patterns: Sequence[re.Pattern[str]] | None = None) -> Iterator[object]:
    for pattern in forms.inline if patterns is None else patterns:
        for match in pattern.finditer(plain):
            if not _is_hedged(plain, match):
                yield _value(match, forms)


def _value(match: re.Match[str], forms: Forms) -> object:
    form = match[match.lastindex or 0].strip().casefold()
    if forms.values is not None:
        return forms.values.get(form, Problem.UNREADABLE)
    number = phrases.NUMBER_WORDS.get(form) or float(form.replace(",", "."))
    low, high = forms.span
    return number if low <= number <= high else Problem.UNREADABLE


def _is_hedged(plain: str, match: re.Match[str]) -> bool:
    """Is the statement negated, conditional, approximate, or about something else, within its own sentence?"""
    before = phrases.SENTENCE_END.split(plain[max(0, match.start() - 80) : match.start()])[-1]
    after = phrases.SENTENCE_END.split(plain[match.end() : match.end() + 60])[0]
    return bool(
        phrases.HEDGE_BEFORE.search(before) or phrases.HEDGE_INSIDE.search(match[0]) or phrases.HEDGE_AFTER.match(after)
    )


def _may_be_bare(place: int, lines: Sequence[str], forms: Forms) -> bool:
    """May a line be a value alone? The first, the last, and one below a heading may, unless it numbers a list."""
    if lines[place][-1] in ".)" and sum(bool(phrases.LIST_NUMBER.match(line)) for line in lines) > 1:
        return False
    if place > 0 and forms.heading.fullmatch(lines[place - 1]):
        return phrases.OTHER_HEADING.search(lines[place - 1]) is None
    return place in (0, len(lines) - 1)
