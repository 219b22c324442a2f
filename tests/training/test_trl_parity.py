"""Parity with TRL: its own loss code on the same numbers, and whole training steps on the same folder and rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import words

from aifeedback.training import losses
from aifeedback.training.dpo import train_dpo
from aifeedback.training.examples import PairRow, SftRow
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import DpoConfig, RewardModelConfig, SftConfig
from aifeedback.training.sft import train_sft
from aifeedback.types import Comparison, Completion, Prompt

trl = pytest.importorskip("trl")
STEPS, ROWS = 4, 12
SAME = {"steps": STEPS, "batch": ROWS, "learning_rate": 3e-3, "optimizer": "adamw", "max_grad_norm": 1.0, "seed": 0}


def texts(count: int = ROWS) -> list[dict[str, str]]:
    draw = random.Random(5)
    return [
        {"prompt": words(draw, 3, 6), "chosen": " " + words(draw, 2, 6), "rejected": " " + words(draw, 2, 6)}
        for _ in range(count)
    ]


def pairs() -> list[PairRow]:
    found = []
    for row in texts():
        prompt = Prompt.of(row["prompt"])
        sides = [Completion.of(prompt, row[side], source=side) for side in ("chosen", "rejected")]
        found.append(PairRow(Comparison.of(prompt, *sides), 1.0))
    return found


def trainer(kind: str, folder: Path, out: Path, rows: list[dict[str, str]], **settings: Any) -> Any:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    config = getattr(trl, f"{kind}Config")(
        output_dir=str(out),
        max_steps=STEPS,
        per_device_train_batch_size=ROWS,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        disable_tqdm=True,
        **settings,
    )
    auto = AutoModelForSequenceClassification if kind == "Reward" else AutoModelForCausalLM
    model = auto.from_pretrained(folder, **({"num_labels": 1} if kind == "Reward" else {}))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return getattr(trl, f"{kind}Trainer")(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )


def their_losses(run: Any) -> list[float]:
    run.train()
    return [line["loss"] for line in run.state.log_history if "loss" in line]


def our_losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "training" / "metrics.jsonl").read_text().splitlines()]


def test_dpo_loss_equals_trl_on_the_same_log_probabilities(llama: Path, tmp_path: Path) -> None:
    run = trainer("DPO", llama, tmp_path, texts(), beta=0.25, precompute_ref_log_probs=False)
    inputs = next(iter(run.get_train_dataloader()))
    policy, reference = -torch.rand(2, 2 * ROWS, inputs["input_ids"].shape[1] - 1) * inputs["completion_mask"][:, 1:]
    run.ref_model = stub(policy=reference)
    theirs = float(run._compute_loss(stub(policy=policy), inputs, False))
    (first, second), (ref_first, ref_second) = policy.sum(1).chunk(2), reference.sum(1).chunk(2)
    margin = losses.dpo_margin(first, second, ref_first, ref_second, beta=0.25)
    assert losses.soft_dpo_loss(margin, torch.ones(ROWS)).mean().item() == pytest.approx(theirs, abs=1e-6)


def test_reward_loss_equals_trl_on_the_same_scores(llama: Path, tmp_path: Path) -> None:
    run = trainer("Reward", llama, tmp_path, texts())
    inputs = next(iter(run.get_train_dataloader()))
    score = torch.randn(2 * ROWS, 1)
    theirs = float(run.compute_loss(lambda **_: SimpleNamespace(logits=score), inputs))
    first, second = score[:, 0].chunk(2)
    ours = losses.soft_preference_loss(first - second, torch.ones(ROWS)).mean()
    assert ours.item() == pytest.approx(theirs, abs=1e-6)


def test_sft_steps_equal_trl(llama: Path, tmp_path: Path) -> None:
    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in texts()]
    theirs = their_losses(trainer("SFT", llama, tmp_path / "trl", rows, completion_only_loss=True))
    ours = [SftRow(p.comparison.prompt, p.comparison.first) for p in pairs()]
    train_sft(llama, ours, SftConfig(**SAME), tmp_path / "own")
    assert our_losses(tmp_path / "own") == pytest.approx(theirs, abs=2e-4)


def test_dpo_steps_equal_trl(llama: Path, tmp_path: Path) -> None:
    theirs = their_losses(trainer("DPO", llama, tmp_path / "trl", texts(), beta=0.25))
    train_dpo(llama, pairs(), DpoConfig(beta=0.25, **SAME), tmp_path / "own")
    assert our_losses(tmp_path / "own") == pytest.approx(theirs, abs=2e-4)


def test_reward_steps_equal_trl_from_the_same_head(llama: Path, tmp_path: Path) -> None:
    # one step of ours writes a folder with a head; both go on from it
    fit_reward_model(llama, pairs(), RewardModelConfig(**{**SAME, "steps": 1}), tmp_path / "start")
    theirs = their_losses(trainer("Reward", tmp_path / "start", tmp_path / "trl", texts()))
    fit_reward_model(tmp_path / "start", pairs(), RewardModelConfig(**SAME), tmp_path / "own")
    assert our_losses(tmp_path / "own") == pytest.approx(theirs, abs=2e-4)


def stub(*, policy: torch.Tensor) -> Any:
    """A model that answers with these log-probabilities."""

    def answer(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=policy, entropy=policy, mean_logits=policy, is_top1=policy > 0, aux_loss=None)

    return answer
