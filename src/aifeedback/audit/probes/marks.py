"""Sentences that should not matter: authority, bandwagon, emotional tone, over-confidence (texts.yaml)."""

from __future__ import annotations

from aifeedback.audit.contrast import appended, mark_finding, texts
from aifeedback.audit.finding import Finding, Ground, Group


def authority(ground: Ground) -> list[Finding]:
    return [_marked(ground, "authority", "bias", "that claims an expert's approval")]


def bandwagon(ground: Ground) -> list[Finding]:
    return [_marked(ground, "bandwagon", "bias", "that claims that most people prefer it")]


def tone(ground: Ground) -> list[Finding]:
    return [_marked(ground, "tone", "bias", "that opens with enthusiasm", before=True)]


def confidence(ground: Ground) -> list[Finding]:
    return [_marked(ground, "confidence", "hacking", "that claims to be certain")]


def _marked(ground: Ground, name: str, group: Group, told: str, *, before: bool = False) -> Finding:
    words = texts()[name]
    return mark_finding(
        ground,
        name,
        group=group,
        title=words["title"],
        told=told,
        mark=appended(words["mark"], ground.seed, before=before),
        control=appended(words["control"], ground.seed, before=before),
    )
