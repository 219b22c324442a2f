"""Recipes: filling in, references, overrides, and every problem told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import RecipeError
from aifeedback.pipeline import recipe
from aifeedback.refs import ModelRef, Ref
from aifeedback.steps.rl import Rl
from aifeedback.steps.step import Context

TEXT = """
name: tiny
seed: 3
settings: {judge: "fake:longer", n: 4}
stages:
  - {id: labels, stage: label, comparisons: DATA, judge: "${judge}", limit: "${n}"}
  - {id: model, stage: reward_model, model: "hf:DIR", data: "@labels/labelled.jsonl"}
summary: {agreement: labels.alignment.value}
"""


def written(folder: Path, text: str = TEXT) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_settings_fill_in_with_their_own_type(tmp_path: Path) -> None:
    loaded = recipe.load(written(tmp_path))
    label = loaded.stages[0].step
    assert label.limit == 4
    assert label.judge.model == "fake:longer"
    assert loaded.stages[1].needs == ("labels",)


def test_overrides_reach_settings_stage_keys_and_the_seed(tmp_path: Path) -> None:
    loaded = recipe.load(
        written(tmp_path), {"judge": "fake:first", "seed": 7, "model.train.steps": 2, "labels.limit": 9}
    )
    assert loaded.seed == 7
    assert loaded.stages[0].step.judge.model == "fake:first"
    assert loaded.stages[0].step.limit == 9
    assert loaded.stages[1].step.train.model_dump(exclude_unset=True) == {"steps": 2}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("stage: label,", "no step 'lable'"),
        ("comparisons: DATA", "unknown key 'comparison'; did you mean 'comparisons'?"),
        ('"${judge}"', "'${jugde}' is not a setting"),
        ('"@labels/labelled.jsonl"', "'@lables' is not an earlier stage"),
        ("limit: ", "'limit' = 'many'"),
    ],
)
def test_a_typo_is_named(tmp_path: Path, wrong: str, told: str) -> None:
    typos = {
        "stage: label,": "stage: lable,",
        "comparisons: DATA": "comparison: DATA",
        '"${judge}"': '"${jugde}"',
        '"@labels/labelled.jsonl"': '"@lables/labelled.jsonl"',
        "limit: ": "limit: many, batch: ",
    }
    path = written(tmp_path, TEXT.replace(wrong, typos[wrong], 1))
    with pytest.raises(RecipeError) as caught:
        recipe.load(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    text = TEXT.replace("limit: ", "limit: many, batch: ").replace('"@labels/', '"@lables/')
    with pytest.raises(RecipeError) as caught:
        recipe.load(written(tmp_path, text), {"nosuch": 1})
    message = str(caught.value)
    assert "many" in message
    assert "nosuch" in message


def test_a_stage_with_an_empty_condition_is_left_out(tmp_path: Path) -> None:
    text = TEXT.replace("n: 4}", 'n: 4, extra: ""}').replace("{id: model,", '{id: model, when: "${extra}",')
    assert [step.id for step in recipe.load(written(tmp_path, text)).stages] == ["labels"]
    assert len(recipe.load(written(tmp_path, text), {"extra": True}).stages) == 2


def test_references_become_paths_of_the_run(tmp_path: Path) -> None:
    assert ModelRef("hf:@sft/policy").within(tmp_path) == f"hf:{tmp_path}/stages/sft/policy"
    assert Ref("plain").within(tmp_path) == "plain"
    inputs = Rl(model="hf:@sft/policy", prompts="plain", reward={"mix": [{"source": "rm:@rm/reward_model"}]})
    result = inputs.within(tmp_path)
    assert result.model == f"hf:{tmp_path}/stages/sft/policy"
    assert result.reward.mix[0].source == f"rm:{tmp_path}/stages/rm/reward_model"
    assert result.prompts == "plain"


@pytest.mark.parametrize("name", sorted(recipe.shipped()))
def test_shipped_recipes_are_valid(name: str) -> None:
    loaded = recipe.load(name)
    assert loaded.stages
    for key, where in loaded.summary.items():
        assert where.split(".")[0] in {step.id for step in loaded.stages}, key


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="row 3"):
        recipe.load(written(tmp_path, "name: x\nstages: [\n"))


def test_defaults_that_go_with_a_setting_hold_once_it_is_given_and_give_way_to_ones_own(tmp_path: Path) -> None:
    inputs = TEXT.replace("stages:", 'given: {judge: {n: 9, name: "of ${judge}"}}\nstages:').replace(
        "n: 4}", 'n: 4, name: ""}'
    )
    path = written(tmp_path, inputs)
    assert recipe.load(path).settings["n"] == 4
    assert recipe.load(path, {"judge": "fake:longer"}).settings["n"] == 4, "the default is nothing given"
    own = recipe.load(path, {"judge": "fake:first"}).settings
    assert (own["n"], own["name"]) == (9, "of fake:first")
    assert recipe.load(path, {"judge": "fake:first", "n": 5}).settings["n"] == 5


def test_references_in_keys_are_filled_in_and_waited_for(tmp_path: Path) -> None:
    mixed = TEXT.replace('data: "@labels/labelled.jsonl"}', 'data: FILE, mix: {"@labels/labelled.jsonl": 0.5}}')
    loaded = recipe.load(written(tmp_path, mixed))
    assert loaded.stages[1].needs == ("labels",)
    located = loaded.stages[1].step.within(tmp_path)
    assert located.mix == {str(tmp_path / "stages" / "labels" / "labelled.jsonl"): 0.5}


def test_check_prints_every_setting() -> None:
    printed = CliRunner().invoke(app, ["check", "demo", "--set", "steps=7"], catch_exceptions=False).output
    message = dict(line.split() for line in printed.partition("settings:")[2].splitlines() if len(line.split()) == 2)
    assert message["steps"] == "7"
    assert message["independent"] == "lab:judge-b"


def test_the_documented_recipe_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    Path("labels-only.yaml").write_text(guide.partition("```yaml\n")[2].partition("```")[0])
    commands = (["lab", "pairs", "100", "-o", "pairs.jsonl"], ["run", "labels-only.yaml", "-o", "run"])
    for command in commands:
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert json.loads(Path("run/summary.json").read_text())["judge"]["alignment"] > 0.5


@pytest.mark.parametrize("given", [{}, {"seed": 0}, {"seed": 5}])
def test_a_trainers_own_seed_counts_where_one_is_set(tmp_path: Path, given: dict[str, int]) -> None:
    """References are filled in without making defaults into settings."""
    step = Rl(model="hf:@sft/policy", prompts="p.jsonl", reward="rm:@rm/reward_model", train={"steps": 2, **given})
    result = step.within(tmp_path)
    assert result.train.model_fields_set == {"steps", *given}
    seeded = result.seeded(result.train, Context(tmp_path, tmp_path, seed=7))
    assert seeded.seed == given.get("seed", 7)


EACH = """
name: sweep
settings: {seeds: [0, 1], size: 8}
stages:
  - id: labels
    stage: label
    each: {n: [4, "${size}"]}
    comparisons: DATA
    judge: fake:longer
    limit: "${n}"
  - id: model
    stage: reward_model
    each: {n: [4, 8], run: "${seeds}"}
    model: hf:DIR
    data: "@labels-${n}/labelled.jsonl"
    train: {seed: "${run}"}
"""


def test_a_stage_with_each_stands_for_every_combination(tmp_path: Path) -> None:
    loaded = recipe.load(written(tmp_path, EACH))
    assert [stage.id for stage in loaded.stages] == [
        "labels-4", "labels-8", "model-4-0", "model-4-1", "model-8-0", "model-8-1",
    ]  # fmt: skip
    assert [stage.step.limit for stage in loaded.stages[:2]] == [4, 8]
    assert [stage.needs for stage in loaded.stages[2:]] == [("labels-4",)] * 2 + [("labels-8",)] * 2
    assert [stage.step.train.seed for stage in loaded.stages[2:]] == [0, 1, 0, 1]


def test_settings_change_what_each_lists_and_set_reaches_all_or_one(tmp_path: Path) -> None:
    given = {"seeds": [5], "model.train.steps": 2, "model-8-5.train.steps": 3}
    loaded = recipe.load(written(tmp_path, EACH), given)
    assert [(stage.id, stage.step.train.steps) for stage in loaded.stages[2:]] == [("model-4-5", 2), ("model-8-5", 3)]


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ("{n: 4}", "write NAME: [VALUE"),
        ("{n: []}", "write NAME: [VALUE"),
        ("[4, 8]", "write NAME: [VALUE"),
        ("{size: [4]}", "'size' is a setting already"),
        ('{n: ["${sizes}"]}', "'${sizes}' is not a setting"),
        ("{n: [4, 4]}", "duplicate stage id 'labels-4'"),
    ],
)
def test_mistakes_in_each_are_named(each: str, message: str, tmp_path: Path) -> None:
    text = EACH.replace('{n: [4, "${size}"]}', each)
    with pytest.raises(RecipeError) as raised:
        recipe.load(written(tmp_path, text))
    assert message in str(raised.value)
