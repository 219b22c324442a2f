"""Digests of everything that a step leaves, chained: an edited, exchanged or removed file and a cut journal are found.

``files.json`` lists the SHA-256 of every file of a folder; its own digest is a row of the run's journal (kind ``files``),
and the pages print the journal's head. Whoever rewrites files, list and journal alike still lacks the head that was
printed or kept elsewhere: ``verify(run, heads=…)`` compares with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.errors import FileError, JournalError
from aifeedback.models.journal import Entry, Head, Journal, canonical, content_key, setting_digest
from aifeedback.models.journal.journal import FILES
from aifeedback.storage import write_json
from aifeedback.types import content_id

FILE = "files.json"
UNSEALED = ("journal*.sqlite*", "ratings*.sqlite*", FILE, "*.partial", "*.part")
"""Not in the list: journals and ratings have chains of their own, the rest is short-lived."""
JOURNALS = ("journal*.sqlite", "stages/*/journal*.sqlite", "rounds/*/journal*.sqlite", "appeals/*/journal*.sqlite")
"""Of a run, its steps, and the rounds and appeals of a monitor."""
UNSEALED_FOLDERS = frozenset({"stages", "checkpoints", "candidates"})
_HEAD = re.compile(r"\bhead[\s\"':]+(?:<[^>]+>\s*)*([0-9a-f]{64})\b")
_LINK = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{16})(?![0-9a-f])")
"""Of a journal, or of a file of ratings."""


class Verified(NamedTuple):
    """The result of a check; ``faults`` is empty if nothing was changed."""

    heads: dict[str, Head]
    """Journal, or file of ratings → its head now."""
    calls: dict[str, int]
    """Journal → its model calls."""
    files: int
    """Files whose digest was compared."""
    faults: list[str]
    unsealed: list[str]
    """Folders that list no digests: results of an interrupted step, or of an earlier version."""


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path, journal: Path, *, beside: Iterable[Path] = (), rewritten: Iterable[Path] = ()) -> None:
    """Write ``files.json`` of a folder and chain its digest into ``journal``; nothing where both are as they are.

    ``beside``: results outside the folder, such as the file that -o names. ``rewritten``: in a folder that has its list,
    only these were written since, and the others keep their digests, so that an edit is not sealed with them.
    """
    file = folder / FILE
    if rewritten and not journal.is_file():
        return  # taken away since; a new one would vouch for nothing
    before = _listed(folder) if rewritten and file.is_file() else None
    outputs = sorted(_outputs(folder)) if before is None else [(os.path.relpath(p, folder), p) for p in rewritten]
    listed = (before or {}) | {name: sha256(path) for name, path in outputs}
    listed |= {os.path.relpath(path, folder): sha256(path) for path in beside if path.is_file()}
    label = os.path.relpath(folder, journal.parent)
    is_known = file.is_file() and journal.is_file() and _listed(folder) == listed
    with Journal(journal) as opened:
        if is_known and _latest(opened).get(label) == sha256(file):
            return
        write_json(file, listed)
        rows = opened.head().rows
        opened.append([_entry(label, sha256(file), rows, opened.steps_digest(rows))])


def changed(file: Path) -> str:
    """Why a file is not what its step left, '' where it is, or where no step lists it.

    Looks for the list in the file's folder, those above it, and ``NAME.run`` beside it. A list that is not the one which
    the journal notes, or is gone, vouches for nothing.
    """
    beside = file.with_name(f"{file.name}.run")
    for folder in (beside, *list(file.parents)[:4]):
        name = os.path.relpath(file, folder)
        if not UNSEALED_FOLDERS.isdisjoint(Path(name).parts[:-1]):
            continue
        listed, noted = _listed(folder), _noted(folder)
        if noted is not None and not ((folder / FILE).is_file() and sha256(folder / FILE) == noted):
            return f"{folder / FILE} is not the list that the journal notes"
        if name in listed:
            return f"{file} was changed after it was written" if listed[name] != sha256(file) else ""
    return ""


def _noted(folder: Path) -> str | None:
    """Digest of the folder's list by the journal of its run; None without a journal or if the journal does not list it."""
    for place in (folder, *list(folder.parents)[:2]):
        if (place / "journal.sqlite").is_file():
            with Journal(place / "journal.sqlite") as opened:
                return _latest(opened).get(os.path.relpath(folder, place))
    return None


def verify(run: Path, heads: Sequence[str] = ()) -> Verified:
    """Check journals, ratings and every listed file of a run, or one journal file. Raises FileError without a journal.

    ``run``: a folder, a result file with its .run folder beside it, or a journal. ``heads``: links noted elsewhere, each
    of which must be a row of one of the journals.
    """
    if run.is_file() and (beside := run.with_name(f"{run.name}.run")).is_dir():
        run = beside
    root = run if run.is_dir() else run.parent
    journals = sorted({path for place in JOURNALS for path in root.glob(place)}) if run.is_dir() else [run]
    stores = sorted(root.glob("ratings*.sqlite")) if run.is_dir() else []
    if not (journals or stores) or not all(path.is_file() for path in journals):
        raise FileError("no journal", file=run, fix="give a run folder or a journal file")
    wanted = dict.fromkeys(heads, "the head that was noted")
    for page in [*root.glob("*.html"), *root.glob("stages/*/*.html")] if run.is_dir() else []:
        wanted |= dict.fromkeys(
            printed_heads(page.read_text(encoding="utf-8", errors="replace")), f"the head that {page.name} prints"
        )
    faults: list[str] = []
    now: dict[str, Head] = {}
    calls: dict[str, int] = {}
    noted: dict[Path, str] = {}
    missing = dict(wanted)
    for path in journals:
        try:
            with Journal(path) as journal:
                now[str(path)] = journal.verify()
                calls[str(path)] = journal.spent().calls
                for row in journal.rows():
                    missing.pop(row.link.hex(), None)
                faults += [fault] if (fault := _steps_fault(journal)) else []
                noted |= {path.parent / label: digest for label, digest in _latest(journal).items()}
        except JournalError as damaged:
            faults.append(str(damaged).split("\n")[0])
    for store in stores:
        now[str(store)], links, fault = _ratings_chain(store)
        faults += [fault] if fault else []
        for link in links:
            missing.pop(link, None)
    for link, what in missing.items():
        faults.append(f"{what}, {link[:16]}…, is in no chain: rows were removed from the end, or it was rewritten")
    count, file_faults = _file_faults(root, noted) if run.is_dir() else (0, [])
    folders = [root, *(path for path in sorted(root.glob("stages/*")) if path.is_dir())] if run.is_dir() else []
    unsealed = [str(f) for f in folders if f not in noted and not (f / FILE).is_file() and any(_outputs(f))]
    return Verified(now, calls, count, faults + file_faults, unsealed)


def read_heads(source: str) -> list[str]:
    """Links from a head file, a page, or the link itself. Raises FileError where there is none."""
    if _LINK.fullmatch(source):
        return [source]
    path = Path(source)
    if not path.is_file():
        raise FileError("neither a file nor a link in hex digits", file=source, fix="give a page or a file of heads")
    text = path.read_text(encoding="utf-8", errors="replace")
    heads = printed_heads(text) or ([] if "<html" in text else _LINK.findall(text))
    if not heads:
        raise FileError("has no head", file=path, fix="audit verify RUN --json FILE writes one")
    return list(dict.fromkeys(heads))


def printed_heads(page: str) -> list[str]:
    return _HEAD.findall(page)


def _file_faults(root: Path, noted: dict[Path, str]) -> tuple[int, list[str]]:
    count, faults = 0, []
    for folder in sorted({root, *root.glob("stages/*"), *noted}):
        file = folder / FILE
        where = os.path.relpath(file, root)
        if not file.is_file():
            if folder in noted:
                faults.append(f"{where} is missing")
            continue
        if folder not in noted:
            faults.append(f"{where} is not noted in the journal: rows were removed from its end")
        elif sha256(file) != noted[folder]:
            faults.append(f"{where} was changed after it was written")
        for name, digest in _listed(folder).items():
            path, place = folder / name, os.path.normpath(os.path.join(os.path.relpath(folder, root), name))
            if not path.is_file():
                if not name.startswith(".."):  # a copy outside may be moved
                    faults.append(f"{place} is missing")
                continue
            count += 1
            if sha256(path) != digest:
                faults.append(f"{place} was changed after it was written")
    return count, faults


def _listed(folder: Path) -> dict[str, str]:
    """File → digest by the folder's list; empty where it has none, or one that cannot be read."""
    try:
        listing = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return listing if isinstance(listing, dict) else {}


def _ratings_chain(store: Path) -> tuple[Head, list[str], str]:
    """Head of a file of ratings, every link in it, and the first fault ('' where there is none); nothing is written."""
    links, fault, previous, count = [], "", "", 0
    try:
        with contextlib.closing(sqlite3.connect(f"{store.resolve().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT seq, record, digest, item_id, rater, revision FROM ratings ORDER BY seq")
            for seq, record, digest, *columns in rows:
                count += 1
                is_linked = seq == count and content_id(previous, record) == digest
                if not fault and not (is_linked and columns == _named(record)):
                    fault = f"{store}: rating {count} was changed, or one before it was removed"
                previous = digest
                links.append(digest)
            # SQLite counts what was ever added: fewer rows than that are rows that were taken away
            counted = db.execute("SELECT seq FROM sqlite_sequence WHERE name LIKE 'ratings%'").fetchone()
    except sqlite3.Error as damaged:
        return Head(0, ""), [], f"{store}: {damaged}"
    if not fault and counted is not None and counted[0] > count:
        fault = f"{store}: {counted[0] - count} ratings were removed from the end"
    return Head(count, previous), links, fault


def _named(record: str) -> list[Any]:
    """What a rating's record says of the columns that stand beside it."""
    rating = json.loads(record)
    return [rating["item_id"], rating["rater"], rating.get("revision", 0)]


def _outputs(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        *folders, name = parts = path.relative_to(folder).parts
        is_kept = UNSEALED_FOLDERS.isdisjoint(folders) and not any(part.startswith(".") for part in parts)
        if is_kept and path.is_file() and not any(fnmatch(name, pattern) for pattern in UNSEALED):
            yield str(path.relative_to(folder)), path


def _latest(journal: Journal) -> dict[str, str]:
    """Folder → digest of the ``files.json`` that was noted last."""
    return {json.loads(row.entry.setting)["folder"]: json.loads(row.entry.answer)["sha256"]
            for row in journal.of_kind(FILES)}  # fmt: skip


def _steps_fault(journal: Journal) -> str:
    """Whether calls were given to other steps since the last list of files was noted; '' where they were not."""
    noted = journal.of_kind(FILES)
    last = json.loads(noted[-1].entry.answer) if noted else {}
    if "steps" not in last or journal.steps_digest(last["rows"]) == last["steps"]:
        return ""
    return f"{journal.path}: which step made which call was changed"


def _entry(label: str, digest: str, rows: int, steps: str) -> Entry:
    setting = canonical({"folder": label})
    hashed = bytes.fromhex(digest)
    return Entry(
        kind=FILES,
        # not final: the same list may be noted again after another one, and the last row counts
        key=content_key(setting_digest(setting), hashed),
        setting=setting,
        prompt_hash=hashed,
        outcome="ok",
        answer=canonical({"sha256": digest, "rows": rows, "steps": steps}),
        is_final=False,
    )
