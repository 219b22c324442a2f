"""Judges as settings: one model with its prompt, or a panel of several; and how many calls one item costs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from aifeedback.config import Config
from aifeedback.feedback.judge import JudgeSettings

NO_PROMPT = ("gold", "people", "rm")
"""Judges that are asked nothing in words."""


class JudgeSpec(JudgeSettings):
    """A model made into a judge. A bare model name stands for the defaults."""

    model: str
    """Model name, for example hf:DIR or openai:NAME."""
    prompt: str = "helpful-detailed"
    """Judge prompt: a shipped name, lab:NAME, or a YAML file; with principles or ratings a fitting one by itself."""
    by: Literal["pairs", "ratings"] = "pairs"
    """pairs: a verdict on the two together. ratings: each rated alone, P(first better) from the two distributions."""
    shots: int | None = Field(default=None, ge=0)
    """Exemplars to show, of those the prompt has."""
    shots_seed: int | None = None
    """Draws and orders the exemplars; the first ones in the file's order when not given."""
    constitution: str | None = None
    """Principles to judge by: a shipped constitution's name or a YAML file; the prompt must show a principle."""
    use: Literal["drawn", "averaged", "together"] | None = None
    """How its principles are used; as the constitution says when not given."""
    per_pair: int | None = Field(default=None, ge=1)
    """Principles drawn for each pair; as the constitution says when not given."""
    rubric: str | None = None
    """Criteria with weights, each judged by itself: a shipped rubric's name or a YAML file."""
    hidden_mass: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Ratings: labels that a server hides count as 0 where all of them together hold at most this much probability."""
    calibration: str | None = None
    """A map of `aifeedback calibrate`, fitted for this very judge: its name, or its file."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server."""
    spend_cap_usd: float | None = Field(default=None, gt=0.0)
    """Most that this judge's calls may cost, those of stopped runs in the same journal included."""
    server: dict[str, Any] = Field(default_factory=dict)
    """Further options of a server by name: concurrency, requests_per_minute, readout, prices … (docs/servers.md)."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A bare name is a model; ``rationale: true`` is one greedy rationale; the prompt follows the way of judging."""
        if isinstance(value, str):
            return {"model": value}
        if isinstance(value, dict):
            value = dict(value)
            if isinstance(value.get("rationale"), bool):
                value["rationale"] = {} if value["rationale"] else None
            if value.get("prompt") is None:
                value.pop("prompt", None)
                if found := _prompt_for(value):
                    value["prompt"] = found
        return value

    @model_validator(mode="after")
    def _one_source_of_principles(self) -> Self:
        if self.rubric and self.constitution:
            raise ValueError("a judge goes by a rubric or by a constitution, not by both")
        return self

    @model_validator(mode="after")
    def _heard_by_ratings(self) -> Self:
        if self.by == "ratings" and self.constitution:
            raise ValueError(
                "constitution: ratings do not go by one; give criteria to rate by (--rubric), or judge pairs"
            )
        if self.by == "ratings" and self.clamp:
            raise ValueError("clamp: it keeps the preference of a judge of pairs in a range, not of ratings")
        return self

    @model_validator(mode="after")
    def _served(self) -> Self:
        require_server(self.model, self.base_url, self.server)
        return self

    @property
    def server_options(self) -> dict[str, Any]:
        """What ``models.connect`` is given for a server; a value that was not given is left to its default."""
        own = {"base_url": self.base_url, "cap_usd": self.spend_cap_usd}
        return {**self.server, **{name: value for name, value in own.items() if value is not None}}

    @property
    def questions(self) -> int:
        """How often one response, or one pair in one order, is asked about: once per principle or criterion."""
        from aifeedback.standards.constitution import Constitution
        from aifeedback.standards.rubric import Rubric

        if self.rubric:
            return len(Rubric.load(self.rubric).criteria)
        if self.constitution is None:
            return 1
        found = Constitution.load(constitution_file(self.constitution))
        use = self.use or found.use
        if use == "together":
            return 1
        return len(found.wordings("compare")) if use == "averaged" else self.per_pair or found.per_pair

    @property
    def calls_per_score(self) -> int:
        """Calls for one completion: a reading, after a rationale where one is written."""
        if self.model.partition(":")[0] in NO_PROMPT:
            return 0
        return self.questions * (2 * self.rationale.samples if self.rationale else 1)

    @property
    def calls_per_pair(self) -> int:
        shown = 2 if self.by == "ratings" or self.orders == "both" else 1
        return shown * self.calls_per_score

    def settings(self, seed: int) -> JudgeSettings:
        """What the labeler is given."""
        own = {name: getattr(self, name) for name in JudgeSettings.model_fields}
        return JudgeSettings(**{**own, "seed": seed})


def rating_alone(judge: Any) -> Any:
    """Settings of a judge that rates each response by itself, so its default prompt is a rating prompt."""
    if isinstance(judge, str):
        judge = {"model": judge}
    return {"by": "ratings", **judge} if isinstance(judge, Mapping) else judge


def is_served(model: str) -> bool:
    """Whether a server answers for it, and not this process."""
    return model.startswith("openai:")


def require_server(model: str, base_url: str | None, server: Iterable[str] = ()) -> None:
    """Raises ValueError where a server's settings are given for a model that has none: they would change nothing."""
    given = [*(["base_url"] if base_url else []), *(f"server.{name}" for name in server)]
    if given and model and not is_served(model):
        raise ValueError(f"{', '.join(given)}: only a server (openai:NAME) has such a setting, {model} is none")


def _prompt_for(value: dict[str, Any]) -> str | None:
    """The shipped prompt that fits the way of judging, where it is not the default one."""
    if value.get("by") == "ratings":
        return "criterion-rating" if value.get("rubric") else "rating"
    return "principle" if value.get("rubric") or value.get("constitution") else None


class PanelSpec(Config):
    """Several judges, or one model under several prompts, as one."""

    members: tuple[JudgeSpec, ...] = Field(min_length=2)
    combine: Literal["mean", "median"] = "mean"
    weights: str | None = None
    """A file of `aifeedback calibrate --kind weights`, learned for these members; equal weights when not given."""
    quorum: int | None = Field(default=None, ge=1)
    """Fewest members that must have been read; all of them when not given."""
    max_spread: float = Field(default=1.0, ge=0.0, le=1.0)
    """A larger distance between the members' preferences counts as no verdict (`disagreement`)."""
    calibration: str | None = None
    """A map of `aifeedback calibrate`, fitted for this very panel: its name, or its file."""

    @property
    def calls_per_pair(self) -> int:
        return sum(member.calls_per_pair for member in self.members)


def _kind(value: Any) -> str:
    members = "members" in value if isinstance(value, dict) else isinstance(value, PanelSpec)
    return "(panel)" if members else "(judge)"


Judging: TypeAlias = Annotated[
    Annotated[JudgeSpec, Tag("(judge)")] | Annotated[PanelSpec, Tag("(panel)")], Discriminator(_kind)
]
"""A judge, or a panel where ``members`` are given."""


def constitution_file(name: str) -> Path:
    """The YAML file of a constitution: a shipped name, lab:NAME, or a path."""
    if name.startswith("lab:"):
        from aifeedback.lab.zoo import constitution_file as lab_file

        return lab_file(name.partition(":")[2])
    from aifeedback.standards import shelf

    return shelf.find("constitutions", name)
