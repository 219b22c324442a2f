"""A rubric: several criteria with weights, each judged by itself."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.history import Version
from aifeedback.prompts.registry import Wording


class Criterion(Config):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str = Field(min_length=1)
    text: str = Field(min_length=1)
    """What meeting it means, in a sentence or two."""
    compare: str | None = None
    """The question that a judge answers about two responses; made from the text when not given."""
    weight: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)

    @field_validator("text", "compare")
    @classmethod
    def _one_line(cls, text: str | None) -> str | None:
        return " ".join(text.split()) if text is not None else None


class Rubric(Config):
    name: str = Field(min_length=1, pattern=r"^[^@/\s]+$")
    version: str = Field(min_length=1, pattern=r"^[^@/\s]+$")
    owner: str
    source: str
    about: str = ""
    history: tuple[Version, ...] = ()
    """Its versions: version, at, by, why."""
    criteria: tuple[Criterion, ...] = Field(min_length=1)

    @field_validator("version", mode="before")
    @classmethod
    def _version_as_text(cls, version: Any) -> Any:
        return str(version) if isinstance(version, int | float) else version

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        ids = [criterion.id for criterion in self.criteria]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"duplicate id '{twice[0]}'")
        return self

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Self:
        """Read a shipped rubric by name, or any by path. Raises StandardsError with file and keys."""
        path = registry.find("rubrics", name)
        return cls.read(registry.read_mapping(path), path)

    @classmethod
    def read(cls, values: Mapping[str, Any], file: str | PathLike[str] | None = None) -> Self:
        return parse(cls, values, file=file, error=StandardsError)

    def rating_wordings(self) -> tuple[Wording, ...]:
        """What a rating judge is shown, one per criterion."""
        return tuple(Wording(self._full_id(c), f"{c.title}. {c.text}", c.weight) for c in self.criteria)

    def pair_wordings(self) -> tuple[Wording, ...]:
        """What a judge of pairs is asked, one per criterion."""
        return tuple(
            Wording(
                self._full_id(c),
                c.compare or f"Which response does better in this respect: {c.text}",
                c.weight,
            )
            for c in self.criteria
        )

    def _full_id(self, criterion: Criterion) -> str:
        return f"{self.name}@{self.version}/{criterion.id}"
