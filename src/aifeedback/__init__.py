"""Reinforcement learning from AI feedback: principles and a judge in; labels, rewards, a policy and evidence out.

The public names are loaded on first use, so that ``import aifeedback`` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aifeedback.api import (
        Judge,
        Panel,
        audit,
        compare,
        load_pairs,
        load_prompts,
        run,
        sample,
        train_dpo,
        train_reward_model,
        train_rl,
        train_sft,
    )
    from aifeedback.errors import AIFeedbackError
    from aifeedback.models import connect
    from aifeedback.types import Comparison, Preference, Prompt

__version__ = "0.1.0"
__all__ = [
    "AIFeedbackError",
    "Comparison",
    "Judge",
    "Panel",
    "Preference",
    "Prompt",
    "audit",
    "compare",
    "connect",
    "load_pairs",
    "load_prompts",
    "run",
    "sample",
    "train_dpo",
    "train_reward_model",
    "train_rl",
    "train_sft",
]
_ELSEWHERE = {
    "AIFeedbackError": "aifeedback.errors",
    "Comparison": "aifeedback.types",
    "Preference": "aifeedback.types",
    "Prompt": "aifeedback.types",
    "connect": "aifeedback.models",
}
"""Public names that are not in ``aifeedback.api``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'aifeedback' has no attribute '{name}'")
    return getattr(import_module(_ELSEWHERE.get(name, "aifeedback.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
