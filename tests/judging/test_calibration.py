"""Calibration maps: what they recover, what they must not change, and how they are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from aifeedback.errors import InputError, StandardsError
from aifeedback.judging.calibration import (
    CalibratedLabeler,
    Calibration,
    Kind,
    calibration_error,
    fit_calibration,
    pool_adjacent_violators,
    reliability,
)
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.prompts.judge_prompt import JudgePrompt

from .judge_stub import StubModel, better_longer, generated, pairs

KINDS = ("temperature", "platt", "isotonic")


def overconfident(n: int = 2000, temperature: float = 3.0, seed: int = 0) -> tuple[list[float], list[float]]:
    """A judge whose log-odds are ``temperature`` times too large, and people who follow the true odds."""
    random = np.random.default_rng(seed)
    z = random.normal(0, 1.2, n)
    human = random.random(n) < 1 / (1 + np.exp(-z))
    return (1 / (1 + np.exp(-temperature * z))).tolist(), human.astype(float).tolist()


def fitted(kind: str, n: int = 2000) -> Calibration:
    return fit_calibration(*overconfident(n), name="c", judge="j", kind=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_overconfidence_is_taken_back(kind: str) -> None:
    fit = fitted(kind).fit
    assert fit.n == 2000
    assert fit.ece_before > 0.12
    assert fit.ece_after < 0.04
    assert fit.log_loss_after < fit.log_loss_before
    assert fit.brier_after < fit.brier_before
    assert sum(b.n for b in fit.reliability_after) == 2000


def test_the_temperature_is_recovered() -> None:
    assert fitted("temperature").temperature == pytest.approx(3.0, rel=0.12)


def test_platt_is_scikit_learns() -> None:
    p, human = (np.array(x) for x in overconfident())
    confidence, right = np.maximum(p, 1 - p), np.where(p >= 0.5, human, 1 - human)
    z = np.log(np.clip(confidence, 1e-6, 1 - 1e-6) / np.clip(1 - confidence, 1e-6, 1))
    theirs = LogisticRegression(C=1e6).fit(z[:, None], right)
    ours = fitted("platt")
    # Ours draws the slope towards 1 and the intercept towards 0 with the weight of one pair.
    assert ours.slope == pytest.approx(theirs.coef_[0, 0], abs=0.01)
    assert ours.intercept == pytest.approx(theirs.intercept_[0], abs=0.02)


@generated
@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), min_size=2, max_size=40))
def test_isotonic_is_scikit_learns(points: list[tuple[int, float]]) -> None:
    x, y = np.array([p[0] for p in points], dtype=float), np.array([p[1] for p in points])
    at, to = zip(*pool_adjacent_violators(x, y), strict=True)
    theirs = IsotonicRegression().fit(x, y).predict(x)
    assert np.interp(x, at, to) == pytest.approx(theirs, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_the_swapped_pair_gets_one_minus_p_and_no_label_changes_sides(kind: str) -> None:
    calibration = fitted(kind, 300)
    for p in np.linspace(0, 1, 257).tolist():
        q = calibration.apply(p)
        assert 0 <= q <= 1
        assert calibration.apply(1 - p) == pytest.approx(1 - q, abs=1e-15)
        assert (q - 0.5) * (p - 0.5) >= 0
    assert calibration.apply(0.5) == 0.5
    assert calibration.apply(0.25) == 1 - calibration.apply(0.75)


@generated
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from((0.0, 0.5, 1.0))), min_size=20, max_size=40),
    st.sampled_from(("temperature", "platt")),
    st.floats(0, 1),
)
def test_temperature_and_platt_keep_every_side(points: list[tuple[float, float]], kind: Kind, p: float) -> None:
    calibration = fit_calibration(*zip(*points, strict=True), name="c", judge="j", kind=kind, folds=2)
    for given_p in (p, *(p for p, _ in points)):
        assert np.sign(calibration.apply(given_p) - 0.5) == np.sign(given_p - 0.5)


@pytest.mark.parametrize("sure", [0.6, 0.9])
def test_where_people_contradict_a_confidence_platt_continues_falling_to_one_half(sure: float) -> None:
    """Unsure labels wrong (a negative intercept), or sure ones (a negative slope), make no ties."""
    unsure = 1.5 - sure
    p, human = [sure] * 50 + [unsure] * 50, [1.0] * 10 + [0.0] * 40 + [1.0] * 40 + [0.0] * 10
    calibration = fit_calibration(p, human, name="c", judge="j", kind="platt")
    low, high = calibration.apply(0.51), calibration.apply(0.99)
    assert 0.5 < low < high < 1.0


def test_a_map_that_fits_nothing_new_is_seen_by_cross_validation() -> None:
    random = np.random.default_rng(1)
    p, human = random.random(200), (random.random(200) < 0.5).astype(float)
    fit = fit_calibration(p.tolist(), human.tolist(), name="c", judge="j", kind="isotonic").fit
    assert fit.log_loss_after > 0.68, "labels by coin cannot be predicted better than log 2"


def test_the_expected_calibration_error_by_hand() -> None:
    # Bins [0.5, 0.55) and [0.9, 0.95): |1/2 - 0.52| and |1 - 0.92|, half of the pairs each.
    confidence, right = np.array([0.52, 0.52, 0.92, 0.92]), np.array([1.0, 0.0, 1.0, 1.0])
    assert calibration_error(confidence, right) == pytest.approx((0.02 + 0.08) / 2)
    assert [(b.low, b.n) for b in reliability(confidence, right)] == [(0.5, 2), (pytest.approx(0.9), 2)]


def test_unknown_labels_are_left_out_and_too_few_are_refused() -> None:
    p, human = overconfident(30)
    assert fit_calibration([None, *p], [1.0, *human], name="c", judge="j").fit.n == 30
    with pytest.raises(InputError, match="19 pairs have both labels"):
        fit_calibration(p[:19], human[:19], name="c", judge="j")


def test_kept_with_the_judge_and_applied_by_name(tmp_path: Path) -> None:
    labeler = JudgeLabeler(StubModel(better_longer), JudgePrompt.load("helpful-base"))
    calibration = fit_calibration(*overconfident(200), name="helpful-people", judge=labeler.name)
    file = calibration.save(tmp_path)
    assert file == tmp_path / "helpful-people.json"
    assert Calibration.load("helpful-people", tmp_path) == calibration
    plain, calibrated = labeler.label(pairs(20)), CalibratedLabeler(labeler, calibration).label(pairs(20))
    assert [calibration.apply(p.p_first) for p in plain] == [p.p_first for p in calibrated]
    assert [p.judgements[0].p_first for p in plain] == [p.judgements[0].p_first for p in calibrated], (
        "as they were read"
    )
    assert calibrated[0].source == "stub:judge helpful-base calibrated by helpful-people"


def test_a_calibration_of_another_judge_is_refused(tmp_path: Path) -> None:
    labeler = JudgeLabeler(StubModel(better_longer), JudgePrompt.load("helpful-base"))
    with pytest.raises(StandardsError, match="fitted for 'j', not for 'stub:judge helpful-base'"):
        CalibratedLabeler(labeler, fitted("temperature", 100))
    with pytest.raises(StandardsError, match="no calibration is called 'x'"):
        Calibration.load("x", tmp_path)
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StandardsError, match="not readable as JSON"):
        Calibration.load("x", tmp_path)
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(StandardsError, match="key 'judge' is missing"):
        Calibration.load("x", tmp_path)


@pytest.mark.parametrize(
    ("after", "worse"),
    [
        ({"ece_after": 0.18}, ("calibration error 0.1 → 0.18",)),
        ({"log_loss_after": 0.7}, ("log loss 0.6 → 0.7",)),
        ({"brier_after": 0.3}, ("Brier score 0.2 → 0.3",)),
        ({}, ()),
    ],
)
def test_a_map_that_does_worse_on_held_out_pairs_names_by_what(after: dict, worse: tuple) -> None:
    fit = fitted("temperature", 100).fit
    figures = {
        "ece_before": 0.1, "ece_after": 0.05, "log_loss_before": 0.6, "log_loss_after": 0.5, "brier_before": 0.2,
        "brier_after": 0.1, **after,
    }  # fmt: skip
    assert fit.model_copy(update=figures).worse == worse
