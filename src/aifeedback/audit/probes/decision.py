"""Does the judge decide at all? How sure its labels are, and whether it meant to give a label.

A judge that tells nothing apart passes every test of bias: no mark moves a probability that never moves. And what a
label's probability is worth depends on how much of the model's probability lay on the labels (``coverage``): where it
is next to nothing, the judge wanted to say something else, and the label is what it would have said if forced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aifeedback.audit.finding import Finding, Ground, Level, prompt_ids, unmeasured

UNDECIDED, VAGUE = 0.51, 0.55
"""A judge that is less sure of its labels than this, on average, is called bad or watched: one half is a coin."""
FORCED, LOW = 0.1, 0.5
"""The same for the mean probability of the labels together."""


def decision(ground: Ground) -> list[Finding]:
    known = [i for i, p in enumerate(ground.p_first) if p is not None]
    sure = [max(p, 1.0 - p) for p in ground.p_first if p is not None]
    seen = [
        (j.coverage, pair) for said, pair in zip(ground.said, ground.comparisons, strict=True) for j in said.judgements
        if j.coverage is not None
    ]  # fmt: skip
    return [
        _sureness(sure, ground, ground.prompts(known)),
        _coverage([coverage for coverage, _ in seen], prompt_ids([pair for _, pair in seen])),
    ]


def _sureness(sure: Sequence[float], ground: Ground, prompts: Sequence[str] | None) -> Finding:
    probe, title = "decision", "How sure it is"
    if len(sure) < 2:
        return unmeasured(probe, "decision", title, "no verdict could be read", unreadable=ground.unreadable)
    mean = float(np.mean(sure))
    level: Level = "bad" if mean < UNDECIDED else "watch" if mean < VAGUE else "fine"
    told = "; it hardly tells answers apart, so that passing other probes proves nothing" if level == "bad" else ""
    sentence = f"To the answer that it prefers it gives {100 * mean:.1f} % on average (50 is a coin){told}."
    return _share(probe, title, sentence, sure, prompts, level)


def _coverage(seen: Sequence[float], prompts: Sequence[str] | None) -> Finding:
    probe, title = "label mass", "Whether it meant to answer"
    if len(seen) < 2:
        return unmeasured(probe, "decision", title, "no verdict tells how probable its labels were")
    mean = float(np.mean(seen))
    level: Level = "bad" if mean < FORCED else "watch" if mean < LOW else "fine"
    told = "; it wanted to say something else, try another judge prompt" if level != "fine" else ""
    return _share(probe, title, f"Its labels hold {100 * mean:.1f} % of its probability{told}.", seen, prompts, level)


def _share(
    probe: str, title: str, sentence: str, values: Sequence[float], prompts: Sequence[str] | None, level: Level
) -> Finding:
    from aifeedback.evaluate.columns import groups
    from aifeedback.evaluate.intervals import share_interval

    column = np.asarray(values, dtype=np.float64)
    ends = share_interval(column, groups(prompts, np.ones(len(column), dtype=bool)), method="t")
    return Finding(
        probe,
        "decision",
        title,
        sentence,
        value=float(np.mean(values)),
        low=ends.low,
        high=ends.high,
        n=len(values),
        level=level,
    )
