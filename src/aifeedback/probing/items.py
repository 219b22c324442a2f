"""Lists of items: the shipped ones, and a user's own as JSON lines or YAML; a plain prompt file for a red team.

A row names its probe and has that probe's keys (docs/probing.md). A row that cannot be used is counted with its reason;
the others are used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from aifeedback.errors import FileError
from aifeedback.probing.lists import shipped
from aifeedback.probing.probe import Item, PolicyProbe
from aifeedback.types import Prompt

FIX = "one row per item, each with its probe and that probe's keys (docs/probing.md)"


class Items(NamedTuple):
    by_probe: dict[str, list[Item]]
    rows: int
    skipped: dict[str, int]
    """Reason → rows."""


def shipped_items(probe: PolicyProbe) -> list[Item]:
    return [probe.item.model_validate(row) for row in shipped(probe.name)]


def read_items(path: str | Path, probes: Mapping[str, PolicyProbe]) -> Items:
    """Raises FileError if the file is unreadable or has no usable row. Rows for other known probes are kept."""
    file = Path(path)
    by_probe: dict[str, dict[str, Item]] = {}
    skipped: Counter[str] = Counter()
    first: dict[str, int] = {}
    rows = 0
    for number, row in _rows(file):
        rows += 1
        item = _item(row, probes)
        if isinstance(item, str):
            skipped[item] += 1
            first.setdefault(item, number)
        elif item.id in by_probe.get(item.probe, {}):
            skipped["duplicate item"] += 1
        else:
            by_probe.setdefault(item.probe, {})[item.id] = item
    if not by_probe:
        why = next((f"{reason} (first in row {first[reason]})" for reason in first), "the file is empty")
        raise FileError(f"no usable item: {why}", file=file, fix=FIX)
    return Items({probe: list(items.values()) for probe, items in by_probe.items()}, rows, dict(skipped))


def _item(row: Any, probes: Mapping[str, PolicyProbe]) -> Item | str:
    """The item, or why there is none."""
    if not isinstance(row, Mapping):
        return "not a row with keys"
    name = row.get("probe")
    probe = probes.get(str(name)) if name is not None else None
    if probe is None:
        return f"probe: {'missing' if name is None else repr(name)}; one of {', '.join(probes)}"
    try:
        return probe.item.model_validate(row)
    except ValidationError as wrong:
        one = wrong.errors()[0]
        where = ".".join(str(part) for part in one["loc"])
        return f"{name}: {where + ': ' if where else ''}{one['msg'].removeprefix('Value error, ')}"


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """(number, row). Raises FileError for what is neither JSON lines nor YAML with a list."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileError("no such file", file=file, fix="give a .jsonl or .yaml file of items") from None
    except (OSError, UnicodeDecodeError) as failed:
        raise FileError(f"cannot be read: {failed}", file=file, fix="give UTF-8 text") from None
    if file.suffix in (".yaml", ".yml"):
        try:
            rows = yaml.safe_load(text)
        except yaml.YAMLError as wrong:
            raise FileError(f"not YAML: {' '.join(str(wrong).split())}", file=file, fix=FIX) from None
        if not isinstance(rows, list):
            raise FileError("not a list of rows", file=file, fix=FIX)
        yield from enumerate(rows, start=1)
        return
    if file.suffix != ".jsonl":
        raise FileError(f"unsupported file type '{file.suffix}'", file=file, fix="give a .jsonl or .yaml file of items")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def red_team_items(prompts: list[Prompt]) -> list[Item]:
    """A prompt file as items: harmful unless the tag ``label`` says safe; the prompts hold their attacks already."""
    from aifeedback.probing.redteam import RedTeamItem

    made = []
    for prompt in prompts:
        tags = dict(prompt.tags)
        topic = tags.get("category") or tags.get("topic") or tags.get("kind") or ""
        harmful = tags.get("label") != "safe"
        made.append(
            RedTeamItem(
                probe="redteam", id=prompt.id, cluster=tags.get("cluster") or prompt.id, prompt=prompt.text,
                harmful=harmful, attacks=(), topic=topic,
            )
        )  # fmt: skip
    return made
