"""The audit of a judge: every probe on the same pairs, the same baseline verdicts, one correction over all tests.

Works on anything that labels: a model with a prompt, a panel, a reward model, recorded verdicts (which answer the
observational probes only). Nothing here trains or changes the judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aifeedback.audit.finding import Finding, ProbeInput, settle
from aifeedback.audit.prefetch import Answered, Noted, new_questions, problems_of
from aifeedback.audit.probes import PROBES
from aifeedback.audit.probes.labels import refusal
from aifeedback.errors import InputError
from aifeedback.refs import ProbeRef
from aifeedback.types import Comparison, Labeler, Preference, Progress, Prompt, silent


@dataclass(frozen=True)
class JudgeAudit:
    """Everything that was found about one judge."""

    judge: str
    findings: tuple[Finding, ...]
    pairs: int
    unreadable: int
    """Of the pairs themselves, without those that probes made."""
    asked: int
    """Comparisons that the judge was asked about in all."""
    seconds: float
    new_calls: int | None = None
    """Questions that were put to the model for this audit, without those that a journal answered; None where the judge
    does not count them."""
    verdicts: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    """Comparison id → p_first of the judge and of people; what ``audit.diff`` compares."""
    problems: Mapping[str, int] = field(default_factory=dict)
    """Reason → answers that are unknown for it, of the pairs and of those that probes made."""
    who: Mapping[str, Any] = field(default_factory=dict)
    """Model, family, version, prompt: what an auditor asks first."""

    def get(self, probe: str) -> Finding | None:
        return next((finding for finding in self.findings if finding.probe == probe), None)

    def alarms(self) -> list[Finding]:
        """Findings that a test or a threshold calls bad or worth watching, the worst first."""
        order = {"bad": 0, "watch": 1}
        alarms = [f for f in self.findings if f.level in order]
        return sorted(alarms, key=lambda f: (order[f.level], math.inf if math.isnan(f.p_adjusted) else f.p_adjusted))

    def as_dict(self) -> dict[str, Any]:
        names = ("judge", "pairs", "unreadable", "asked", "new_calls", "seconds", "who", "verdicts")
        values = {name: getattr(self, name) for name in names}
        return {**values, "findings": [finding.as_dict() for finding in self.findings]}


def audit_judge(
    labeler: Labeler,
    comparisons: Sequence[Comparison],
    human: Sequence[float | None] | None = None,
    *,
    probes: Sequence[str] | None = None,
    n: int = 400,
    seed: int = 0,
    family: str = "",
    variants: Mapping[str, Labeler] | None = None,
    again: Labeler | None = None,
    fresh: bool = False,
    refusal_prompts: Sequence[Prompt] | None = None,
    who: Mapping[str, Any] | None = None,
    made: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> JudgeAudit:
    """Runs the probes (all by default) and returns their findings, corrected together by Holm.

    ``human`` is people's p_first per pair, None where not known. ``n`` is the number of pairs that each probe which
    changes texts may use (it asks twice as many). ``variants``: the same judge under other prompt wordings. ``again``: the
    same judge without memory of its answers, for the repeatability probe; needed where ``labeler`` answers known
    questions from a journal. ``fresh`` refuses remembered answers: InputError where a journal answered for the judge,
    or for ``again``, on the pairs themselves.
    ``refusal_prompts``: prompts tagged safe or unsafe. ``made``: a dictionary that audits of several judges on the same
    pairs, ``n`` and ``seed`` share, so that changed texts are made once. Raises InputError for an unknown probe or
    where there are no pairs.
    """
    chosen = list(PROBES) if probes is None else list(probes)
    require_probes(chosen)
    if not comparisons:
        raise InputError("no pairs to audit the judge on", key="comparisons")
    started = time.perf_counter()
    before = new_questions(labeler), new_questions(again) if again is not None else 0
    preferences = list(labeler.label(comparisons))
    if fresh:
        _require_new(labeler, before[0], comparisons, preferences)
    inputs = ProbeInput(
        labeler=labeler,
        comparisons=comparisons,
        human=list(human) if human is not None else [None] * len(comparisons),
        preferences=preferences,
        n=n,
        seed=seed,
        family=family,
        variants=variants or {},
        made=made if made is not None else {},
        again=again,
    )
    noted = Noted(labeler.name)
    unasked = Noted(labeler.name)  # what goes to other labelers is theirs to answer, when its turn comes
    silenced = replace(inputs, labeler=noted, again=again and unasked, variants=dict.fromkeys(inputs.variants, unasked))
    _run(chosen, silenced, refusal_prompts)
    questions = noted.questions()
    known, total = len(comparisons), len(comparisons) + len(questions)
    progress(known, total, {})
    answered = Answered(labeler, questions, progress=lambda done: progress(known + done, total, {}))
    findings = _run(chosen, replace(inputs, labeler=answered), refusal_prompts)
    if fresh and any(f.probe == "repeatability" and f.level == "uninformative" for f in findings):
        raise InputError(
            "the second answers come from a journal", key="again", fix="give a labeler with an empty journal"
        )
    counts = new_questions(labeler), new_questions(again) if again is not None else 0
    return JudgeAudit(
        judge=labeler.name,
        findings=tuple(settle(findings)),
        pairs=len(comparisons),
        unreadable=inputs.unreadable,
        asked=len(comparisons) + sum(finding.calls for finding in findings),
        seconds=time.perf_counter() - started,
        new_calls=None if None in counts or None in before else sum(counts) - sum(before),  # type: ignore[arg-type]
        verdicts={c.id: (p, h) for c, p, h in zip(comparisons, inputs.p_first, inputs.human, strict=True)},
        problems=problems_of(preferences) + answered.problems,
        who=who or {},
    )


def _require_new(
    labeler: Labeler, before: int | None, comparisons: Sequence[Comparison], preferences: Sequence[Preference]
) -> None:
    """Raises InputError where fewer questions reached the model than there are pairs with a verdict."""
    after = new_questions(labeler)
    if before is None or after is None:
        return
    least = len(
        {c.id for c, preference in zip(comparisons, preferences, strict=True) if preference.p_first is not None}
    )
    if after - before < least:
        raise InputError(
            f"at least {least - (after - before)} of {least} verdicts were remembered, not asked for",
            key="fresh",
            fix="give the judge an empty journal, or do without fresh",
        )


def require_probes(names: Sequence[str]) -> None:
    """Raises InputError for a name that no probe has."""
    for name in names:
        if problem := ProbeRef(name).problem():
            raise InputError(problem)


def _run(chosen: Sequence[str], inputs: ProbeInput, refusal_prompts: Sequence[Prompt] | None) -> list[Finding]:
    findings: list[Finding] = []
    for name in chosen:
        if name == "refusal" and refusal_prompts is not None:
            findings += refusal(inputs, refusal_prompts)
        else:
            findings += (PROBES.get(name) or ProbeRef(name).load())(inputs)
    return findings
