"""What is too long is known before the first step, and never decides in silence what is trained on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny import save_tokenizer

from aifeedback.errors import TrainingError
from aifeedback.training.dpo import train_dpo
from aifeedback.training.examples import PairRow, SftRow
from aifeedback.training.policy_gradient import train_rl
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, RewardModelConfig, RLConfig, SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Comparison, Completion, Prompt

QUICK: dict[str, Any] = {"steps": 1, "batch": 4}


def answers(lengths: list[int], *, prompt_words: int = 2) -> list[SftRow]:
    rows = []
    for i, n in enumerate(lengths):
        prompt = Prompt.of(" ".join([f"w{i}"] * prompt_words))
        rows.append(SftRow(prompt, Completion.of(prompt, " ".join(["w1"] * n), source="x")))
    return rows


def pairs(lengths: list[int], *, prompt_words: int = 2) -> list[PairRow]:
    rows = answers(lengths, prompt_words=prompt_words)
    return [PairRow(Comparison.of(p, c, Completion.of(p, "w2", source="y")), 1.0) for p, c, _ in rows]


TRAINERS: dict[str, Any] = {
    "sft": lambda model, lengths, out, words=2, **more: train_sft(
        model, answers(lengths, prompt_words=words), SftConfig(**QUICK, **more), out
    ),
    "dpo": lambda model, lengths, out, words=2, **more: train_dpo(
        model, pairs(lengths, prompt_words=words), DpoConfig(**QUICK, **more), out
    ),
    "reward": lambda model, lengths, out, words=2, **more: fit_reward_model(
        model, pairs(lengths, prompt_words=words), RewardModelConfig(**QUICK, **more), out
    ),
}


@pytest.mark.parametrize("kind", TRAINERS)
def test_long_responses_are_trained_on_as_far_as_the_window_goes(kind: str, llama: Path, tmp_path: Path) -> None:
    result = TRAINERS[kind](llama, [200] * 9 + [5], tmp_path)
    assert (result.rows, result.skipped) == (10, {})


@pytest.mark.parametrize("kind", TRAINERS)
def test_training_on_the_few_short_rows_is_refused(kind: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"9 of 10 rows are too long \(9 completion_too_long\)"):
        TRAINERS[kind](llama, [200] * 9 + [5], tmp_path, max_completion_tokens=128)
    with pytest.raises(TrainingError, match=r"beyond_context_window"):
        TRAINERS[kind](llama, [300] * 6 + [5] * 4, tmp_path)


@pytest.mark.parametrize("kind", TRAINERS)
def test_what_is_left_out_is_reported_before_the_first_step(
    kind: str, llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="aifeedback"):
        result = TRAINERS[kind](llama, [300, 5, 5, 5], tmp_path)
    assert result.skipped == {"beyond_context_window": 1}
    assert "1 of 4 rows are left out: 1 beyond_context_window" in caplog.text


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_window_of_learned_positions_is_a_limit_too(kind: str, tmp_path: Path) -> None:
    """GPT-2 has no position beyond its window: a longer row was an IndexError."""
    from transformers import GPT2Config, GPT2LMHeadModel

    size = save_tokenizer(tmp_path / "gpt2")
    config = GPT2Config(vocab_size=size, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    result = TRAINERS[kind](tmp_path / "gpt2", [40, 5, 5, 5], tmp_path / "out")
    assert result.skipped == {"beyond_context_window": 1}


def lengths(prompts: Any, completions: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def test_a_prompt_beyond_the_window_is_left_out_of_rl(llama: Path, tmp_path: Path, caplog: Any) -> None:
    """Its response would not fit either: 250 + 8 > 256."""
    prompts = [Prompt.of(" ".join(["w1"] * n)) for n in (250, 3, 4, 5)]
    config = RLConfig(steps=4, prompts_per_step=2, max_new_tokens=8, baseline="none")
    with caplog.at_level(logging.WARNING, logger="aifeedback"):
        result = train_rl(llama, prompts, lengths, config, tmp_path)
    assert (result.rows, result.skipped) == (3, {"beyond_context_window": 1})
    assert "1 of 4 rows are left out" in caplog.text


def test_rl_on_the_few_short_prompts_is_refused(llama: Path, tmp_path: Path) -> None:
    prompts = [Prompt.of(" ".join([f"w{i}"] * n)) for i, n in enumerate((250, 251, 252, 3))]
    with pytest.raises(TrainingError, match="3 of 4 rows are too long"):
        train_rl(llama, prompts, lengths, RLConfig(steps=1, prompts_per_step=1, max_new_tokens=8), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_held_out_prompts_beyond_the_window_are_left_out_of_the_watch(llama: Path, tmp_path: Path) -> None:
    from aifeedback.training.monitor import HeldOutMonitor, choose
    from aifeedback.training.settings import HeldOutMonitorConfig

    held = [Prompt.of(" ".join(["w3"] * n)) for n in (3, 255, 4, 5)]
    watch = HeldOutMonitor(held, lengths, HeldOutMonitorConfig(candidates=1), measure=lengths, out=tmp_path / "out")
    config = RLConfig(steps=2, prompts_per_step=2, max_new_tokens=6, baseline="none", evaluate_every=1)
    train_rl(llama, [Prompt.of("w1"), Prompt.of("w2")], lengths, config, tmp_path / "out", hook=watch)

    class Judge:
        name = "longer"

        def label(self, comparisons: Any) -> Any:
            from aifeedback.types import Preference

            return [
                Preference(comparison_id=c.id, source="j", p_first=float(len(c.first.text) > 9)) for c in comparisons
            ]

    chosen = choose(tmp_path / "out", llama, held, Judge(), config)
    assert chosen.n == 3
    lines = (tmp_path / "out" / "training" / "choice.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert {"candidate", "prompt", "policy", "start", "p_policy"} == set(json.loads(lines[0]))
    assert chosen.decided == {chosen.folder.name: 3}
