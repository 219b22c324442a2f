"""What must hold before the first model call: inputs exist, settings fit together, libraries are installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from aifeedback.errors import MissingExtra, RecipeError
from aifeedback.pipeline.step import Step
from aifeedback.refs import ModelRef, Ref, problems_of

EXTRAS = {
    "torch": "local",
    "transformers": "local",
    "accelerate": "local",
    "peft": "local",
    "datasets": "hub",
    "pyarrow": "hub",
    "uvicorn": "web",
    "fastapi": "web",
    "ray": "ray",
    "trl": "trl",
}
"""Module of an optional dependency → the extra that installs it."""


def problems(step: Step) -> list[str]:
    """Everything that is wrong with a step's inputs and settings, each once."""
    return [*problems_of(iter(step.inputs())), *step.problems()]


def require(step: Step) -> None:
    """Raises MissingExtra for a library that is not installed, RecipeError with every other problem."""
    require_modules(modules(step))
    if found := problems(step):
        raise RecipeError("\n  ".join(found), fix="nothing was run; fix this first")


def require_refs(refs: list[Ref]) -> None:
    """Raises MissingExtra or RecipeError for models, prompts and files that cannot be used."""
    require_modules(modules_of(refs))
    if found := problems_of(iter(refs)):
        raise RecipeError("\n  ".join(found), fix="nothing was run; fix this first")


def modules(step: Step) -> Iterator[str]:
    """Modules of optional dependencies that a step and its models import."""
    yield from step.requires()
    yield from modules_of(step.refs())


def modules_of(refs: Iterable[Ref]) -> Iterator[str]:
    """Modules of optional dependencies that models import."""
    for ref in refs:
        if isinstance(ref, ModelRef) and (ref.is_local or ref.scheme == "rm"):
            yield from ("torch", "transformers")


def require_modules(names: Iterable[str]) -> None:
    """Raises MissingExtra, with the line that installs it, for the first that is not installed."""
    for name in dict.fromkeys(names):
        if find_spec(name) is None:
            raise MissingExtra(name, EXTRAS.get(name, "all"))
