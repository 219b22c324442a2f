"""Starts a script of this folder as two processes on gloo, the way a user would: under ``torchrun``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def torchrun(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs ``script`` in two processes of one thread each; the modules of the tests can be imported in it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run(
        [*command, str(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of a trained folder's ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "training" / "metrics.jsonl").read_text().splitlines()]
