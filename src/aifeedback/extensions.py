"""Extension points: wherever a name is expected, an installed package may register its own, or a user name a Python file.

Entry-point groups: ``aifeedback.steps``, ``.probes``, ``.policy_probes``, ``.formats``, ``.models``, ``.advantages``,
``.rewards``. ``python:FILE.py:NAME`` works in all of them without installing anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from aifeedback.errors import InputError

GROUPS = tuple(
    f"aifeedback.{name}" for name in ("steps", "probes", "policy_probes", "formats", "models", "advantages", "rewards")
)
PYTHON = "python:"
_HOW = "write python:FILE.py:NAME"


def find(group: str, name: str) -> Any:
    """The object behind ``name`` in a group: an attribute of a Python file, or an installed entry point; else None.

    Raises InputError if the file, the attribute or the package cannot be loaded.
    """
    if name.startswith(PYTHON):
        return from_file(name)
    point = _points(group).get(name)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as broken:
        distribution = f" of {point.dist.name}" if point.dist else ""
        raise InputError(
            f"entry point '{name}'{distribution} ({point.value}) cannot be loaded: {type(broken).__name__}: {broken}",
            key=group,
            fix="update or remove that package",
        ) from broken


def registered(group: str) -> tuple[str, ...]:
    """Names that installed packages add to a group, in alphabetical order."""
    return tuple(_points(group))


def source_of(extension: Any) -> Path | None:
    """The source file of an object from outside the package; None for one of the package's own, or without source."""
    module = inspect.getmodule(extension if callable(extension) else type(extension))
    if module is None or module.__name__.partition(".")[0] == "aifeedback" or module.__file__ is None:
        return None
    return Path(module.__file__)


def file_problem(reference: str) -> str | None:
    """Why ``python:FILE.py:NAME`` cannot be used; None if it can."""
    try:
        from_file(reference)
    except InputError as wrong:
        return str(wrong)
    return None


def file_of(reference: str) -> Path:
    """FILE.py of ``python:FILE.py:NAME``."""
    rest = reference.removeprefix(PYTHON)
    return Path(rest.rpartition(":")[0] or rest)


def from_file(reference: str) -> Any:
    """The attribute that ``python:FILE.py:NAME`` names. Raises InputError for a file or name that cannot be used."""
    path, _, name = reference.removeprefix(PYTHON).rpartition(":")
    if not path or not name:
        raise InputError(f"'{reference}' has no name after the file", fix=_HOW)
    file = Path(path)
    if not file.is_file():
        raise InputError("no such file", file=file, fix=_HOW)
    module = _module(str(file.resolve()), file.stat().st_mtime_ns)
    if not hasattr(module, name):
        raise InputError(f"has no '{name}'", file=file, fix=f"{_HOW} with a name defined there")
    return getattr(module, name)


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=group), key=lambda point: point.name)}


@cache
def _module(path: str, stamp: int) -> Any:
    del stamp  # an edited file is another module
    name = f"aifeedback_file_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", file=path, fix="name a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as broken:
        del sys.modules[name]
        raise InputError(f"cannot be imported: {type(broken).__name__}: {broken}", file=path) from broken
    return module
