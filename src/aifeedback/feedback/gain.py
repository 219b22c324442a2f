"""Did revision help? Before against after, by any labeler: the judge's own view beside an independent one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from aifeedback.feedback.revise import Revised
from aifeedback.protocols import Labeler
from aifeedback.records import Comparison, content_id


class Gain(NamedTuple):
    """Shares are of the responses whose change could be judged; None where there is none."""

    judge: str
    n: int
    """Responses in all."""
    unchanged: int
    failed: int
    """Of the unchanged: those where a step failed."""
    judged: int
    """Changed, and read by this labeler."""
    unread: int
    """Changed, but not read by it."""
    better: int
    """P(after better) above one half."""
    worse: int
    """P(after better) below one half."""
    mean_p_after: float | None
    """Mean P(after better)."""

    @property
    def share_worse(self) -> float | None:
        return self.worse / self.judged if self.judged else None


def revision_gain(revised: Sequence[Revised], labeler: Labeler) -> Gain:
    """Compares every changed response with what it was. Which one is stored first depends on the pair's id alone."""
    changed = [result for result in revised if result.is_changed]
    after_first = [int(content_id("gain", r.before.id, r.after.id), 16) % 2 == 0 for r in changed]
    asked = [
        Comparison.of(r.prompt, r.after, r.before) if is_first else Comparison.of(r.prompt, r.before, r.after)
        for r, is_first in zip(changed, after_first, strict=True)
    ]
    said = labeler.label(asked) if asked else []
    known = [
        label.p_first if is_first else 1.0 - label.p_first
        for label, is_first in zip(said, after_first, strict=True)
        if label.p_first is not None
    ]
    return Gain(
        judge=labeler.name,
        n=len(revised),
        unchanged=len(revised) - len(changed),
        failed=sum(not r.is_changed and r.problem is not None for r in revised),
        judged=len(known),
        unread=len(changed) - len(known),
        better=sum(p > 0.5 for p in known),
        worse=sum(p < 0.5 for p in known),
        mean_p_after=math.fsum(known) / len(known) if known else None,
    )
