"""A real PostgreSQL server on loopback, started for the tests and stopped after them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

NAMES = ("postgres", "nobody")
"""Users that may run the server where the tests run as root, which it refuses."""


def programs() -> Path | None:
    """The folder of initdb and postgres, where they are installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


class Server:
    def __init__(self, folder: Path, bin_: Path, user: str | None) -> None:
        self.folder, self.bin, self.user = folder, bin_, user
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://rater@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        command = [
            str(self.bin / "postgres"),
            "-D",
            str(self.folder),
            "-p",
            str(self.port),
            "-h",
            "127.0.0.1",
            "-k",
            "",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self.user)
        import psycopg

        for _ in range(1200):
            with suppress(psycopg.OperationalError), psycopg.connect(self.url(), connect_timeout=2):
                return
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=0.1)
        raise RuntimeError("the PostgreSQL server did not start")

    def stop(self) -> None:
        """At once, as a machine that loses its power."""
        if self.process is not None:
            self.process.send_signal(3)  # SIGQUIT: immediate shutdown
            self.process.wait(timeout=30)
            self.process = None

    def new_database(self, name: str) -> str:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[arg-type]
        return self.url(name)


@contextmanager
def running_server() -> Iterator[Server]:
    """Skips, with the reason, where a server cannot be started here."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'aifeedback[postgres]'")
    if (found := programs()) is None:
        pytest.skip("PostgreSQL is not installed (initdb, postgres): apt-get install postgresql")
    user = _user() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="aifeedback-postgres-"))
    if user:
        shutil.chown(folder, user)
    initdb = [
        str(found / "initdb"),
        "-D",
        str(folder / "data"),
        "-U",
        "rater",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
    ]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user, cwd=folder)
    server = Server(folder / "data", found, user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str:
    import pwd

    for name in NAMES:
        with suppress(KeyError):
            pwd.getpwnam(name)
            return name
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
