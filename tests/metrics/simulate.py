"""Worlds with a known truth, one draw each: (estimate, truth). Used by the quick and the campaign-sized tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aifeedback import metrics
from aifeedback.annotation import Drawn, draw, weighted_mean
from aifeedback.metrics import Estimate
from aifeedback.metrics.intervals import mean_interval
from aifeedback.reports.paper import pooled

Draw = tuple[Estimate, float]
Generator = np.random.Generator


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# --- win rates -------------------------------------------------------------------------------------------------------


def win_rate_hard(g: Generator, method: str = "wilson") -> Draw:
    return metrics.win_rate((g.random(300) < 0.62).astype(float), method=method), 0.62


def win_rate_bootstrap(g: Generator) -> Draw:
    column = g.beta(1.2, 0.9, 250)
    return metrics.win_rate(column, method="bootstrap", seed=int(g.integers(2**31)), resamples=600), 1.2 / 2.1


def win_rate_ties(g: Generator) -> Draw:
    """Half of the rows are ties; truth 0.5·0.5 + 0.5·0.7."""
    column = np.where(g.random(300) < 0.5, 0.5, (g.random(300) < 0.7).astype(float))
    return metrics.win_rate(column), 0.6


def win_rate_soft(g: Generator) -> Draw:
    return metrics.win_rate(g.beta(1.2, 0.9, 200)), 1.2 / 2.1


def win_rate_by_prompt(g: Generator, method: str = "wilson") -> Draw:
    """80 prompts, 1 to 6 rows each, prompts differ: beta(2, 1.5) each, so the mean is 2/3.5."""
    sizes = g.integers(1, 7, 80)
    prompts = np.repeat(np.arange(80), sizes)
    chance = np.repeat(g.beta(2, 1.5, 80), sizes)
    rows = (g.random(len(prompts)) < chance).astype(float)
    seed = int(g.integers(2**31))
    return metrics.win_rate(rows, prompts=prompts, method=method, seed=seed, resamples=600), 2 / 3.5


def win_rate_difference(g: Generator) -> Draw:
    shared = g.normal(size=200)
    first = (shared + g.normal(size=200) > -0.4).astype(float)
    second = (shared + g.normal(size=200) > 0).astype(float)
    truth = 0.5 + np.vectorize(_normal_cdf)(0.4 / np.sqrt(2)) - 0.5 - 0.5
    return metrics.compare_win_rates(first, second), float(truth)


def _normal_cdf(x: float) -> float:
    from math import erf

    return 0.5 * (1 + erf(x / 2**0.5))


def alignment(g: Generator) -> Draw:
    human = (g.random(250) < 0.5).astype(float)
    ai = np.where(g.random(250) < 0.76, human, 1 - human) * 0.8 + 0.1
    return metrics.alignment(ai, human), 0.76


# --- raters ----------------------------------------------------------------------------------------------------------

SHARES = np.array([0.5, 0.3, 0.2])
SKILL = 0.75


def raters(g: Generator, items: int, count: int) -> np.ndarray:
    """Each rater sees the truth with probability 0.75 and draws a label by its frequency otherwise."""
    truth = g.choice(3, size=(items, 1), p=SHARES)
    guess = g.choice(3, size=(items, count), p=SHARES)
    return np.where(g.random((items, count)) < SKILL, truth, guess).astype(float)


KAPPA = SKILL**2
"""Two raters share the truth with probability skill², else are independent with the same marginals: κ = α = skill²."""


def cohens_kappa(g: Generator) -> Draw:
    table = raters(g, 200, 2)
    return metrics.cohens_kappa(table[:, 0], table[:, 1]), KAPPA


def fleiss_kappa(g: Generator) -> Draw:
    return metrics.fleiss_kappa(raters(g, 150, 3)), KAPPA


def alpha(g: Generator, level: str = "nominal") -> Draw:
    table = raters(g, 150, 4)
    table[g.random(table.shape) < 0.25] = np.nan
    return metrics.krippendorff_alpha(table, level), KAPPA


def kendalls_w(g: Generator) -> Draw:
    """Scores q + e with variances 1 and 1: correlation 1/2, Spearman 6/π·asin(1/4), W = (1 + 3r)/4."""
    scores = g.normal(size=(100, 1)) + g.normal(size=(100, 4))
    return metrics.kendalls_w(scores), (1 + 3 * 6 / np.pi * np.arcsin(0.25)) / 4


def kendalls_w_contexts(g: Generator) -> Draw:
    """150 contexts of 4 responses, 3 raters. The truth for so few items has no simple form: 200,000 contexts of it."""
    scores = g.normal(size=(600, 1)) + 0.8 * g.normal(size=(600, 3))
    return metrics.kendalls_w(scores, contexts=np.repeat(np.arange(150), 4)), W_OF_FOUR


def _mean_w_of_four() -> float:
    g = np.random.default_rng(99)
    scores = g.normal(size=(200_000, 4, 1)) + 0.8 * g.normal(size=(200_000, 4, 3))
    sums = (scores.argsort(axis=1).argsort(axis=1) + 1).sum(axis=2)
    return float((12 * ((sums - 7.5) ** 2).sum(axis=1) / (9 * 60)).mean())


W_OF_FOUR = _mean_w_of_four()

# --- length control --------------------------------------------------------------------------------------------------


def lengths(g: Generator, n: int, growth: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    return g.lognormal(5 + growth, 0.35, n), g.lognormal(5, 0.35, n)


def length_controlled(g: Generator, method: str = "ratio", quality: float = 0.4, n: int = 400) -> Draw:
    first, second = lengths(g, n)
    predictor = first / second - 1 if method == "ratio" else np.log(first / second)
    labels = (g.random(n) < sigmoid(quality + 1.2 * predictor)).astype(float)
    return metrics.length_controlled_win_rate(labels, first, second, method=method), float(sigmoid(quality))


def length_controlled_soft(g: Generator) -> Draw:
    """Soft labels, Beta with mean σ(…) and 6 pseudo-counts: less variance than a coin flip."""
    first, second = lengths(g, 300)
    mean = sigmoid(0.4 + 1.2 * (first / second - 1))
    return metrics.length_controlled_win_rate(g.beta(6 * mean, 6 * (1 - mean)), first, second), float(sigmoid(0.4))


def length_controlled_rate(g: Generator) -> Draw:
    first, _ = lengths(g, 400)
    harmless = (g.random(400) < sigmoid(0.8 + 0.9 * (first / 150 - 1))).astype(float)
    return metrics.length_controlled_rate(harmless, first, 150.0), float(sigmoid(0.8))


# --- people and AI ---------------------------------------------------------------------------------------------------


def people_and_ai(g: Generator, n: int = 200, more: int = 5000) -> tuple[np.ndarray, np.ndarray, float]:
    """A judge that is right 78 % of the time, soft, and likes the first response 6 points too much; truth 0.58."""
    human = (g.random(n + more) < 0.58).astype(float)
    says_first = np.where(g.random(n + more) < 0.78, human, 1 - human)
    ai = np.clip(np.where(says_first == 1, g.beta(6, 2, n + more), g.beta(2, 6, n + more)) + 0.06, 0, 1)
    return human, ai, 0.58


def prediction_powered(g: Generator) -> Draw:
    human, ai, truth = people_and_ai(g)
    return metrics.prediction_powered_win_rate(human[:200], ai[:200], ai[200:]), truth


def rogan_gladen(g: Generator) -> Draw:
    n, n_se, n_sp, se, sp, truth = 1000, 150, 150, 0.85, 0.78, 0.6
    judged = g.binomial(n, truth * se + (1 - truth) * (1 - sp)) / n
    result = g.binomial(n_se, se) / n_se, g.binomial(n_sp, sp) / n_sp
    return metrics.rogan_gladen(judged, *result, n=n, n_positive=n_se, n_negative=n_sp), truth


def bradley_terry(g: Generator) -> Draw:
    """The strength of the first of five items; 40 games per pair."""
    truth = np.array([0.8, 0.3, 0.0, -0.4, -0.7])
    p = sigmoid(np.subtract.outer(truth, truth))
    games = np.triu(g.binomial(40, p), 1)
    wins = games + np.tril(40 - games.T, -1)
    result = metrics.bradley_terry(wins)
    first = Estimate(float(result.value[0]), float(result.low[0]), float(result.high[0]), 400, "")
    return first, 0.8


# --- samples for people, slices, several runs --------------------------------------------------------------------------


def population(g: Generator, rows: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Human verdicts, AI labels, topics and marks of uncertainty; topics differ, and so do the uncertain 30 %."""
    topic = g.choice(3, size=rows, p=[0.6, 0.3, 0.1])
    uncertain = g.random(rows) < 0.3
    chance = np.where(uncertain, 0.5, np.array([0.75, 0.55, 0.35])[topic])
    human = (g.random(rows) < chance).astype(float)
    ai = np.where(g.random(rows) < np.where(uncertain, 0.55, 0.85), human, 1 - human)
    return human, ai, topic, uncertain


TRUE_RATE = 0.3 * 0.5 + 0.7 * (0.6 * 0.75 + 0.3 * 0.55 + 0.1 * 0.35)


def sampled(g: Generator, topic: np.ndarray, uncertain: np.ndarray) -> list[Drawn]:
    """240 rows by topic, 40 % of them uncertain ones."""
    return draw(len(topic), 240, strata=list(topic), uncertain=list(uncertain), uncertain_share=0.4,
                seed=int(g.integers(2**31)))  # fmt: skip


def weighted_sample(g: Generator) -> Draw:
    """The truth is the mean of the population that was drawn from."""
    human, _, topic, uncertain = population(g)
    rows = sampled(g, topic, uncertain)
    estimate = weighted_mean([human[r.row] for r in rows], [r.weight for r in rows], [r.stratum for r in rows])
    return estimate, float(human.mean())


def prediction_powered_sample(g: Generator) -> Draw:
    human, ai, topic, uncertain = population(g)
    drawn = {r.row: r for r in sampled(g, topic, uncertain)}
    rated = [human[i] if i in drawn else None for i in range(len(human))]
    strata = [drawn[i].stratum if i in drawn else "" for i in range(len(human))]
    weights = [drawn[i].weight if i in drawn else None for i in range(len(human))]
    return metrics.prediction_powered_sample(rated, ai, strata=strata, weights=weights), TRUE_RATE


def slice_of_policies(g: Generator) -> Draw:
    """One slice of a coverage matrix: 60 of 180 prompts with three rows each, beta(2, 2) there, beta(3, 1) elsewhere."""
    language = np.repeat(["hu"] * 60 + ["en"] * 120, 3)
    chance = np.repeat(np.concatenate([g.beta(2, 2, 60), g.beta(3, 1, 120)]), 3)
    rows = (g.random(540) < chance).astype(float)
    sample = metrics.Sample(list(rows), {"language": list(language)}, prompts=list(np.repeat(np.arange(180), 3)))
    (cell,) = [one for one in metrics.coverage({"policy": sample})["policy"] if one.name == "hu"]
    return cell, 0.5


def best_of_four(g: Generator) -> Draw:
    """Six samples of 100 prompts; the expected maximum of four standard normals is 1.02938."""
    rewards = g.normal(size=(100, 1)) * 0.7 + g.normal(size=(100, 6))
    return mean_interval(np.array([metrics.expected_best(list(row), 4) for row in rewards]), bounds=None), 1.02938  # type: ignore[return-value]


def three_runs(g: Generator) -> Draw:
    """A win rate over three training runs that differ by 3 points, on the same 450 held-out prompts."""
    difficulty = g.normal(0, 0.15, 450)
    estimates = []
    for level in 0.6 + g.normal(0, 0.03, 3):
        won = metrics.win_rate((g.random(450) < np.clip(level + difficulty, 0, 1)).astype(float))
        estimates.append({"value": won.value, "low": won.low, "high": won.high, "n": won.n})
    return pooled(estimates), 0.6  # type: ignore[return-value]


WORLDS: dict[str, Callable[[Generator], Draw]] = {
    "win rate, Wilson": win_rate_hard,
    "win rate, half the rows ties": win_rate_ties,
    "win rate, soft labels": win_rate_soft,
    "win rate, soft labels, bootstrap": win_rate_bootstrap,
    "win rate, several rows per prompt": win_rate_by_prompt,
    "win rate, bootstrap by prompt": lambda g: win_rate_by_prompt(g, "bootstrap"),
    "difference of two win rates": win_rate_difference,
    "alignment": alignment,
    "Cohen's κ": cohens_kappa,
    "Fleiss' κ": fleiss_kappa,
    "Krippendorff's α, nominal, 25 % missing": alpha,
    "Krippendorff's α, ordinal, 25 % missing": lambda g: alpha(g, "ordinal"),
    "Krippendorff's α, interval, 25 % missing": lambda g: alpha(g, "interval"),
    "Kendall's W, 100 items": kendalls_w,
    "Kendall's W, 150 contexts of 4": kendalls_w_contexts,
    "length-controlled win rate, ratio": length_controlled,
    "length-controlled win rate, log-ratio": lambda g: length_controlled(g, "log-ratio"),
    "length-controlled win rate, soft labels": length_controlled_soft,
    "length-controlled rate": length_controlled_rate,
    "prediction-powered win rate, 200 + 5,000": prediction_powered,
    "Rogan–Gladen": rogan_gladen,
    "Bradley–Terry strength": bradley_terry,
    "mean of a stratified sample, uncertain rows oversampled": weighted_sample,
    "prediction-powered win rate from such a sample": prediction_powered_sample,
    "win rate of a slice, several rows per prompt": slice_of_policies,
    "expected reward of best-of-4": best_of_four,
    "win rate over three training runs": three_runs,
}


WIDE = ("win rate over three training runs",)
"""Intervals that may hold the truth more often than stated: the spread between runs contains a part of that within one."""


def coverage(world: str, draws: int, seed: int = 0) -> float:
    """Share of draws whose interval holds the truth."""
    generator, inside = np.random.default_rng(seed), 0
    for _ in range(draws):
        estimate, truth = WORLDS[world](generator)
        inside += estimate.low <= truth <= estimate.high
    return inside / draws
