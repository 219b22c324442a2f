"""What memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from aifeedback.inference.passes import keep_freed_memory
told = {keep}
def work():
    for _ in range(20):
        rows = [torch.empty(1 << 20).fill_(1.0) for _ in range(40)]
        del rows
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(keep: str, **environment: str) -> tuple[str, int]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FAULTS.format(keep=keep)]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    message, faults = done.stdout.split()
    return message, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="sets up glibc's allocator")
def test_freed_memory_is_used_again_without_asking_the_system() -> None:
    """Without it most processes fault some 800,000 times here; some do not, by where their heap ends."""
    for _ in range(3):
        message, faults = run("keep_freed_memory()")
        assert message == "True"
        assert faults < 2_000


def test_an_allocator_that_the_user_set_up_is_left_alone() -> None:
    assert run("keep_freed_memory()", MALLOC_ARENA_MAX="2")[0] == "False"
