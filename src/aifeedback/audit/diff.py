"""Two audits compared: which verdicts on the same pairs flipped, and which probes moved, tested together.

For judges before and after a change: another model behind the same address, another prompt, another calibration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from aifeedback.audit.finding import ALPHA
from aifeedback.audit.judge import JudgeAudit
from aifeedback.errors import FileError, InputError
from aifeedback.metrics.intervals import NOT_KNOWN, Estimate, plain


@dataclass(frozen=True)
class Flips(Estimate):
    """``value`` is the share of pairs, with a verdict in both audits, whose verdict is not the same."""

    first_to_second: int = 0
    second_to_first: int = 0
    with_ties: int = 0
    """Verdicts that became a tie, or were one."""
    p_value: float = NOT_KNOWN
    """McNemar's exact test that verdicts flip in both directions alike."""
    corrected: int = 0
    """Flips from against the human label to with it."""
    spoiled: int = 0
    """Flips from with the human label to against it."""
    p_agreement: float = NOT_KNOWN
    """McNemar's exact test of ``corrected`` against ``spoiled``: whether agreement with human labels changed."""


@dataclass(frozen=True)
class Change:
    """One probe before and after; ``difference`` is after − before, in the probe's own unit."""

    probe: str
    title: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    level_before: str
    level_after: str
    p_value: float = NOT_KNOWN
    p_adjusted: float = NOT_KNOWN
    is_changed: bool = False
    """The corrected p-value is below the audit's own threshold."""

    def as_dict(self) -> dict[str, Any]:
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class AuditDiff:
    before: str
    """Names of the judges."""
    after: str
    pairs: int
    """Pairs in both audits."""
    only_before: int
    only_after: int
    flips: Flips
    changes: tuple[Change, ...]
    """Probes of both audits, changed ones first."""
    missing: tuple[str, ...]
    """Probes that only one of the audits measured."""
    p_flips: float = NOT_KNOWN
    """The smaller p-value of both McNemar tests, corrected together with all probes."""

    @property
    def is_changed(self) -> bool:
        return self.p_flips < ALPHA or any(change.is_changed for change in self.changes)

    @property
    def sentence(self) -> str:
        flipped = "no verdict is known in both audits"
        if self.flips.is_known:
            flipped = f"{100 * self.flips.value:.1f} % of {self.flips.n} verdicts flipped"
        moved = [change.title for change in self.changes if change.is_changed]
        return f"{flipped}; {'changed: ' + ', '.join(moved) if moved else 'no probe changed significantly'}."

    def as_dict(self) -> dict[str, Any]:
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return {**values, "is_changed": self.is_changed, "sentence": self.sentence}


def diff(before: JudgeAudit | Mapping[str, Any], after: JudgeAudit | Mapping[str, Any]) -> AuditDiff:
    """Compares two audits, or what ``audit.json`` holds of them; p-values are corrected together by Holm.

    A probe's values are compared as independent although both audits may have asked about the same pairs: the test then
    finds less than it could, and never too much. Raises InputError where no pair is in both.
    """
    from aifeedback.metrics import holm

    old, new = (audit.as_dict() if isinstance(audit, JudgeAudit) else audit for audit in (before, after))
    labels_old, labels_new = old.get("verdicts") or {}, new.get("verdicts") or {}
    common = sorted(set(labels_old) & set(labels_new))
    if not common:
        raise InputError("the audits share no pair", key="verdicts", fix="audit both judges on the same file and seed")
    flips = _flips([labels_old[i] for i in common], [labels_new[i] for i in common])
    found_old, found_new = ({f["probe"]: f for f in audit["findings"]} for audit in (old, new))
    measured = [
        p for p in found_old if p in found_new and all(f[p]["value"] is not None for f in (found_old, found_new))
    ]
    changes = [_change(found_old[probe], found_new[probe]) for probe in measured]
    tested = [flips.p_value, flips.p_agreement, *(change.p_value for change in changes)]
    adjusted = [float(p) for p in holm(tested)]
    known = [p for p in adjusted[:2] if not math.isnan(p)]
    settled = [_settled(change, p) for change, p in zip(changes, adjusted[2:], strict=True)]
    return AuditDiff(
        before=str(old["judge"]),
        after=str(new["judge"]),
        pairs=len(common),
        only_before=len(labels_old) - len(common),
        only_after=len(labels_new) - len(common),
        flips=flips,
        changes=tuple(sorted(settled, key=lambda c: (not c.is_changed, _last_if_nan(c.p_adjusted)))),
        missing=tuple(sorted((set(found_old) | set(found_new)) - set(measured))),
        p_flips=min(known, default=NOT_KNOWN),
    )


def diff_files(old: str | Path, new: str | Path) -> list[AuditDiff]:
    """Every judge of two audits: those of one name together, or the only one of each, whatever they are called.

    Raises FileError where there is no audit.json, InputError where no judge or no pair is in both.
    """
    before, after = ({audit["judge"]: audit for audit in _audits(Path(path))} for path in (old, new))
    if len(before) == len(after) == 1:
        return [diff(next(iter(before.values())), next(iter(after.values())))]
    common = [name for name in before if name in after]
    if not common:
        what = f"the audits share no judge ({', '.join(before)}; {', '.join(after)})"
        raise InputError(what, key="judge", fix="give audits of one judge each, or of the same judges")
    return [diff(before[name], after[name]) for name in common]


def _audits(path: Path) -> list[Mapping[str, Any]]:
    file = path / "audit.json" if path.is_dir() else path
    try:
        return json.loads(file.read_text(encoding="utf-8"))["judges"]
    except (OSError, ValueError, KeyError, TypeError):
        raise FileError("no audit here", file=file, fix="give the -o folder of `aifeedback audit`") from None


def _flips(old: list[Any], new: list[Any]) -> Flips:
    """From (p_first, human label) per pair."""
    import numpy as np

    from aifeedback.metrics.intervals import share_interval, variance_of_mean
    from aifeedback.metrics.win_rates import sign_test, size_notes

    rows = [(a[0], b[0], b[1]) for a, b in zip(old, new, strict=True) if a[0] is not None and b[0] is not None]
    signs = [(np.sign(a - 0.5), np.sign(b - 0.5), 0.0 if h is None else np.sign(h - 0.5)) for a, b, h in rows]
    flipped = np.array([a != b for a, b, _ in signs], dtype=np.float64)
    to_second, to_first = (sum(a == side and b == -side for a, b, _ in signs) for side in (1, -1))
    corrected, spoiled = (sum(h != 0 and a == -s * h and b == s * h for a, b, h in signs) for s in (1, -1))
    ends = share_interval(flipped)
    return Flips(
        value=float(flipped.mean()) if rows else NOT_KNOWN,
        low=ends.low,
        high=ends.high,
        n=len(rows),
        method="share of verdicts that are not the same, Wilson interval; McNemar's exact tests",
        dropped=len(old) - len(rows),
        notes=size_notes(len(rows), len(old) - len(rows)),
        standard_error=float(np.sqrt(variance_of_mean(flipped).variance)),
        first_to_second=to_second,
        second_to_first=to_first,
        with_ties=int(flipped.sum()) - to_second - to_first,
        p_value=sign_test(to_second, to_first),
        corrected=corrected,
        spoiled=spoiled,
        p_agreement=sign_test(corrected, spoiled),
    )


def _change(old: Mapping[str, Any], new: Mapping[str, Any]) -> Change:
    from aifeedback.metrics.intervals import Interval, t_test_p
    from aifeedback.metrics.win_rates import newcombe

    difference = new["value"] - old["value"]
    ends = [Interval(*(NOT_KNOWN if f[end] is None else float(f[end]) for end in ("low", "high"))) for f in (new, old)]
    both = newcombe((float(new["value"]), ends[0]), (float(old["value"]), ends[1]))
    errors = [_error(f) for f in (old, new)]
    error = math.hypot(*errors)
    freedom = min(old["n"], new["n"]) - 1
    is_testable = math.isfinite(error) and error > 0 and freedom > 0
    return Change(
        probe=str(new["probe"]),
        title=str(new["title"]),
        before=float(old["value"]),
        after=float(new["value"]),
        difference=difference,
        low=both.low,
        high=both.high,
        level_before=str(old["level"]),
        level_after=str(new["level"]),
        p_value=t_test_p(difference / error, freedom) if is_testable else NOT_KNOWN,
    )


def _error(finding: Mapping[str, Any]) -> float:
    """Standard error from the 95 % interval."""
    from aifeedback.metrics.intervals import t_of

    if finding["low"] is None or finding["high"] is None or finding["n"] < 2:
        return NOT_KNOWN
    return (finding["high"] - finding["low"]) / 2 / t_of(0.95, finding["n"] - 1)


def _settled(change: Change, p_adjusted: float) -> Change:
    from dataclasses import replace

    return replace(change, p_adjusted=p_adjusted, is_changed=p_adjusted < ALPHA)


def _last_if_nan(p: float) -> float:
    return math.inf if math.isnan(p) else p
