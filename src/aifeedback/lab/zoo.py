"""The models and judge prompts that ship with the lab, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aifeedback.errors import ModelError, StandardsError

WEIGHTS = Path(__file__).parent / "weights"
PROMPTS = Path(__file__).parent / "prompts"
CONSTITUTIONS = Path(__file__).parent / "constitutions"


def names() -> list[str]:
    """Names of the shipped models, as in ``lab:NAME``."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))


def folder(name: str) -> Path:
    """The Hugging Face folder of a shipped model. Raises ModelError for an unknown name."""
    path = WEIGHTS / name
    if name not in names():
        raise ModelError(f"the lab has no model '{name}'", fix=f"it has: {', '.join(names())}; see `aifeedback lab`")
    return path


def card(name: str) -> dict[str, Any]:
    """What was measured when the model was built: figures with n and seed, tokens trained, seconds."""
    path = folder(name) / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def prompt_file(name: str) -> Path:
    """The YAML file of a judge prompt in the lab's formats: 'rating', 'pairwise' and so on."""
    path = PROMPTS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PROMPTS.glob("*.yaml")))
        raise StandardsError(f"the lab has no judge prompt '{name}'", fix=f"it has: {known}")
    return path


def constitution_file(name: str) -> Path:
    """The YAML file of a constitution in the lab's short wording: 'harmless', 'helpful'."""
    path = CONSTITUTIONS / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONSTITUTIONS.glob("*.yaml")))
        raise StandardsError(f"the lab has no constitution '{name}'", fix=f"it has: {known}")
    return path
