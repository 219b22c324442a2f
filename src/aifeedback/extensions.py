"""Extension points: where a name is taken, a package may register its own, and a user may name a Python file.

Entry-point groups: ``aifeedback.steps``, ``.probes``, ``.formats``, ``.models``, ``.advantages``, ``.rewards``.
``python:FILE.py:NAME`` works in all of them without installing anything.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from aifeedback.errors import InputError

GROUPS = tuple(f"aifeedback.{name}" for name in ("steps", "probes", "formats", "models", "advantages", "rewards"))


def find(group: str, name: str) -> Any:
    """What ``name`` stands for in a group: an attribute of a Python file, or an installed entry point; else None."""
    if name.startswith("python:"):
        return from_file(name)
    return next((point.load() for point in entry_points(group=group, name=name)), None)


def registered(group: str) -> list[str]:
    """Names that installed packages add to a group."""
    return sorted(entry_points(group=group).names)


def from_file(reference: str) -> Any:
    """The attribute that ``python:FILE.py:NAME`` names. Raises InputError for a missing file or name."""
    path, _, name = reference.removeprefix("python:").rpartition(":")
    if not path or not name:
        raise InputError(f"'{reference}' names no attribute", fix="write python:FILE.py:NAME")
    file = Path(path)
    if not file.is_file():
        raise InputError("no such file", file=file, fix="write python:FILE.py:NAME")
    module = _module(str(file.resolve()), file.stat().st_mtime_ns)
    if not hasattr(module, name):
        raise InputError(f"has no '{name}'", file=file, fix="write python:FILE.py:NAME with a name defined there")
    return getattr(module, name)


@cache
def _module(path: str, stamp: int) -> Any:
    del stamp  # an edited file is a new module
    name = f"aifeedback_file_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError("not a Python file", file=path, fix="give a .py file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
