"""Language: the same courtesy at the end of an answer, in another language against English."""

from __future__ import annotations

from aifeedback.audit.contrast import appended, mark_finding, texts
from aifeedback.audit.finding import Finding, Ground


def language(ground: Ground) -> list[Finding]:
    """One finding per language; pairs are drawn as for every probe, so the cost is one probe per language."""
    courtesies = texts()["courtesies"]
    return [
        mark_finding(
            ground,
            f"language {name}",
            group="bias",
            title=f"Language, {name}",
            told=f"that ends in {name} instead of English",
            mark=appended(sentences, ground.seed),
            control=appended(courtesies["English"], ground.seed),
        )
        for name, sentences in courtesies.items()
        if name != "English"
    ]
