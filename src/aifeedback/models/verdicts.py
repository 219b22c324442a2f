"""Read a verdict or a score from free text, strictly: what is not stated plainly is unknown.

Used only where a server gives no log-probabilities. Two tiers of evidence:

1. *Plain*: the whole answer is the value; a line that holds a heading and the value and nothing else ("Rating: 7/10");
   a value marked as final ("overall: 7", "[[A]]", ``\\boxed{7}``). If there are any, all of them must agree.
2. *Inline*: "I would give it 7 out of 10 because …", "Response 2 is better". Only where nothing is plain, and only if
   all of them agree.

Thinking is taken out first (``dialects``), and an answer that may still be thinking is not read. Anything negated,
conditional, approximate, said of something else, out of range or on another scale is no evidence, or ends the reading.
The rules are English; an answer in another language is read where it follows tier 1, and is abstained from otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

from aifeedback.models import dialects
from aifeedback.types import FinishReason, Problem


class Forms(NamedTuple):
    """How values of one kind are written. The one group that a match of any pattern captures is the value."""

    bare: re.Pattern[str]
    """A whole line that is nothing but the value."""
    heading: re.Pattern[str]
    """A whole line that announces the value of the next."""
    line: re.Pattern[str]
    """A whole line: heading and value."""
    final: re.Pattern[str]
    """Somewhere, marked as final."""
    inline: tuple[re.Pattern[str], ...]
    spoils: re.Pattern[str]
    """Ends the reading of the inline tier: a range, a tie, another scale."""
    values: Mapping[str, str | float] | None
    """Written form, casefolded → value; None: any number within ``span``."""
    span: tuple[int, int] = (0, 0)


def any_of(*phrases: str) -> str:
    """A pattern that matches any of these patterns; it captures nothing."""
    return "(?:" + "|".join(phrases) + ")"


def pattern(source: str) -> re.Pattern[str]:
    """Compiled; capitals and small letters are alike."""
    return re.compile(source, re.IGNORECASE)


# ---------------------------------------------------------------- plain text

_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
_BOX = re.compile(r"\$?\\boxed\{(?:\\(?:text|math)\w{0,4}\{)?([^{}\n]{1,40})\}{1,2}\$?|\[\[([^\[\]\n]{1,40})\]\]")
_TAGS = any_of(
    "rating", "score", "grade", "verdict", "answer", "preference", "preferred", "choice", "winner", "judge?ment"
)
_TAG = pattern(rf"<({_TAGS})(?:\s[^<>\n]{{0,40}})?>([^<>\n]{{0,80}})</\1>")
_TEN = any_of("10", "ten")
_ONE_TO_TEN = rf"(?:1|one)\s*(?:-|–|—|to)\s*{_TEN}"
_SCALE = pattern(
    any_of(
        rf"\((?:from |on a scale (?:of|from) )?{_ONE_TO_TEN}\)",
        rf"\b(?:on|using) (?:a|the) (?:scale (?:of|from) )?{_ONE_TO_TEN}(?: scale)?\b",
        rf"\b(?:on|using) a {_TEN}[- ]point scale\b",
        rf"\bscale (?:of|from) {_ONE_TO_TEN}\b",
        rf"\bfrom {_ONE_TO_TEN}\b",
    )
)
_BULLET = re.compile(r"^\s*(?:[-–—•+]\s+)+")
_WRAPPING = " \t\f\v#{}[]()<>|$,;:'"


def plain_text(text: str) -> str:
    """The text without mark-up and invisible characters; boxes and tags become headings."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("’", "'").replace("‘", "'")
    text = re.sub(r"[^\S\n]+", " ", _INVISIBLE.sub("", text))
    text = _BOX.sub("\n final answer: \\g<1>\\g<2> \n", text)
    text = _TAG.sub("\n\\1: \\2\n", text)
    text = re.sub(r'["“”„«»]', "", text)
    text = re.sub(r"(?<!\w)[*_`~]+|[*_`~]+(?!\w)", "", text)
    return _SCALE.sub(" ", text)


_ORDINAL = pattern(
    r"\b(?:the )?(first|second) (response|summary|answer|completion|reply|option|candidate|assistant|output|one)\b"
)


def with_ordinals(text: str, names: Sequence[str]) -> str:
    """The text with "the second response" as "response 2", where the two labels number or letter what is shown."""
    if [name.casefold() for name in names] not in (["1", "2"], ["a", "b"]):
        return text
    return _ORDINAL.sub(lambda m: f"{_noun(m[2])} {names[m[1].casefold() == 'second']}", text)


def _noun(word: str) -> str:
    return "response" if word.casefold() == "one" else word


def content_lines(text: str) -> list[str]:
    """The lines that say something, without bullets and brackets around them."""
    bare = (_BULLET.sub("", line).strip(_WRAPPING) for line in text.split("\n"))
    return [line for line in bare if line]


# ---------------------------------------------------------------- what makes a statement no evidence

SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n")
LIST_NUMBER = re.compile(r"\d+[.)](?:\s|$)")
_VAGUE = any_of("nearly", "almost", "around", "about", "roughly", "approximately", "between")
_BOUND = any_of("below", "above", "under", "over", "at least", "at most", "up to", "more than", "less than")
_NEGATED = any_of("not", "never", "neither", "nor", "cannot", "can't", "hardly", "barely", "rather than", "instead")
_SOMEONE = any_of(
    "some", "someone", "others?", "another", "people", "users?", "claim(?:s|ed)?", "says?", "said", "asks?"
)
_OTHER_TIME = any_of(
    "previous(?:ly)?", "initial(?:ly)?", "original(?:ly)?", "earlier", "first glance", "example", "had"
)
_UNREAL = any_of(
    "if", "unless", "whether", "might", "could", "may", "should", "were", "tempted", "than", "minimum", "maximum"
)
_OTHER_THING = any_of(
    "confidence", "certainty", "difficulty", "importance", "worse", "worst", "weaker", "inferior", "rejected", "loser",
    "losing", "lower", "lowest", "least", "wrong", "dispreferred", "expected", "average", "mean", "max", "min",
)  # fmt: skip
_WORSE = any_of(
    "not", "worse", "worst", "weaker", "weakest", "inferior", "rejected", "dispreferred", "loser", "losing", "wrong",
    "incorrect",
)  # fmt: skip
_DEGREE = any_of("the", "an?", "much", "far", "clearly", "slightly", "somewhat", "also", "simply")
HEDGE_BEFORE = pattern(
    rf"\b{any_of(_VAGUE, _BOUND, _NEGATED, _SOMEONE, _OTHER_TIME, _UNREAL, _OTHER_THING)}\b|n't\b|[~≈<>≤≥±]\s*$"
)
"""Before a statement, in its own sentence: it is denied, doubted, someone else's, or about something else."""
HEDGE_INSIDE = pattern(rf"\b{any_of(_VAGUE, _BOUND, _NEGATED, _OTHER_TIME, _OTHER_THING, 'have')}\b|n't\b|[~≈<>≤≥±]")
"""Within it, between its words and its value."""
HEDGE_AFTER = pattern(
    r"\s*(?:[,(]?\s*(?:would|could|might|if|unless|were|was|had|(?:is|seems|feels) too|at best|at most|at least"
    r"|or (?:so|more|less|higher|lower|above|below)|of the|for (?!the (?:overall|final))|in (?:terms|some|certain|part)"
    rf"|on (?:clarity|style|accuracy|tone|some)|than (?:it|expected)|(?:is|as)(?: {_DEGREE}){{0,3}} {_WORSE})\b"
    r"|\s*[+?±%])"
)
"""Right after it: it holds in part only, or what it names is called the worse one."""
OTHER_HEADING = pattern(rf"\b{any_of(_NEGATED, _OTHER_TIME, _OTHER_THING)}\b")
"""In a heading: what follows is the value of something else."""
UNDECIDED = pattern(
    r"\b(?:tied?|draw|equal(?:ly)?|neither|both|(?:cannot|can't|unable to|hard to) (?:decide|tell|determine|say|choose"
    r"|rate|judge)|no preference|not sure|unsure|undecided|too close)\b"
)
"""Anywhere in an answer that could not be read: it abstains."""
TIED_LINE = pattern(
    r"(?:[\w' ]{0,40}(?::|=|\bis|-)\s*)?(?:it'?s )?(?:an? )?(?:tied?|draw|equal|neither|both|undecided|cannot tell"
    r"|can't tell|cannot decide|no preference|none|n/?a|unknown)[.!]*"
)
"""A whole line that states a tie, or that there is no value."""
SAYS_TIE = pattern(r"\b(?:tied?|draw|equal)\b")
"""In such a line: it states a tie, which may be one of the labels."""
REFUSAL = pattern(
    r"\b(?:I(?:'m| am) (?:sorry|afraid|unable|not able|not comfortable)|I (?:can(?:no|')t|won't|will not|must decline)"
    r"|as an AI|against my (?:guidelines|policy))\b"
)
"""Anywhere in an answer that could not be read: it refuses."""

_REMARK = r"\s*(?:\([^()\n]{0,40}\))?\s*"
_JOINT = _REMARK + r"(?:is(?: an?)?|was|=|:|->|=>|→|[-–—](?=\s))\s*"
_MODIFIERS = any_of(
    "my", "the", "this", "our", "final", "overall", "total", "response", "summary", "answer", "quality",
    "numeric(?:al)?", "general", "assigned", "combined", "judge'?s?", "helpfulness", "harmlessness",
    "preferred", "better", "best", "chosen",
)  # fmt: skip

# ---------------------------------------------------------------- scores

NUMBER_WORDS: Mapping[str, float] = {
    "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0, "five": 5.0,
    "six": 6.0, "seven": 7.0, "eight": 8.0, "nine": 9.0, "ten": 10.0,
}  # fmt: skip


# A number before any other word counts things: "it gives two examples".
_CLAUSE = any_of(
    "for", "because", "since", "as", "due", "thanks", "given", "considering", "based", "despite", "though", "although",
    "while", "when", "if", "unless", "overall", "total", "on", "in", "at", "from", "to", "and", "but", "or", "so",
    "which", "that", "with", "would", "could", "might", "was", "were", "had", "is", "here", "too",
)  # fmt: skip


@lru_cache(maxsize=16)
def score_forms(low: int, high: int) -> Forms:
    """Scores in [low, high]; a denominator, where one is given, must be ``high``."""
    words = "|".join(NUMBER_WORDS)
    number = rf"(\d{{1,4}}(?:\.\d{{1,4}})?|{words})(?![\w*^]|[.,:]\d|-\d)"
    number_or_comma = rf"(\d{{1,2}}[.,]\d{{1,2}}|\d{{1,4}}|{words})"
    top = rf"(?:{high}(?:\.0)?|ten)" if high == 10 else rf"{high}(?:\.0)?"
    of = rf"\s*(?:/|\\/|out of(?: a (?:possible|maximum)(?: of)?)?)\s*{top}(?![\w/]|[.,]\d)"
    starts = r"(?<![\w.,/*^+-])"
    amount = rf"{starts}(?:{number}(?:{of}|\s*points?\b)?(?!\s*(?:/|\\/|out of))(?! (?!{_CLAUSE}\b)[^\W\d_]))"
    noun = any_of("rating", "score", "grade", "mark", "verdict", "answer", "evaluation", "assessment", "judge?ment")
    heading = rf"(?:{_MODIFIERS}[ _]){{0,4}}{any_of(noun, 'result', 'quality', 'final', 'overall')}"
    gives = (
        r"\b(?:gives?|rates?|scores?|grade|assign|award|deserves?|gets?|earns?|receives?|merits?)\b(?:\s+[a-z']+){0,6}?"
        r"\s+(?:an? |as |at |with )?(?:an? |(?:an? )?(?:score|rating) of )?"
    )
    return Forms(
        bare=pattern(rf"(?:an? )?{number_or_comma}(?:{of}|\s*points?)?\s*[.!]*"),
        heading=pattern(rf"{heading}{_REMARK}"),
        line=pattern(rf"{heading}{_JOINT}[\[(]?{number_or_comma}(?:{of}|\s*points?)?[\])]?\s*[.!]*"),
        final=pattern(
            rf"\b(?:final|overall)(?:\s+[a-z']+){{0,5}}?{_JOINT}{amount}"
            rf"|\b(?:final|overall),?\s+I(?:'d| would)? {gives}{amount}"
        ),
        inline=(
            pattern(rf"\b{noun}\b(?:{_JOINT}|\s+of\s+(?:an? )?){amount}"),
            pattern(rf"{gives}{amount}"),
            pattern(rf"{starts}{number_or_comma}{of}"),
        ),
        spoils=pattern(
            r"\d\s*(?:-|–|—|to|or|and)\s*(?:an? )?\d(?!\d*[.)]\s)|\bbetween\b[^.\n]{0,20}\d|\d\s*/\s*\d+\s*/\s*\d"
            rf"|\d\s*(?:/|out of)\s*(?!{top}(?!\w|\.\d))\d|\d\s*[%×]|\bstars?\b|\bpercent"
        ),
        values=None,
        span=(low, high),
    )


# ---------------------------------------------------------------- labels


@lru_cache(maxsize=64)
def label_forms(labels: tuple[str, ...]) -> Forms:
    """Verdicts that name one of ``labels``, alone or as "Response 1", "option B" and the like."""
    names = sorted({label.strip() for label in labels}, key=len, reverse=True)
    alone = "|".join(re.escape(name) for name in names)
    # A lone letter must be a capital in running text: "a" is an article.
    running = "|".join(re.escape(name) if len(name) > 1 else f"(?-i:{re.escape(name)})" for name in names)
    thing = any_of(
        "response", "summary", "answer", "completion", "reply", "option", "candidate", "assistant", "output", "model",
        "choice", "text", "version",
    )  # fmt: skip
    noun = rf"(?:the )?{thing}"
    ends = r"(?![\w/%]|[.,:]\d|'\w|-\w)"
    named = rf"(?:{noun}\s+)?[(\[]?(?<![\w.,/-])({running})[)\]]?{ends}"
    must_name = rf"\b{noun}\s+[(\[]?({running})[)\]]?{ends}"
    choice = any_of("preferred", "preference", "better", "best", "winner", "choice", "verdict", "answer")
    outcome = any_of("decision", "selection", "pick", "judge?ment", "conclusion", "result", "final", "label")
    heading = rf"(?:{_MODIFIERS}[ _]){{0,4}}{any_of(choice, thing, outcome)}"
    how_much = any_of("clearly", "much", "slightly", "significantly", "overall", "the", "far", "somewhat", "definitely")
    better = (
        rf"\s+(?:is|seems|appears|was)\s+(?:{how_much}\s+){{0,3}}(?:better|preferred|preferable|superior|stronger|best"
        r"|winner)\b(?!\s+(?:at|in|for|on|written|structured|if|when|only)\b)|\s+(?:clearly |easily )?wins\b"
    )
    stop = r"(?=\s*(?:[.!,;)\n]|$|(?:over|because|since|as|due|is)\b))"
    leading = rf"\A\s*({alone})(?=\s*[,;:–—]|\s+-\s|\.\s)" if all(len(name) > 1 for name in names) else "(?!)()"
    return Forms(
        bare=pattern(rf"(?:{noun}\s+)?[(\[]?({alone})[)\]]?\s*[.!]*"),
        heading=pattern(rf"{heading}{_REMARK}"),
        line=pattern(rf"{heading}{_JOINT}(?:{noun}\s+)?[(\[]?({alone})[)\]]?\s*[.!]*|{must_name}(?:{better})\s*[.!]*"),
        final=pattern(
            rf"\b(?:final|overall)(?:\s+[a-z']+){{0,4}}?{_JOINT}{named}{stop}|\boverall,?\s+{must_name}(?:{better})"
        ),
        inline=(
            pattern(rf"\b(?:prefer|choose|pick|select|favou?r|go with)\s+{named}{stop}"),
            pattern(rf"{must_name}(?:{better})"),
            pattern(rf"\b{choice}\b(?:\s+(?:one|{noun}))?{_JOINT}{named}{stop}"),
            pattern(leading),
        ),
        spoils=pattern(
            r"\b(?:tied?|equally (?:good|bad|helpful|valid)|neither (?:is|response)|(?:cannot|can't) (?:decide|tell)"
            r"|no preference|too close)\b"
        ),
        values=_casefolded(labels),
    )


def _casefolded(labels: Sequence[str]) -> dict[str, str | float]:
    """Labels that differ in case alone could be mistaken for each other, so they are read by nothing."""
    names = [label.strip().casefold() for label in labels]
    return {name: label for name, label in zip(names, labels, strict=True) if names.count(name) == 1}


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
    return _parse(with_ordinals(text, names), label_forms(tuple(labels)), finish_reason)


def _parse(text: str, forms: Forms, finish_reason: FinishReason) -> Parsed[Any]:
    answer = dialects.final_text(text)
    if answer.text is None:
        return Parsed(None, Problem.UNREADABLE)
    parsed = _read(answer, answer.text, forms, finish_reason)
    known = dialects.without_unknown_blocks(answer.text)
    is_doubtful = parsed.value is not None and known != answer.text
    if is_doubtful and _read(answer, known, forms, finish_reason).value != parsed.value:
        return Parsed(None, Problem.UNREADABLE)
    return parsed


def _read(answer: dialects.FinalText, text: str, forms: Forms, finish_reason: FinishReason) -> Parsed[Any]:
    plain = plain_text(text)
    if finish_reason == "length":
        # The conclusion may be what was cut off, "1" may be half of "10", and without a mark that closes it all of it
        # may be thinking that the chat template opened: only a finished first line after such a mark counts.
        first, newline, rest = plain.lstrip().partition("\n")
        stated = _agreed(_stated(first, forms)) if newline and answer.blocks > 0 else None
        if stated is None or {*_stated(rest, forms), *_inline_values(rest, forms)} - {stated.value}:
            return Parsed(None, Problem.TRUNCATED)
        return stated
    if not plain.strip():
        return Parsed(None, Problem.EMPTY)
    parsed = _agreed(_stated(plain, forms))
    if parsed is None and not forms.spoils.search(plain):
        parsed = _agreed([*_inline_values(plain, forms), *_last_word(plain, forms)])
    return parsed or Parsed(None, _why_not(plain))


def _why_not(plain: str) -> Problem:
    if REFUSAL.search(plain):
        return Problem.REFUSED
    return Problem.ABSTAINED if UNDECIDED.search(plain) else Problem.UNREADABLE


def _agreed(evidence: Iterable[object]) -> Parsed[Any] | None:
    """The one value that all evidence names; None without evidence; unreadable where it differs."""
    values = set(evidence)
    if len(values) == 1:
        value = values.pop()
        return Parsed(None, value) if isinstance(value, Problem) else Parsed(value)
    return Parsed(None, Problem.UNREADABLE) if values else None


def _stated(plain: str, forms: Forms) -> Iterator[object]:
    """Tier 1. A plain statement that cannot be a value (out of range, a tie) is a Problem, so nothing else is taken."""
    lines = content_lines(plain)
    for place, line in enumerate(lines):
        match = forms.line.fullmatch(line)
        if match is not None and OTHER_HEADING.search(line[: match.start(match.lastindex or 0)]):
            continue
        if match is None and _may_be_bare(place, lines, forms):
            match = forms.bare.fullmatch(line)
        if match is not None:
            yield _value(match, forms)
        elif TIED_LINE.fullmatch(line):
            is_tie = SAYS_TIE.search(line) is not None
            yield (forms.values or {}).get("tie", Problem.ABSTAINED) if is_tie else Problem.ABSTAINED
    yield from _inline_values(plain, forms, (forms.final,))


def _inline_values(plain: str, forms: Forms, patterns: Sequence[re.Pattern[str]] | None = None) -> Iterator[object]:
    for pattern in forms.inline if patterns is None else patterns:
        for match in pattern.finditer(plain):
            if not _is_hedged(plain, match):
                yield _value(match, forms)


def _last_word(plain: str, forms: Forms) -> Iterator[object]:
    """The value after the colon of a last line, whatever stands before it: a verdict in words that no pattern knows.
    Alone it is not evidence, but it can contradict other patterns."""
    lines = content_lines(plain)
    head, colon, tail = re.sub("[：=]", ":", lines[-1]).rpartition(":") if lines else ("", "", "")
    if colon and head and OTHER_HEADING.search(head) is None:
        match = forms.bare.fullmatch(tail.strip())
        if match is not None and any(True for _ in _inline_values(plain, forms)):
            yield _value(match, forms)


def _value(match: re.Match[str], forms: Forms) -> object:
    form = match[match.lastindex or 0].strip().casefold()
    if forms.values is not None:
        return forms.values.get(form, Problem.UNREADABLE)
    number = NUMBER_WORDS.get(form) or float(form.replace(",", "."))
    low, high = forms.span
    return number if low <= number <= high else Problem.UNREADABLE


def _is_hedged(plain: str, match: re.Match[str]) -> bool:
    """Is the statement negated, conditional, approximate, or about something else, within its own sentence?"""
    before = SENTENCE_END.split(plain[max(0, match.start() - 80) : match.start()])[-1]
    after = SENTENCE_END.split(plain[match.end() : match.end() + 60])[0]
    return bool(HEDGE_BEFORE.search(before) or HEDGE_INSIDE.search(match[0]) or HEDGE_AFTER.match(after))


def _may_be_bare(place: int, lines: Sequence[str], forms: Forms) -> bool:
    """May a line be a value alone? The first, the last, and one below a heading may, unless it numbers a list."""
    if lines[place][-1] in ".)" and sum(bool(LIST_NUMBER.match(line)) for line in lines) > 1:
        return False
    if place > 0 and forms.heading.fullmatch(lines[place - 1]):
        return OTHER_HEADING.search(lines[place - 1]) is None
    return place in (0, len(lines) - 1)
