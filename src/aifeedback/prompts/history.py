"""Versions of a standards file: in the file itself, and in a log beside it that is only ever appended to.

``NAME.log.jsonl`` has one line per version: the digest of its wording, who decided it, why, which challenge it answers,
and the labels that flipped. Every line holds a digest of itself and the line before, so an edited or removed one shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from aifeedback.config import Config
from aifeedback.errors import StandardsError
from aifeedback.types import content_id


class Version(Config):
    version: str = Field(min_length=1)
    at: str = Field(min_length=1)
    """Date."""
    by: str = Field(min_length=1)
    """Who decided it."""
    why: str = Field(min_length=1)

    @field_validator("version", "at", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads 1.0 as a number and 2026-11-30 as a date."""
        return value if isinstance(value, str | dict | list) or value is None else str(value)

    def __str__(self) -> str:
        return f"{self.version} ({self.at}, {self.by}): {self.why}"


class Logged(Version):
    """A line of the log."""

    digest: str
    """Of the wording."""
    answers: str = ""
    """The challenge that it answers."""
    compared: int | None = None
    """Pairs that were labelled under this version and the one before; None where that was not measured."""
    flipped: tuple[str, ...] = ()
    """Those of them whose preferred response changed."""
    link: str = ""
    """Digest of this line and of the one before."""

    def __str__(self) -> str:
        answers = f"; answers: {self.answers}" if self.answers else ""
        flips = f"; {len(self.flipped):,} of {self.compared:,} labels flipped" if self.compared is not None else ""
        return f"{super().__str__()}{answers}{flips}"


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.log.jsonl")


def read_log(path: Path) -> list[Logged]:
    """The log beside a standards file, the oldest first. Raises StandardsError for a line that is not as it was written."""
    file, entries, before = log_of(path), [], ""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines() if file.is_file() else (), start=1):
        try:
            one = Logged.model_validate_json(line)
        except ValidationError:
            one = None
        if one is None or one.link != _link(one, before):
            raise StandardsError(
                f"line {number} was changed, or the one before it was removed", file=file, fix="restore it from a copy"
            )
        entries.append(one)
        before = one.link
    return entries


def append(path: Path, *, version: str, digest: str, by: str, why: str, answers: str = "", flips: Any = None) -> Logged:
    """Log the version that the file has now. ``flips``: as ``standards diff --json`` writes them.

    Raises StandardsError where this wording is logged already, or another one under the same version.
    """
    log = read_log(path)
    if log and log[-1].digest == digest:
        raise StandardsError(f"this wording is logged already, as version {log[-1].version}", file=path)
    if any(one.version == version for one in log):
        raise StandardsError(
            f"another wording is logged as version {version}", file=path, key="version", fix="give it a new version"
        )
    measured: dict[str, Any] = {"compared": flips["n"], "flipped": tuple(flips["flipped"])} if flips else {}
    today = datetime.now(UTC).date().isoformat()
    one = Logged(version=version, at=today, by=by, why=why, digest=digest, answers=answers, **measured)
    one = one.model_copy(update={"link": _link(one, log[-1].link if log else "")})
    with log_of(path).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(one.model_dump(mode="json"), ensure_ascii=False) + "\n")
    return one


def _link(one: Logged, before: str) -> str:
    return content_id("standards log", before, one.model_dump(mode="json", exclude={"link"}))


def in_one_line(history: Iterable[Version], log: Sequence[Logged] = ()) -> str | None:
    """One line, the oldest first; None if nothing is recorded. For a version in both, the log takes precedence."""
    logged = {one.version for one in log}
    return "; ".join(map(str, [*(one for one in history if one.version not in logged), *log])) or None
