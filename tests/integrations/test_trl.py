"""Rewards in TRL's trainers, and TRL's RLOO as an engine."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny import goodness, save_llama, words

from aifeedback.errors import InputError, RecipeError
from aifeedback.integrations.trl import TrlReward, reward_function, run_rloo
from aifeedback.training.settings import RLConfig
from aifeedback.types import Prompt


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
    message = [[{"role": "assistant", "content": "yes"}], "no"]
    assert reward(prompts=["a", "b"], completions=message, topic=["x", "y"], trainer_state=object()) == [1.0, None]
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
    inputs = {
        "steps": 2,
        "prompts_per_step": 4,
        "samples_per_prompt": 2,
        "max_new_tokens": 6,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "schedule": "trapezoid",
        "missing_eos_penalty": 1.0,
    }
    return RLConfig(**{**inputs, **changes})


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
    request = (
        f"train rl --engine trl --policy hf:{llama} --prompts {prompts} --reward python:{reward}:length --steps 1 "
    )
    request += f"--samples-per-prompt 2 --prompts-per-step 2 --max-new-tokens 4 -o {tmp_path / 'out'}"
    done = CliRunner().invoke(app, request.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "figures.json").read_text())["steps"] == 1


def test_says_what_trl_cannot_do(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot do this: baseline, zscore_samples"):
        run_rloo(llama, some_prompts(), evens, settings(baseline="none", zscore_samples=8), tmp_path)


def test_every_setting_is_passed_on_or_refused_by_name(tmp_path: Path) -> None:
    """Walks all settings: another value than the default changes what TRL gets, or is named in a refusal."""
    from aifeedback.integrations.trl import PASSED, refuse_unsupported, rloo_config
    from aifeedback.training.settings import LoraSettings

    other: dict[str, Any] = {
        "steps": 7, "epochs": 3.0, "prompts_per_step": 6, "samples_per_prompt": 4, "max_new_tokens": 9,
        "temperature": 0.5, "beta": 0.2, "kl_form": "usual", "normalise_advantage": True, "optimizer": "adamw",
        "learning_rate": 1e-3, "schedule": "cosine", "warmup_steps": 3, "weight_decay": 0.1, "max_grad_norm": 2.0,
        "seed": 5, "precision": "bf16", "checkpoint_every": 3, "keep_checkpoints": 2, "trackers": ("tensorboard",),
        "forward_tokens": 99, "shard": True, "evaluate_every": 2, "baseline": "none", "zscore_samples": 8,
        "value_weight": 0.1, "value_learning_rate": 1e-3, "value_warmup_steps": 2, "value_max_grad_norm": 1.0,
        "kl_term": "k3", "updates_per_rollout": 2, "clip_range": 0.2, "importance_level": "sequence",
        "importance_cap": 2.0, "length_normalisation": "response", "mask_truncated": True,
        "weights": "bf16", "gradient_checkpointing": True, "keep_rollouts": 7,
    }  # fmt: skip
    base = {"prompts_per_step": 2, "samples_per_prompt": 2}
    elsewhere = {"max_prompt_tokens", "missing_eos_penalty", "lora", "trl", "decay_share"}
    assert set(other) | elsewhere == set(RLConfig.model_fields)

    def told(**changes: Any) -> dict[str, Any]:
        made = rloo_config(RLConfig(**{**base, **changes}), tmp_path, rows=20).to_dict()
        return {name: value for name, value in made.items() if name != "logging_dir"}

    before = told()
    for name, value in other.items():
        if name in PASSED:
            assert told(**{name: value}) != before, name
        else:
            needs = {"baseline": "value"} if name.startswith("value_") else {}
            with pytest.raises(RecipeError, match=name):
                refuse_unsupported(RLConfig(**{**base, **needs, name: value}))
    assert told(schedule="trapezoid", decay_share=0.1) != told(schedule="trapezoid")
    refuse_unsupported(RLConfig(**base, lora=LoraSettings(), missing_eos_penalty=1.0, max_prompt_tokens=9))


def test_warm_up_holds_for_a_constant_rate_too(tmp_path: Path) -> None:
    from aifeedback.integrations.trl import rloo_config

    made = rloo_config(settings(schedule="constant", warmup_steps=5), tmp_path, rows=8)
    assert (str(made.lr_scheduler_type.value), made.warmup_steps) == ("constant_with_warmup", 5)


def test_accumulation_keeps_the_batch(tmp_path: Path) -> None:
    from aifeedback.integrations.trl import rloo_config

    for steps in (1, 2, 4):
        made = rloo_config(settings(), tmp_path, rows=8, gradient_accumulation_steps=steps)
        assert made.per_device_train_batch_size * made.gradient_accumulation_steps == 8
        assert made.generation_batch_size == 8
    with pytest.raises(RecipeError, match="8 completions per step cannot be split into 3 equal parts"):
        rloo_config(settings(), tmp_path, rows=8, gradient_accumulation_steps=3)


def test_options_of_trl_are_known_by_name(tmp_path: Path) -> None:
    from aifeedback.integrations.trl import rloo_config

    made = rloo_config(settings(), tmp_path, rows=8, use_vllm=True, gradient_checkpointing=True)
    assert made.use_vllm
    with pytest.raises(RecipeError, match=r"no option 'use_vlm'; did you mean 'use_vllm'\?"):
        rloo_config(settings(), tmp_path, rows=8, use_vlm=True)
    with pytest.raises(RecipeError, match="'learning_rate' follows from the settings"):
        rloo_config(settings(), tmp_path, rows=8, learning_rate=1.0)
    with pytest.raises(RecipeError, match="contradicts precision"):
        rloo_config(settings(precision="fp32"), tmp_path, rows=8, bf16=True)


def test_our_own_engine_refuses_options_of_trl(llama: Path, tmp_path: Path) -> None:
    from aifeedback.training.policy_gradient import train_rl

    with pytest.raises(RecipeError, match="options of TRL"):
        train_rl(llama, some_prompts(), evens, settings(trl={"use_vllm": True}), tmp_path / "out")


def test_a_run_of_trl_resumes_returns_and_refuses_another(llama: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int, figures: Any) -> None:
        if done == 2:
            raise Stopped

    request = settings(steps=3, checkpoint_every=1)
    with pytest.raises(Stopped):
        run_rloo(llama, some_prompts(), evens, request, tmp_path, progress=stop)
    assert list((tmp_path / "training").glob("checkpoint-*"))
    with pytest.raises(RecipeError, match="other data, model or settings"):
        run_rloo(llama, some_prompts(), evens, settings(steps=3, checkpoint_every=1, seed=1), tmp_path)
    steps: list[int] = []
    result = run_rloo(llama, some_prompts(), evens, request, tmp_path, progress=lambda done, *_: steps.append(done))
    assert min(steps) == 2  # the first step is not made again
    assert result.steps == 3
    lines = [json.loads(line) for line in (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "reward" in line] == [1, 2, 3]
    assert run_rloo(llama, some_prompts(), evens, request, tmp_path) == result
    with pytest.raises(RecipeError, match="finished run"):
        run_rloo(llama, some_prompts(), evens, settings(steps=4, checkpoint_every=1), tmp_path)


OTHER_VALUES: dict[str, Any] = {
    "steps": 3, "optimizer": "adafactor", "learning_rate": 5e-4, "schedule": "constant", "decay_share": 0.7, "warmup_steps": 1,
    "weight_decay": 0.1, "max_grad_norm": 2.0, "epochs": 3.0, "forward_tokens": 64, "seed": 5, "precision": "fp32",
    "lora": {"rank": 2}, "shard": True, "checkpoint_every": 7, "keep_checkpoints": 9, "evaluate_every": 5,
    "trackers": ("tensorboard",), "prompts_per_step": 2, "samples_per_prompt": 4, "max_prompt_tokens": 3, "max_new_tokens": 5,
    "temperature": 0.5, "beta": 0.2, "kl_form": "usual", "baseline": "running_mean", "missing_eos_penalty": 0.3,
    "zscore_samples": 8,
    "normalise_advantage": True, "value_weight": 0.9, "value_learning_rate": 1e-4, "value_warmup_steps": 2,
    "trl": {"log_completions": True}, "weights": "bf16", "gradient_checkpointing": True,
    "kl_term": "k1", "updates_per_rollout": 2, "clip_range": 0.2, "importance_level": "sequence", "importance_cap": 2.0,
    "length_normalisation": "batch", "mask_truncated": True, "keep_rollouts": 1, "value_max_grad_norm": 1.0,
}  # fmt: skip
BESIDE: dict[str, dict[str, Any]] = {
    "mask_truncated": {"missing_eos_penalty": 0.0},
    "value_max_grad_norm": {"baseline": "value"},
    "value_learning_rate": {"baseline": "value"},
    "value_warmup_steps": {"baseline": "value"},
    "epochs": {"steps": None},
    "decay_share": {"steps": 20},
    "precision": {"precision": "bf16"},
}
READ_ELSEWHERE = {"max_prompt_tokens", "missing_eos_penalty", "lora"}
"""Settings that reach TRL's trainer outside of its configuration."""


@pytest.mark.parametrize("name", RLConfig.model_fields)
def test_every_setting_reaches_trl_or_is_refused_by_name(name: str, tmp_path: Path) -> None:
    import inspect

    from aifeedback.integrations import trl

    beside = BESIDE.get(name, {})
    before, after = settings(**beside), settings(**{**beside, name: OTHER_VALUES[name]})
    assert getattr(before, name) != getattr(after, name)
    try:
        trl.refuse_unsupported(after)
    except RecipeError as refused:
        assert name in str(refused)  # noqa: PT017
        return
    assert name in trl.PASSED
    one, other = (trl.rloo_config(c, tmp_path, rows=8, **c.trl).to_dict() for c in (before, after))
    if name in READ_ELSEWHERE:
        assert f"config.{name}" in inspect.getsource(trl)
    else:
        assert one != other
