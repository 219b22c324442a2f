"""Principles put to the test with a judge: their own cases, what they add, where they clash, what they leave open."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from aifeedback.feedback.judge import JudgeLabeler, JudgeSettings
from aifeedback.feedback.principles import PrincipleUse
from aifeedback.protocols import Labeler, Model, Progress, silent
from aifeedback.records import Comparison, Preference, Problem
from aifeedback.standards.constitution import Constitution, Principle
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.wording import Wording

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
    unread: int
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
    found = []
    for i, one in enumerate(trial.principle_ids):
        for j in range(i + 1, len(trial.principle_ids)):
            both = [
                (p, q)
                for p, q in zip(trial.p_first[i], trial.p_first[j], strict=True)
                if p is not None and q is not None
            ]
            found.append(_overlap(one, trial.principle_ids[j], both))
    return found


def coverage(trial: Trial) -> list[Coverage]:
    """Per topic, in how many comparisons each principle takes a side; unread ones count as not decided."""
    found = []
    for topic in sorted(set(trial.topics)):
        columns = [k for k, own in enumerate(trial.topics) if own == topic]
        shares = {
            principle_id: sum(_is_decisive(row[k]) for k in columns) / len(columns)
            for principle_id, row in zip(trial.principle_ids, trial.p_first, strict=True)
        }
        found.append(Coverage(topic, len(columns), shares))
    return found


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
    asked = [case.comparison(better_first=f) for case, f in zip(principle.tests, first, strict=True)]
    labels = judge(wording).label(asked) if asked else []
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
        unread=len(cases) - len(read),
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
