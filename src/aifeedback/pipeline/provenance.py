"""From any id back to everything known about it: the provenance that `aifeedback show` prints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from aifeedback.errors import FileError

ROLLOUTS = "training/rollouts.jsonl"
"""In a policy's folder: samples that it was rewarded for."""
IDS = ("id", "comparison_id", "completion_id", "prompt_id")


def trace(folder: Path, item: str) -> str:
    """All records of a run whose own or whose comparison's, completion's or prompt's id starts with ``item``, and what the
    journal holds of the calls that they name: each order as it was shown and read."""
    mentions = [(path, record) for path, record in _records(folder) if _about(record, item)]
    if not mentions:
        what = f"no record with an id that starts with '{item}'"
        raise FileError(what, file=folder, fix=f"ids are in {_places(folder)}")
    parts = [_described(path.relative_to(folder), record) for path, record in mentions[:12]]
    readings = list(_readings(folder, [call for _, record in mentions[:12] for call in _calls(record)]))
    return "\n\n".join(
        [*parts, *readings, *_origins(folder, [path for path, record in mentions if "rewarded_by" in record])]
    )


def record_files(folder: Path) -> list[Path]:
    """The files that hold records: those of a recipe's stages, or of a single command."""
    patterns = ("stages/*/*.jsonl", "*.jsonl", f"stages/*/*/{ROLLOUTS}", ROLLOUTS)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


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


def _calls(record: dict[str, Any]) -> Iterator[str]:
    judgements = record.get("judgements") or ()
    yield from (one["call_id"] for one in judgements if one.get("call_id"))
    yield from record.get("call_ids") or ()
    if isinstance(record.get("call_id"), str):
        yield record["call_id"]


def _readings(folder: Path, call_ids: Sequence[str]) -> Iterator[str]:
    """Each call once, as the journal has it; nothing where there is no journal."""
    from aifeedback.models.journal import Journal

    wanted = dict.fromkeys(call_ids)
    paths = [path for place in (folder, *list(folder.absolute().parents)[:3]) for path in place.glob("journal*.sqlite")]
    for path in dict.fromkeys(paths):
        with Journal(path) as journal:
            for call in list(wanted):
                rows = journal.by_call_id(call)
                if rows:
                    wanted.pop(call)
                    yield "\n".join([f"── call {call} ({path.name}, row {rows[-1].seq})", *_reading(rows[-1])])


def _reading(row: Any) -> Iterator[str]:
    setting, answer = json.loads(row.entry.setting), json.loads(row.entry.answer)
    yield f"  asked: {(setting.get('card') or {}).get('uri', 'not recorded')}; outcome: {row.entry.outcome}"
    if answer.get("logprobs"):
        pairs = zip(setting.get("labels") or (), answer["logprobs"], strict=False)
        yield "  " + ", ".join(
            f"{label!r} {'?' if v is None else f'{v:.4f} (P {math.exp(v):.4f})'}" for label, v in pairs
        )
    if answer.get("text"):
        yield f"  text: {answer['text']}"


def _origins(folder: Path, files: Sequence[Path]) -> Iterator[str]:
    """Whose feedback is behind the rewards: of a reward model, who labelled for it."""
    from aifeedback.models import lineage

    for policy in dict.fromkeys(file.parent.parent for file in files):
        origin = lineage.read(policy)
        lines = [f"── whose feedback trained {policy.relative_to(folder.parent)}"]
        for one in origin.trainers if origin else ():
            labels = f", labels {one.labels}" if one.labels else ""
            lines.append(
                f"  {one.uri}: {one.role}, {one.rows:,} rows{labels}" + (f", prompt {one.prompt}" if one.prompt else "")
            )
        lines += [f"  not recorded: {why}" for why in origin.unrecorded] if origin else ["  not recorded"]
        yield "\n".join(lines)
