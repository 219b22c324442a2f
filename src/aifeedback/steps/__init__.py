"""Steps: one module per verb, with its settings, what it does, its forecast and its figures.

A step's class is found by its kind's name, so that importing this package loads neither torch nor scipy. Steps from
outside: an entry point of the group ``aifeedback.steps``, or ``python:FILE.py:NAME`` as kind.
"""

from __future__ import annotations

from importlib import import_module

from aifeedback.errors import InputError
from aifeedback.extensions import find, registered
from aifeedback.steps.step import Step

STEPS = {
    "sample": "sample:Sample",
    "pair": "pair:Pair",
    "label": "label:Label",
    "grid": "grid:Grid",
    "score": "score:Score",
    "best_of_n": "best_of_n:BestOfN",
    "revise": "revise:Revise",
    "calibrate": "calibrate:Calibrate",
    "sft": "sft:Sft",
    "reward_model": "reward_model:RewardModel",
    "dpo": "dpo:Dpo",
    "kto": "kto:Kto",
    "distill": "distill:Distill",
    "rl": "rl:Rl",
    "staleness": "staleness:Staleness",
    "compare": "compare:Compare",
    "rejudge": "rejudge:Rejudge",
    "safety": "safety:Safety",
    "evaluate": "evaluate:Evaluate",
    "audit": "audit:Audit",
    "probe": "probe:Probe",
    "split": "split:Split",
    "pairs": "pairs:Pairs",
    "lab_world": "lab_world:LabWorld",
    "dialogues": "dialogues:Dialogues",
}
"""Kind → module and class."""


def step_class(kind: str) -> type[Step]:
    """The class behind ``stage: kind``. Raises InputError for one from outside that cannot be used, else KeyError that
    lists the known kinds."""
    if kind in STEPS:
        module, _, name = STEPS[kind].partition(":")
        return getattr(import_module(f"aifeedback.steps.{module}"), name)
    if (plugin := find("aifeedback.steps", kind)) is None:
        raise KeyError(f"no step '{kind}'; known: {', '.join((*STEPS, *registered('aifeedback.steps')))}")
    if not (isinstance(plugin, type) and issubclass(plugin, Step)):
        raise InputError(f"'{kind}' is not a step", fix="name a subclass of Step (aifeedback.steps.step)")
    return plugin
