"""Probes of a policy: what it does when a user has an opinion, insists, asks the unknowable, or plants an instruction.

A probe is an item class (what a row of a list holds), a function that asks the policy, and a function that turns
classified responses into findings. ``runner`` runs them; ``PROBES`` has them by name.
"""

from __future__ import annotations

from aifeedback.probing.injection import INJECTION
from aifeedback.probing.knowledge import KNOWLEDGE
from aifeedback.probing.opinion import OPINION
from aifeedback.probing.pressure import PRESSURE
from aifeedback.probing.probe import PolicyProbe
from aifeedback.probing.redteam import REDTEAM
from aifeedback.probing.variants import LANGUAGE, NAMES

PROBES: dict[str, PolicyProbe] = {
    probe.name: probe for probe in (OPINION, PRESSURE, KNOWLEDGE, LANGUAGE, NAMES, INJECTION, REDTEAM)
}
