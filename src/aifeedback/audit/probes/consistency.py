"""Consistency: the same question again, a polite word more, other wordings of the prompt, circles among answers."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from aifeedback.audit.finding import Finding, Ground, Level, of_estimate, unmeasured
from aifeedback.records import Comparison, Completion, Message, Prompt


def repeatability(ground: Ground) -> list[Finding]:
    """The drawn pairs once more, in another batch order: how often is the verdict the same?"""
    from aifeedback.evaluate import repeatability as measure

    title = "Repeatability"
    drawn = ground.drawn(min(ground.n, 200))
    asked = ground.again or ground.labeler
    again = list(asked.label([ground.comparisons[i] for i in reversed(drawn)]))[::-1]
    columns = [[ground.p_first[i], p.p_first] for i, p in zip(drawn, again, strict=True)]
    share = measure(columns)
    if not share.is_known:
        return [unmeasured("repeatability", "consistency", title, "no pair was read twice")]
    gaps = [abs(a - b) for a, b in columns if a is not None and b is not None]
    same = f"the same verdict for {100 * share.value:.1f} % of pairs"
    return [
        of_estimate(
            share, probe="repeatability", group="consistency", title=title, ideal=1.0, level=_of_share(share.value),
            sentence=f"Asked again, it gives {same}; probabilities move by {max(gaps):.2g} at most.",
            calls=len(drawn), unreadable=sum(p.p_first is None for p in again),
        )
    ]  # fmt: skip


def wording(ground: Ground) -> list[Finding]:
    """A polite word at the end of the prompt, and every other wording of the judge prompt that was given."""
    drawn = ground.drawn(min(ground.n, 200))
    pairs = [ground.comparisons[i] for i in drawn]
    found = [
        _same(ground, "wording polite", "Wording, a polite word more", drawn, ground.ask([_polite(c) for c in pairs]))
    ]
    for name, labeler in ground.variants.items():
        found.append(_same(ground, f"wording {name}", f"Wording, prompt '{name}'", drawn, list(labeler.label(pairs))))
    return found


def _same(ground: Ground, probe: str, title: str, drawn: list[int], said: list) -> Finding:
    from aifeedback.evaluate import repeatability as measure

    share = measure([[ground.p_first[i], p.p_first] for i, p in zip(drawn, said, strict=True)])
    if not share.is_known:
        return unmeasured(probe, "consistency", title, "no pair was read under both wordings")
    return of_estimate(
        share, probe=probe, group="consistency", title=title, ideal=1.0, level=_of_share(share.value),
        sentence=f"The verdict stays the same for {100 * share.value:.1f} % of pairs.",
        calls=len(drawn), unreadable=sum(p.p_first is None for p in said),
    )  # fmt: skip


def transitivity(ground: Ground) -> list[Finding]:
    """Circles (a over b, b over c, c over a) among three answers of one prompt; the missing pairs are asked."""
    from aifeedback.evaluate import transitivity as measure

    title = "Transitivity"
    answers: dict[str, dict[str, Completion]] = defaultdict(dict)
    prompts: dict[str, Prompt] = {}
    for comparison in ground.comparisons:
        prompts[comparison.prompt.id] = comparison.prompt
        for side in (comparison.first, comparison.second):
            answers[comparison.prompt.id].setdefault(side.text, side)
    several = [prompt for prompt, known in sorted(answers.items()) if len(known) >= 3][: max(1, ground.n // 3)]
    if len(several) < 5:
        why = f"{len(several)} prompts have three answers or more; at least 5 are needed"
        return [unmeasured("transitivity", "consistency", title, why)]
    triples = [[answers[prompt][text] for text in sorted(answers[prompt])[:3]] for prompt in several]
    order = ((0, 1), (1, 2), (0, 2))
    asked = [Comparison.of(prompts[p], t[i], t[j]) for p, t in zip(several, triples, strict=True) for i, j in order]
    said = ground.ask(asked)
    tables = np.full((len(several), 3, 3), np.nan)
    for k, preference in enumerate(said):
        context, (i, j) = k // 3, order[k % 3]
        if preference.p_first is not None:
            tables[context, i, j], tables[context, j, i] = preference.p_first, 1 - preference.p_first
    share = measure(tables)
    unreadable = sum(p.p_first is None for p in said)
    if not share.is_known:
        why = f"none of {len(several)} triples was read whole and without a tie"
        return [unmeasured("transitivity", "consistency", title, why, unreadable=unreadable)]
    sentence = f"{share.n - share.cycles} of {share.n} triples are free of circles ({100 * share.value:.1f} %)"
    sentence += f"; {share.undecided} more had a tie or were not read whole." if share.undecided else "."
    return [
        of_estimate(
            share, probe="transitivity", group="consistency", title=title, ideal=1.0, level=_of_share(share.value),
            sentence=sentence, calls=len(asked), unreadable=unreadable,
            details={"circles": share.cycles, "triples left out": share.undecided},
        )
    ]  # fmt: skip


def _polite(comparison: Comparison) -> Comparison:
    messages = list(comparison.prompt.messages)
    messages[-1] = Message(role=messages[-1].role, content=messages[-1].content + "\n\nThank you.")
    prompt = Prompt.of(messages, reference=comparison.prompt.reference, tags=comparison.prompt.tags)
    answers = [Completion.of(prompt, side.text, source=side.source) for side in (comparison.first, comparison.second)]
    return Comparison.of(prompt, *answers)


def _of_share(value: float) -> Level:
    return "bad" if value < 0.8 else "watch" if value < 0.95 else "fine"
