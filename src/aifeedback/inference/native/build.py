"""Compiles the C++ files of this folder for this processor with the machine's own compiler, once, and keeps the result.

The library lies in the user's cache folder under a name made of everything it depends on: the source, the compiler, its
flags and what the processor can do. Nothing is downloaded. Without a compiler there are no kernels, and everything that
uses them has another way; ``AIFEEDBACK_NATIVE=0`` asks for that.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from aifeedback.storage import cache_folder, is_ours

log = logging.getLogger(__name__)
FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread")
FLAGS_X86, FLAGS_OTHER = ("-march=native", "-mprefer-vector-width=512"), ("-mcpu=native",)
LONGEST = 120
"""Seconds that compiling may take; it takes about thirteen."""


class NoKernels(Exception):
    """Why there are no kernels on this machine."""


def library_file() -> Path:
    """The compiled library. Raises NoKernels with the reason where it cannot be had."""
    if os.environ.get("AIFEEDBACK_NATIVE") == "0":
        raise NoKernels("AIFEEDBACK_NATIVE=0")
    if os.name != "posix":
        raise NoKernels(f"not on {platform.system()}")
    compiler = shlex.split(os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), ""))
    if not compiler:
        raise NoKernels("no C++ compiler (c++, g++ or clang++; CXX names another)")
    flags = (*FLAGS, *(FLAGS_X86 if platform.machine() in ("x86_64", "AMD64") else FLAGS_OTHER))
    sources = sorted(FOLDER.glob("*.[ch]pp"))
    build = (_version(compiler), " ".join(flags), _processor())
    parts = (*(file.read_bytes() for file in sources), *(text.encode() for text in build))
    file = cache_folder() / f"kernels-{hashlib.sha256(b'|'.join(parts)).hexdigest()[:20]}.so"
    if not (file.exists() and is_ours(file)):
        _compile(compiler, flags, file)
    return file


def _compile(compiler: list[str], flags: tuple[str, ...], file: Path) -> None:
    """Into a file of another name first, so that processes that compile at the same time do not meet."""
    handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
    os.close(handle)
    try:
        command = [*compiler, *flags, *map(str, sorted(FOLDER.glob("*.cpp"))), "-o", part]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        if done.returncode:
            raise NoKernels(f"{compiler[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
        os.chmod(part, 0o700)
        os.replace(part, file)
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise NoKernels(f"{compiler[0]}: {failed}") from failed
    finally:
        Path(part).unlink(missing_ok=True)


def _version(compiler: list[str]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=LONGEST, check=False)
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise NoKernels(f"{compiler[0]}: {failed}") from failed
    return done.stdout


def _processor() -> str:
    """What the processor can do, so that a home folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(("flags", "Features", "model name"))))
