"""SFT, reward model and DPO end to end on a tiny model: they learn, repeat bit for bit, and count what they skip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import made_answers, made_pairs

from aifeedback.training.dpo import train_dpo
from aifeedback.training.reward_model import RewardModel, fit_reward_model
from aifeedback.training.settings import DpoConfig, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft

QUICK = {"optimizer": "adamw", "learning_rate": 3e-3, "batch": 8, "seed": 3}


def test_sft_learns(llama: Path, tmp_path: Path) -> None:
    result = train_sft(llama, made_answers(16), SftConfig(steps=60, **QUICK), tmp_path / "sft")
    assert result.figures["loss"] < 2.5 < 4.0
    assert (result.steps, result.rows) == (60, 16)


def test_reward_model_learns_and_is_standard(llama: Path, tmp_path: Path) -> None:
    config = RewardModelConfig(steps=60, **QUICK)
    result = fit_reward_model(
        llama, made_pairs(200), config, tmp_path / "rm", heldout=made_pairs(100, seed=9, soft=False)
    )
    assert result.figures["heldout_accuracy"] > 0.8
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    rows = made_pairs(5, seed=4)
    texts = [f"{r.comparison.prompt.text} {r.comparison.first.text} </s>" for r in rows]
    plain = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0].tolist()
    ours = RewardModel(tmp_path / "rm").scores([r.comparison.prompt for r in rows], [r.comparison.first for r in rows])
    assert ours == pytest.approx(plain, abs=1e-5)


def test_dpo_learns(llama: Path, tmp_path: Path) -> None:
    result = train_dpo(llama, made_pairs(64), DpoConfig(steps=40, **QUICK), tmp_path / "dpo")
    assert result.figures["loss"] < 0.6
    assert torch.isfinite(torch.tensor(list(result.figures.values()))).all()
