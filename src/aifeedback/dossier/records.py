"""The records of a decision file.

DOSSIER/dossier.yaml      the policy, its use, its owner; requirements, waivers and answers: edit it
DOSSIER/evidence.json     the files that were added, with their digests
DOSSIER/claim.yaml        a vendor's claim, where there is one
DOSSIER/journal.sqlite    signatures, hash-chained
DOSSIER/dossier.html      the page; manifest.json, the same for programs
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from aifeedback.config import Config
from aifeedback.types import Record

Level: TypeAlias = Literal["met", "unchecked", "waived", "open", "broken"]
"""unchecked: somebody else says so, and nothing measured here contradicts it."""
MARKS: Mapping[Level, str] = {"met": "✓", "unchecked": "!", "waived": "!", "open": "?", "broken": "✗"}
GRAVITY: Mapping[Level, int] = {"met": 0, "unchecked": 1, "waived": 2, "open": 3, "broken": 4}
Decision: TypeAlias = Literal["ship", "ship-with-conditions", "reject"]

QUESTIONS = {
    1: "Who gave the feedback?",
    2: "By which standards?",
    3: "How well does the judge agree with people?",
    4: "Where is the judge biased, and can it be fooled?",
    5: "Did it work, and was the reward gamed?",
    6: "What is watched from now on?",
}
"""An auditor's six questions: the rows of the page."""


def _as_date(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else value


class Requirement(Config):
    """One thing that must hold."""

    id: str = Field(min_length=1)
    question: int = Field(ge=1, le=6)
    """Which of the six questions it belongs to."""
    asks: str = Field(min_length=1)
    """The question to ask a person when no file answers the requirement."""
    needs: dict[str, Any] = Field(min_length=1, max_length=1)
    """One kind of check and its settings, such as ``agreement: {low: 0.7, n: 300}``."""
    because: str = ""
    """Where the requirement comes from."""

    @model_validator(mode="after")
    def _is_known(self) -> Requirement:
        from aifeedback.dossier.needs import need_of

        need_of(self.needs)
        return self


class Waiver(Config):
    """A requirement that need not be met, until a date."""

    id: str
    """Of the requirement."""
    by: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    until: str
    """Date, YYYY-MM-DD; the requirement counts again from the day after."""

    _dates = field_validator("until", mode="before")(_as_date)

    @field_validator("until")
    @classmethod
    def _is_date(cls, until: str) -> str:
        date.fromisoformat(until)
        return until

    def holds(self, today: date) -> bool:
        return today <= date.fromisoformat(self.until)


class Answer(Config):
    """What a person answered where no file does."""

    text: str = Field(min_length=1)
    by: str = Field(min_length=1)
    at: str = ""

    _dates = field_validator("at", mode="before")(_as_date)


class DossierSettings(Config):
    """``dossier.yaml``."""

    policy: str
    """The policy that is decided on."""
    policy_digest: str | None = None
    """Of its folder when the dossier was made; None for a served model."""
    use: str = Field(min_length=1)
    """What it is for, where, in which languages."""
    owner: str = Field(min_length=1)
    templates: list[str] = Field(default_factory=list)
    requirements: list[Requirement] = Field(min_length=1)
    waivers: list[Waiver] = Field(default_factory=list)
    answers: dict[str, Answer] = Field(default_factory=dict)
    """Id of a requirement → what a person answered."""

    @model_validator(mode="after")
    def _ids_fit(self) -> DossierSettings:
        ids = [one.id for one in self.requirements]
        if doubled := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            raise ValueError(f"duplicate requirement id {', '.join(doubled)}")
        named = {*(waiver.id for waiver in self.waivers), *self.answers}
        if unknown := sorted(named - set(ids)):
            raise ValueError(f"no requirement has the id {', '.join(unknown)}; known: {', '.join(ids)}")
        return self


class Added(Record):
    """A file or folder that was added as evidence."""

    path: str
    kind: str
    """audit, compare, safety, people, monitor, standard, model or file."""
    at: str
    """When it was added, UTC."""
    files: Mapping[str, str] = {}
    """File below ``path`` → SHA-256."""
    heads: Mapping[str, str] = {}
    """Journal → head of its chain."""


class Checked(Record):
    """One requirement against the evidence."""

    id: str
    question: int
    asks: str
    level: Level
    sentence: str
    file: str = ""
    """The file that the sentence rests on."""
    waiver: str = ""
    """Who waived it, why, until when; for an expired one, that it expired."""


class Signature(Record):
    """A decision by a named person about one state of the dossier."""

    at: str
    by: str
    role: str
    decision: Decision
    until: str | None = None
    note: str = ""
    state: str
    """Digest of the requirements, waivers, answers, evidence and results that were signed."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
