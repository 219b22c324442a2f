"""Every setting, walked: a recipe, an option, --set, the hand-over to a worker and a resumed run all keep it, or refuse it
by name."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from aifeedback.cli.options import chosen_settings, options_of
from aifeedback.errors import InputError
from aifeedback.pipeline.command import FILE, HOW, Record, differences
from aifeedback.pipeline.runner import fingerprint
from aifeedback.steps import step_class
from aifeedback.steps.step import Step

BASES: dict[str, dict[str, Any]] = {
    "sample": {"model": "openai:a", "prompts": "p.jsonl"},
    "pair": {"completions": "c.jsonl"},
    "label": {"comparisons": "p.jsonl", "judge": {"model": "openai:j"}},
    "score": {"completions": "c.jsonl", "judge": {"model": "openai:j"}},
    "revise": {"model": "openai:a", "completions": "c.jsonl", "constitution": "harmless"},
    "sft": {"model": "hf:a/b", "data": "d.jsonl"},
    "reward_model": {"model": "hf:a/b", "data": "d.jsonl"},
    "dpo": {"model": "hf:a/b", "data": "d.jsonl"},
    "rl": {"model": "hf:a/b", "prompts": "p.jsonl", "reward": "rm:r"},
    "evaluate": {"data": "d.jsonl"},
}
SHORT = {"rl": ("reward",)}
"""Settings that a command gives in a form of its own, with tests of their own."""
ASIDE = {
    ("rl", "train.baseline"): {"train": {"samples_per_prompt": 2}},
    ("rl", "train.trl"): {"engine": "trl"},
    ("rl", "train.value_learning_rate"): {"train": {"baseline": "value"}},
    ("rl", "train.value_warmup_steps"): {"train": {"baseline": "value"}},
    ("score", "rounds"): {"rank": "tournament"},
    ("reward_model", "centre_limit"): {"centre": "c.jsonl"},
    **{
        ("rl", f"rollouts.{name}"): {"rollouts": {"model": "openai:p", "reload": "./reload.sh"}}
        for name in ("model", "base_url", "reload", "every", "server")
    },
}
"""What must be set beside a setting for it to count."""
CANDIDATES: tuple[Any, ...] = (
    2, 3, 0.25, 0.5, 1.5, True, False, [0.2, 0.7], ["x"], {"prompt": "question"}, {"a": "b"}, {"top": 5}, "hf:c/d",
    "openai:z", "rating", "helpful-base", "harmless", "general", "other.jsonl", "2026-01-01", "http://127.0.0.1:9/v1",
    "prices.yaml", ["tensorboard"],
    "leave_one_out", {"X-Team": "a"}, {"seed": None}, {"use_vllm": True}, {"prompts": "q.jsonl", "judge": "openai:w"},
)  # fmt: skip


class Setting(NamedTuple):
    kind: str
    path: tuple[str, ...]
    choices: tuple[Any, ...]

    @property
    def name(self) -> str:
        return ".".join(self.path)


def bare(annotation: Any) -> list[Any]:
    """The alternatives of an annotation, without None."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for arg in get_args(annotation) if arg is not type(None) for one in bare(arg)]
    return [annotation]


def settings_of(kind: str, schema: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    for name, field in schema.model_fields.items():
        alternatives = bare(field.annotation)
        nested = [one for one in alternatives if isinstance(one, type) and issubclass(one, BaseModel)]
        if not path and name in SHORT.get(kind, ()):
            continue
        if nested and name not in ("monitor",):
            yield from settings_of(kind, nested[0], (*path, name))
            continue
        choices = [value for one in alternatives if get_origin(one) is Literal for value in get_args(one)]
        yield Setting(kind, (*path, name), tuple(choices))


SETTINGS = [setting for kind in BASES for setting in settings_of(kind, step_class(kind))]


def put(values: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    inner = values.get(first)
    new = put(inner if isinstance(inner, Mapping) else {}, tuple(rest), value) if rest else value
    return {**values, first: new}


def at(step: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        step = getattr(step, name) if step is not None else None
    return step


@pytest.fixture(autouse=True)
def _prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prices.yaml").write_text('as_of: "2026-01"\nmodels: {}\n')


def base_of(setting: Setting) -> dict[str, Any]:
    return {**BASES[setting.kind], **ASIDE.get((setting.kind, setting.name), {})}


def example(setting: Setting) -> tuple[Any, Step] | None:
    """A value that the recipe takes and that differs from the base, with the step; None where it takes none."""
    schema = step_class(setting.kind)
    before = at(schema.model_validate(base_of(setting)), setting.path)
    for value in (*setting.choices, *CANDIDATES):
        try:
            step = schema.model_validate(put(base_of(setting), setting.path, value))
        except (ValidationError, InputError):
            continue
        if at(step, setting.path) != before and isinstance(value, bool) == isinstance(at(step, setting.path), bool):
            return value, step
    return None


REFUSED = {"score.judge.constitution", "score.judge.clamp"}
"""Settings that no value of the walk suits beside the base."""


def walked() -> Iterator[Any]:
    for setting in SETTINGS:
        yield pytest.param(setting, id=f"{setting.kind}.{setting.name}")


def given_by(setting: Setting, value: Any, door: str) -> Step | None:
    """The step as a command makes it; None where the setting has no option."""
    schema = step_class(setting.kind)
    options = options_of(schema, schema.further)
    values: dict[str, Any] = {}

    def option(path: tuple[str, ...], found: Any) -> bool:
        match = next((o for o in options if o.path == path), None)
        if match is None or match.value is not None:  # a bare flag stands for one value
            return False
        is_list = match.kind == list[str] or get_origin(match.kind) is list or "list" in str(match.kind)
        if is_list and isinstance(found, Mapping):
            found = [f"{key}={item}" for key, item in found.items()]
        values[match.parameter] = found if not is_list or isinstance(found, list) else [found]
        if isinstance(found, Mapping):
            values[match.parameter] = json.dumps(found)
        return True

    def fill(nested: Mapping[str, Any], path: tuple[str, ...] = ()) -> None:
        for name, item in nested.items():
            if isinstance(item, Mapping):
                fill(item, (*path, name))
            else:
                assert option((*path, name), item), (*path, name)

    fill(base_of(setting))
    sets = []
    if door == "set":
        sets = [f"{setting.name}={json.dumps(value)}"]
    elif not option(setting.path, value):
        return None
    chosen = chosen_settings(schema, options, values, sets)
    return schema.from_options(chosen.settings, chosen.chosen)


@pytest.mark.parametrize("setting", walked())
def test_a_setting_has_the_same_meaning_by_every_way_in(setting: Setting) -> None:
    found = example(setting)
    if found is None:
        pytest.skip("no value of the walk suits it beside the base")
    value, by_recipe = found
    expected = at(by_recipe, setting.path)
    for door in ("option", "set"):
        try:
            step = given_by(setting, value, door)
        except InputError as refused:
            message = str(refused).replace("_", "-")
            if setting.path[-1].replace("_", "-") not in message:
                raise AssertionError(f"{door}: {message}") from refused
            continue
        assert step is None or at(step, setting.path) == expected, door


@pytest.mark.parametrize("setting", walked())
def test_a_setting_survives_the_hand_over_to_a_worker_and_is_noticed_by_a_resumed_run(setting: Setting) -> None:
    found = example(setting)
    if found is None:
        pytest.skip("no value of the walk suits it beside the base")
    _, step = found
    handed = type(step).model_validate(json.loads(json.dumps(step.model_dump(mode="json", exclude_unset=True))))
    assert handed == step
    before = type(step).model_validate(base_of(setting))
    assert fingerprint(step, 0, {}, {}) != fingerprint(before, 0, {}, {})
    old, new = (Record(step.kind, s.model_dump(mode="json"), 0, {}, FILE) for s in (before, step))
    how = any(name in HOW for name in setting.path) or setting.name == "batch"
    extended = setting.name == "limit"
    assert how or extended or any(setting.path[0] in phrase for phrase in differences(old, new))


def test_nearly_every_setting_is_walked() -> None:
    """A setting that the walk cannot reach is named here, so that a new one is not left out unseen."""
    missed = {f"{setting.kind}.{setting.name}" for setting in SETTINGS if example(setting) is None}
    assert missed == REFUSED
    assert len(SETTINGS) > 200
