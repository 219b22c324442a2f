"""Staleness: the distance to the policy whose samples were labelled, and the reward on fresh samples."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aifeedback.inference.encoding import Encoding
from aifeedback.steps.staleness import Staleness, StalenessFigures
from aifeedback.steps.step import Context, Measured, Rows
from aifeedback.training.reward_model import fit_reward_model
from aifeedback.training.settings import RewardModelConfig
from aifeedback.types import Prompt

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny import made_pairs, save_llama

TEXTS = [f"w{a} w{b} w1" for a in range(20) for b in range(20)]
N = len(TEXTS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies, and prompts of three words."""
    folder = tmp_path_factory.mktemp("staleness")
    torch.set_num_threads(1)
    save_llama(folder / "old")
    save_llama(folder / "new")
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "new")
    with torch.no_grad():
        model.lm_head.weight.mul_(10.0)
    model.save_pretrained(folder / "new")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    return folder


def run(place: Path, out: Path, **settings: Any) -> StalenessFigures:
    out.mkdir()
    paths = {
        "policy": f"hf:{place / 'new'}",
        "drawn_from": f"hf:{place / 'old'}",
        "prompts": str(place / "prompts.jsonl"),
    }
    return Staleness.model_validate({**paths, "limit": N, "max_new_tokens": 1, **settings}).run(Context(out, out))


def first_tokens(folder: Path) -> torch.Tensor:
    """log π of every first token after each prompt."""
    encoding = Encoding.of(AutoTokenizer.from_pretrained(folder))
    ids = torch.tensor([encoding.prompt(Prompt.of(text).messages) for text in TEXTS])
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        return model(ids).logits[:, -1].double().log_softmax(-1)


def test_the_distance_is_the_kl_by_enumeration(place: Path, tmp_path: Path) -> None:
    """One token: KL = Σ π log π/π₀ over the whole vocabulary, mean over the prompts."""
    new, old = (first_tokens(place / name) for name in ("new", "old"))
    exact = float((new.exp() * (new - old)).sum(-1).mean())
    figures = run(place, tmp_path / "out")
    assert exact > 0.05
    assert figures.kl.n == N
    assert None not in (figures.kl.value, figures.kl.low, figures.kl.high)
    error = (figures.kl.high - figures.kl.low) / 2 / 1.96  # type: ignore[operator]
    assert abs(figures.kl.value - exact) < 4 * error  # type: ignore[operator]


def test_a_policy_has_not_moved_from_itself(place: Path, tmp_path: Path) -> None:
    figures = run(place, tmp_path / "out", drawn_from=f"hf:{place / 'new'}", max_new_tokens=3, limit=12)
    assert (figures.kl.value, figures.kl.low, figures.kl.high) == (0.0, 0.0, 0.0)


def test_the_reward_is_measured_on_both_kinds_of_pairs(place: Path, tmp_path: Path) -> None:
    """Labels that say the opposite of each other: what is right on one file is wrong on the other."""
    fit_reward_model(place / "old", made_pairs(8), RewardModelConfig(steps=1, batch=4), tmp_path / "rm")
    pairs = [row.comparison for row in made_pairs(12, seed=3)]
    for name, p_first in (("labels", 0.9), ("fresh", 0.1)):
        rows = [
            {
                "prompt": c.prompt.text,
                "first": c.first.text,
                "second": c.second.text,
                "p_first": p_first,
                "judge": "hf:j",
            }
            for c in pairs
        ] + [{"prompt": "w1", "first": "w2", "second": "w3", "p_first": None, "problem": "timeout", "judge": "hf:j"}]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {name: str(tmp_path / f"{name}.jsonl") for name in ("labels", "fresh")}
    figures = run(place, tmp_path / "out", limit=4, reward=f"rm:{tmp_path / 'rm'}", **settings)
    assert figures.accuracy is not None
    assert figures.accuracy_fresh is not None
    assert figures.accuracy.n == figures.accuracy_fresh.n == 12
    assert (figures.accuracy.value or 0) + (figures.accuracy_fresh.value or 0) == pytest.approx(1.0)


@pytest.mark.parametrize(("fresh", "level"), [((0.5, 0.4, 0.6), "watch"), ((0.65, 0.6, 0.72), "ok")])
def test_a_reward_is_stale_where_the_intervals_are_apart(fresh: tuple[float, float, float], level: str) -> None:
    value, low, high = fresh
    figures = StalenessFigures(
        kl=Measured(value=2.0, low=1.5, high=2.5, n=40),
        accuracy=Measured(value=0.8, low=0.7, high=0.9, n=50),
        accuracy_fresh=Measured(value=value, low=low, high=high, n=50),
        rows=Rows(read=40, kept=40),
    )
    assert figures.verdict().level == level


def test_what_cannot_be_measured_is_refused_before_a_call() -> None:
    settings = {"policy": "openai:x", "drawn_from": "hf:a", "prompts": "p", "reward": "python:f.py:r", "fresh": "f"}
    problems = " ".join(Staleness.model_validate(settings).problems())
    assert "need models on this machine" in problems
    assert "only a reward model (rm:DIR) goes stale" in problems
