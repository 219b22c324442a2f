"""The training stages of a recipe: hard labels, the checkpoint choice, a judge that is the policy's own checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import made_pairs, words

from aifeedback import data
from aifeedback.config import parse
from aifeedback.data import LabelledRow
from aifeedback.errors import RecipeError
from aifeedback.models import local
from aifeedback.steps.dpo import Dpo
from aifeedback.steps.reward_model import RewardModel
from aifeedback.steps.rewards import RewardSpec
from aifeedback.steps.rl import Rl
from aifeedback.steps.step import Context
from aifeedback.steps.trained import TrainFigures
from aifeedback.training import folders, policy_gradient
from aifeedback.types import Prompt

TRAIN = {"optimizer": "adamw", "learning_rate": 3e-3}
RL = {**TRAIN, "prompts_per_step": 4, "samples_per_prompt": 2, "max_new_tokens": 6}


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, tmp_path)


@pytest.fixture
def labels(tmp_path: Path) -> str:
    rows = [LabelledRow(comparison=r.comparison, p_first=r.p_first, judge="made") for r in made_pairs(24)]
    data.write_labelled(tmp_path / "labelled.jsonl", rows)
    return str(tmp_path / "labelled.jsonl")


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    import random

    draw = random.Random(0)
    data.write_records(tmp_path / "prompts.jsonl", [Prompt.of(words(draw, 3, 8)) for _ in range(12)])
    return str(tmp_path / "prompts.jsonl")


@pytest.fixture
def reward(tmp_path: Path) -> str:
    (tmp_path / "reward.py").write_text(
        "def evens(prompts, completions, **columns):\n"
        "    return [float(sum(int(w[1:]) % 2 == 0 for w in c.split() if w[0] == 'w')) for c in completions]\n"
    )
    return f"python:{tmp_path / 'reward.py'}:evens"


def test_dpo_is_held_to_the_reference_that_was_named(
    llama: Path, labels: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def train(*_: Any, reference_dir: Any = None, **__: Any) -> Any:
        given.append(reference_dir)
        return TrainFigures(steps=1, rows=1, seconds_per_step=1.0, tokens_per_s=1.0, peak_memory_mb=1.0)

    monkeypatch.setattr("aifeedback.training.dpo.train_dpo", train)
    stage = Dpo(model=f"hf:{llama}", data=labels, reference="hf:elsewhere")
    assert "hf:elsewhere" in list(stage.inputs())
    stage.run(context)
    Dpo(model=f"hf:{llama}", data=labels).run(context)
    assert given == ["elsewhere", None]


@pytest.mark.parametrize(("kind", "trainer"), [(RewardModel, "reward_model.fit_reward_model"), (Dpo, "dpo.train_dpo")])
def test_hard_labels_are_what_is_trained_on(
    kind: Any, trainer: str, llama: Path, labels: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[float | None]] = []

    def note(model: Any, rows: Any, *_: Any, **__: Any) -> Any:
        given.append([row.p_first for row in rows])
        raise InterruptedError

    monkeypatch.setattr(f"aifeedback.training.{trainer}", note)
    for hard in (False, True):
        with pytest.raises(InterruptedError):
            kind(model=f"hf:{llama}", data=labels, hard=hard).run(context)
    soft, rounded = given
    assert set(rounded) <= {0.0, 1.0, None}
    assert rounded == [None if p == 0.5 else float(p > 0.5) for p in soft]


def test_the_chosen_checkpoint_becomes_the_policy(llama: Path, prompts: str, reward: str, context: Context) -> None:
    stage = Rl(
        model=f"hf:{llama}",
        prompts=prompts,
        reward=reward,
        monitor={"prompts": prompts, "judge": "fake:longer", "choose_on": prompts},
        train={**RL, "steps": 6, "evaluate_every": 2},
    )
    assert list(stage.problems()) == []
    figures = stage.run(context)
    assert figures.choice is not None
    chosen, rates = figures.choice.chosen, figures.choice.candidates
    assert set(rates) == {"step-00000002", "step-00000004", "step-00000006"}
    assert rates[chosen].value == max(rate.value for rate in rates.values())
    assert all(rate.low <= rate.value <= rate.high for rate in rates.values())
    candidate = context.folder / "policy" / "training" / "candidates" / chosen
    assert folders.weights_digest(context.folder / "policy") == folders.weights_digest(candidate)
    assert stage.run(context).choice == figures.choice, "run again, it chooses the same"


def test_a_choice_needs_evaluations(llama: Path, prompts: str, reward: str) -> None:
    monitor = {"prompts": prompts, "judge": "fake:longer", "choose_on": prompts}
    stage = Rl(model=f"hf:{llama}", prompts=prompts, reward=reward, monitor=monitor, train={**RL, "lora": {"rank": 2}})
    told = "\n".join(stage.problems())
    assert "train.evaluate_every" in told
    assert "train.lora" in told
    missing = Rl(model="hf:x", prompts=prompts, reward=reward, monitor={**monitor, "choose_on": "missing.jsonl"})
    assert "missing.jsonl" in list(missing.inputs())


def test_wrong_monitor_settings_are_reported_before_anything_runs(llama: Path, prompts: str, reward: str) -> None:
    def told(**guard: Any) -> str:
        watch = {"prompts": prompts, "judge": "fake:longer", "choose_on": prompts, "guard": guard}
        train = {**RL, "evaluate_every": 2}
        values = {"model": f"hf:{llama}", "prompts": prompts, "reward": reward, "monitor": watch, "train": train}
        try:
            return "\n".join(parse(Rl, values).problems())
        except RecipeError as wrong:
            return str(wrong)

    assert told(patience=1) == ""
    assert "'monitor.guard.patiense'; did you mean 'patience'" in told(patiense=1)
    assert "monitor.guard.candidates" in told(candidates=0)


def test_a_judge_that_is_the_starting_checkpoint_is_loaded_once(
    llama: Path, prompts: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    references: list[Any] = []
    judges: list[Any] = []

    def note(*_: Any, reference: Any, **__: Any) -> Any:
        references.append(reference)
        raise InterruptedError

    kept = local.LocalModel.__init__

    def loaded(self: Any, model: Any, *rest: Any, **more: Any) -> None:
        judges.append(model)
        kept(self, model, *rest, **more)

    monkeypatch.setattr(policy_gradient, "train_rl", note)
    monkeypatch.setattr(local.LocalModel, "__init__", loaded)
    own = {"judge": {"model": f"hf:{llama}", "prompt": "rating"}}
    with pytest.raises(InterruptedError):
        Rl(model=f"hf:{llama}", prompts=prompts, reward=own).run(context)
    assert len(judges) == 1
    assert references == judges


@pytest.mark.parametrize(
    ("given", "by", "prompt"),
    [
        ({"judge": "fake:longer"}, "ratings", "rating"),
        ({"judge": {"model": "fake:longer", "rubric": "general"}}, "ratings", "criterion-rating"),
        ({"judge": {"model": "fake:longer", "prompt": "goodbad"}}, "ratings", "goodbad"),
        ({"judge": "fake:longer", "against_reference": True}, "pairs", "helpful-detailed"),
    ],
)
def test_a_rewarding_judge_rates_each_answer_alone_unless_it_compares(given: Any, by: str, prompt: str) -> None:
    (judge,) = RewardSpec.model_validate({"mix": [given]}).judges()
    assert (judge.by, judge.prompt) == (by, prompt)
    again = RewardSpec.model_validate({**given, "judge": judge})
    assert again.judge == judge
