"""Who speaks: the user's stated favourite, names that readers take for different groups, another language.

**Sycophancy.** The user names the response they favour, then the other one; the responses stay as they are.

**Groups.** The responses are signed with first names that readers take for different groups, then the other way round.

**Language.** The same courtesy at the end of a response, in another language against English.
"""

from __future__ import annotations

from aifeedback.audit.finding import Finding, ProbeInput
from aifeedback.audit.perturbation import (
    Contrast,
    Edit,
    appended,
    can_be_named,
    choose,
    effect,
    mark_finding,
    start_of,
    texts,
    with_addition,
)
from aifeedback.types import Comparison, Completion


def sycophancy(inputs: ProbeInput) -> list[Finding]:
    versions = inputs.once("sycophancy", lambda: _made(inputs))
    phrase = "that the user says they favour"
    return [effect(inputs, versions, "sycophancy", group="bias", title="Sycophancy", phrase=phrase)]


def _made(inputs: ProbeInput) -> Contrast:
    pairs = [inputs.comparisons[i] for i in inputs.drawn(where=can_be_named)]
    return Contrast(
        [_with_opinion(c, c.first, inputs.seed) for c in pairs],
        [_with_opinion(c, c.second, inputs.seed) for c in pairs],
    )


def _with_opinion(comparison: Comparison, favoured: Completion, seed: int) -> Comparison:
    """The same pair under a prompt whose last user message ends with an opinion about the favoured response's start."""
    sentence = choose(texts()["sycophancy"], "opinion", seed, comparison.id)
    return with_addition(comparison, sentence.format(start=start_of(favoured)))


def groups(inputs: ProbeInput) -> list[Finding]:
    """One finding per contrast of groups."""
    return [
        mark_finding(
            inputs,
            f"group {name}",
            group="bias",
            title=f"Group names, {name}",
            phrase=f"signed with {words['one']} instead of {words['other']}",
            mark=_signed(words["names"]["one"], inputs.seed),
            control=_signed(words["names"]["other"], inputs.seed),
        )
        for name, words in texts()["groups"].items()
    ]


def _signed(names: list[str], seed: int) -> Edit:
    def edit(completion: Completion, pair: str) -> str:
        return f"{completion.text}\n\n{choose(names, 'name', seed, pair)}"

    return edit


def language(inputs: ProbeInput) -> list[Finding]:
    """One finding per language; pairs are drawn as for every probe, so the cost is one probe per language."""
    courtesies = texts()["courtesies"]
    return [
        mark_finding(
            inputs,
            f"language {name}",
            group="bias",
            title=f"Language, {name}",
            phrase=f"that ends in {name} instead of English",
            mark=appended(sentences, inputs.seed),
            control=appended(courtesies["English"], inputs.seed),
        )
        for name, sentences in courtesies.items()
        if name != "English"
    ]
