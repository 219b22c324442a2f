"""Run probes on one policy: ask every item, classify the responses by each classifier, one correction over all tests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aifeedback.audit.finding import Finding, settle
from aifeedback.metrics.intervals import plain
from aifeedback.probing.probe import Classified, Item, Policy, PolicyProbe, Trial
from aifeedback.probing.reading import Classifier, Rules, agreement
from aifeedback.types import Model, Progress, Sampling, silent


@dataclass(frozen=True)
class PolicyProbes:
    """Everything that probes found about one policy."""

    policy: str
    findings: Mapping[str, tuple[Finding, ...]]
    """Classifier → findings, corrected by Holm over all tests of that classifier."""
    headline: str
    """The classifier used for the summary: the judge if one is set, otherwise the rules."""
    rows: Mapping[str, Sequence[Classified]] = field(default_factory=dict)
    """Classifier → every response with its class."""
    responses: int = 0
    unanswered: int = 0
    """Questions without a response."""
    unknown: Mapping[str, int] = field(default_factory=dict)
    """Classifier → responses whose class is unknown."""
    agreement: Mapping[str, Any] | None = None
    """Of rules and judge, on the responses known to both."""
    calls: int = 0
    seconds: float = 0.0
    who: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> tuple[Finding, ...]:
        return self.findings[self.headline]

    def get(self, probe: str, by: str | None = None) -> Finding | None:
        return next((finding for finding in self.findings[by or self.headline] if finding.probe == probe), None)

    def alarms(self) -> list[Finding]:
        order = {"bad": 0, "watch": 1}
        alarms = [finding for finding in self.main if finding.level in order]
        return sorted(alarms, key=lambda f: (order[f.level], -abs(f.value)))

    def as_dict(self) -> dict[str, Any]:
        names = ("policy", "headline", "responses", "unanswered", "unknown", "agreement", "calls", "seconds", "who")
        values = {name: plain(getattr(self, name)) for name in names}
        return {**values, "findings": {by: [f.as_dict() for f in findings] for by, findings in self.findings.items()}}


def probe_policy(
    model: Model,
    items: Mapping[str, Sequence[Item]],
    probes: Mapping[str, PolicyProbe],
    *,
    judge: Classifier | None = None,
    sampling: Sampling | None = None,
    draws: int = 1,
    seed: int = 0,
    name: str | None = None,
    who: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> PolicyProbes:
    """Ask the policy every item of ``items`` (probe → items) and return the findings of rules and, where given, judge.

    ``draws``: responses per question, for a policy that is sampled; they count as one cluster per item.
    """
    started = time.perf_counter()
    policy = Policy(model, sampling or Sampling(temperature=0.0), draws, seed)
    trials: list[tuple[str, Trial]] = []
    expected = draws * sum(probes[key].calls(item) for key, rows in items.items() for item in rows)
    policy.progress = lambda done, total, figures: progress(done, total or expected, figures)
    for key, rows in items.items():
        trials += [(key, one) for one in probes[key].ask(rows, policy)]
    everything = [one for _, one in trials]
    classifiers: list[Classifier] = [Rules(), *([judge] if judge is not None else [])]
    classified = {one.name: one.classify(everything) for one in classifiers}
    findings = {by: tuple(settle(_findings(rows, trials, items, probes))) for by, rows in classified.items()}
    both = None
    if judge is not None:
        share = agreement(classified["rules"], classified[judge.name])
        both = {**share.share.as_dict(), "only_one": share.only_one}
    return PolicyProbes(
        policy=name or model.card.uri,
        findings=findings,
        headline=classifiers[-1].name,
        rows=classified,
        responses=len(everything),
        unanswered=sum(one.response.text is None for one in everything),
        unknown={by: sum(row.chosen is None for row in rows) for by, rows in classified.items()},
        agreement=both,
        calls=policy.calls,
        seconds=time.perf_counter() - started,
        who=who or {},
    )


def _findings(
    rows: Sequence[Classified],
    trials: Sequence[tuple[str, Trial]],
    items: Mapping[str, Sequence[Item]],
    probes: Mapping[str, PolicyProbe],
) -> list[Finding]:
    findings: list[Finding] = []
    for key in items:
        own = [row for row, (probe, _) in zip(rows, trials, strict=True) if probe == key]
        findings += probes[key].findings(own) if own else []
    return findings
