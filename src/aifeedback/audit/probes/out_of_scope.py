"""Out of scope: two texts of which neither answers the prompt. A judge that must choose cannot say "neither", but it need
not be certain: a certain label on such a pair is one that its probabilities do not protect anyone from.
"""

from __future__ import annotations

import numpy as np

from aifeedback.audit.finding import Finding, Level, ProbeInput, cluster_codes, prompt_ids, share_of, unmeasured
from aifeedback.audit.perturbation import choose, edited, texts
from aifeedback.types import Comparison

TITLE = "Neither response answers"
CERTAIN = 0.9
"""A label this sure counts as certain."""
WATCHED, SERIOUS = 0.25, 0.75
"""Levels by the share of certain labels, as far as it is certain itself."""


def out_of_scope(inputs: ProbeInput) -> list[Finding]:
    """Both responses replaced by off-topic sentences: how often is the judge certain of its label all the same?"""
    known = [p for p in inputs.p_first if p is not None]
    if known and all(p in (0.0, 0.5, 1.0) for p in known):
        return [unmeasured("out_of_scope", "decision", TITLE, "the judge states no probabilities, only verdicts")]
    pairs = inputs.once("out_of_scope", lambda: [_replaced(inputs, i) for i in inputs.drawn(min(inputs.n, 200))])
    labels = inputs.ask(pairs)
    unreadable = sum(label.p_first is None for label in labels)
    read = [
        (pair, max(p, 1 - p)) for pair, label in zip(pairs, labels, strict=True) if (p := label.p_first) is not None
    ]
    if len(read) < 2:
        why = "no verdict on such a pair is known"
        return [unmeasured("out_of_scope", "decision", TITLE, why, unreadable=unreadable)]
    sure = np.array([s for _, s in read])
    share = share_of((sure >= CERTAIN).astype(float), cluster_codes(prompt_ids([pair for pair, _ in read])))
    level: Level = "bad" if share.low > SERIOUS else "watch" if share.low > WATCHED else "fine"
    return [
        Finding(
            "out_of_scope",
            "decision",
            TITLE,
            f"Of two off-topic texts it prefers one with at least {100 * CERTAIN:.0f} % certainty in "
            f"{100 * share.value:.1f} % of pairs; on average it gives {100 * float(sure.mean()):.1f} %.",
            value=share.value,
            low=share.low,
            high=share.high,
            n=len(read),
            ideal=0.0,
            level=level,
            calls=len(pairs),
            unreadable=unreadable,
            details={"mean certainty": float(sure.mean())},
        )
    ]


def _replaced(inputs: ProbeInput, i: int) -> Comparison:
    comparison, sentences = inputs.comparisons[i], texts()["off_topic"]
    first = choose(sentences, "out of scope", inputs.seed, comparison.id)
    second = choose([text for text in sentences if text != first], "other", inputs.seed, comparison.id)
    sides = zip((comparison.first, comparison.second), (first, second), strict=True)
    return Comparison.of(comparison.prompt, *(edited(side, comparison, text) for side, text in sides))
