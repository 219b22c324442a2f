"""What raters go by: a Markdown or text file, a constitution, or a rubric, with its version."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from aifeedback.errors import FileError
from aifeedback.records import content_id


class Guidelines(NamedTuple):
    title: str
    version: str
    """Of a constitution or rubric its own; of a text the first hex digits of its digest."""
    text: str
    """Markdown."""


def read_guidelines(name: str | Path) -> Guidelines:
    """Read a ``.md`` or ``.txt`` file; anything else is a constitution or a rubric, by shipped name or YAML file.

    Raises FileError for a file that cannot be read or holds nothing, StandardsError for an unknown or invalid standard.
    """
    path = Path(name)
    if path.suffix.lower() in (".md", ".txt", ".markdown"):
        return _of_text(path)
    from aifeedback.standards import shelf
    from aifeedback.standards.constitution import Constitution
    from aifeedback.standards.rubric import Rubric

    if str(name) not in shelf.shipped("constitutions") and _is_rubric(str(name)):
        rubric = Rubric.load(name)
        return _of_parts(rubric.name, rubric.version, rubric.about, [(c.title, c.text) for c in rubric.criteria])
    constitution = Constitution.load(name)
    parts = [(principle.title, principle.text) for principle in constitution.principles]
    return _of_parts(constitution.name, constitution.version, constitution.about, parts)


def _is_rubric(name: str) -> bool:
    from aifeedback.standards import shelf

    if name in shelf.shipped("rubrics"):
        return True
    return (
        Path(name).is_file()
        and "criteria" in (content := shelf.read_mapping(Path(name)))
        and ("principles" not in content)
    )


def _of_text(path: Path) -> Guidelines:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as cause:
        raise FileError(f"cannot be read: {cause.strerror}", file=path, key="--guidelines") from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", file=path, key="--guidelines", fix="save it as UTF-8") from None
    if not text:
        raise FileError("is empty", file=path, key="--guidelines", fix="write down what raters shall go by")
    return Guidelines(path.stem, content_id("guidelines", text)[:8], text)


def _of_parts(name: str, version: str, about: str, parts: list[tuple[str, str]]) -> Guidelines:
    lines = [about, *(f"- **{title}**: {text}" for title, text in parts)]
    return Guidelines(name, version, "\n\n".join(line for line in lines if line.strip()))
