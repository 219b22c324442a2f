"""Length, twice: padded copies of the same answer, and whether the judge takes the longer one more often than people.

The direction depends on the task and is estimated, never assumed: what counts is the distance from people's own lean.
"""

from __future__ import annotations

from aifeedback.audit.contrast import Edit, choose, mark_finding, texts
from aifeedback.audit.finding import Finding, Ground, of_estimate, prompt_ids, unmeasured
from aifeedback.records import Completion


def padded(ground: Ground) -> list[Finding]:
    """One response is padded with sentences that add no content, the other stays as it is; then the other way round."""
    return [
        mark_finding(
            ground,
            "padding",
            group="bias",
            title="Length, padded copies",
            told="that is padded with empty sentences",
            mark=_padding(ground.seed),
            control=lambda completion, pair: completion.text,
        )
    ]


def observed(ground: Ground) -> list[Finding]:
    """Share of pairs on which the judge takes the longer answer, minus that of people, on the same pairs."""
    from aifeedback.evaluate import compare_win_rates

    title = "Length, against people"
    rows, used = [], []
    for comparison, p, h in zip(ground.comparisons, ground.p_first, ground.human, strict=True):
        longer_first = len(comparison.first.text) > len(comparison.second.text)
        if p is None or h is None or len(comparison.first.text) == len(comparison.second.text):
            continue
        rows.append((_hard(p) if longer_first else 1 - _hard(p), h if longer_first else 1 - h))
        used.append(comparison)
    if len(rows) < 50:
        return [unmeasured("length", "bias", title, "fewer than 50 pairs of unequal length have a verdict of people")]
    judge, people = [row[0] for row in rows], [row[1] for row in rows]
    difference = compare_win_rates(judge, people, prompts=prompt_ids(used))
    shares = 100 * sum(judge) / len(judge), 100 * sum(people) / len(people)
    sentence = f"The judge takes the longer answer in {shares[0]:.1f} % of pairs, people in {shares[1]:.1f} %."
    return [
        of_estimate(
            difference, probe="length", group="bias", title=title, sentence=sentence, unit="points", ideal=0.0,
            p_value=difference.p_value, unreadable=ground.unreadable,
            details={"judge takes the longer": shares[0] / 100, "people take the longer": shares[1] / 100},
        )
    ]  # fmt: skip


def _padding(seed: int) -> Edit:
    def edit(completion: Completion, pair: str) -> str:
        sentences = texts()["padding"]
        count = max(1, len(completion.text) // 160)
        added = [choose(sentences, "padding", seed, pair, k) for k in range(min(count, 4))]
        return " ".join([completion.text, *added])

    return edit


def _hard(p: float) -> float:
    return 0.5 if p == 0.5 else float(p > 0.5)
