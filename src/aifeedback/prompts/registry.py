"""Find and read YAML files by shipped name or by path, and compose what a judge is shown of them."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aifeedback.errors import StandardsError

ROOT = Path(__file__).parent


def shipped(kind: str) -> list[str]:
    """Names of the files that the package brings along: 'judges', 'constitutions', 'rubrics', 'exemplars'."""
    return sorted(path.stem for path in (ROOT / kind).glob("*.yaml"))


def find(kind: str, name: str | PathLike[str]) -> Path:
    """The file of a shipped name, or the path itself. Raises StandardsError when there is neither."""
    text = str(name)
    path = Path(text)
    if path.suffix in (".yaml", ".yml") or "/" in text:
        if not path.is_file():
            raise StandardsError("no such file", file=path, fix=f"give a path, or one of: {', '.join(shipped(kind))}")
        return path
    if text not in shipped(kind):
        close = difflib.get_close_matches(text, shipped(kind), n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"shipped: {', '.join(shipped(kind))}"
        raise StandardsError(f"no {kind[:-1]} is called '{text}'", fix=f"{hint}; or give the path of a .yaml file")
    return ROOT / kind / f"{text}.yaml"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file. A duplicate key is an error, as is anything that is not UTF-8 YAML."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_OneOfEachKey)
    except yaml.MarkedYAMLError as broken:
        mark = broken.problem_mark or broken.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StandardsError(f"{where}{broken.problem or 'not readable as YAML'}", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise StandardsError(f"not readable as YAML: {broken}", file=path, fix="save it as UTF-8 text") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """As ``read_yaml``, for a file that must hold keys and values."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise StandardsError("the file does not hold keys and values", file=path, fix="start with 'name: …'")
    return content


class _OneOfEachKey(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys in silence; a lost principle must not go unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key '{key}'", problem_mark=key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


class Wording(NamedTuple):
    id: str
    """constitution@version/principle: what a judgement records."""
    text: str
    weight: float = 1.0
