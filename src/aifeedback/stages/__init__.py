"""Stages: each a screenful of settings plus ``run``, which reads records, calls functions and writes records.

Stage classes are found by their kind's name, so that importing this package loads neither torch nor scipy.
"""

from __future__ import annotations

from importlib import import_module

from aifeedback.stages.base import Forecast, Job, Outcome, Stage

MODULES = {
    "sample": "feedback",
    "pair": "feedback",
    "label": "feedback",
    "score": "feedback",
    "revise": "revise",
    "sft": "training",
    "reward_model": "training",
    "dpo": "training",
    "rl": "training",
    "compare": "evidence",
    "split": "data",
    "pairs": "data",
    "lab_world": "lab",
    "dialogues": "safety",
    "safety": "safety",
}


def stage_class(kind: str) -> type[Stage]:
    """The class behind ``stage: kind``; KeyError with the known kinds otherwise."""
    if kind not in MODULES:
        raise KeyError(f"no stage '{kind}'; known: {', '.join(MODULES)}")
    module = import_module(f"aifeedback.stages.{MODULES[kind]}")
    return module.STAGES[kind]


__all__ = ["MODULES", "Forecast", "Job", "Outcome", "Stage", "stage_class"]
