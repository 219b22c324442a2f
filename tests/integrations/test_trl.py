"""Rewards in TRL's trainers, and TRL's RLOO as an engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from tiny import goodness, save_llama, words

from aifeedback.errors import InputError, RecipeError
from aifeedback.integrations.trl import TrlReward, reward_function, run_rloo
from aifeedback.records import Prompt
from aifeedback.train.settings import RLConfig


def evens(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
    kept = [" ".join(w for w in c.split() if w.startswith("w")) for c in completions]
    return [None if "w7" in c.split() else goodness(c) / 4 for c in kept]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("llama"))


def test_conversations_become_text_and_trl_keywords_are_dropped() -> None:
    seen: dict[str, Any] = {}

    def remember(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float | None]:
        seen.update(columns, completions=completions)
        return [1.0, None]

    reward = reward_function(remember)
    assert reward.__name__ == "remember"
    told = [[{"role": "assistant", "content": "yes"}], "no"]
    assert reward(prompts=["a", "b"], completions=told, topic=["x", "y"], trainer_state=object()) == [1.0, None]
    assert seen == {"topic": ["x", "y"], "completions": ["yes", "no"]}


def test_missing_eos_looks_at_the_completion() -> None:
    reward = TrlReward(lambda *a, **k: [1.0, 1.0, None], name="r", missing_eos_penalty=0.5, eos_ids=frozenset({2}))
    assert reward(["p"] * 3, ["a", "b", "c"], completion_ids=[[5, 2], [5, 5], [5]]) == [1.0, 0.5, None]


def test_a_judge_by_name() -> None:
    reward = reward_function("judge:fake:quality")
    values = reward(["Say something kind."], ["You are doing well."])
    assert values[0] is None or -1 <= values[0] <= 1
    assert reward.__name__ == "judge:fake:quality"


def test_says_what_is_wrong_before_training() -> None:
    with pytest.raises(InputError, match="no such file"):
        reward_function("python:absent.py:f")
    with pytest.raises(RecipeError, match="settings of a judge"):
        reward_function("rm:somewhere", prompt="x")


def settings(**changes: Any) -> RLConfig:
    given = {
        "steps": 2,
        "prompts_per_step": 4,
        "samples_per_prompt": 2,
        "max_new_tokens": 6,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": "trapezoid",
        "missing_eos_penalty": 1.0,
    }
    return RLConfig(**{**given, **changes})


def some_prompts() -> list[Prompt]:
    import random

    draw = random.Random(0)
    return [Prompt.of(words(draw, 3, 6), tags={"topic": "t"}) for _ in range(8)]


def test_trl_as_engine_writes_the_same_folder(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run_rloo(llama, some_prompts(), evens, settings(), tmp_path)
    assert result.steps == 2
    assert result.seconds_per_step > 0
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    assert any("reward" in line for line in lines)
    AutoModelForCausalLM.from_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path)


def test_the_command_trains_on_trl(llama: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from aifeedback.cli import app

    prompts, reward = tmp_path / "prompts.jsonl", tmp_path / "reward.py"
    prompts.write_text("".join(json.dumps({"prompt": p.text}) + "\n" for p in some_prompts()))
    reward.write_text("def length(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n")
    asked = f"train rl --engine trl --policy hf:{llama} --prompts {prompts} --reward python:{reward}:length --steps 1 "
    asked += f"--samples-per-prompt 2 --prompts-per-step 2 --max-new-tokens 4 -o {tmp_path / 'out'}"
    done = CliRunner().invoke(app, asked.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["steps"] == 1


def test_says_what_trl_cannot_do(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot do this: baseline, zscore_samples"):
        run_rloo(llama, some_prompts(), evens, settings(baseline="none", zscore_samples=8), tmp_path)
