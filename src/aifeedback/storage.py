"""Folders, JSON files, digests and installed versions: written whole or not at all, checked before anything is spent."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from aifeedback.errors import FileError, RecipeError

log = logging.getLogger(__name__)
VERSIONED = ("aifeedback", "torch", "transformers", "tokenizers", "numpy", "scipy", "statsmodels", "scikit-learn")


def make_folder(path: Path) -> Path:
    """Create it with its parents. Raises RecipeError, before anything is spent, where nothing could be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # permissions alone do not tell: /proc denies root what they allow
            return path
    except OSError as failed:
        blocked = next((place for place in (path, *path.parents) if place.exists() and not place.is_dir()), None)
        why = f"{blocked} is a file" if blocked else (failed.strerror or str(failed)).lower()
        what = "cannot write to the folder" if path.is_dir() else "cannot create the folder"
    fix = "give another place: a folder, or a file in one; results end in .jsonl or .parquet"
    raise RecipeError(f"{what}: {why}", file=path, fix=fix)


def cache_folder() -> Path:
    """The user's cache folder; where that cannot be written to, or others can write to it, one for this process.

    Nobody else may have written what is in it: kernels in it are run, and models in it judge.
    """
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aifeedback"
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(wanted, os.W_OK) and is_ours(wanted):
            return wanted
    except (OSError, RuntimeError):
        pass
    return _private_cache(str(wanted))


def is_ours(path: Path) -> bool:
    """Whether nobody else could have written it."""
    owner = path.stat()
    return owner.st_uid == os.geteuid() and not owner.st_mode & 0o022


@lru_cache
def _private_cache(wanted: str) -> Path:
    log.info("%s does not belong to this user alone: a cache folder is used for this process only", wanted)
    private = tempfile.mkdtemp(prefix="aifeedback-cache-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    return Path(private)


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a killed process leaves the old file."""
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_yaml_mapping(file: Path, *, empty: str, fix: str | None = None) -> dict[str, Any]:
    """Keys and values of a YAML file. Raises FileError with ``fix`` where it is not YAML, with ``empty`` for other content."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        raise FileError(f"not YAML: {str(broken).splitlines()[0]}", file=file, fix=fix) from None
    if not isinstance(content, dict):
        raise FileError(empty, file=file, fix=fix)
    return content


def digest(path: Path) -> str:
    """SHA-256 over a file, or over a folder's files by name: what the fingerprint of an input rests on."""
    hashed = hashlib.sha256()
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    for file in files:
        hashed.update(str(file.relative_to(path) if path.is_dir() else file.name).encode())
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                hashed.update(block)
    return hashed.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Python and the libraries that figures depend on, as installed."""
    installed = {"python": platform.python_version(), "platform": platform.platform()}
    for name in VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed
