"""Evidence from files: the kind of result in a folder, its metrics and digests, and whether it was changed since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.dossier.records import Added, now
from aifeedback.errors import AIFeedbackError, FileError
from aifeedback.models.journal import Journal
from aifeedback.models.journal.digests import FILE as SEALED
from aifeedback.models.journal.digests import sha256, verify
from aifeedback.storage import read_json, read_yaml_mapping

LIVE = "monitor"
"""Evidence of this kind keeps changing: its chain is checked, its files are not compared with those added."""
NOT_LISTED = ("-wal", "-shm", "-journal", ".lock")


class Piece(NamedTuple):
    """One result: ``audit`` of one judge, ``compare``, ``safety``, ``people``, ``monitor``, ``standard`` or ``model``."""

    kind: str
    path: Path
    """The file that it was read from."""
    data: Any
    at: str = ""
    """When it was measured, where the folder says so."""


class Evidence(NamedTuple):
    """Everything that was added."""

    pieces: Sequence[Piece]
    faults: Sequence[str] = ()
    """Files that are not as they were added or written."""

    def of(self, kind: str) -> list[Piece]:
        return [piece for piece in self.pieces if piece.kind == kind]


def add(path: Path) -> Added:
    """Record a file or folder, with digests. Raises FileError where it does not exist or cannot be read."""
    if not path.exists():
        raise FileError("no such file or folder", file=path, fix="give a result of aifeedback, or a standards file")
    root = path if path.is_dir() else path.parent
    files = {str(file.relative_to(root)): sha256(file) for file in _files(path)}
    heads = {}
    for journal in sorted(root.rglob("journal*.sqlite")) if path.is_dir() else []:
        with Journal(journal) as opened:
            heads[str(journal.relative_to(root))] = opened.head().link
    kinds = list(dict.fromkeys(piece.kind for piece in read(path)))
    return Added(path=str(path), kind=", ".join(kinds) or "file", at=now(), files=files, heads=heads)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        is_kept = file.is_file() and not file.name.endswith(NOT_LISTED) and ".sqlite" not in file.suffixes
        if is_kept and "checkpoints" not in file.relative_to(path).parts:
            yield file


def load(added: Iterable[Added]) -> Evidence:
    """The evidence as it is now, and what differs from what was added."""
    pieces: list[Piece] = []
    faults: list[str] = []
    for one in added:
        path = Path(one.path)
        if not path.exists():
            faults.append(f"{path} is missing")
            continue
        faults += _changed(one, path)
        try:
            pieces += read(path)
        except AIFeedbackError as broken:
            faults.append(str(broken).splitlines()[0])
    return Evidence(pieces, list(dict.fromkeys(faults)))


def _changed(one: Added, path: Path) -> list[str]:
    root = path if path.is_dir() else path.parent
    faults = []
    if LIVE not in one.kind.split(", "):
        for name, digest in one.files.items():
            file = root / name
            if not file.is_file():
                faults.append(f"{file} is missing")
            elif sha256(file) != digest:
                faults.append(f"{file} was changed after it was added")
    if path.is_dir() and any(path.glob("journal*.sqlite")):
        heads = list(one.heads.values())
        faults += [f"{path}: {fault}" for fault in verify(path, heads).faults]
    elif path.is_dir() and (path / SEALED).is_file():
        faults.append(f"{path}: the journal that seals its files is missing")
    return faults


def read(path: Path) -> list[Piece]:
    """The evidence in a file or folder; empty if no reader recognises it."""
    if path.is_file():
        return _file(path)
    pieces: list[Piece] = []
    for folder in (path, *sorted(p for p in path.glob("stages/*") if p.is_dir())):
        pieces += _folder(folder)
    return pieces


def _folder(folder: Path) -> list[Piece]:
    at = str((read_json(folder / "command.json") or {}).get("at", ""))
    at = at or str((read_json(folder.parent.parent / "manifest.json") or {}).get("at", ""))
    pieces = []
    if (folder / "monitor.yaml").is_file():
        return [Piece("monitor", folder / "monitor.yaml", folder)]
    if (folder / "audit.json").is_file():
        audits = (read_json(folder / "audit.json") or {}).get("judges", [])
        pieces += [Piece("audit", folder / "audit.json", audit, at) for audit in audits]
    figures, file = _figures(folder)
    if "policies" in figures and "independence" in figures:
        pieces.append(Piece("compare", file, figures, at))
    elif "safety" in figures:
        pieces.append(Piece("safety", file, figures, at))
    if (folder / "ratings.jsonl").is_file() and (folder / "summary.json").is_file():
        pieces.append(Piece("people", folder / "summary.json", read_json(folder / "summary.json"), at))
    if (folder / "training" / "feedback.json").is_file():
        pieces.append(Piece("model", folder / "training" / "feedback.json", folder))
    return pieces


def _figures(folder: Path) -> tuple[Mapping[str, Any], Path]:
    """Metrics of a step: a command's own file, or what a recipe keeps."""
    file = folder / "figures.json"
    if file.is_file():
        return read_json(file) or {}, file
    done = folder / "done.json"
    return (read_json(done) or {}).get("figures", {}), done


def _file(path: Path) -> list[Piece]:
    if path.suffix in (".yaml", ".yml"):
        read_yaml_mapping(path, empty="holds no standard", fix="run aifeedback standards check on it")
        return [Piece("standard", path, path)]
    if path.name == "audit.json":
        return [Piece("audit", path, audit) for audit in (read_json(path) or {}).get("judges", [])]
    return []
