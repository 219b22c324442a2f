"""Recipes: a YAML list of stages, resolved and checked as a whole before anything runs.

    name: rlaif
    seed: 0
    workers: 2                       # stages that do not depend on each other run side by side
    settings: {judge: hf:judge, n: 100}
    stages:
      - {id: labels, stage: label, comparisons: "@pairs/comparisons.jsonl", judge: "${judge}"}
    summary: {judge.alignment: check.alignment}

``${name}`` is a setting (``--set name=value`` replaces it). ``@id/file`` is a file that stage ``id`` leaves in its
folder, and makes this stage wait for it. ``summary`` says which stage's figures end where in ``summary.json``.
A stage with ``when: ${setting}`` is left out while the setting is empty or false. One with ``each: {run: [0, 1]}`` stands
for several, ``ID-0`` and ``ID-1``, in which ``${run}`` is the value. ``given: {judge: {…}}`` holds
other defaults for when ``judge`` is set to something else. ``base: demo`` with ``set: {…}`` is
another recipe with other values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field

from aifeedback.config import Config, describe, parse
from aifeedback.errors import InputError, RecipeError
from aifeedback.steps import step_class
from aifeedback.steps.step import Step

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class RecipeFile(Config):
    """The YAML as written."""

    name: str
    description: str = ""
    seed: int = 0
    workers: int = Field(default=1, ge=1)
    """Stages that run at the same time, each in its own process with one torch thread."""
    settings: dict[str, Any] = Field(default_factory=dict)
    given: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Setting → other defaults that hold once that setting is given: what goes with a user's own judge or data."""
    required: list[str] = Field(default_factory=list)
    """Settings that have no default."""
    stages: list[dict[str, Any]]
    summary: dict[str, str] = Field(default_factory=dict)
    """Dotted key in summary.json → ``stage-id.figure``."""


class Variant(Config):
    """A recipe that is another one with some values set."""

    name: str
    base: str
    """A shipped recipe's name or a file."""
    description: str = ""
    set: dict[str, Any] = Field(default_factory=dict)
    """As ``--set`` would: setting or STAGE.KEY → value."""


class Stage(NamedTuple):
    """One step of a recipe with its settings filled in; ``needs`` are the ids it waits for."""

    id: str
    kind: str
    """As the recipe names it."""
    step: Step
    needs: tuple[str, ...]
    settings: Mapping[str, Any]


class Recipe(NamedTuple):
    name: str
    description: str
    seed: int
    workers: int
    settings: Mapping[str, Any]
    stages: tuple[Stage, ...]
    summary: Mapping[str, str]
    missing: tuple[str, ...] = ()
    """Required settings that were not given."""

    def resolved(self) -> dict[str, Any]:
        """What runs, with nothing left to fill in: written into the run folder."""
        stages = [{"id": s.id, "stage": s.kind, **s.step.model_dump(mode="json")} for s in self.stages]
        return {
            "name": self.name,
            "description": self.description,
            "seed": self.seed,
            "workers": self.workers,
            "stages": stages,
            "summary": dict(self.summary),
        }


def shipped() -> dict[str, Path]:
    """Recipes that come with the package, by name."""
    folder = Path(str(resources.files("aifeedback") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str | Path) -> Path:
    """A recipe by path or by shipped name (``rlaif`` and ``recipes/rlaif.yaml`` both find the shipped one)."""
    path = Path(name)
    if path.is_file():
        return path
    if path.stem in shipped() and path.parent.name in ("", "recipes"):
        return shipped()[path.stem]
    raise RecipeError("no such recipe", file=path, fix=f"give a YAML file or one of: {', '.join(shipped())}")


def load(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read, fill in and check a recipe; raises one RecipeError with every problem found.

    Overrides name a setting (``judge``), a stage's key (``rl.steps``) or ``seed``/``workers``.
    """
    path = find(name)
    raw = _read_yaml(path)
    overrides = dict(overrides or {})
    if "base" in raw:
        variant = parse(Variant, raw, file=path)
        raw = {**_read_yaml(find(variant.base)), "name": variant.name, "description": variant.description}
        overrides = {**variant.set, **overrides}
    recipe = parse(RecipeFile, raw, file=path)
    settings = {**recipe.settings, "seed": overrides.pop("seed", recipe.seed)}
    for name, defaults in recipe.given.items():
        if overrides.get(name, recipe.settings.get(name)) != recipe.settings.get(name):
            settings |= fill(defaults, {**settings, **{k: v for k, v in overrides.items() if k in settings}})
    workers = int(overrides.pop("workers", recipe.workers))
    problems: list[str] = []
    settings |= {key: value for key, value in overrides.items() if key in settings}
    entries = [
        single for index, entry in enumerate(recipe.stages) for single in _expand(index, entry, settings, problems)
    ]
    stage_ids = {name for entry in entries for name in (entry.id, entry.family)}
    per_stage: dict[str, dict[str, Any]] = {}
    for key, value in overrides.items():
        stage_id, _, rest = key.partition(".")
        if rest and stage_id in stage_ids:
            per_stage.setdefault(stage_id, {})[rest] = value
        elif key not in settings:
            problems.append(f"--set {key}: no such setting; known: {', '.join([*settings, 'STAGE.KEY'])}")
    stages = list(_stages(entries, per_stage, problems))
    _check_order(stages, problems)
    if problems:
        raise RecipeError("\n  ".join(problems), file=path, fix="fix these, then run `aifeedback check`")
    seed = int(settings["seed"])
    kept = {stage.id for stage in stages}
    summary = {key: where for key, where in recipe.summary.items() if where.split(".")[0] in kept}
    missing = tuple(name for name in recipe.required if not settings.get(name))
    return Recipe(recipe.name, recipe.description, seed, workers, settings, tuple(stages), summary, missing)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as broken:
        mark = getattr(broken, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise RecipeError(f"not valid YAML: {getattr(broken, 'problem', broken)}", file=path, row=line) from None
    except UnicodeDecodeError:
        raise RecipeError("not UTF-8 text", file=path, fix="save the recipe as UTF-8") from None
    if not isinstance(raw, Mapping):
        raise RecipeError("a recipe is a mapping with name and stages", file=path)
    return raw


class Entry(NamedTuple):
    """One stage as written, or one of the several that its ``each`` stands for."""

    id: str
    family: str
    """The id as written: --set FAMILY.KEY reaches every member."""
    kind: str
    values: Mapping[str, Any]
    settings: Mapping[str, Any]
    """The recipe's, and the values of ``each``."""
    where: str


def _expand(index: int, entry: Mapping[str, Any], settings: Mapping[str, Any], problems: list[str]) -> Iterator[Entry]:
    """The stages that an entry stands for: one, or one per combination of the values in ``each``."""
    values = dict(entry)
    kind = values.pop("stage", None)
    family = str(values.pop("id", kind))
    try:
        each = fill(values.pop("each", {}), settings)
    except KeyError as unknown:
        problems.append(f"{family}: each: {unknown.args[0]}")
        return
    if not isinstance(each, Mapping) or not all(isinstance(choices, list) and choices for choices in each.values()):
        problems.append(f"{family}: each: write NAME: [VALUE, …], not {each!r}")
        return
    if taken := sorted(set(each).intersection(settings)):
        problems.append(f"{family}: each: '{taken[0]}' is a setting already; use another name")
        return
    for chosen in product(*each.values()):
        name = "-".join([family, *map(str, chosen)])
        own = {**settings, **dict(zip(each, chosen, strict=True))}
        yield Entry(name, family, str(kind), values, own, f"stages[{index}] ({name})")


def _stages(
    entries: Sequence[Entry], overrides: Mapping[str, Mapping[str, Any]], problems: list[str]
) -> Iterator[Stage]:
    for entry in entries:
        schema: Any = None
        try:
            values = fill(entry.values, entry.settings)
            if not values.pop("when", True):
                continue
            schema = step_class(entry.kind)
            changes = merge(nest(overrides.get(entry.family, {})), nest(overrides.get(entry.id, {})))
            step = schema.model_validate(merge(values, changes))
        except KeyError as unknown:
            problems.append(f"{entry.where}: {unknown.args[0]}")
        except InputError as unusable:
            problems.append(f"{entry.where}: {unusable}")
        except ValueError as invalid:
            errors = getattr(invalid, "errors", list)() if schema else []
            problems += [f"{entry.where}: {describe(e, schema)}" for e in errors] or [f"{entry.where}: {invalid}"]
        else:
            yield Stage(entry.id, entry.kind, step, tuple(step.needs()), values)


def _check_order(stages: Sequence[Stage], problems: list[str]) -> None:
    seen: set[str] = set()
    for stage in stages:
        if stage.id in seen:
            problems.append(f"duplicate stage id '{stage.id}'")
        problems += [f"{stage.id}: '@{need}' is not an earlier stage" for need in stage.needs if need not in seen]
        seen.add(stage.id)


def fill(value: Any, settings: Mapping[str, Any]) -> Any:
    """Replace ``${name}``; a value that is only a variable keeps the setting's type. KeyError if unknown."""
    if isinstance(value, Mapping):
        return {fill(key, settings): fill(item, settings) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, settings) for item in value]
    if not isinstance(value, str):
        return value
    names = VARIABLE.findall(value)
    for name in names:
        if name not in settings:
            raise KeyError(f"'${{{name}}}' is not a setting; known: {', '.join(settings)}")
    if len(names) == 1 and VARIABLE.fullmatch(value):
        return settings[names[0]]
    return VARIABLE.sub(lambda match: str(settings[match[1]]), value)


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{'a.b': 1} → {'a': {'b': 1}}. Raises RecipeError where a key has both a value and nested keys."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                whole = f"'{parent}' was already given as a whole"
                raise RecipeError(f"--set {key}: {whole}", fix="give either the whole or its keys, one by one")
        place[last] = value
    return nested


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` laid over ``below``, mapping by mapping."""
    merged = dict(below)
    for key, value in above.items():
        both_map = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both_map else value
    return merged


def assign(text: str) -> tuple[str, Any]:
    """``a.b=c`` from the command line; the value is read as YAML, so numbers and lists work."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r} is not KEY=VALUE", fix="for example: --set judge=hf:my-judge")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        return key.strip(), value
