"""What must hold before the first model call: inputs exist, settings fit together, libraries are installed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from aifeedback.errors import MissingExtra, RecipeError
from aifeedback.judging.spec import JudgeSpec
from aifeedback.refs import GGUF, ModelRef, Ref, problems_of
from aifeedback.steps.step import Step

EXTRAS = {
    "local": ("torch", "transformers", "tokenizers", "safetensors", "accelerate", "peft", "gguf"),
    "web": ("fastapi", "uvicorn", "multipart", "markdown_it"),
    "hub": ("datasets", "pyarrow", "huggingface_hub"),
    "ray": ("ray",),
    "trl": ("trl",),
    "track": ("tensorboard", "trackio", "wandb"),
    "postgres": ("psycopg",),
}
"""Extra → the modules that it installs. Whatever else the package imports is installed with it."""
COLUMNAR = (".parquet", ".arrow")


def problems(step: Step) -> list[str]:
    """Everything that is wrong with a step's inputs and settings, each once."""
    judges = [problem for judge in judges_in(step) for problem in judge.problems()]
    return list(dict.fromkeys([*problems_of(iter(step.inputs())), *judges, *step.problems()]))


def judges_in(settings: Any) -> Iterator[JudgeSpec]:
    """Every judge that the settings hold, however deep."""
    if isinstance(settings, JudgeSpec):
        yield settings
    elif isinstance(settings, BaseModel):
        for name in type(settings).model_fields:
            yield from judges_in(getattr(settings, name))
    elif isinstance(settings, Mapping):
        yield from (judge for value in settings.values() for judge in judges_in(value))
    elif isinstance(settings, list | tuple):
        yield from (judge for value in settings for judge in judges_in(value))


def require(step: Step) -> None:
    """Raises MissingExtra for a library that is not installed, RecipeError with every other problem."""
    require_modules(modules(step))
    if faults := problems(step):
        raise RecipeError("\n  ".join(faults), fix="nothing was run; fix this first")


def require_refs(refs: list[Ref]) -> None:
    """Raises MissingExtra or RecipeError for models, prompts and files that cannot be used."""
    require_modules(modules_of(refs))
    if faults := problems_of(iter(refs)):
        raise RecipeError("\n  ".join(faults), fix="nothing was run; fix this first")


def modules(step: Step) -> Iterator[str]:
    """Modules of optional dependencies that a step and its models import."""
    yield from step.requires()
    yield from modules_of(step.refs())


def modules_of(refs: Iterable[Ref]) -> Iterator[str]:
    """Modules of optional dependencies that models and files need."""
    from aifeedback import data

    for ref in refs:
        if isinstance(ref, ModelRef):
            yield from ("torch", "transformers") if ref.is_local or ref.scheme in ("rm", "similarity") else ()
            yield from ("gguf",) if ref.scheme == "hf" and Path(ref.name).suffix == GGUF else ()
        elif type(ref) is Ref:
            yield from modules_for(ref.path or Path(ref))
            yield from ("datasets",) if data.is_on_hub(ref) else ()


def modules_for(file: Path) -> Iterator[str]:
    """Modules of optional dependencies that reading or writing a file needs."""
    yield from ("pyarrow",) if file.suffix in COLUMNAR else ()


def require_modules(names: Iterable[str]) -> None:
    """Raises MissingExtra that names all that are not installed, with the one line that installs them."""
    missing = [name for name in dict.fromkeys(names) if find_spec(name) is None]
    if missing:
        extras = [extra for extra, modules in EXTRAS.items() if not set(modules).isdisjoint(missing)]
        raise MissingExtra(", ".join(missing), ",".join(extras) or "all")


def missing_modules(names: Iterable[str]) -> str | None:
    """The message of the MissingExtra that ``require_modules`` raises; None if all are installed."""
    try:
        require_modules(names)
    except MissingExtra as missing:
        return str(missing)
    return None
