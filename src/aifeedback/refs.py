"""References: what settings and options name from outside, one type per kind, parsed once.

    hf:DIR_OR_ID (or a .gguf file)   openai:NAME   anthropic:NAME   lab:NAME   fake:NAME   python:FILE.py:NAME      a model
    SCHEME:NAME, where an installed package registers the scheme                 a model
    rm:DIR   similarity:DIR   gold:NAME   people:NAME   systemone:NAME   decisions:NAME   further judges
    a name or a path                                                             prompts, constitutions, rubrics, files
    FORMAT:PATH, python:FILE.py:NAME:PATH                                        a file in a format from outside
    a name, or python:FILE.py:NAME                                               probes, advantages, rewards
    @STEP/FILE, hf:@STEP/FOLDER                                                  what an earlier step leaves

A reference is a string that knows its kind. Everything here works without loading a model, so that a mistake is found
before the first call.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from aifeedback import extensions
from aifeedback.errors import AIFeedbackError, InputError, RecipeError
from aifeedback.storage import digest

SERVED = ("openai", "anthropic", "systemone", "decisions")
"""Models that a server answers for."""
DECISIONS = ("systemone", "decisions")
"""Decision models: they give probabilities and write no text."""
SCHEMES = ("hf", *SERVED, "fake", "lab", "people", "gold", "rm", "similarity", "python")
MODELS, ADVANTAGES, REWARDS = "aifeedback.models", "aifeedback.advantages", "aifeedback.rewards"
GGUF = ".gguf"
"""Ending of a file that holds a whole model."""
NO_PROMPT = ("gold", "people", "rm", "similarity")
"""Judges that read no prompt: the oracle, people, reward models, closeness to a reference text."""
FOLDERS = ("hf", "rm", "similarity")
"""Models that are a folder."""
_STEP = re.compile(r"^(?P<scheme>[a-z]+:)?@(?P<step>[A-Za-z0-9_-]+)(?:/(?P<file>.+))?$")


class Ref(str):
    """A reference; ``Ref`` itself names a data file or folder, or a data set of the hub."""

    @property
    def scheme(self) -> str:
        """``hf`` of ``hf:DIR``; empty without a scheme."""
        head, colon, tail = self.partition(":")
        return head if colon and tail and (head in SCHEMES or head in extensions.registered(MODELS)) else ""

    @property
    def name(self) -> str:
        """What follows the scheme."""
        return self.partition(":")[2] if self.scheme else str(self)

    @property
    def step(self) -> str | None:
        """The id of the earlier step that leaves it; None for what comes from outside the run."""
        match = _STEP.match(self)
        return match["step"] if match else None

    @property
    def row_format(self) -> str:
        """The format from outside that a data file's name begins with; empty where its columns decide."""
        from aifeedback.data.tables import split_format

        return split_format(self)[0] if type(self) is Ref else ""

    @property
    def is_outside(self) -> bool:
        """Whether it names something that the package does not hold."""
        return bool(self)

    @property
    def path(self) -> Path | None:
        """The local file or folder behind it, if there is one."""
        from aifeedback import data

        return data.place_of(str(self))

    def problem(self) -> str | None:
        """What is wrong with it, found without loading anything; None if nothing."""
        from aifeedback import data

        return data.place_problem(str(self))

    def within(self, run: Path) -> Self:
        """The same with ``@STEP/FILE`` replaced by its path in the run folder."""
        match = _STEP.match(self)
        if match is None:
            return self
        return type(self)(f"{match['scheme'] or ''}{run / 'stages' / match['step'] / (match['file'] or '')}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls, core_schema.str_schema(), serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


class ModelRef(Ref):
    """A model that generates or gives log-probabilities."""

    kinds: ClassVar[tuple[str, ...]] = ("hf", "openai", "anthropic", "lab", "fake", "python")

    @property
    def path(self) -> Path | None:
        scheme, name = self.scheme, self.name
        if scheme == "lab":
            return import_module("aifeedback.lab.zoo").folder(name)
        if scheme == "python":
            return extensions.file_of(name)
        if scheme == "people":
            files = [Path(name) / file for file in ("ratings.jsonl", "ratings.sqlite")]
            return next((file for file in [Path(name), *files] if file.is_file()), None)
        return Path(name) if scheme in FOLDERS and Path(name).exists() else None

    @property
    def is_local(self) -> bool:
        """Whether the model runs on this machine."""
        return self.scheme in ("hf", "lab")

    @property
    def is_served(self) -> bool:
        """Whether a server answers for it."""
        return self.scheme in SERVED

    @property
    def is_readable(self) -> bool:
        """Whether it reads a prompt, as the oracle, people and reward models do not."""
        return self.scheme not in NO_PROMPT

    def problem(self) -> str | None:
        scheme, name = self.scheme, self.name
        if scheme not in self.kinds and scheme not in extensions.registered(MODELS):
            return f"'{self}' is not a model; write {self._meant()}"
        if scheme in FOLDERS:
            return _folder_problem(name, scheme)
        if scheme == "python":
            return extensions.file_problem(self)
        if scheme == "lab":
            known = import_module("aifeedback.lab.zoo").names()
            return None if name in known else f"{self}: no such lab model; known: {', '.join(known)}"
        if scheme in ("people", "gold"):
            known = import_module("aifeedback.lab.oracles").NAMES
            if scheme == "people" and self.path:
                return None
            listed = ", ".join(f"{scheme}:{one}" for one in known)
            folder = "; or people:DIR, a folder of ratings" if scheme == "people" else ""
            return None if name in known else f"{self}: only the built-in lab has {scheme}; known: {listed}{folder}"
        return None

    def _meant(self) -> str:
        """What a name without a scheme may mean: an existing folder or lab model, else any kind."""
        suggestions = [f"hf:{self}"] if Path(self).is_dir() else []
        suggestions += [f"lab:{self}"] if self in import_module("aifeedback.lab.zoo").names() else []
        return " or ".join(suggestions) or "hf:DIR_OR_ID, openai:NAME, anthropic:NAME, lab:NAME or fake:NAME"

    def folder(self) -> str:
        """The model folder or hub id that training starts from; a GGUF file is unpacked into one. Raises RecipeError for
        what cannot be trained."""
        if self.scheme == "lab":
            return str(self.path)
        if self.scheme and self.scheme != "hf":
            raise RecipeError(f"'{self}' cannot be trained", fix="give a model folder or hub id: hf:DIR or lab:NAME")
        path = Path(self.name)
        if path.suffix == GGUF and path.is_file():
            return str(import_module("aifeedback.models.gguf").unpacked(path))
        return self.name


class JudgeRef(ModelRef):
    """A model as judge, a reward model, people, or the lab's oracle."""

    kinds = (*ModelRef.kinds, *DECISIONS, *NO_PROMPT)


class PolicyRef(ModelRef):
    """A policy to measure: a model, or a file of its responses."""

    @property
    def is_file(self) -> bool:
        """Whether it names a file of responses."""
        from aifeedback import data

        return not self.scheme and data.is_table(str(self))

    @property
    def path(self) -> Path | None:
        return Ref(self).path if self.is_file else super().path

    def problem(self) -> str | None:
        return Ref(self).problem() if self.is_file else super().problem()


class RewardRef(ModelRef):
    """A reward: rm:DIR, python:FILE.py:FUNCTION, or the name of one that an installed package registers."""

    kinds = ("rm", "python")

    @property
    def is_registered(self) -> bool:
        return self in extensions.registered(REWARDS)

    @property
    def path(self) -> Path | None:
        return extensions.source_of(extensions.find(REWARDS, self)) if self.is_registered else super().path

    def problem(self) -> str | None:
        return None if self.is_registered else super().problem()


class PartRef(Ref):
    """A part of a method by its name: a shipped one, one of an installed package, or python:FILE.py:NAME."""

    group: ClassVar[str]

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        """The names that need nothing from outside."""
        raise NotImplementedError

    @property
    def is_outside(self) -> bool:
        return self not in self.shipped()

    @property
    def path(self) -> Path | None:
        """The source file of a part from outside."""
        if self.startswith(extensions.PYTHON):
            return extensions.file_of(self)
        return extensions.source_of(self.load()) if self.is_outside else None

    def load(self) -> Any:
        """The object from outside. Raises InputError."""
        if problem := self.problem():
            raise InputError(problem)
        return extensions.find(self.group, self)

    def problem(self) -> str | None:
        if self.startswith(extensions.PYTHON):
            return extensions.file_problem(self)
        known = (*self.shipped(), *extensions.registered(self.group))
        if self in known:
            return None
        close = difflib.get_close_matches(self, known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"one of {', '.join(known)}, or python:FILE.py:NAME"
        return f"no {self.group.rpartition('.')[2].removesuffix('s').replace('_', ' ')} '{self}'\n  → {hint}"


class AdvantageRef(PartRef):
    """How rewards become advantages (``training/advantages.py``)."""

    group = ADVANTAGES

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        return get_args(import_module("aifeedback.training.settings").BaselineName)


class FormatRef(PartRef):
    """A format of data files from outside."""

    group = "aifeedback.formats"

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        return ()


class ProbeRef(PartRef):
    """A probe of an audit."""

    group = "aifeedback.probes"

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        return tuple(import_module("aifeedback.audit.probes").PROBES)


class PolicyProbeRef(PartRef):
    """A probe of a policy."""

    group = "aifeedback.policy_probes"

    @classmethod
    def shipped(cls) -> tuple[str, ...]:
        return tuple(import_module("aifeedback.probing").PROBES)


class StandardRef(Ref):
    """A YAML file by its shipped name, lab:NAME, or its path."""

    standard: ClassVar[str]

    @property
    def path(self) -> Path:
        """Raises StandardsError for an unknown name."""
        from aifeedback.prompts import registry

        if self.scheme == "lab":
            zoo = import_module("aifeedback.lab.zoo")
            return {"judges": zoo.prompt_file, "constitutions": zoo.constitution_file}[self.standard](self.name)
        return registry.find(self.standard, str(self))

    def load(self) -> Any:
        raise NotImplementedError

    def problem(self) -> str | None:
        try:
            self.load()
        except InputError as wrong:
            return str(wrong)
        return None


class PromptRef(StandardRef):
    """A judge prompt."""

    standard = "judges"

    def load(self, shots: int | None = None, seed: int | None = None) -> Any:
        """The JudgePrompt, with ``shots`` of its few-shot examples: the first, or drawn and ordered by ``seed``."""
        from aifeedback.prompts.judge_prompt import JudgePrompt

        prompt = JudgePrompt.load(self.path)
        if shots is None and seed is None:
            return prompt
        return prompt.with_shots(len(prompt.shown) if shots is None else shots, seed=seed)


class ConstitutionRef(StandardRef):
    """A constitution."""

    standard = "constitutions"

    def load(self) -> Any:
        from aifeedback.prompts.constitution import Constitution

        return Constitution.load(self.path)


class RubricRef(StandardRef):
    """A rubric."""

    standard = "rubrics"

    def load(self) -> Any:
        from aifeedback.prompts.rubric import Rubric

        return Rubric.load(str(self))


def refs_in(value: Any) -> Iterator[Ref]:
    """Every reference inside settings, in their order. A settings class may say itself which count, as ``refs()``."""
    if isinstance(value, Ref):
        if value.is_outside:
            yield value
        if value.row_format:
            yield FormatRef(value.row_format)
    elif isinstance(value, BaseModel):
        own = getattr(value, "refs", None)
        if own is not None:
            yield from own()
        else:
            for name in type(value).model_fields:
                yield from refs_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from refs_in(key)
            yield from refs_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from refs_in(item)


def steps_named(value: Any) -> Iterator[str]:
    """The ids of the steps whose files plain settings (as YAML has them) name."""
    if isinstance(value, str) and (match := _STEP.match(value)):
        yield match["step"]
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from steps_named(key)
            yield from steps_named(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from steps_named(item)


def problems_of(refs: Iterator[Ref]) -> list[str]:
    """What is wrong with those that come from outside the run, each once."""
    faults: dict[str, None] = {}
    for ref in refs:
        if ref.step is None:
            try:
                problem = ref.problem()
            except AIFeedbackError as wrong:
                problem = str(wrong)
            if problem:
                faults[problem] = None
    return list(faults)


def digest_ref(ref: Ref) -> str:
    """Digest of the local file or folder behind a reference; the name itself if neither exists."""
    path = ref.path
    return digest(path) if path and path.exists() else str(ref)


def file_part(name: str) -> str:
    """A name as part of a file name: hf:my/judge → hf-my-judge."""
    return re.sub(r"[^\w.-]+", "-", name)


def _folder_problem(name: str, scheme: str) -> str | None:
    path = Path(name)
    if not path.exists():
        looks_like_id = not name.startswith((".", "/", "~")) and name.count("/") <= 1 and path.suffix != GGUF
        may_be_id = looks_like_id and "/" in name and scheme != "similarity"
        return None if may_be_id else f"{scheme}:{name}: no such folder, and not a hub id (OWNER/NAME)"
    if path.is_file() and path.suffix == GGUF and scheme == "hf":
        return None
    if not (path / "config.json").is_file():
        return f"{scheme}:{name}: not a model folder (config.json is missing)"
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((path / file).is_file() for file in tokenizers):
        return f"{scheme}:{name}: the model folder has no tokenizer; save it with tokenizer.save_pretrained('{name}')"
    weights = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    return None if weights else f"{scheme}:{name}: no *.safetensors weights (pickled weights are not loaded)"
