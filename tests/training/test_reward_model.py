"""The reward model in use: scores, labels, accuracy with its interval, centring, plateau, ensembles."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import made_pairs

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.steps.reward_model import RewardModel as RewardModelStep
from aifeedback.steps.step import Context
from aifeedback.training.examples import encode_pairs, hard_labels, noisy_labels
from aifeedback.training.folders import load_scorer, load_tokenizer
from aifeedback.training.loop import plateau
from aifeedback.training.reward_model import (
    RewardEnsemble,
    RewardModel,
    accuracy,
    centre,
    fit_ensemble,
    fit_reward_model,
    wilson,
)
from aifeedback.training.settings import RewardModelConfig
from aifeedback.types import Comparison, Completion, Problem, Prompt

QUICK = {"optimizer": "adamw", "learning_rate": 3e-3, "batch": 8, "steps": 12}


@pytest.fixture(scope="module")
def ensemble(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ensemble")
    fit_ensemble(llama, made_pairs(60), RewardModelConfig(**QUICK), out, members=2)
    return out


def comparisons(count: int = 6) -> list[Comparison]:
    return [row.comparison for row in made_pairs(count, seed=11)]


def test_labels_are_the_models_own_probabilities(ensemble: Path) -> None:
    model = RewardModel(ensemble / "member-0")
    rows = comparisons()
    first = model.scores([c.prompt for c in rows], [c.first for c in rows])
    second = model.scores([c.prompt for c in rows], [c.second for c in rows])
    for a, b, label in zip(first, second, model.label(rows), strict=True):
        assert a is not None
        assert b is not None
        assert label.p_first == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-6)
    swapped = model.label([c.swapped() for c in rows])
    for one, two in zip(model.label(rows), swapped, strict=True):
        assert one.p_first + two.p_first == pytest.approx(1.0, abs=1e-6)


def test_it_serves_as_a_reward_function(ensemble: Path) -> None:
    model = RewardModel(ensemble / "member-0")
    rows = comparisons()
    expected = model.scores([c.prompt for c in rows], [c.first for c in rows])
    texts = [c.first.text for c in rows]
    as_messages = [[m.model_dump() for m in c.prompt.messages] for c in rows]
    assert model([c.prompt.text for c in rows], texts, topic=["x"] * 6) == pytest.approx(expected, abs=1e-5)
    assert model(as_messages, texts) == pytest.approx(expected, abs=1e-5)


def test_what_does_not_fit_has_no_score(ensemble: Path) -> None:
    model = RewardModel(ensemble / "member-0")
    prompt = Prompt.of(" ".join(["w1"] * 300))
    long = Comparison.of(prompt, *(Completion.of(prompt, t, source="x") for t in ("w1", "w2")))
    assert model.scores([prompt, "w1"], ["w1", "w2"])[0] is None
    assert model.scores([prompt, "w1"], ["w1", "w2"])[1] is not None
    (label,) = model.label([long])
    assert (label.p_first, label.problem) == (None, Problem.TOO_LONG)
    (together,) = RewardEnsemble([ensemble / "member-0", ensemble / "member-1"]).label([long])
    assert (together.p_first, together.problem) == (None, Problem.TOO_LONG)


def test_accuracy_counts_ties_as_wrong_and_leaves_undecided_pairs_out() -> None:
    share = accuracy([1.0, -1.0, 0.0, 2.0, -3.0], [1.0, 1.0, 0.0, 0.5, 0.2])
    assert (share.value, share.n, share.equal_scores) == (0.5, 4, 1)
    assert accuracy([math.nan, -1.0], [0.0, 0.0]).value == 0.5


def test_a_held_out_pair_that_is_trained_on_makes_another_run(llama: Path, tmp_path: Path) -> None:
    rows = made_pairs(12)
    settings = RewardModelConfig(steps=1, batch=4)
    fit_reward_model(llama, rows[:8], settings, tmp_path / "rm", heldout=rows[8:])
    with pytest.raises(RecipeError, match="finished run with other data"):
        fit_reward_model(llama, rows[:10], settings, tmp_path / "rm", heldout=rows[10:])


def test_the_margin_of_a_row_takes_the_place_of_the_setting(llama: Path, tmp_path: Path) -> None:
    """Mean of −p·log σ(Δ − m) − (1−p)·log σ(−Δ − m), with Δ of the starting model, row by row; as text, m is left out."""
    labels, margins, ours = (1.0, 0.0, 0.3, 1.0, 0.8), (1.5, 0.0, 2.0, None, "far"), (1.5, 0.0, 2.0, 0.25)
    pairs = [row.comparison for row in made_pairs(5, seed=3)]
    file = tmp_path / "labels.jsonl"
    rows = [
        {"prompt": c.prompt.text, "first": c.first.text, "second": c.second.text, "p_first": p, "margin": m}
        for c, p, m in zip(pairs, labels, margins, strict=True)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = RewardModelStep(model=f"hf:{llama}", data=str(file), train={"steps": 1, "margin": 0.25, "seed": 0})
    figures = step.run(Context(tmp_path / "rm", tmp_path / "rm"))
    assert (figures.rows, figures.skipped) == (4, {"margin_unreadable": 1})

    model, tokenizer = load_scorer(llama, seed=0), load_tokenizer(llama)
    encoded, _ = encode_pairs(tokenizer, made_pairs(4, seed=3), whole=True)
    expected = 0.0
    for ids, p, m in zip(encoded, labels, ours, strict=False):
        with torch.no_grad():
            one, two = (model(torch.tensor([[*ids.prompt, *side]])).logits.item() for side in (ids.first, ids.second))
        expected -= p * math.log(1 / (1 + math.exp(m - one + two))) / 4
        expected -= (1 - p) * math.log(1 / (1 + math.exp(m + one - two))) / 4
    assert figures.figures["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("changed", [hard_labels, lambda rows: noisy_labels(rows, accuracy=0.9)])
def test_a_margin_stays_with_a_row_whose_label_changes(changed: Any) -> None:
    rows = [row._replace(margin=float(i), weight=2.0) for i, row in enumerate(made_pairs(3))]
    assert [(row.margin, row.weight) for row in changed(rows)] == [(0.0, 2.0), (1.0, 2.0), (2.0, 2.0)]


def test_a_run_with_another_margin_is_another_run(llama: Path, tmp_path: Path) -> None:
    rows, settings = made_pairs(8), RewardModelConfig(steps=1, batch=4)
    fit_reward_model(llama, rows, settings, tmp_path / "rm")
    with pytest.raises(RecipeError, match="finished run with other data"):
        fit_reward_model(llama, [row._replace(margin=0.5) for row in rows], settings, tmp_path / "rm")


def test_wilson_interval_against_statsmodels() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for right, n in ((0, 7), (5, 10), (96, 100)):
        assert wilson(right, n)[1:] == pytest.approx(proportion_confint(right, n, method="wilson"), abs=1e-6)
    assert all(math.isnan(x) for x in wilson(0, 0))


def test_centring_moves_the_mean_to_zero_and_no_difference(ensemble: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "rm"
    shutil.copytree(ensemble / "member-0", folder)
    rows = comparisons()
    prompts, answers = [c.prompt for c in rows], [c.first for c in rows]
    before = RewardModel(folder).scores(prompts, answers)
    offset = centre(folder, prompts, answers)
    after = RewardModel(folder).scores(prompts, answers)
    assert sum(after) == pytest.approx(0.0, abs=1e-5)
    assert [a - b for a, b in zip(after, before, strict=True)] == pytest.approx([-offset] * 6, abs=1e-6)
    assert centre(folder, prompts, answers) == pytest.approx(offset, abs=1e-5)  # again: nothing moves
    assert json.loads((folder / "config.json").read_text())["reward_offset"] == pytest.approx(offset, abs=1e-5)
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(folder)


def test_an_ensemble_shows_where_its_members_disagree(ensemble: Path) -> None:
    folders = [ensemble / "member-0", ensemble / "member-1"]
    both, rows = RewardEnsemble(folders, caution=0.5), comparisons()
    prompts, answers = [c.prompt for c in rows], [c.first for c in rows]
    one, two = (RewardModel(f).scores(prompts, answers) for f in folders)
    for a, b, judged, score in zip(one, two, both.judge(prompts, answers), both.scores(prompts, answers), strict=True):
        # the standard deviation of two values is |a − b|/√2
        assert judged.mean == pytest.approx((a + b) / 2)
        assert judged.spread == pytest.approx(abs(a - b) / math.sqrt(2))
        assert score == pytest.approx(judged.mean - 0.5 * judged.spread)
    votes = [RewardModel(f).label(rows) for f in folders]
    for i, label in enumerate(both.label(rows)):
        assert label.p_first == pytest.approx((votes[0][i].p_first + votes[1][i].p_first) / 2)
    assert both.judge([Prompt.of(" ".join(["w1"] * 300))], ["w1"]) == [None]


def test_plateau() -> None:
    stop = plateau(2)
    improving = [{"step": i, "heldout_loss": 1 - 0.1 * i, "heldout_accuracy": 0.5} for i in range(6)]
    flat = [*improving, *({"step": 9, "heldout_loss": 0.6, "heldout_accuracy": 0.5} for _ in range(2))]
    assert stop([]) is None
    assert stop(improving) is None
    assert stop(flat[:-1]) is None
    assert "plateau" in (stop(flat) or "")
    # loss no better, accuracy still better: go on
    assert stop([*flat[:-1], {"step": 9, "heldout_loss": 0.7, "heldout_accuracy": 0.6}]) is None


def test_training_stops_at_a_plateau(llama: Path, tmp_path: Path) -> None:
    config = RewardModelConfig(**{**QUICK, "learning_rate": 1e-9, "steps": 40}, evaluate_every=2, patience=2)
    result = fit_reward_model(llama, made_pairs(20), config, tmp_path / "rm", heldout=made_pairs(10, seed=3))
    assert result.steps == 6
    assert "plateau" in result.stopped
    with pytest.raises(RecipeError, match="held-out pairs"):
        fit_reward_model(llama, made_pairs(20), config, tmp_path / "other")


def test_figures_on_other_heldout_pairs_are_not_those_of_a_finished_run(llama: Path, tmp_path: Path) -> None:
    config = RewardModelConfig(**{**QUICK, "steps": 1})
    fit_reward_model(llama, made_pairs(6), config, tmp_path / "rm", heldout=made_pairs(10, seed=3))
    with pytest.raises(RecipeError, match="other data"):
        fit_reward_model(llama, made_pairs(6), config, tmp_path / "rm", heldout=made_pairs(10, seed=4))


def test_a_weight_of_zero_is_as_if_the_row_were_not_there(llama: Path, tmp_path: Path) -> None:
    rows = made_pairs(6)
    ignored = [row._replace(weight=0.0) for row in made_pairs(2, seed=8)]
    config = RewardModelConfig(**{**QUICK, "batch": 8, "steps": 1})
    with_them = fit_reward_model(llama, [*rows, *ignored], config, tmp_path / "a")
    without = fit_reward_model(llama, rows, config.model_copy(update={"batch": 6}), tmp_path / "b")
    assert with_them.figures["loss"] == pytest.approx(without.figures["loss"], abs=1e-6)


def test_no_usable_row_is_an_error_with_reasons(llama: Path, tmp_path: Path) -> None:
    rows = [row._replace(p_first=None) for row in made_pairs(3)]
    with pytest.raises(TrainingError, match="3 p_first_unknown"):
        fit_reward_model(llama, rows, RewardModelConfig(**QUICK), tmp_path / "rm")


def test_unknown_labels_leave_the_weights_bit_equal(llama: Path, tmp_path: Path) -> None:
    """A judgement that could not be read changes nothing."""
    rows = made_pairs(12)
    unknown = [row._replace(p_first=None) for row in made_pairs(5, seed=7)]
    config = RewardModelConfig(**{**QUICK, "steps": 4})
    fit_reward_model(llama, rows, config, tmp_path / "a")
    result = fit_reward_model(llama, [*rows, *unknown], config, tmp_path / "b")
    assert result.skipped == {"p_first_unknown": 5}
    one, two = ((tmp_path / x / "model.safetensors").read_bytes() for x in "ab")
    assert one == two


def test_losses_that_are_not_finite_stop_the_run(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aifeedback.training import reward_model

    monkeypatch.setattr(reward_model, "soft_preference_loss", lambda margin, p, **_: margin * math.nan)
    with pytest.raises(TrainingError, match="step 1: loss nan"):
        fit_reward_model(llama, made_pairs(8), RewardModelConfig(**QUICK), tmp_path / "rm")
