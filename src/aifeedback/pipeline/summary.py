"""summary.json: every figure of a run in one object, the recipe's own names first, then each stage's figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aifeedback.errors import FileError
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.refs import steps_named
from aifeedback.storage import write_json


def summarise(folder: Path) -> dict[str, Any]:
    """Build summary.json from the manifest and the recipe's ``summary`` map; return it. FileError if no run."""
    run = RunFolder(folder)
    recipe_file = folder / "recipe.yaml"
    if not recipe_file.is_file():
        raise FileError(
            "not a run folder (recipe.yaml is missing)",
            file=folder,
            fix="give the folder of a recipe's run; compare and audit write their report by themselves",
        )
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8"))
    manifest = run.manifest
    stages = manifest.get("stages", {})
    summary: dict[str, Any] = {
        "recipe": recipe["name"],
        "description": recipe.get("description", ""),
        "seed": recipe["seed"],
        "versions": manifest.get("versions", {}),
        "seconds": {**manifest.get("seconds", {}), "total": sum(manifest.get("seconds", {}).values())},
        "calls": manifest.get("calls", 0),
        "tokens": manifest.get("tokens", 0),
        "cost_usd": manifest.get("cost_usd", 0.0),
    }
    for key, where in recipe.get("summary", {}).items():
        put(summary, key, find(stages, where))
    needs = {stage["id"]: set(steps_named(stage)) for stage in recipe["stages"]}
    summary["stages"] = {
        stage_id: {
            "kind": done["kind"],
            "used_by": [other for other in needs if stage_id in needs[other]],
            "calls": done["calls"],
            "tokens": done["tokens"],
            "cost_usd": done["cost_usd"],
            "verdict": done.get("verdict"),
            "figures": done["figures"],
        }
        for stage_id, done in stages.items()
    }
    write_json(folder / "summary.json", summary)
    return summary


def find(stages: Mapping[str, Any], where: str) -> Any:
    """The figure that ``stage-id.figure.part`` names; None where the stage has not run or has no such figure."""
    stage_id, *path = where.split(".")
    value: Any = stages.get(stage_id, {}).get("figures", {})
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def put(target: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; a mapping that is already there is added to."""
    *parents, last = key.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    if isinstance(value, Mapping) and isinstance(target.get(last), dict):
        target[last] |= value
    else:
        target[last] = value
