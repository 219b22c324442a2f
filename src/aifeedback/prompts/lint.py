"""Check a constitution without any model: schema first, then how it would read to a judge. Compare two versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from os import PathLike
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from aifeedback.config import describe, faults
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.constitution import CRITERIA, Case, Constitution, Principle

VAGUE = (
    *("appropriate", "appropriately", "reasonable", "reasonably", "suitable", "suitably", "proper", "properly"),
    *("good", "nice", "fine", "quality", "high-quality", "best", "ideal", "optimal", "adequate", "acceptable"),
    *("ethical", "moral", "professional", "natural", "positive", "sensible", "as needed", "where possible", "etc"),
)
"""Words that leave the decision to the judge unless the principle also says what it means by them."""

_VAGUE = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, VAGUE))})(?![\w-])", re.I)

MANY_WORDS = 60
"""A principle longer than this is usually several."""


class Finding(NamedTuple):
    """One thing to correct in a constitution."""

    code: str
    """Short and stable, for filtering: schema, vague, no-tests …"""
    where: str
    """The principle's id, or the key."""
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]\n  → {self.fix}"


class Checked(NamedTuple):
    constitution: Constitution | None
    """None where the file does not even have the right form."""
    findings: list[Finding]


def check_file(name: str | PathLike[str]) -> Checked:
    """All that can be said about a constitution file without a model. Raises StandardsError if it cannot be read."""
    path = registry.find("constitutions", name)
    return check_values(registry.read_mapping(path))


def check_values(values: Mapping[str, Any]) -> Checked:
    """As ``check_file``, for the content of a file: all schema errors at once, or the lint findings."""
    try:
        constitution = Constitution.model_validate(dict(values))
    except ValidationError as invalid:
        return Checked(None, [_schema_finding(problem, values) for problem in faults(invalid)])
    return Checked(constitution, lint(constitution))


def lint(constitution: Constitution) -> list[Finding]:
    """Findings in the order of the principles, then of the whole."""
    findings = [
        finding for principle in constitution.principles for rule in PRINCIPLE_RULES for finding in rule(principle)
    ]
    return findings + [finding for rule in CONSTITUTION_RULES for finding in rule(constitution)]


def _vague(principle: Principle) -> Iterator[Finding]:
    for wording in (principle.text, principle.compare):
        if match := _VAGUE.search(wording or ""):
            message = f"'{match[0]}' can mean anything"
            yield Finding("vague", principle.id, message, "say what a reader could point at in the response")
            return


def _no_tests(principle: Principle) -> Iterator[Finding]:
    if not principle.tests:
        fix = "add a prompt with a better and a worse response, and why"
        yield Finding("no-tests", principle.id, "no test case shows what it means", fix)


def _empty_test(principle: Principle) -> Iterator[Finding]:
    for number, case in enumerate(principle.tests, start=1):
        if case.better.strip() == case.worse.strip():
            message = f"in test case {number} both responses are the same"
            yield Finding("same-responses", principle.id, message, "write a response that breaks the principle")


def _longer_wins(principle: Principle) -> Iterator[Finding]:
    """A judge that only likes long answers would pass such tests."""
    lengths = [(len(case.better), len(case.worse)) for case in principle.tests]
    if len(lengths) >= 3 and all(better > worse for better, worse in lengths):
        message = "in every test case the better response is the longer one"
        yield Finding("length-tells", principle.id, message, "add a case where the shorter response is better")


_CHOICE = re.compile(r"\b(which|choose|pick|prefer|select|decide)\b", re.I)
_INVERTED = re.compile(
    r"\b(which|choose|pick|select)\b[^.?!]{0,40}\b(is|are|does|the|seems|sounds)\s+"
    r"(worse|worst|more (harmful|dishonest|misleading|toxic|offensive|dangerous|biased|unhelpful|rude)|less "
    r"(helpful|honest|accurate|safe|polite|useful|truthful|clear))\b",
    re.I,
)


def _compare_wording(principle: Principle) -> Iterator[Finding]:
    wording = principle.compare
    if wording is None:
        return
    if _INVERTED.search(wording):
        message = "its wording for comparing asks for the worse response, so all labels would be inverted"
        yield Finding("inverted", principle.id, message, "ask which response does better")
    elif not _CHOICE.search(wording):
        message = "its wording for comparing does not ask for a choice between the responses"
        yield Finding("no-choice", principle.id, message, "ask 'Which response …?'")


def _template_marks(principle: Principle) -> Iterator[Finding]:
    for purpose in ("text", "compare", "critique", "revise"):
        if re.search(r"\{\{|\{%|\{\w+\}", getattr(principle, purpose) or ""):
            message = f"'{purpose}' holds template marks, which a judge would see as they are"
            yield Finding("template", principle.id, message, "write it out; the prompt file inserts the responses")


def _too_much(principle: Principle) -> Iterator[Finding]:
    words = len(principle.text.split())
    if words > MANY_WORDS:
        fix = "make one principle of each demand, so that each can be tested and weighted"
        yield Finding("too-long", principle.id, f"{words} words are more than one principle", fix)


def _tags(principle: Principle) -> Iterator[Finding]:
    if not principle.criteria:
        message = "its tags name none of the criteria"
        yield Finding("no-criterion", principle.id, message, f"tag it with one of: {', '.join(CRITERIA)}")


def _duplicates(constitution: Constitution) -> Iterator[Finding]:
    for one, other in combinations(constitution.principles, 2):
        if _overlap(one.text, other.text) > 0.8:
            message = f"says the same as '{one.id}'"
            yield Finding("duplicate", other.id, message, "merge the two, or say what sets them apart")


def _conflicts(constitution: Constitution) -> Iterator[Finding]:
    """Two principles that want opposite winners of the same pair would cancel each other."""
    wants: dict[tuple[str, str, str], str] = {}
    for principle in constitution.principles:
        for case in principle.tests:
            prompt, better, worse = (_plain(text) for text in (case.prompt, case.better, case.worse))
            against = wants.get((prompt, worse, better))
            if against is not None:
                message = f"its test case about '{case.prompt[:40]}' wants the opposite of one of '{against}'"
                yield Finding("conflict", principle.id, message, "decide which holds, and say so in both principles")
            wants.setdefault((prompt, better, worse), principle.id)


def _missing_criteria(constitution: Constitution) -> Iterator[Finding]:
    covered = {criterion for principle in constitution.principles for criterion in principle.criteria}
    for criterion in constitution.criteria:
        if criterion not in covered:
            message = f"no principle is tagged '{criterion}'"
            yield Finding("missing", "criteria", message, "add a principle, or leave it out of 'criteria'")


def _unsigned(constitution: Constitution) -> Iterator[Finding]:
    for key in ("owner", "source"):
        if not getattr(constitution, key).strip():
            yield Finding("unsigned", key, "it has no author to ask", f"name the {key}")


def _few_for_draw(constitution: Constitution) -> Iterator[Finding]:
    weights = [principle.weight for principle in constitution.principles]
    if constitution.use == "drawn" and len(weights) > 1 and max(weights) > 0.9 * sum(weights):
        heaviest = constitution.principles[weights.index(max(weights))].id
        message = f"'{heaviest}' has more than 90 % of the weight and is drawn almost every time"
        yield Finding("weights", "principles", message, "lower its weight, or judge by it alone")


PRINCIPLE_RULES: tuple[Callable[[Principle], Iterator[Finding]], ...] = (
    _vague,
    _no_tests,
    _empty_test,
    _longer_wins,
    _compare_wording,
    _template_marks,
    _too_much,
    _tags,
)
CONSTITUTION_RULES: tuple[Callable[[Constitution], Iterator[Finding]], ...] = (
    _duplicates,
    _conflicts,
    _missing_criteria,
    _unsigned,
    _few_for_draw,
)


def _schema_finding(problem: Mapping[str, Any], values: Mapping[str, Any]) -> Finding:
    """A pydantic error, told with the id of the principle it is in."""
    location = list(problem["loc"])
    where, rest = "constitution", location
    if len(location) > 1 and location[0] == "principles" and isinstance(location[1], int):
        principle = values["principles"][location[1]]
        named = principle.get("id") if isinstance(principle, dict) else None
        where, rest = str(named or f"principle {location[1] + 1}"), location[2:]
    in_case = rest[:1] == ["tests"] and len(rest) > 2
    schema = Constitution if where == "constitution" else Case if in_case else Principle
    message = describe({**problem, "loc": tuple(rest)}, schema) if rest else str(problem["msg"])
    fix = "correct the file; docs/standards.md lists all keys"
    return Finding("schema", where, message.removeprefix("Value error, "), fix)


_SMALL = set("a an and any are as at be by for from in is it its of on or that the this to which with".split())


def _overlap(one: str, other: str) -> float:
    """Jaccard similarity of the content words, in [0, 1]."""
    first, second = ({w for w in _plain(text).split() if w not in _SMALL} for text in (one, other))
    return len(first & second) / len(first | second) if first | second else 1.0


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def require_clean(name: str | PathLike[str]) -> Constitution:
    """The constitution, or StandardsError with every finding: for use before a run is started."""
    checked = check_file(name)
    if checked.constitution is None or checked.findings:
        listed = "\n".join(str(finding) for finding in checked.findings)
        raise StandardsError(f"{len(checked.findings)} findings\n{listed}", file=str(name))
    return checked.constitution


WHOLE = ("name", "version", "owner", "source", "about", "criteria", "use", "per_pair")
FIELDS = ("title", "text", "compare", "critique", "revise", "weight", "tags", "tests")


class Change(NamedTuple):
    kind: Literal["added", "removed", "changed"]
    principle_id: str | None
    """None for a change of the constitution as a whole."""
    field: str | None
    """None where a whole principle was added or removed."""
    before: Any
    after: Any

    @property
    def changes_labels(self) -> bool:
        """Could this change what a judge is shown about a pair, or how its answers are combined?"""
        if self.principle_id is None:
            return self.field in ("use", "per_pair")
        return self.field in (None, "text", "compare", "weight")

    def __str__(self) -> str:
        if self.field is None:
            title = (self.after or self.before).title
            return f"{'+' if self.kind == 'added' else '-'} {self.principle_id}: {title}"
        where = f"{self.principle_id}.{self.field}" if self.principle_id else self.field
        return f"~ {where}: {_short(self.before)} → {_short(self.after)}"


def diff(old: Constitution, new: Constitution) -> list[Change]:
    """Changes of the whole, then of the principles in the new order, then what was removed. Principles match by id."""
    changes = [
        Change("changed", None, key, getattr(old, key), getattr(new, key))
        for key in WHOLE
        if getattr(old, key) != getattr(new, key)
    ]
    before = {principle.id: principle for principle in old.principles}
    for principle in new.principles:
        if principle.id not in before:
            changes.append(Change("added", principle.id, None, None, principle))
        else:
            changes += _changed(before[principle.id], principle)
    kept = {principle.id for principle in new.principles}
    return changes + [Change("removed", p.id, None, p, None) for p in old.principles if p.id not in kept]


def _changed(old: Principle, new: Principle) -> list[Change]:
    return [
        Change("changed", new.id, field, getattr(old, field), getattr(new, field))
        for field in FIELDS
        if getattr(old, field) != getattr(new, field)
    ]


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        return f"{len(value)} cases"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")
