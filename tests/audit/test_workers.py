"""`aifeedback audit` with its questions shared by two processes: the same findings, the same journal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aifeedback.models.journal import Journal
from aifeedback.models.journal.journal import FILES

CLI = [sys.executable, "-c", "from aifeedback.cli import main; main()"]


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    run("lab", "pairs", "300", "-o", "pairs.jsonl", folder=tmp_path)
    found = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        told = run(
            "audit",
            "lab:judge",
            "--data",
            "pairs.jsonl",
            "--n",
            "60",
            "--workers",
            workers,
            "-o",
            workers,
            folder=tmp_path,
        )
        assert "is lost" not in told
        audit = json.loads((out / "audit.json").read_text())["judges"][0]
        assert audit.pop("seconds") > 0
        found.append((audit, *(rows(out / f"{name}.sqlite") for name in ("journal", "journal-again"))))
    assert found[0] == found[1]
    assert len(found[0][1]) > 4_000


def run(*arguments: str, folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*CLI, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows(path: Path) -> list[tuple[Any, ...]]:
    """Every call but for when and how fast it was answered; the digests of files, which hold such times, are left out."""
    with Journal(path) as journal:
        journal.verify()
        return [tuple(r.entry._replace(at=0.0, seconds=0.0)) for r in journal.rows() if r.entry.kind != FILES]
