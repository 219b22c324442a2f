"""What a run leaves: the best checkpoint where it was stopped, adapters with their head, the base's precision."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import made_answers, made_pairs, save_llama, words

from aifeedback.errors import RecipeError
from aifeedback.training import folders
from aifeedback.training.dpo import train_dpo
from aifeedback.training.monitor import HeldOutMonitor
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.reward_model import RewardModel, fit_reward_model
from aifeedback.training.settings import (
    DpoConfig,
    HeldOutMonitorConfig,
    LoraSettings,
    RewardModelConfig,
    RLConfig,
    SftConfig,
)
from aifeedback.training.sft import train_sft
from aifeedback.types import Prompt

FAST: dict[str, Any] = {"batch": 8, "optimizer": "adamw", "learning_rate": 3e-3}


def sft(model: Path, out: Path, *, held: Any = None, **more: Any) -> Any:
    return train_sft(
        model, made_answers(16), SftConfig(**{**FAST, **more}), out, heldout=held and made_answers(8, seed=5)
    )


def dpo(model: Path, out: Path, *, held: Any = None, **more: Any) -> Any:
    return train_dpo(model, made_pairs(16), DpoConfig(**{**FAST, **more}), out, heldout=held and made_pairs(8, seed=5))


def reward(model: Path, out: Path, *, held: Any = None, **more: Any) -> Any:
    config = RewardModelConfig(**{**FAST, **more})
    return fit_reward_model(model, made_pairs(16), config, out, heldout=held and made_pairs(8, seed=5))


@pytest.mark.parametrize("train", [sft, dpo, reward])
def test_held_out_rows_are_evaluated_or_asked_for(train: Any, llama: Path, tmp_path: Path) -> None:
    result = train(llama, tmp_path / "a", held=True, steps=4, evaluate_every=2)
    lines = [json.loads(x) for x in (tmp_path / "a" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "heldout_loss" in line] == [2, 4]
    assert result.figures["heldout_loss"] == lines[-1]["heldout_loss"]
    with pytest.raises(RecipeError, match="evaluate_every.*no held-out rows"):
        train(llama, tmp_path / "b", steps=4, evaluate_every=2)
    assert not (tmp_path / "b").exists()


def test_the_held_out_loss_of_sft_is_the_mean_over_tokens(llama: Path, tmp_path: Path) -> None:
    """By transformers alone: labels on the completion only."""
    held = made_answers(8, seed=5)
    result = sft(llama, tmp_path / "out", held=True, steps=2)
    model, tokenizer = folders.load_policy(tmp_path / "out").eval(), folders.load_tokenizer(tmp_path / "out")
    total = tokens = 0.0
    for row in held:
        prompt, said = (
            tokenizer(t, add_special_tokens=False)["input_ids"] for t in (row.prompt.text, row.completion.text)
        )
        said = [*said, tokenizer.eos_token_id]
        labels = torch.tensor([[-100] * len(prompt) + said])
        with torch.no_grad():
            total += model(input_ids=torch.tensor([prompt + said]), labels=labels).loss.item() * len(said)
        tokens += len(said)
    assert result.figures["heldout_loss"] == pytest.approx(total / tokens, abs=1e-5)


@pytest.mark.parametrize("train", [sft, dpo, reward])
def test_a_run_that_patience_ends_returns_its_best_step(train: Any, llama: Path, tmp_path: Path) -> None:
    more = {"learning_rate": 0.05, "steps": 60, "evaluate_every": 2, "patience": 2}
    result = train(llama, tmp_path / "out", held=True, **more)
    assert "plateau" in result.stopped
    lines = [json.loads(x) for x in (tmp_path / "out" / "training" / "metrics.jsonl").read_text().splitlines()]
    known = {line["step"]: line["heldout_loss"] for line in lines if "heldout_loss" in line}
    assert result.best_step == min(known, key=lambda step: known[step])
    assert result.best_step < result.steps
    assert result.figures["heldout_loss"] == known[result.best_step]
    until = train(llama, tmp_path / "until", held=True, **{**more, "steps": result.best_step})
    assert until.best_step is None
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "until"))
    assert one == two


def test_a_run_that_the_guard_ends_returns_its_best_step(llama: Path, tmp_path: Path) -> None:
    import random

    draw = random.Random(0)
    prompts = [Prompt.of(words(draw, 3, 6)) for _ in range(8)]

    def longer(prompts: Any, completions: Any) -> list[float]:
        return [float(len(c.split())) for c in completions]

    def shorter(prompts: Any, completions: Any) -> list[float]:
        return [-float(len(c.split())) for c in completions]

    config = RLConfig(
        steps=30, prompts_per_step=8, samples_per_prompt=2, max_new_tokens=10, optimizer="adamw", learning_rate=0.01,
        evaluate_every=2, zscore_samples=8, beta=0.0,
    )  # fmt: skip
    watch = HeldOutMonitor(prompts, longer, HeldOutMonitorConfig(drop=0.0, candidates=0), measure=shorter)
    result = train_rl(llama, prompts, longer, config, tmp_path / "out", hook=watch, stop=watch.stop)
    assert "over-optimised" in result.stopped
    assert result.best_step is not None
    assert result.best_step < result.steps
    until = config.model_copy(update={"steps": result.best_step})
    train_rl(llama, prompts, longer, until, tmp_path / "until", hook=watch)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "until"))
    assert one == two


def test_a_run_that_nothing_evaluates_refuses_to_evaluate(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="evaluate_every"):
        train_rl(llama, [Prompt.of("w1")], lambda p, c: [1.0] * len(c), RLConfig(steps=1, evaluate_every=1), tmp_path)


def test_the_adapter_alone_is_the_reward_model(llama: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    config = RewardModelConfig(**{**FAST, "steps": 8}, lora=LoraSettings(rank=2, alpha=4))
    fit_reward_model(llama, made_pairs(16), config, tmp_path / "rm")
    rows = [r.comparison for r in made_pairs(5, seed=3)]
    merged = RewardModel(tmp_path / "rm")
    expected = merged.scores([c.prompt for c in rows], [c.first for c in rows])
    base = folders.load_scorer(llama, seed=99)  # another head, which the adapter's replaces
    model: Any = PeftModel.from_pretrained(base, str(tmp_path / "rm" / "adapter")).eval()
    for comparison, value in zip(rows, expected, strict=True):
        ids = torch.tensor([merged._ids(comparison.prompt, comparison.first)])
        with torch.no_grad():
            assert model(input_ids=ids).logits.item() == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("train", [sft, dpo, reward])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_folder_keeps_the_precision_of_its_base(train: Any, dtype: Any, tmp_path: Path) -> None:
    base = save_llama(tmp_path / "base", hidden=16, layers=1)
    folders.load_policy(base, dtype=dtype).save_pretrained(base)
    train(base, tmp_path / "out", steps=2)
    assert folders.stored_dtype(base) == folders.stored_dtype(tmp_path / "out") == dtype


def test_the_value_baseline_knows_a_constant_reward_at_the_published_rate(llama: Path, tmp_path: Path) -> None:
    """With r ≡ 1 nothing can be learnt: a baseline that is right leaves no gradient but the KL's."""
    prompts = [Prompt.of(f"w{i}") for i in range(8)]
    config = RLConfig(steps=20, prompts_per_step=8, max_new_tokens=4)
    assert (config.chosen_baseline, config.learning_rate) == ("value", 1e-5)
    result = train_rl(llama, prompts, lambda p, c: [1.0] * len(c), config, tmp_path / "out")
    assert result.figures["value_loss"] < 0.01
    assert result.figures["grad_norm"] < 0.05


def test_the_value_network_has_its_own_rate_and_learns_first(llama: Path, tmp_path: Path) -> None:
    prompts = [Prompt.of(f"w{i} w2") for i in range(8)]
    given: dict[str, Any] = {"prompts_per_step": 8, "max_new_tokens": 4, "learning_rate": 1e-4, "optimizer": "adamw"}

    def after(steps: int, **more: Any) -> tuple[torch.Tensor, float]:
        out = tmp_path / f"{steps}{more}".replace(" ", "")
        result = train_rl(
            llama, prompts, lambda p, c: [float(len(x)) for x in c], RLConfig(**given, steps=steps, **more), out
        )
        return folders.load_policy(out).lm_head.weight.detach(), result.figures["value_loss"]

    start = folders.load_policy(llama).lm_head.weight.detach()
    assert torch.equal(after(3, value_warmup_steps=3)[0], start)
    assert not torch.equal(after(4, value_warmup_steps=3)[0], start)
    own = after(6, value_warmup_steps=6, value_learning_rate=1e-2)[1]
    assert own < after(6, value_warmup_steps=6)[1]
    with pytest.raises(ValueError, match="only the baseline 'value'"):
        RLConfig(samples_per_prompt=2, value_warmup_steps=2)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run_for_its_tracker(
    name: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        started.append(given)
        return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, figures: Any) -> None:
        raise Stopped

    config = SftConfig(**FAST, steps=2, trackers=(name,))  # type: ignore[arg-type]
    with pytest.raises(Stopped):
        train_sft(llama, made_answers(8), config, tmp_path / "my-run", progress=stop)
    train_sft(llama, made_answers(8), config, tmp_path / "my-run")
    train_sft(llama, made_answers(9), config, tmp_path / "other-run")
    names = [run["name"] for run in started]
    assert names[0] == names[1]
    assert names[0].startswith("my-run")
    assert names[2].startswith("other-run")
    assert all(run["resume"] == "allow" and run["config"]["learning_rate"] == 3e-3 for run in started)
    if name == "wandb":
        assert started[0]["id"] == started[1]["id"] != started[2]["id"]
