"""Everything about a constitution at once: what the lint says, and, with a judge, what its principles do.

These are the bodies of ``aifeedback standards check`` and ``aifeedback standards diff``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, NamedTuple

from aifeedback.feedback.judge import JudgeLabeler, JudgeSettings
from aifeedback.feedback.principles import use_of
from aifeedback.feedback.trials import (
    Coverage,
    Flips,
    Overlap,
    PrincipleResult,
    coverage,
    flips,
    overlaps,
    run_cases,
    try_out,
)
from aifeedback.protocols import Labeler, Model, Progress, silent
from aifeedback.records import Comparison
from aifeedback.standards.constitution import Constitution
from aifeedback.standards.diff import Change, diff
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.lint import Finding, check_file
from aifeedback.standards.wording import Wording


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
    """Checks a constitution file. ``trials.labeler_for`` gives a ``judge``; without one only the lint runs.

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
