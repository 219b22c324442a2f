"""Measure principles with a judge: their own cases, what they add, where they conflict, what they leave undecided.

``inspect`` joins these results with what the lint reports: the bodies of ``aifeedback standards check`` and ``diff``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from aifeedback.judging.pairwise import JudgeLabeler, JudgeSettings, PrincipleUse, use_of
from aifeedback.prompts.constitution import Constitution, Principle
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.lint import Change, Finding, check_file, diff
from aifeedback.prompts.registry import Wording
from aifeedback.types import Comparison, Labeler, Model, Preference, Problem, Progress, silent

DECISIVE = 0.1
"""A label further than this from one half counts as a decision."""


class CaseResult(NamedTuple):
    principle_id: str
    case: int
    """Its number in the file, from 1."""
    p_better: float | None
    """P(the response that should win is better); None with a problem."""
    problem: Problem | None
    preference: Preference

    @property
    def is_right(self) -> bool | None:
        return None if self.p_better is None else self.p_better > 0.5


class PrincipleResult(NamedTuple):
    principle_id: str
    cases: tuple[CaseResult, ...]
    n: int
    right: int
    unknown: int
    mean_p_better: float | None
    mean_position_gap: float | None

    @property
    def can_apply(self) -> bool:
        """Every case was read and decided as it should be."""
        return self.n > 0 and self.right == self.n


class Trial(NamedTuple):
    """How several principles judge the same comparisons."""

    principle_ids: tuple[str, ...]
    p_first: tuple[tuple[float | None, ...], ...]
    """Row: principle; column: comparison."""
    topics: tuple[str, ...]
    """Of each comparison: its prompt's tag 'topic', or '(none)'."""


class Overlap(NamedTuple):
    """Two principles on the comparisons that both could read."""

    one: str
    other: str
    n: int
    n_both_decisive: int
    disagree: int
    """Both decisive, for different responses."""
    conflict_share: float | None
    """disagree / n_both_decisive."""
    mean_gap: float | None
    """Mean |p − q|."""

    def is_redundant(self, *, min_n: int = 20, max_gap: float = 0.05) -> bool:
        """Never against each other, and nearly equal where they were both asked."""
        return self.n >= min_n and self.disagree == 0 and self.mean_gap is not None and self.mean_gap <= max_gap


class Coverage(NamedTuple):
    topic: str
    n: int
    decisive_share: Mapping[str, float]
    """Principle → share of the topic's comparisons on which it takes a side."""

    @property
    def is_covered(self) -> bool:
        return any(share > 0 for share in self.decisive_share.values())


def labeler_for(
    model: Model, prompt: JudgePrompt, settings: JudgeSettings | None = None
) -> Callable[[Wording], Labeler]:
    """A judge of one principle at a time, for the functions below."""
    return lambda wording: JudgeLabeler(model, prompt, settings, principles=PrincipleUse([wording]))


def run_cases(
    constitution: Constitution, judge: Callable[[Wording], Labeler], *, progress: Progress = silent
) -> list[PrincipleResult]:
    """Every principle's own test cases, judged by it alone. Which response is stored first alternates."""
    results = []
    for number, principle in enumerate(constitution.principles, start=1):
        results.append(_run_principle(constitution, principle, judge))
        right = sum(r.right for r in results) / max(sum(r.n for r in results), 1)
        progress(number, len(constitution.principles), {"right": right})
    return results


def try_out(
    constitution: Constitution, judge: Callable[[Wording], Labeler], comparisons: Sequence[Comparison]
) -> Trial:
    """Each principle by itself on the same comparisons."""
    rows = []
    for wording in constitution.wordings("compare"):
        rows.append(tuple(p.p_first for p in judge(wording).label(comparisons)))
    ids = tuple(wording.id for wording in constitution.wordings("compare"))
    topics = tuple(comparison.prompt.tags.get("topic", "(none)") for comparison in comparisons)
    return Trial(ids, tuple(rows), topics)


def overlaps(trial: Trial) -> list[Overlap]:
    """Every two principles: the conflict matrix, and what is redundant."""
    matrix = []
    for i, one in enumerate(trial.principle_ids):
        for j in range(i + 1, len(trial.principle_ids)):
            both = [
                (p, q)
                for p, q in zip(trial.p_first[i], trial.p_first[j], strict=True)
                if p is not None and q is not None
            ]
            matrix.append(_overlap(one, trial.principle_ids[j], both))
    return matrix


def coverage(trial: Trial) -> list[Coverage]:
    """Per topic, in how many comparisons each principle takes a side; unknown ones count as not decided."""
    table = []
    for topic in sorted(set(trial.topics)):
        columns = [k for k, own in enumerate(trial.topics) if own == topic]
        shares = {
            principle_id: sum(_is_decisive(row[k]) for k in columns) / len(columns)
            for principle_id, row in zip(trial.principle_ids, trial.p_first, strict=True)
        }
        table.append(Coverage(topic, len(columns), shares))
    return table


class Flips(NamedTuple):
    """Labels before and after a change of the standards, on the same comparisons."""

    n: int
    """Comparisons that both could read."""
    flipped: tuple[str, ...]
    """Ids of the comparisons whose preferred response changed; a move to or from exactly one half counts."""
    mean_shift: float | None
    """Mean of p after minus p before."""
    lost: int
    """Read before, not after."""
    gained: int
    """Read after, not before."""

    @property
    def share(self) -> float | None:
        return len(self.flipped) / self.n if self.n else None


def flips(before: Sequence[Preference], after: Sequence[Preference]) -> Flips:
    """What a change of the standards did to labels; both lists are about the same comparisons in the same order."""
    pairs = list(zip(before, after, strict=True))
    known = [
        (a.comparison_id, a.p_first, b.p_first) for a, b in pairs if a.p_first is not None and b.p_first is not None
    ]
    moved = tuple(item for item, p, q in known if _side(p) != _side(q))
    shift = math.fsum(q - p for _, p, q in known) / len(known) if known else None
    lost = sum(a.p_first is not None and b.p_first is None for a, b in pairs)
    gained = sum(a.p_first is None and b.p_first is not None for a, b in pairs)
    return Flips(len(known), moved, shift, lost, gained)


def _run_principle(
    constitution: Constitution, principle: Principle, judge: Callable[[Wording], Labeler]
) -> PrincipleResult:
    wording = Wording(constitution.full_id(principle), principle.worded("compare"))
    first = [number % 2 == 0 for number in range(len(principle.tests))]
    comparisons = [case.comparison(better_first=f) for case, f in zip(principle.tests, first, strict=True)]
    labels = judge(wording).label(comparisons) if comparisons else []
    cases = []
    for number, (preference, is_first) in enumerate(zip(labels, first, strict=True), start=1):
        p = preference.p_first
        p_better = None if p is None else p if is_first else 1.0 - p
        cases.append(CaseResult(wording.id, number, p_better, preference.problem, preference))
    read = [case.p_better for case in cases if case.p_better is not None]
    gaps = [case.preference.position_gap for case in cases if case.preference.position_gap is not None]
    return PrincipleResult(
        wording.id,
        tuple(cases),
        n=len(cases),
        right=sum(p > 0.5 for p in read),
        unknown=len(cases) - len(read),
        mean_p_better=math.fsum(read) / len(read) if read else None,
        mean_position_gap=math.fsum(gaps) / len(gaps) if gaps else None,
    )


def _overlap(one: str, other: str, both: Sequence[tuple[float, float]]) -> Overlap:
    decided = [(p, q) for p, q in both if _is_decisive(p) and _is_decisive(q)]
    disagree = sum(_side(p) != _side(q) for p, q in decided)
    return Overlap(
        one,
        other,
        n=len(both),
        n_both_decisive=len(decided),
        disagree=disagree,
        conflict_share=disagree / len(decided) if decided else None,
        mean_gap=math.fsum(abs(p - q) for p, q in both) / len(both) if both else None,
    )


def _is_decisive(p: float | None) -> bool:
    return p is not None and abs(p - 0.5) > DECISIVE


def _side(p: float) -> int:
    return (p > 0.5) - (p < 0.5)


class Inspection(NamedTuple):
    """What ``standards check`` found. The last three are empty without a judge, the last two without comparisons."""

    constitution: Constitution | None
    findings: list[Finding]
    results: list[PrincipleResult]
    overlaps: list[Overlap]
    coverage: list[Coverage]

    @property
    def is_clean(self) -> bool:
        """No finding, and every principle that was tried passed its own test cases."""
        return not self.findings and all(result.can_apply for result in self.results)

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "constitution": f"{self.constitution.name}@{self.constitution.version}" if self.constitution else None,
            "is_clean": self.is_clean,
            "findings": [finding._asdict() for finding in self.findings],
            "principles": [
                result._asdict()
                | {
                    "can_apply": result.can_apply,
                    "cases": [
                        {"case": c.case, "p_better": c.p_better, "is_right": c.is_right, "problem": c.problem}
                        for c in result.cases
                    ],
                }
                for result in self.results
            ],
            "overlaps": [one._asdict() | {"is_redundant": one.is_redundant()} for one in self.overlaps],
            "coverage": [one._asdict() | {"is_covered": one.is_covered} for one in self.coverage],
        }


def inspect(
    name: str | PathLike[str],
    judge: Callable[[Wording], Labeler] | None = None,
    comparisons: Sequence[Comparison] = (),
    *,
    progress: Progress = silent,
) -> Inspection:
    """Check a constitution file. ``trials.labeler_for`` gives a ``judge``; without one only the lint runs.

    ``comparisons``, where given, are judged by every principle: redundancy, conflicts, coverage by topic.
    """
    checked = check_file(name)
    if checked.constitution is None or judge is None:
        return Inspection(checked.constitution, checked.findings, [], [], [])
    results = run_cases(checked.constitution, judge, progress=progress)
    if not comparisons:
        return Inspection(checked.constitution, checked.findings, results, [], [])
    trial = try_out(checked.constitution, judge, comparisons)
    return Inspection(checked.constitution, checked.findings, results, overlaps(trial), coverage(trial))


class VersionDiff(NamedTuple):
    """What ``standards diff`` found."""

    changes: list[Change]
    flips: Flips | None
    """None where no comparisons were labelled."""

    def figures(self) -> dict[str, Any]:
        """As JSON."""
        changes = [
            {"kind": c.kind, "principle": c.principle_id, "field": c.field, "text": str(c), "labels": c.changes_labels}
            for c in self.changes
        ]
        moved = self.flips._asdict() | {"share": self.flips.share} if self.flips else None
        return {"changes": changes, "flips": moved}


def compare_versions(
    old: Constitution,
    new: Constitution,
    judge: Callable[[Constitution], Labeler] | None = None,
    comparisons: Sequence[Comparison] = (),
) -> VersionDiff:
    """What changed, and which labels flip because of it. ``constitutional_judge`` gives a ``judge``."""
    changes = diff(old, new)
    if judge is None or not comparisons:
        return VersionDiff(changes, None)
    return VersionDiff(changes, flips(judge(old).label(comparisons), judge(new).label(comparisons)))


def constitutional_judge(
    model: Model, prompt: JudgePrompt, settings: JudgeSettings | None = None
) -> Callable[[Constitution], Labeler]:
    """A judge by a whole constitution, used as the constitution says."""
    seed = settings.seed if settings else 0
    return lambda constitution: JudgeLabeler(model, prompt, settings, principles=use_of(constitution, seed=seed))
