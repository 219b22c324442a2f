"""A judge prompt as data: one YAML file that a user can read, copy and change without touching Python.

A prompt has four parts, in order: preamble, exemplars, sample, ending (Lee et al. 2023, arXiv 2309.00267, section 3).
With chain of thought the ending gives way to ``rationale_request``; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from random import Random
from typing import Any, Literal, Self

from pydantic import Field, field_validator

from aifeedback.config import Config, parse
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.history import Version
from aifeedback.types import content_id

Task = Literal["pairwise", "rating", "goodbad", "classify", "critique", "revise"]

VARIABLES: Mapping[Task, frozenset[str]] = {
    "pairwise": frozenset({"context", "first", "second"}),
    "rating": frozenset({"context", "response"}),
    "goodbad": frozenset({"context", "response"}),
    "classify": frozenset({"context", "response"}),
    "critique": frozenset({"context", "response"}),
    "revise": frozenset({"context", "response", "critique"}),
}
"""What ``sample`` can show; ``context`` may be left out, the others must be used."""

OPTIONAL: Mapping[Task, frozenset[str]] = {"pairwise": frozenset({"first_critique", "second_critique"})}
"""What ``sample`` may show besides: critiques of the two responses, where the labeler is given a critic."""

LABEL_COUNT: Mapping[Task, range] = {
    "pairwise": range(2, 4),
    "rating": range(2, 11),
    "goodbad": range(2, 3),
    "classify": range(2, 65),
    "critique": range(1),
    "revise": range(1),
}


class Exemplar(Config):
    """One solved example; which of the fields it needs follows from the task."""

    context: str = ""
    first: str | None = None
    second: str | None = None
    response: str | None = None
    critique: str | None = None
    principle: str | None = None
    """The principle that this example was judged by; the one in use when not given."""
    label: str
    """The right label, or the right text for critique and revise."""
    rationale: str | None = None
    """Shown where chain of thought is on."""

    @field_validator("label", mode="before")
    @classmethod
    def _label_as_text(cls, label: Any) -> Any:
        return str(label) if isinstance(label, int) else label

    def values(self) -> dict[str, str]:
        """The variables of the sample template."""
        shown = self.model_dump(exclude={"label", "rationale", "principle"}, exclude_none=True)
        return {key: str(value) for key, value in shown.items()}


class JudgePrompt(Config):
    """One judge prompt. ``prompts.render.Renderer`` turns it into what a model reads."""

    name: str = Field(min_length=1)
    task: Task
    version: str = "1"
    about: str = ""
    """One line for people: what it is for."""
    owner: str = ""
    """Who answers for it and decides about changes."""
    history: tuple[Version, ...] = ()
    """Its versions: version, at, by, why."""
    labels: tuple[str, ...] = ()
    """Exactly what may follow the ending, a leading space included; first response (or good, or 1) first, a tie third."""
    preamble: str = ""
    exemplars: tuple[Exemplar, ...] = ()
    """In the file also the name of a shared exemplar file, shipped or beside this one."""
    shots: int | None = Field(default=None, ge=0)
    """How many of the exemplars to show, from the first; all of them when not given."""
    sample: str
    """Jinja template over the variables of the task."""
    ending: str
    """The text before the label; for critique and revise, before the answer."""
    rationale_request: str | None = None
    """Replaces the ending in the first step of chain of thought. None: this prompt offers no chain of thought."""
    rationale_lead: str = " "
    """What stands between the request and the rationale."""
    rationale_max_tokens: int = Field(default=512, ge=1)
    rationale_stop: tuple[str, ...] = ()
    """Strings that end the rationale; they are not part of it."""
    max_tokens: int = Field(default=512, ge=1)
    """Length limit of a critique or a revision."""
    stop: tuple[str, ...] = ()
    """Strings that end a critique or a revision."""
    between: str = "\n\n"
    """What stands between the parts."""
    chat: bool | Literal["auto"] = "auto"
    """True: as messages, the ending forced as the start of the answer. False: one plain text. auto: by the model."""
    quote: Literal["lines", "none"] = "lines"
    """lines: judged text is quoted line by line (prompts/render.py). none: as it is, for models of bare words."""

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_text(cls, labels: Any) -> Any:
        if isinstance(labels, Sequence) and not isinstance(labels, str):
            return [str(label) if isinstance(label, int) and not isinstance(label, bool) else label for label in labels]
        return labels

    @field_validator("rationale_stop", "stop", mode="before")
    @classmethod
    def _one_or_several(cls, stop: Any) -> Any:
        return (stop,) if isinstance(stop, str) else stop

    @field_validator("preamble", "sample", "ending", "rationale_request")
    @classmethod
    def _without_last_newline(cls, text: str | None) -> str | None:
        """YAML's block scalars end in a newline that nobody means."""
        return text.rstrip("\n") if text is not None else None

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Self:
        """Read a shipped prompt by name, or any by path. Raises StandardsError with file and key."""
        path = registry.find("judges", name)
        return cls.read(registry.read_mapping(path), path)

    @classmethod
    def read(cls, values: Mapping[str, Any], file: str | PathLike[str] | None = None) -> Self:
        """Validate the content of a file, templates included. Raises StandardsError with file and key."""
        from aifeedback.prompts.render import check_templates

        values = dict(values)
        if isinstance(values.get("exemplars"), str):
            values["exemplars"] = _shared_exemplars(values["exemplars"], file)
        prompt = parse(cls, values, file=file, error=StandardsError)
        _check_labels(prompt, file)
        check_templates(prompt, file)
        return prompt

    def with_shots(self, shots: int, *, seed: int | None = None) -> Self:
        """The same prompt with ``shots`` exemplars: the first ones, or drawn and ordered by ``seed``."""
        if shots > len(self.exemplars):
            raise StandardsError(
                f"judge prompt '{self.name}' has {len(self.exemplars)} exemplars, {shots} requested", key="shots"
            )
        exemplars = self.exemplars
        if seed is not None:
            exemplars = tuple(Random(seed).sample(exemplars, len(exemplars)))
        return self.model_copy(update={"exemplars": exemplars[:shots], "shots": None})

    @property
    def shown(self) -> tuple[Exemplar, ...]:
        """The exemplars that are used, in their order."""
        return self.exemplars if self.shots is None else self.exemplars[: self.shots]

    @property
    def digest(self) -> str:
        """Sixteen hex digits over everything that the judge reads: equal digest, equal prompt."""
        shown = self.model_dump(mode="json", exclude={"name", "about", "owner", "history", "exemplars", "shots"})
        return content_id("judge prompt", shown, self.shown)


def _shared_exemplars(name: str, file: str | PathLike[str] | None) -> Any:
    beside = Path(file).parent / name if file is not None else Path(name)
    path = beside if beside.is_file() else registry.find("exemplars", name)
    return registry.read_yaml(path)


def _check_labels(prompt: JudgePrompt, file: str | PathLike[str] | None) -> None:
    allowed = LABEL_COUNT[prompt.task]
    if len(prompt.labels) not in allowed:
        wanted = f"{allowed[0]}" if len(allowed) == 1 else f"{allowed[0]} to {allowed[-1]}"
        what = f"a {prompt.task} prompt has {wanted} labels, this one {len(prompt.labels)}"
        raise StandardsError(what, file=file, key="labels")
    if len(set(prompt.labels)) < len(prompt.labels) or "" in prompt.labels:
        raise StandardsError("labels must differ, and none may be empty", file=file, key="labels")
    names = [label.strip() for label in prompt.labels]
    if prompt.task == "rating" and names != [str(number) for number in range(1, len(names) + 1)]:
        what = f"the labels of a rating are the numbers from 1 upwards, not {names}"
        raise StandardsError(what, file=file, key="labels", fix=f"write {[str(n + 1) for n in range(len(names))]}")
    wanted = VARIABLES[prompt.task] - {"context"}
    for number, exemplar in enumerate(prompt.exemplars):
        if prompt.labels and exemplar.label not in prompt.labels:
            what = f"label {exemplar.label!r} is not one of {list(prompt.labels)}"
            raise StandardsError(what, file=file, key=f"exemplars.{number}.label")
        missing = sorted(wanted - exemplar.values().keys())
        if missing:
            raise StandardsError(f"'{missing[0]}' is missing", file=file, key=f"exemplars.{number}")
