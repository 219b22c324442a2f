"""The probes of an audit by name; each asks a judge in one way and returns findings."""

from __future__ import annotations

from aifeedback.audit.finding import Probe
from aifeedback.audit.probes.content import authority, bandwagon, formatting, observed, padded, self_preference, tone
from aifeedback.audit.probes.labels import decision, position, refusal
from aifeedback.audit.probes.out_of_scope import out_of_scope
from aifeedback.audit.probes.people import agreement, calibration, clusters
from aifeedback.audit.probes.robustness import (
    challenge,
    constants,
    hacking,
    near_empty,
    persuasion,
    repeatability,
    transitivity,
    wording,
)
from aifeedback.audit.probes.social import groups, language, sycophancy

PROBES: dict[str, Probe] = {
    "agreement": agreement,
    "decision": decision,
    "out_of_scope": out_of_scope,
    "clusters": clusters,
    "calibration": calibration,
    "position": position,
    "length": observed,
    "padding": padded,
    "self": self_preference,
    "authority": authority,
    "bandwagon": bandwagon,
    "sycophancy": sycophancy,
    "formatting": formatting,
    "tone": tone,
    "language": language,
    "groups": groups,
    "repeatability": repeatability,
    "wording": wording,
    "transitivity": transitivity,
    "challenge": challenge,
    "persuasion": persuasion,
    "constants": constants,
    "near_empty": near_empty,
    "hacking": hacking,
    "refusal": refusal,
}
