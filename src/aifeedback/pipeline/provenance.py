"""From any id back to everything known about it: the provenance that `aifeedback show` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aifeedback.errors import FileError

IDS = ("id", "comparison_id", "completion_id", "prompt_id")


def trace(folder: Path, item: str) -> str:
    """All records of a run whose own or whose comparison's, completion's or prompt's id starts with ``item``."""
    mentions = [(path, record) for path, record in _records(folder) if _about(record, item)]
    if not mentions:
        what = f"no record with an id that starts with '{item}'"
        raise FileError(what, file=folder, fix=f"ids are in {_places(folder)}")
    return "\n\n".join(_described(path.relative_to(folder), record) for path, record in mentions[:12])


def record_files(folder: Path) -> list[Path]:
    """The files that hold records: those of a recipe's stages, or of a single command."""
    return sorted([*folder.glob("stages/*/*.jsonl"), *folder.glob("*.jsonl")])


def _places(folder: Path) -> str:
    names = sorted({str(path.relative_to(folder)) for path in record_files(folder)})
    return ", ".join(names[:8]) or "the .jsonl files of a run, and here are none"


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in record_files(folder):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if isinstance(record, dict):
                    yield path, record


def _about(record: dict[str, Any], item: str) -> bool:
    ids = (record.get(key) for key in IDS)
    return any(isinstance(value, str) and value.startswith(item) for value in ids)


def _described(path: Path, record: dict[str, Any]) -> str:
    lines = [f"── {path}"]
    for key, value in record.items():
        if key == "judgements":
            lines += [_judgement(judgement) for judgement in value]
        elif isinstance(value, dict | list):
            plain = json.dumps(value, indent=1, ensure_ascii=False)
            lines += [f"{key}:", *(f"    {line}" for line in plain.splitlines())]
        elif value is not None:
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def _judgement(judgement: dict[str, Any]) -> str:
    order = "second response shown first" if judgement["shown_swapped"] else "first response shown first"
    logprobs = judgement.get("logprobs") or ()
    readings = ", ".join("?" if v is None else f"{v:.4f} (P {math.exp(v):.4f})" for v in logprobs)
    lines = [f"  judged by {judgement['judge']}, {order}: P(first stored is better) = {judgement['p_first']}"]
    lines += [f"    log-probabilities as shown: {readings}"] if readings else []
    lines += [f"    coverage: {judgement['coverage']}"] if judgement.get("coverage") is not None else []
    lines += [f"    rationale: {judgement['rationale']}"] if judgement.get("rationale") else []
    lines += [f"    problem: {judgement['problem']}"] if judgement.get("problem") else []
    lines += [f"    call: {judgement['call_id']}"] if judgement.get("call_id") else []
    return "\n".join(lines)
