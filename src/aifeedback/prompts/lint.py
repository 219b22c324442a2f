"""Check a constitution without any model: schema first, then how it would read to a judge. Compare two versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import ValidationError

from aifeedback.config import describe, faults
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.constitution import CRITERIA, Case, Constitution, Principle
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.rubric import Criterion, Rubric
from aifeedback.types import content_id

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


def load_standard(path: Path) -> Constitution | Rubric | JudgePrompt:
    """The file as what its keys say it is. Raises StandardsError with file and keys."""
    values = registry.read_mapping(path)
    schema = Rubric if is_rubric(values) else JudgePrompt if is_prompt(values) else Constitution
    return schema.read(values, path)


def is_rubric(values: Mapping[str, Any]) -> bool:
    criteria = values.get("criteria")
    return "principles" not in values and isinstance(criteria, list) and any(isinstance(c, dict) for c in criteria)


def is_prompt(values: Mapping[str, Any]) -> bool:
    return "principles" not in values and ("sample" in values or "task" in values)


def check_other(path: Path) -> list[Finding] | None:
    """As ``check_file``, for a rubric or a judge prompt; None for any other file."""
    values = registry.read_mapping(path)
    if not (is_rubric(values) or is_prompt(values)):
        return None
    try:
        standard = load_standard(path)
    except StandardsError as wrong:
        kind = "rubric" if is_rubric(values) else "judge prompt"
        return [Finding("schema", kind, wrong.what, "correct the file; docs/standards.md lists all keys")]
    return lint_rubric(standard) if isinstance(standard, Rubric) else lint_prompt(standard)  # type: ignore[arg-type]


def lint_rubric(rubric: Rubric) -> list[Finding]:
    """Findings in the order of the criteria, then of the whole."""
    rules: Any = (_vague, _compare_wording, _template_marks, _too_much)
    findings = [finding for criterion in rubric.criteria for rule in rules for finding in rule(criterion)]
    return [*findings, *_same_texts(rubric.criteria), *_unsigned(rubric)]


def lint_prompt(prompt: JudgePrompt) -> list[Finding]:
    """Its few-shot examples are its test cases: check what else they teach."""
    findings: list[Finding] = []
    choices = [
        e for e in prompt.exemplars if prompt.task == "pairwise" and e.first is not None and e.second is not None
    ]
    if prompt.labels and not prompt.exemplars:
        findings.append(Finding("no-tests", "exemplars", "no exemplar shows what it means", "add solved examples"))
    labels = [e.label for e in prompt.exemplars]
    if len(labels) >= 3 and len(set(labels)) == 1:
        fix = "add examples with other labels"
        findings.append(Finding("one-label", "exemplars", f"every exemplar has the label {labels[0]!r}", fix))
    lengths = [(len(e.first or ""), len(e.second or ""), e.label == prompt.labels[0]) for e in choices]
    better = [(one, other) if is_first else (other, one) for one, other, is_first in lengths]
    if len(better) >= 3 and all(one > other for one, other in better):
        message = "in every exemplar the better response is the longer one"
        findings.append(
            Finding("length-tells", "exemplars", message, "add a case where the shorter response is better")
        )
    wants: dict[tuple[str, ...], str] = {}
    for number, e in enumerate(prompt.exemplars, start=1):
        shown = tuple(
            _plain(text or "") for text in (e.context, e.first, e.second, e.response, e.critique, e.principle)
        )
        mirrored = (shown[0], shown[2], shown[1], *shown[3:])
        against = wants.get(shown, e.label) != e.label or (bool(choices) and wants.get(mirrored) == e.label)
        if against:
            message = f"exemplar {number} has the opposite label of an equal one"
            findings.append(Finding("conflict", "exemplars", message, "decide which holds, and remove the other"))
        wants.setdefault(shown, e.label)
    if not prompt.owner.strip():
        findings.append(Finding("unsigned", "owner", "nobody can be asked about it", "name the owner"))
    return findings


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


def _vague(principle: Principle | Criterion) -> Iterator[Finding]:
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


def _compare_wording(principle: Principle | Criterion) -> Iterator[Finding]:
    wording = principle.compare
    if wording is None:
        return
    if _INVERTED.search(wording):
        message = "its wording for comparing asks for the worse response, so all labels would be inverted"
        yield Finding("inverted", principle.id, message, "ask which response does better")
    elif not _CHOICE.search(wording):
        message = "its wording for comparing does not ask for a choice between the responses"
        yield Finding("no-choice", principle.id, message, "ask 'Which response …?'")


def _template_marks(principle: Principle | Criterion) -> Iterator[Finding]:
    for purpose in ("text", "compare", "critique", "revise"):
        if re.search(r"\{\{|\{%|\{\w+\}", getattr(principle, purpose, None) or ""):
            message = f"'{purpose}' holds template marks, which a judge would see as they are"
            yield Finding("template", principle.id, message, "write it out; the prompt file inserts the responses")


def _too_much(principle: Principle | Criterion) -> Iterator[Finding]:
    words = len(principle.text.split())
    if words > MANY_WORDS:
        fix = "make one principle of each demand, so that each can be tested and weighted"
        yield Finding("too-long", principle.id, f"{words} words are more than one principle", fix)


def _tags(principle: Principle) -> Iterator[Finding]:
    if not principle.criteria:
        message = "its tags name none of the criteria"
        yield Finding("no-criterion", principle.id, message, f"tag it with one of: {', '.join(CRITERIA)}")


def _duplicates(constitution: Constitution) -> Iterator[Finding]:
    yield from _same_texts(constitution.principles)


def _same_texts(parts: Sequence[Principle | Criterion]) -> Iterator[Finding]:
    for one, other in combinations(parts, 2):
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


def _unsigned(constitution: Constitution | Rubric) -> Iterator[Finding]:
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


Standard: TypeAlias = Constitution | Rubric | JudgePrompt

WHOLE = ("name", "version", "owner", "source", "about", "criteria", "use", "per_pair")
FIELDS = ("title", "text", "compare", "critique", "revise", "weight", "tags", "tests")


PROMPT_WORDING = tuple(
    name for name in JudgePrompt.model_fields if name not in ("name", "version", "about", "owner", "history")
)


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
            return self.field in ("use", "per_pair") or self.field in PROMPT_WORDING
        return self.field in (None, "text", "compare", "weight")

    @property
    def changes_wording(self) -> bool:
        """Does it change what a judge, critic or reviser is shown, or how answers are combined? Then the version must
        change too."""
        return self.changes_labels or self.field in ("critique", "revise")

    def __str__(self) -> str:
        if self.field is None:
            title = (self.after or self.before).title
            return f"{'+' if self.kind == 'added' else '-'} {self.principle_id}: {title}"
        where = f"{self.principle_id}.{self.field}" if self.principle_id else self.field
        return f"~ {where}: {_short(self.before)} → {_short(self.after)}"


def diff_any(old: Standard, new: Standard) -> list[Change]:
    """As ``diff``, for any two files of one kind. Raises StandardsError for two of different kinds."""
    if isinstance(old, Constitution) and isinstance(new, Constitution):
        return diff(old, new)
    if isinstance(old, Rubric) and isinstance(new, Rubric):
        return _whole(old, new, ("name", "version", "owner", "source", "about")) + _parts(old.criteria, new.criteria)
    if isinstance(old, JudgePrompt) and isinstance(new, JudgePrompt):
        return _whole(old, new, [name for name in JudgePrompt.model_fields if name != "history"])
    kinds = " and ".join(type(one).__name__ for one in (old, new))
    raise StandardsError(f"these are of different kinds: {kinds}", fix="give two versions of one file")


def unversioned(old: Standard, new: Standard, changes: Sequence[Change]) -> Finding | None:
    """The finding where wording changed and the version did not: labels of both could not be distinguished."""
    is_rubric = isinstance(old, Rubric)  # a criterion's title is shown to a judge that rates
    changed = [change for change in changes if change.changes_wording or (is_rubric and change.field == "title")]
    if not changed or old.name != new.name or old.version != new.version:
        return None
    parts = [".".join(part for part in (c.principle_id, c.field) if part) for c in changed]
    what = f"{', '.join(dict.fromkeys(parts))} changed, and the version is still {new.version}"
    return Finding("version", new.name, what, "give it a new version, with a line in its history")


def wording_digest(standard: Standard) -> str:
    """Sixteen hex digits over what a judge, critic or reviser is shown and how answers are combined, and nothing else."""
    if isinstance(standard, JudgePrompt):
        return standard.digest
    fields: Any = {"id", "text", "compare", "critique", "revise", "weight"}
    if isinstance(standard, Rubric):
        fields, parts, whole = {*fields, "title"}, standard.criteria, []
    else:
        parts, whole = standard.principles, [standard.use, standard.per_pair]
    return content_id("wording", whole, [part.model_dump(mode="json", include=fields) for part in parts])


def diff(old: Constitution, new: Constitution) -> list[Change]:
    """Changes of the whole, then of the principles in the new order, then what was removed. Principles match by id."""
    return _whole(old, new, WHOLE) + _parts(old.principles, new.principles)


def _whole(old: Any, new: Any, keys: Iterable[str]) -> list[Change]:
    return [
        Change("changed", None, key, getattr(old, key), getattr(new, key))
        for key in keys
        if getattr(old, key) != getattr(new, key)
    ]


def _parts(old: Sequence[Principle | Criterion], new: Sequence[Principle | Criterion]) -> list[Change]:
    changes: list[Change] = []
    before = {part.id: part for part in old}
    for part in new:
        if part.id not in before:
            changes.append(Change("added", part.id, None, None, part))
        else:
            changes += _changed(before[part.id], part)
    kept = {part.id for part in new}
    return changes + [Change("removed", p.id, None, p, None) for p in old if p.id not in kept]


def _changed(old: Principle | Criterion, new: Principle | Criterion) -> list[Change]:
    return [
        Change("changed", new.id, field, getattr(old, field), getattr(new, field))
        for field in FIELDS
        if field in type(new).model_fields and getattr(old, field) != getattr(new, field)
    ]


def _short(value: Any) -> str:
    if isinstance(value, tuple) and value and not isinstance(value[0], str):
        return f"{len(value)} cases"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return repr(text if len(text) <= 60 else text[:57] + "…")
