"""Degenerate inputs: no crash, no certainty from rows that all show the same, no interval of no width without a note."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aifeedback import metrics
from aifeedback.errors import InputError
from aifeedback.metrics.intervals import equal_rows, equal_rows_test, mean_interval
from aifeedback.metrics.length import is_separable

NAN = math.nan
SHAPES = ("few", "constant", "separable", "one cluster", "leverage", "disconnected")


class Input:
    """One generated input; everything the estimates below take."""

    def __init__(self, seed: int) -> None:
        g = np.random.default_rng(seed)
        self.shape = SHAPES[seed % len(SHAPES)]
        self.n = int(g.integers(0, 6)) if self.shape == "few" else int(g.integers(2, 30))
        self.a = self._column(g)
        self.b = self._column(g)
        self.first = g.integers(1, 400, self.n).astype(float)
        self.second = g.integers(1, 400, self.n).astype(float)
        if self.shape == "separable":
            self.a = (self.first > self.second).astype(float)
        if self.shape == "leverage" and self.n:
            self.first[0], self.second[0] = (1.0, 1e5) if g.random() < 0.5 else (1e5, 1.0)
        self.prompts = np.zeros(self.n) if self.shape == "one cluster" else g.integers(0, max(1, self.n // 2), self.n)
        names = np.array(list("abcd"))
        self.left, self.right = names[g.integers(0, 2, self.n)], names[g.integers(2, 4, self.n)]
        if self.shape == "disconnected":
            self.right = np.array([chr(ord("a") + (ord(x) - ord("a")) // 2 * 2 + 1) for x in self.left], dtype=str)

    def _column(self, g: np.random.Generator) -> np.ndarray:
        kind = int(g.integers(4))
        if self.shape == "constant" or kind == 0:
            return np.full(self.n, g.choice([0.0, 1.0, 0.5, 0.51, float(g.random())]))
        column = (g.random(self.n) < g.random()).astype(float) if kind < 3 else g.random(self.n)
        return np.where(g.random(self.n) < 0.1, NAN, column)

    def estimates(self) -> Iterator[tuple[str, Any]]:
        a, b, e = self.a, self.b, metrics
        for prompts in (None, self.prompts):
            for method in ("wilson", "clopper-pearson", "t", "bootstrap"):
                yield f"win rate {method}", e.win_rate(a, method=method, prompts=prompts, resamples=50)
            for test in ("t", "wilcoxon", "permutation", "mcnemar"):
                yield test, e.compare_win_rates(a, b, test=test, prompts=prompts, resamples=99)
            yield "unpaired", e.compare_unpaired(a, b, first_prompts=prompts, second_prompts=prompts)
            for form in ("ratio", "log-ratio", "spline", "glm"):
                lengths = self.first, self.second
                yield form, e.length_controlled_win_rate(a, *lengths, method=form, prompts=prompts)
            yield "alignment", e.alignment(a, b, prompts=prompts)
            yield "position", e.position_bias(a, b, prompts=prompts)
            yield "Cohen", e.cohens_kappa(np.round(a), np.round(b), prompts=prompts)
            yield "Fleiss", e.fleiss_kappa(np.column_stack([np.round(a), np.round(b)]), prompts=prompts)
            table = np.column_stack([a, b, a])
            yield "alpha", e.krippendorff_alpha(table, "interval", prompts=prompts)
            yield "repeats", e.repeatability(table, prompts=prompts)
            yield "ECE", e.expected_calibration_error(a, b, prompts=prompts)
            yield "Brier", e.brier(a, b, prompts=prompts)
            yield "log loss", e.log_loss(a, b, prompts=prompts)
            yield "people", e.prediction_powered_win_rate(b, a, a, prompts=prompts, ai_prompts=prompts)
            for part in e.by_slice(a, {"side": list(self.left)}, prompts=prompts, min_rows=2):
                yield "slice", part
        yield "W", e.kendalls_w(np.column_stack([a, b]))


def problems(seed: int) -> list[str]:
    """What is wrong with the estimates of one input; no estimate may raise."""
    made, wrong = Input(seed), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, result in made.estimates():
            if result.low == result.high and not result.notes:
                wrong.append(f"{name}: {result.low} to {result.high} without a note")
            known = result.value, result.low, result.high
            if not any(map(math.isnan, known)) and not result.low - 1e-9 <= result.value <= result.high + 1e-9:
                wrong.append(f"{name}: {known}")
            p = getattr(result, "p_value", NAN)
            few_and_equal = result.n <= 5 and any("no spread" in note for note in result.notes)
            if few_and_equal and p < 0.05:
                wrong.append(f"{name}: p = {p} from {result.n} equal rows")
        for prompts in (None, made.prompts):
            ranking = metrics.rank_policies(made.left, made.right, made.a, prompts=prompts)
            if sorted(ranking.order) != sorted(ranking.names):
                wrong.append(f"ranking: {ranking.order}")
            if np.isnan(ranking.value).any() and not ranking.notes:
                wrong.append("ranking: a policy without a strength and no note")
    return [f"{made.shape} {seed}: {what}" for what in wrong]


def test_degenerate_inputs() -> None:
    assert [what for seed in range(48) for what in problems(seed)] == []


@pytest.mark.campaign
def test_campaign_degenerate_inputs() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        result = [what for some in pool.map(problems, range(10_000), chunksize=50) for what in some]
    print(f"{len(result)} faults in 10,000 degenerate inputs")
    assert result == []


@settings(max_examples=60, deadline=None)
@given(value=st.floats(0, 1), n=st.integers(2, 5), null=st.floats(0, 1), soft=st.booleans())
def test_a_handful_of_equal_rows_is_never_certain(value: float, n: int, null: float, soft: bool) -> None:
    column = [value if soft else float(value > 0.5)] * n
    assert not metrics.win_rate(column).p_value < 0.05
    assert not metrics.win_rate(column, prompts=list(range(n))).p_value < 0.05
    for test in ("t", "wilcoxon", "permutation", "mcnemar"):
        assert not metrics.compare_win_rates(column, [null] * n, test=test).p_value < 0.05
    assert not metrics.compare_unpaired(column, [null] * n).p_value < 0.007  # 1/C(10, 5) at Fisher's best


def test_the_inputs_that_once_were_certain() -> None:
    three = metrics.win_rate([1, 1, 1], prompts=["a", "b", "c"])
    assert three.p_value == pytest.approx(0.25)  # 2 · (1/2)³
    assert metrics.win_rate([0.51] * 5).p_value == 1.0  # 2 · (0.5/0.51)⁵ is above 1
    two = metrics.compare_win_rates([1, 1], [0.9, 0.9])
    assert (two.value, two.p_value) == (pytest.approx(0.1), 1.0)
    assert two.low < 0 < two.high
    assert any("no spread" in note for note in two.notes)


def test_rows_without_spread_are_tested_by_their_number() -> None:
    # on wins alone it is the sign test
    assert equal_rows_test(1.0, 12, 0.5, (0, 1)) == pytest.approx(stats.binomtest(12, 12).pvalue)
    assert metrics.win_rate([1.0] * 12, prompts=range(12)).p_value == pytest.approx(stats.binomtest(12, 12).pvalue)
    # the interval excludes the null exactly where the test rejects it
    for n in (3, 10, 40):
        for value in (0.55, 0.8, 1.0):
            ends = equal_rows(value, n, (0, 1))
            assert (not ends.low <= 0.5 <= ends.high) == (equal_rows_test(value, n, 0.5, (0, 1)) < 0.05)
    # a fifth of zeros hidden behind n equal rows is seen with probability at least 1 − α/2
    assert equal_rows(1.0, 14, (0, 1)).low == pytest.approx(0.025 ** (1 / 14))
    assert math.isnan(mean_interval(np.full(9, 3.0), bounds=None).low)


def test_clusters_of_unequal_size_make_no_spread() -> None:
    """Equal differences stay equal when prompts have one, two or five rows."""
    prompts = [0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]
    result = metrics.compare_win_rates([0.6] * 11, [0.5] * 11, prompts=prompts)
    assert result.p_value == 1.0
    assert result.low < 0 < result.high


@pytest.mark.parametrize("form", ["ratio", "log-ratio", "spline", "glm"])
def test_separable_labels_have_no_length_controlled_rate(form: Any) -> None:
    lengths = [80, 100, 120] + [130] * 20, [100] * 23
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quasi = metrics.length_controlled_win_rate([1] * 3 + [1, 1, 1, 0, 0] * 4, *lengths, method=form)
        complete = metrics.length_controlled_win_rate([1.0] * 11 + [0.0] * 12, range(100, 123), [111] * 23, method=form)
        mirrored = metrics.length_controlled_win_rate([0] * 3 + [0, 0, 0, 1, 1] * 4, *lengths, method=form)
    for result in (quasi, complete, mirrored):
        assert math.isnan(result.value)
        assert "the labels are separable: no finite fit" in result.notes


def test_separability_is_decided_exactly() -> None:
    x = np.arange(10.0)
    design = np.column_stack([np.ones(10), x])
    labels = (x > 4).astype(float)
    assert is_separable(design, labels)
    crossed = labels.copy()
    crossed[[2, 7]] = 1, 0
    assert not is_separable(design, crossed)
    assert not is_separable(design, np.where(x > 4, 0.9, 0.1))  # soft labels lie on both sides
    far = np.column_stack([np.ones(11), np.append(x, 1e4)])  # fitted to certainty, and yet a finite fit
    assert not is_separable(far, np.append(crossed, 1.0))


def test_one_extreme_row_is_named_and_a_robust_form_is_shown_beside_it() -> None:
    g = np.random.default_rng(2)
    a, b = np.exp(g.normal(5.3, 0.4, 500)), np.exp(g.normal(5, 0.4, 500))
    y = (g.random(500) < 1 / (1 + np.exp(-2.5 * np.log(a / b)))).astype(float)
    clean = metrics.length_controlled_win_rate(y, a, b)
    assert not any("leverage" in note for note in clean.notes)
    for extra in (1, 5):
        result = metrics.length_controlled_win_rate([*y, *[0.0] * extra], [*a, *[300.0] * extra], [*b, *[1.0] * extra])
        assert result.value == pytest.approx(result.raw, abs=0.03)  # length control is switched off
        assert result.leverage > 0.9
        assert any("leverage" in note for note in result.notes)
        assert result.robust == pytest.approx(clean.robust, abs=0.02)
        assert result.robust_low < 0.5 < result.robust_high


def test_two_independent_samples() -> None:
    first, second = [1.0] * 56 + [0.0] * 14, [1.0] * 48 + [0.0] * 32
    result = metrics.compare_unpaired(first, second, names=("a", "b"))
    # Newcombe 1998, table II: 56/70 − 48/80, method 10 gives 0.0524 to 0.3339
    assert (result.value, result.low, result.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-4)
    assert result.p_value == pytest.approx(stats.fisher_exact([[56, 14], [48, 32]])[1])
    g = np.random.default_rng(0)
    x, y = g.random(40), g.random(60) ** 2
    soft = metrics.compare_unpaired(x, [*y, None])
    assert soft.p_value == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue)
    assert soft.dropped == 1
    assert metrics.compare_unpaired(y, x).value == pytest.approx(-soft.value)
    assert math.isnan(metrics.compare_unpaired([], [1.0]).value)
    constant = metrics.compare_unpaired([0.7] * 30, [0.6] * 30)
    assert math.isnan(constant.p_value)
    assert any("not tested" in note for note in constant.notes)


def test_prompts_widen_every_interval_that_takes_them() -> None:
    g = np.random.default_rng(3)
    prompts = np.repeat(np.arange(40), 6)
    lean = np.repeat(g.random(40), 6)
    a, b = (g.random(240) < lean).astype(float), (g.random(240) < lean).astype(float)
    shifted = np.clip(0.1 + 0.8 * a, 0, 1)
    table = np.column_stack([a, b])
    for call in (
        lambda p: metrics.position_bias(a, b, prompts=p),
        lambda p: metrics.brier(shifted, np.repeat(lean[::6] > 0.5, 6).astype(float), prompts=p),
        lambda p: metrics.log_loss(shifted, np.repeat(lean[::6] > 0.5, 6).astype(float), prompts=p),
        lambda p: metrics.win_rate(a, prompts=p),
    ):
        alone, shared = call(None), call(prompts)
        assert shared.value == pytest.approx(alone.value)
        assert shared.high - shared.low >= (alone.high - alone.low) * 0.999
    for call in (
        lambda p: metrics.cohens_kappa(a, b, prompts=p),
        lambda p: metrics.fleiss_kappa(table, prompts=p),
        lambda p: metrics.krippendorff_alpha(table, prompts=p),
        lambda p: metrics.repeatability(table, prompts=p),
    ):
        once = call(None)
        repeated = call(np.arange(240))
        assert repeated.standard_error == pytest.approx(once.standard_error)  # one row per prompt changes nothing
        with pytest.raises(InputError, match="one id per row"):
            call(prompts[:-1])


def test_twice_the_same_items_of_a_prompt_add_nothing_to_an_agreement() -> None:
    g = np.random.default_rng(4)
    table = (g.random((60, 2)) < 0.4).astype(float)
    table[:40, 1] = table[:40, 0]
    twice, prompts = np.repeat(table, 2, axis=0), np.repeat(np.arange(60), 2)
    for call in (
        lambda t, p: metrics.cohens_kappa(t[:, 0], t[:, 1], prompts=p),
        lambda t, p: metrics.fleiss_kappa(t, prompts=p),
        lambda t, p: metrics.krippendorff_alpha(t, prompts=p),
        lambda t, p: metrics.expected_calibration_error(0.1 + 0.8 * t[:, 0], t[:, 1], prompts=p),
    ):
        assert call(twice, prompts).high == pytest.approx(call(table, None).high, abs=0.02)
        assert call(twice, prompts).low == pytest.approx(call(table, None).low, abs=0.02)
