"""Statistics on a million rows, next to the call of scipy, statsmodels or scikit-learn that answers the same question.

Interleaved, `--repeats` times; prints seconds (best and slowest), their best and the ratio of the two best, and checks
that both give the same value. Where a library has no such estimate, only ours is shown.
Run: python bench/stats.py [--rows N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import statsmodels.api as sm
from scipy import stats
from sklearn import metrics
from statsmodels.stats import inter_rater
from statsmodels.stats.proportion import proportion_confint

from aifeedback.metrics import (
    alignment,
    brier,
    cohens_kappa,
    compare_win_rates,
    expected_calibration_error,
    fleiss_kappa,
    kendalls_w,
    krippendorff_alpha,
    length_controlled_win_rate,
    log_loss,
    position_bias,
    prediction_powered_win_rate,
    win_rate,
)


class Case(NamedTuple):
    name: str
    ours: Callable[[], float]
    theirs: Callable[[], float] | None
    peer: str


def cases(rows: int, seed: int) -> list[Case]:
    g = np.random.default_rng(seed)
    hard, soft = (g.random(rows) < 0.6).astype(float), g.random(rows)
    other = np.where(g.random(rows) < 0.8, hard, 1 - hard)
    first, second = g.lognormal(5.2, 0.35, rows), g.lognormal(5, 0.35, rows)
    ratio = sm.add_constant(first / second)
    truth = g.integers(0, 3, size=(rows, 1))
    ratings = np.where(g.random((rows, 3)) < 0.7, truth, g.integers(0, 3, size=(rows, 3)))
    holes = np.where(g.random(ratings.shape) < 0.1, np.nan, ratings)
    scores = g.normal(size=(rows, 1)) + g.normal(size=(rows, 3))
    prompts = np.arange(rows) // 4

    def statsmodels_logit() -> float:
        fit = sm.GLM(hard, ratio, family=sm.families.Binomial()).fit(cov_type="HC1")
        return float(1 / (1 + np.exp(-fit.params.sum())))

    def statsmodels_fleiss() -> float:
        return float(inter_rater.fleiss_kappa(inter_rater.aggregate_raters(ratings)[0]))

    def friedman() -> float:
        ranks = np.column_stack([stats.rankdata(column) for column in scores.T]).sum(axis=1)
        return float(12 * ((ranks - 1.5 * (rows + 1)) ** 2).sum() / (9 * (rows**3 - rows)))

    return [
        Case(
            "win_rate, hard labels",
            lambda: win_rate(hard).low,
            lambda: float(proportion_confint(hard.sum(), rows, method="wilson")[0]),
            "statsmodels proportion_confint",
        ),
        Case(
            "win_rate, soft labels, 4 rows a prompt",
            lambda: win_rate(soft, prompts=prompts).value,
            None,
            "",
        ),
        Case(
            "win_rate, bootstrap by prompt, 2,000 draws",
            lambda: win_rate(hard, prompts=prompts, method="bootstrap").value,
            None,
            "",
        ),
        Case(
            "the same, soft labels",
            lambda: win_rate(soft, prompts=prompts, method="bootstrap").value,
            None,
            "",
        ),
        Case(
            "compare_win_rates, t",
            lambda: compare_win_rates(soft, hard).p_value,
            lambda: float(stats.ttest_rel(soft, hard).pvalue),
            "scipy ttest_rel",
        ),
        Case(
            "compare_win_rates, Wilcoxon",
            lambda: compare_win_rates(soft, hard, test="wilcoxon").p_value,
            lambda: float(stats.wilcoxon(soft, hard).pvalue),
            "scipy wilcoxon",
        ),
        Case(
            "length_controlled_win_rate",
            lambda: length_controlled_win_rate(hard, first, second).value,
            statsmodels_logit,
            "statsmodels GLM",
        ),
        Case(
            "alignment",
            lambda: alignment(soft, hard).value,
            lambda: float(metrics.accuracy_score(hard, soft > 0.5)),
            "scikit-learn accuracy_score",
        ),
        Case("position_bias", lambda: position_bias(soft, other).value, None, ""),
        Case(
            "cohens_kappa",
            lambda: cohens_kappa(ratings[:, 0], ratings[:, 1]).value,
            lambda: float(metrics.cohen_kappa_score(ratings[:, 0], ratings[:, 1])),
            "scikit-learn cohen_kappa_score",
        ),
        Case(
            "fleiss_kappa, 3 raters",
            lambda: fleiss_kappa(ratings).value,
            statsmodels_fleiss,
            "statsmodels fleiss_kappa",
        ),
        Case(
            "krippendorff_alpha, ordinal, 10 % missing",
            lambda: krippendorff_alpha(holes, "ordinal").value,
            None,
            "",
        ),
        Case(
            "kendalls_w, 3 raters",
            lambda: kendalls_w(scores).value,
            friedman,
            "scipy rankdata and the formula, no interval",
        ),
        Case(
            "kendalls_w, contexts of 4",
            lambda: kendalls_w(scores, contexts=prompts).value,
            None,
            "",
        ),
        Case("expected_calibration_error", lambda: expected_calibration_error(soft, hard).value, None, ""),
        Case(
            "brier",
            lambda: brier(soft, hard).value,
            lambda: float(metrics.brier_score_loss(hard, soft)),
            "scikit-learn brier_score_loss",
        ),
        Case(
            "log_loss",
            lambda: log_loss(soft, hard).value,
            lambda: float(metrics.log_loss(hard, soft)),
            "scikit-learn log_loss",
        ),
        Case(
            "prediction_powered_win_rate, 1,000 human",
            lambda: prediction_powered_win_rate(hard[:1000], other[:1000], other[1000:]).value,
            None,
            "",
        ),
    ]


def seconds(call: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    value = call()
    return time.perf_counter() - start, value


def measure(case: Case, repeats: int) -> dict[str, Any]:
    ours, theirs, values = [], [], (np.nan, np.nan)
    for _ in range(repeats):
        spent, mine = seconds(case.ours)
        ours.append(spent)
        if case.theirs is not None:
            spent, peer = seconds(case.theirs)
            theirs.append(spent)
            values = mine, peer
    if theirs and not np.isclose(*values, rtol=1e-6, atol=1e-9):
        raise SystemExit(f"{case.name}: {values[0]} here, {values[1]} from {case.peer}")
    row = {"name": case.name, "seconds": min(ours), "slowest": max(ours), "peer": case.peer}
    return row | ({"peer_seconds": min(theirs), "ratio": min(theirs) / min(ours)} if theirs else {})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", type=Path)
    inputs = options.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    print(f"{inputs.rows:,} rows, best of {inputs.repeats}, seed {inputs.seed}")
    for case in cases(inputs.rows, inputs.seed):
        row = measure(case, inputs.repeats)
        rows.append(row)
        peer = f"{row['peer_seconds']:7.2f} s  {row['ratio']:5.1f}×  {row['peer']}" if "ratio" in row else ""
        print(f"{row['name']:45s} {row['seconds']:7.2f} to {row['slowest']:.2f} s {peer}", flush=True)
    if inputs.json:
        inputs.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
