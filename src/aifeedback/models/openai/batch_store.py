"""Batches on disk: what was submitted, what came back. One record per batch, beside the journal.

FOLDER/NAME.json     which requests the batch holds, and the server's id for it once that is known
FOLDER/NAME.jsonl    the server's lines, once the batch has ended

A record is written before its batch is submitted, so that a process killed in between finds out from the server
whether it was. Records and lines are dropped once the answers are in the journal.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import secrets
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.config import Config
from aifeedback.errors import JournalError
from aifeedback.storage import make_folder, read_json, write_json


class Batch(Config):
    """One submitted batch."""

    name: str
    """Ours; every request's ``custom_id`` begins with it, and where a server keeps metadata it is there too."""
    url: str
    path: str
    at: float
    """Unix time, before it was submitted."""
    requests: dict[str, float]
    """Digest of each request → the most that it may cost, in dollars."""
    id: str | None = None
    """The server's; None until it is known."""
    candidates: tuple[str, ...] = ()
    """Batches of the server that may be this one: it does not show what they hold before they end."""
    ended_at: float | None = None
    """When its lines were fetched."""

    @classmethod
    def new(cls, url: str, path: str, requests: Mapping[str, float]) -> Batch:
        return cls(name=secrets.token_hex(6), url=url, path=path, at=time.time(), requests=dict(requests))

    def custom_id(self, digest: str) -> str:
        return f"{self.name}-{digest}"

    def digest_of(self, custom_id: Any) -> str | None:
        """The request that a line of the server is about; None for one of another batch."""
        name, _, digest = str(custom_id).partition("-")
        return digest if name == self.name and digest in self.requests else None


class Line(NamedTuple):
    """What came back for one request. ``status`` is None where it was never answered: expired, cancelled, missing."""

    status: int | None
    body: Any = None
    cause: str = ""
    is_expired: bool = False


class BatchStore:
    """The records in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """One process at a time looks and submits, so that two stages with equal requests submit them once."""
        make_folder(self.folder)
        with (self.folder / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            yield

    def load(self, url: str) -> list[Batch]:
        """The batches of one server, oldest first. Raises JournalError for a record that cannot be read."""
        batches = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                batches.append(Batch.model_validate(read_json(path)))
            except ValueError as broken:
                fix = "restore it from a copy; without it, its requests are submitted, and billed, again"
                raise JournalError(f"{path}: not the record of a batch ({broken})\n  → {fix}") from None
        return sorted((batch for batch in batches if batch.url == url), key=lambda batch: batch.at)

    def keep(self, batch: Batch) -> Batch:
        write_json(self.folder / f"{batch.name}.json", batch.model_dump(mode="json"))
        return batch

    def drop(self, batch: Batch) -> None:
        (self.folder / f"{batch.name}.json").unlink(missing_ok=True)
        self.lines_file(batch).unlink(missing_ok=True)

    def lines_file(self, batch: Batch) -> Path:
        return self.folder / f"{batch.name}.jsonl"

    def lines(self, batch: Batch) -> dict[str, Any]:
        """The server's lines, decoded, by request; of two about one request the one with an answer, else the first."""
        by_digest: dict[str, Any] = {}
        with self.lines_file(batch).open("rb") as stream:
            for raw in stream:
                try:
                    line = json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
                except (ValueError, RecursionError):
                    continue
                digest = batch.digest_of(line.get("custom_id")) if isinstance(line, dict) else None
                if digest is not None and (digest not in by_digest or not _is_answered(by_digest[digest])):
                    by_digest[digest] = line
        return by_digest

    def forget(self, batches: Iterable[Batch], digests: set[str]) -> None:
        """Drop requests whose answers are kept elsewhere by now."""
        for batch in batches:
            rest = {digest: cost for digest, cost in batch.requests.items() if digest not in digests}
            if batch.ended_at is not None and len(rest) < len(batch.requests):
                if rest:
                    self.keep(batch.model_copy(update={"requests": rest}))
                else:
                    self.drop(batch)


def _is_answered(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("response") or line.get("result"), dict) and not line.get("error")
