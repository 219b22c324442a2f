"""Self-preference: does the judge take answers of its own family more often than people take them on the same pairs?

That needs pairs in which exactly one answer comes from the judge's family, known by the completions' ``source``. The
second way needs none: the same answers, one of them signed with the family's name.
"""

from __future__ import annotations

from aifeedback.audit.contrast import appended, mark_finding, texts
from aifeedback.audit.finding import Finding, Ground, of_estimate, prompt_ids, unmeasured
from aifeedback.audit.probes.length import _hard
from aifeedback.records import Completion

TITLE, NAMED = "Self-preference", "Self-preference, by name"


def self_preference(ground: Ground) -> list[Finding]:
    """Observed on answers of its own family, and by signing the same answers with its family's name."""
    if not ground.family:
        why = "the judge's family is not known"
        return [unmeasured(probe, "bias", title, why) for probe, title in (("self", TITLE), ("self_name", NAMED))]
    return [_observed(ground), _signed(ground)]


def _signed(ground: Ground) -> Finding:
    words = texts()["signature"]
    return mark_finding(
        ground,
        "self_name",
        group="bias",
        title=NAMED,
        told="that is signed with its family's name",
        mark=appended([sentence.format(family=ground.family) for sentence in words["mark"]], ground.seed),
        control=appended(words["control"], ground.seed),
    )


def _observed(ground: Ground) -> Finding:
    from aifeedback.evaluate import compare_win_rates

    rows, used, unreadable = [], [], 0
    for comparison, p, h in zip(ground.comparisons, ground.p_first, ground.human, strict=True):
        own = is_own(comparison.first, ground.family), is_own(comparison.second, ground.family)
        if own[0] == own[1] or h is None:
            continue
        unreadable += p is None
        if p is not None:
            rows.append((_hard(p), h) if own[0] else (1 - _hard(p), 1 - h))
            used.append(comparison)
    if len(rows) < 30:
        why = (
            f"{len(rows)} pairs with people's verdict set an answer of '{ground.family}' against another; 30 are needed"
        )
        return unmeasured("self", "bias", TITLE, why, unreadable=unreadable)
    judge, people = [row[0] for row in rows], [row[1] for row in rows]
    difference = compare_win_rates(judge, people, prompts=prompt_ids(used))
    shares = 100 * sum(judge) / len(judge), 100 * sum(people) / len(people)
    sentence = f"It takes answers of its own family in {shares[0]:.1f} % of pairs, people in {shares[1]:.1f} %."
    return of_estimate(
        difference, probe="self", group="bias", title=TITLE, sentence=sentence, unit="points", ideal=0.0,
        p_value=difference.p_value, unreadable=unreadable,
    )  # fmt: skip


def is_own(completion: Completion, family: str) -> bool:
    """Whether the family's name stands in the source as a whole word ('llama' in 'llama-7b', not in 'codellama')."""
    words = completion.source.casefold().replace("/", " ").replace("-", " ").replace("_", " ").replace(":", " ").split()
    wanted = family.casefold().replace("-", " ").replace("_", " ").split()
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1)) if wanted else False
