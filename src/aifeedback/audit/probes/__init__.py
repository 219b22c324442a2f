"""The probes of an audit by name; each asks a judge in one way and returns findings. One short module per method."""

from __future__ import annotations

from aifeedback.audit.finding import Probe
from aifeedback.audit.probes.agreement import agreement
from aifeedback.audit.probes.attacks import constants, near_empty, persuasion
from aifeedback.audit.probes.calibration import calibration
from aifeedback.audit.probes.clusters import clusters
from aifeedback.audit.probes.consistency import challenge, repeatability, transitivity, wording
from aifeedback.audit.probes.decision import decision
from aifeedback.audit.probes.formatting import formatting
from aifeedback.audit.probes.groups import groups
from aifeedback.audit.probes.hacking import hacking
from aifeedback.audit.probes.language import language
from aifeedback.audit.probes.length import observed, padded
from aifeedback.audit.probes.marks import authority, bandwagon, tone
from aifeedback.audit.probes.out_of_scope import out_of_scope
from aifeedback.audit.probes.position import position
from aifeedback.audit.probes.refusal import refusal
from aifeedback.audit.probes.self_preference import self_preference
from aifeedback.audit.probes.sycophancy import sycophancy

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
