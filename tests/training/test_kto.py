"""KTO on single verdicts: the loss written out, its gradient, what files mean, and that it learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_policy_gradient import metrics
from tiny import goodness, made_answers

from aifeedback.data.verdicts import load_verdicts
from aifeedback.errors import FileError, TrainingError
from aifeedback.training import folders
from aifeedback.training.kto import VerdictRow, encode_verdicts, train_kto
from aifeedback.training.losses import kto_loss
from aifeedback.training.settings import KtoConfig, LoraSettings

FAST: dict[str, Any] = {"batch": 8, "optimizer": "adamw", "learning_rate": 3e-3}


def verdicts(count: int, *, seed: int = 0) -> list[VerdictRow]:
    """Good are responses with more even-numbered words."""
    return [
        VerdictRow(r.prompt, r.completion, float(goodness(r.completion.text) > 0))
        for r in made_answers(count, seed=seed)
    ]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_loss_is_the_published_one() -> None:
    """β = 0.5, z = 1: h = 3 is σ(1) above, h = −1 is σ(−1). Weights 2 for good and 3 for bad verdicts."""
    found = kto_loss(
        torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.0]), 1.0, beta=0.5, good_weight=2.0, bad_weight=3.0
    )
    assert found.tolist() == pytest.approx([2 * (1 - sigmoid(1.0)), 3 * (1 - sigmoid(1.0))])
    soft = kto_loss(torch.tensor([3.0]), torch.tensor([0.7]), 1.0, beta=0.5)
    assert soft.item() == pytest.approx(0.7 * (1 - sigmoid(1.0)) + 0.3 * (1 - sigmoid(-1.0)))


def test_a_step_is_the_loss_of_plain_transformers(llama: Path, tmp_path: Path) -> None:
    """Step 2 by hand: z from each row's response to another prompt, ratios to the start, mean over rows."""
    rows = verdicts(6)
    config = KtoConfig(**{**FAST, "batch": 6, "steps": 2, "beta": 0.3}, good_weight=1.5)
    train_kto(llama, rows, config.model_copy(update={"steps": 1}), tmp_path / "one")
    train_kto(llama, rows, config, tmp_path / "two")
    start, moved = folders.load_policy(llama).eval(), folders.load_policy(tmp_path / "one").eval()
    encoded, _ = encode_verdicts(folders.load_tokenizer(llama), rows)

    def ratio(prompt: list[int], completion: list[int]) -> float:
        totals = []
        for model in (moved, start):
            with torch.no_grad():
                logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
            totals.append(float(torch.log_softmax(logits, -1).gather(1, torch.tensor(completion)[:, None]).sum()))
        return totals[0] - totals[1]

    kl = max(0.0, sum(ratio(r.prompt, r.other) for r in encoded) / 6)
    expected = 0.0
    for row in encoded:
        lead = 0.3 * (ratio(row.prompt, row.completion) - kl)
        expected += (1.5 * (1 - sigmoid(lead)) if row.p_good else 1 - sigmoid(-lead)) / 6
    line = metrics(tmp_path / "two")[1]
    assert line["kl"] == pytest.approx(kl, abs=1e-4)
    assert line["loss"] == pytest.approx(expected, abs=1e-5)
    assert metrics(tmp_path / "two")[0]["loss"] == pytest.approx(sum(0.75 if r.p_good else 0.5 for r in encoded) / 6)


def test_it_learns_without_pairs_and_extends_with_adapters(llama: Path, tmp_path: Path) -> None:
    more: dict[str, Any] = {"lora": LoraSettings(rank=4, alpha=8), "beta": 0.5}
    held = verdicts(24, seed=9)
    train_kto(llama, verdicts(48), KtoConfig(**FAST, **more, steps=10), tmp_path / "out", heldout=held)
    result = train_kto(llama, verdicts(48), KtoConfig(**FAST, **more, steps=40), tmp_path / "out", heldout=held)
    lines = metrics(tmp_path / "out")
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05
    assert result.figures["heldout_loss"] < 0.5  # what a policy that has not moved has: h = z = 0


def test_the_other_response_belongs_to_another_prompt(llama: Path) -> None:
    rows = verdicts(3)
    rows = [rows[0], rows[0]._replace(p_good=None), rows[0], rows[1]]
    encoded, skipped = encode_verdicts(folders.load_tokenizer(llama), rows)
    assert dict(skipped) == {"verdict_unknown": 1}
    assert [row.row for row in encoded] == [0, 2, 3]
    assert encoded[0].other == encoded[1].other == encoded[2].completion
    with pytest.raises(TrainingError, match="all rows have the same prompt"):
        encode_verdicts(folders.load_tokenizer(llama), rows[:3])
    with pytest.raises(TrainingError, match="row 2: p_good = 1.2"):
        encode_verdicts(folders.load_tokenizer(llama), [rows[0], rows[3]._replace(p_good=1.2)])


def test_verdicts_of_files(tmp_path: Path) -> None:
    """TRL's labels, probabilities, and the scores of ``score`` in [−1, 1]; an empty one is unknown."""
    file = tmp_path / "rows.jsonl"

    def read(*cells: dict[str, Any]) -> list[float | None]:
        file.write_text("".join(json.dumps({"prompt": "a", "completion": "b", **c}) + "\n" for c in cells))
        return load_verdicts(file).p_good

    assert read({"label": True}, {"label": False}, {"label": 1}, {"label": "bad"}, {"label": None}) == [
        1,
        0,
        1,
        0,
        None,
    ]
    assert read({"p_good": 0.25}, {"value": 0.5, "p_good": None}, {"value": -1}) == [0.25, 0.75, 0.0]
    with pytest.raises(FileError, match="no verdicts"):
        read({})
    for wrong in ({"label": "maybe"}, {"p_good": 1.5}, {"value": "x"}, {"value": 2}):
        with pytest.raises(FileError, match="is not"):
            read({"label": True}, wrong)
