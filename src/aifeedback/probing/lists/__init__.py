"""The shipped lists, one YAML file per probe, and the attacks of the red team. All texts are our own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml


@lru_cache(maxsize=16)
def shipped(probe: str) -> tuple[Mapping[str, Any], ...]:
    """The rows of a probe's shipped list; empty if it has none."""
    file = files("aifeedback.probing.lists") / f"{probe}.yaml"
    if not file.is_file():
        return ()
    return tuple({"probe": probe, **row} for row in _loaded(file))


@lru_cache(maxsize=1)
def shipped_attacks() -> Mapping[str, str]:
    """Name → text around {request}."""
    return _loaded(files("aifeedback.probing.lists") / "attacks.yaml")


def _loaded(file: Any) -> Any:
    # the loader in C, where PyYAML has it, is ten times faster
    return yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
