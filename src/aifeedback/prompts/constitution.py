"""A constitution: principles as data that people can read, test, challenge and change.

Source: Bai et al. 2022 (arXiv 2212.08073). Each principle has its wording for comparing, critiquing and revising, and,
beyond the paper, an owner, a version, a weight, and test cases that say who should win and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.history import Version
from aifeedback.prompts.registry import Wording
from aifeedback.types import Comparison, Completion, Prompt, content_id

CRITERIA = ("helpful", "harmless", "honest", "relevance", "policy", "intent")
"""What a set of standards can be about; principles name theirs among their tags."""

Purpose = Literal["compare", "critique", "revise"]
DEFAULT_WORDING: Mapping[Purpose, str] = {
    "compare": "Which response follows this principle better: {text}",
    "critique": "Point out where the response does not follow this principle: {text}",
    "revise": "Rewrite the response so that it follows this principle: {text}",
}


class Case(Config):
    """A pair whose winner under the principle is beyond doubt, and why."""

    prompt: str = Field(min_length=1)
    better: str
    worse: str
    reason: str = Field(min_length=1)
    topic: str | None = None

    def comparison(self, *, better_first: bool = True) -> Comparison:
        """The case as a comparison to be labelled."""
        prompt = Prompt.of(self.prompt, tags={"topic": self.topic} if self.topic else None)
        better = Completion.of(prompt, self.better, source="test case")
        worse = Completion.of(prompt, self.worse, source="test case")
        return Comparison.of(prompt, better, worse) if better_first else Comparison.of(prompt, worse, better)


class Principle(Config):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = Field(min_length=1)
    text: str = Field(min_length=1)
    """The principle itself, in a sentence or two that a person can check."""
    compare: str | None = None
    """The question that a judge answers about two responses; made from the text when not given."""
    critique: str | None = None
    """The task of finding fault with a response."""
    revise: str | None = None
    """The task of rewriting a response."""
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    tags: tuple[str, ...] = ()
    tests: tuple[Case, ...] = ()

    @field_validator("text", "compare", "critique", "revise")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        """Where YAML folds a long line is of no meaning."""
        return " ".join(text.split()) if text is not None else None

    def worded(self, purpose: Purpose) -> str:
        """Its own wording for the purpose, or the standard sentence around its text."""
        return getattr(self, purpose) or DEFAULT_WORDING[purpose].format(text=self.text)

    @property
    def criteria(self) -> tuple[str, ...]:
        return tuple(tag for tag in self.tags if tag in CRITERIA)


class Constitution(Config):
    name: str = Field(min_length=1, pattern=r"^[^@/\s]+$")
    version: str = Field(min_length=1, pattern=r"^[^@/\s]+$")
    owner: str
    """Who answers for it and decides about changes."""
    source: str
    """Where it comes from: whose words, which policy, which law."""
    about: str = ""
    history: tuple[Version, ...] = ()
    """Its versions: version, at, by, why."""
    criteria: tuple[str, ...] = CRITERIA
    """What it means to cover; a principle's tags say what it covers."""
    use: Literal["drawn", "averaged", "together"] = "drawn"
    """drawn: some per pair, by weight and seed. averaged: each alone, then the mean. together: all in one prompt."""
    per_pair: int = Field(default=1, ge=1)
    """How many are drawn for one pair."""
    principles: tuple[Principle, ...] = Field(min_length=1)

    @field_validator("version", mode="before")
    @classmethod
    def _version_as_text(cls, version: Any) -> Any:
        """YAML reads 1.0 as a number."""
        return str(version) if isinstance(version, int | float) else version

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [principle.id for principle in self.principles]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"duplicate id '{twice[0]}'")
        if self.per_pair > len(self.principles):
            raise ValueError(f"per_pair is {self.per_pair}, but there are {len(self.principles)} principles")
        unknown = sorted(set(self.criteria) - set(CRITERIA))
        if unknown:
            raise ValueError(f"unknown criterion '{unknown[0]}'; known: {', '.join(CRITERIA)}")
        return self

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Self:
        """Read a shipped constitution by name, or any by path. Raises StandardsError with file and keys."""
        path = registry.find("constitutions", name)
        return cls.read(registry.read_mapping(path), path)

    @classmethod
    def read(cls, values: Mapping[str, Any], file: str | PathLike[str] | None = None) -> Self:
        return parse(cls, values, file=file, error=StandardsError)

    def principle(self, principle_id: str) -> Principle:
        for principle in self.principles:
            if principle.id == principle_id:
                return principle
        known = ", ".join(p.id for p in self.principles)
        raise StandardsError(f"constitution '{self.name}' has no principle '{principle_id}'", fix=f"it has: {known}")

    def full_id(self, principle: Principle) -> str:
        """constitution@version/principle: what judgements and revisions record."""
        return f"{self.name}@{self.version}/{principle.id}"

    def wordings(self, purpose: Purpose) -> tuple[Wording, ...]:
        """All principles as they are shown for one purpose."""
        return tuple(Wording(self.full_id(p), p.worded(purpose), p.weight) for p in self.principles)

    @property
    def digest(self) -> str:
        """Sixteen hex digits over its whole content, without its history."""
        return content_id("constitution", self.model_dump(mode="json", exclude={"history"}))
