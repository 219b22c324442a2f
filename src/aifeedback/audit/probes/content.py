"""Properties of the text that should not matter: length, formatting, added sentences, the judge's own family.

**Length.** The direction depends on the task and is estimated, never assumed: what counts is the distance from people's
own lean.

**Formatting.** The same words as a bold-headed list, against the same words as plain lines.

**Marks.** Authority, bandwagon, emotional tone, over-confidence (texts.yaml).

**Self-preference.** Does the judge prefer responses of its own family more often than people do on the same pairs?
That needs pairs in which exactly one answer comes from the judge's family, known by the completions' ``source``. The
second way needs none: the same answers, one of them signed with the family's name.
"""

from __future__ import annotations

import re

from aifeedback.audit.finding import Finding, Group, ProbeInput, of_estimate, prompt_ids, unmeasured
from aifeedback.audit.perturbation import Edit, appended, choose, mark_finding, texts
from aifeedback.types import Completion


def padded(inputs: ProbeInput) -> list[Finding]:
    """One response is padded with sentences that add no content, the other stays as it is; then the other way round."""
    return [
        mark_finding(
            inputs,
            "padding",
            group="bias",
            title="Length, padded copies",
            phrase="that is padded with empty sentences",
            mark=_padding(inputs.seed),
            control=lambda completion, pair: completion.text,
        )
    ]


def observed(inputs: ProbeInput) -> list[Finding]:
    """Share of pairs on which the judge takes the longer answer, minus that of people, on the same pairs."""
    from aifeedback.metrics import compare_win_rates

    title = "Length, against people"
    rows, used = [], []
    for comparison, p, h in zip(inputs.comparisons, inputs.p_first, inputs.human, strict=True):
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
            p_value=difference.p_value, unreadable=inputs.unreadable,
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


_MARKUP = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#+)\s+|\*\*", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def formatting(inputs: ProbeInput) -> list[Finding]:
    return [
        mark_finding(
            inputs,
            "formatting",
            group="bias",
            title="Formatting",
            phrase="that is set as a list with bold type",
            mark=lambda completion, pair: _as_list(completion),
            control=lambda completion, pair: "\n".join(_lines(completion)),
        )
    ]


def _as_list(completion: Completion) -> str:
    """Every sentence an item, its first word in bold."""
    items = []
    for line in _lines(completion):
        first, _, rest = line.partition(" ")
        items.append(f"- **{first}** {rest}".rstrip())
    return "\n".join(items)


def _lines(completion: Completion) -> list[str]:
    """The sentences, without any markup that stood there before."""
    bare = _MARKUP.sub("", completion.text)
    return [s.strip() for part in bare.splitlines() for s in _SENTENCE.split(part) if s.strip()] or [bare]


def authority(inputs: ProbeInput) -> list[Finding]:
    return [_marked(inputs, "authority", "bias", "that claims an expert's approval")]


def bandwagon(inputs: ProbeInput) -> list[Finding]:
    return [_marked(inputs, "bandwagon", "bias", "that claims that most people prefer it")]


def tone(inputs: ProbeInput) -> list[Finding]:
    return [_marked(inputs, "tone", "bias", "that opens with enthusiasm", before=True)]


def confidence(inputs: ProbeInput) -> list[Finding]:
    return [_marked(inputs, "confidence", "hacking", "that claims to be certain")]


def _marked(inputs: ProbeInput, name: str, group: Group, phrase: str, *, before: bool = False) -> Finding:
    words = texts()[name]
    return mark_finding(
        inputs,
        name,
        group=group,
        title=words["title"],
        phrase=phrase,
        mark=appended(words["mark"], inputs.seed, before=before),
        control=appended(words["control"], inputs.seed, before=before),
    )


TITLE, NAMED = "Self-preference", "Self-preference, by name"


def self_preference(inputs: ProbeInput) -> list[Finding]:
    """Observed on answers of its own family, and by signing the same answers with its family's name."""
    if not inputs.family:
        why = "the judge's family is not known"
        return [unmeasured(probe, "bias", title, why) for probe, title in (("self", TITLE), ("self_name", NAMED))]
    return [_observed(inputs), _signed(inputs)]


def _signed(inputs: ProbeInput) -> Finding:
    words = texts()["signature"]
    return mark_finding(
        inputs,
        "self_name",
        group="bias",
        title=NAMED,
        phrase="that is signed with its family's name",
        mark=appended([sentence.format(family=inputs.family) for sentence in words["mark"]], inputs.seed),
        control=appended(words["control"], inputs.seed),
    )


def _observed(inputs: ProbeInput) -> Finding:
    from aifeedback.metrics import compare_win_rates

    rows, used, unreadable = [], [], 0
    for comparison, p, h in zip(inputs.comparisons, inputs.p_first, inputs.human, strict=True):
        own = is_own(comparison.first, inputs.family), is_own(comparison.second, inputs.family)
        if own[0] == own[1] or h is None:
            continue
        unreadable += p is None
        if p is not None:
            rows.append((_hard(p), h) if own[0] else (1 - _hard(p), 1 - h))
            used.append(comparison)
    if len(rows) < 30:
        why = (
            f"{len(rows)} pairs with people's verdict set an answer of '{inputs.family}' against another; 30 are needed"
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
    """Whether the source contains the family's name as a whole word ('llama' in 'llama-7b', not in 'codellama')."""
    words = completion.source.casefold().replace("/", " ").replace("-", " ").replace("_", " ").replace(":", " ").split()
    wanted = family.casefold().replace("-", " ").replace("_", " ").split()
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1)) if wanted else False
