"""A few human labels and many of a judge's: does the interval hold what people say, on the lab's own labels?

The question is how often people choose the longer of two summaries. Lengths are known beforehand, so this is a win rate
away from one half, and one on which the lab's judge alone is wrong. The judge labels 5,000 pairs once; each draw takes
its human-labelled and its AI-only rows from these with replacement, so that the truth is the mean over the 5,000.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from aifeedback.judging.spec import JudgeSpec
from aifeedback.lab import samples, simulated_raters
from aifeedback.metrics import prediction_powered_win_rate
from aifeedback.steps import connect
from aifeedback.steps.step import Context
from aifeedback.types import Comparison

HUMAN, AI, DRAWS = 200, 5000, 500


def longer_first(comparison: Comparison) -> Comparison:
    one, other = comparison.first, comparison.second
    return comparison if len(one.text) >= len(other.text) else Comparison.of(comparison.prompt, other, one)


class Labels(NamedTuple):
    human: np.ndarray
    """p_first of people, one number per pair."""
    ai: np.ndarray


def labels(pairs: int, folder: Path, *, raters: int, evidence: bool, seed: int = 12) -> Labels:
    """What people and the lab's judge say of the same held-out pairs."""
    made = [longer_first(c) for c in samples.comparisons(pairs, split="test", seed=seed)]
    how = {"prompt": "lab:rating", "by": "ratings", "rationale": True} if evidence else {"prompt": "lab:pairwise"}
    judge = connect.labeler(JudgeSpec.model_validate({"model": "lab:judge", **how}), Context(folder, folder))
    label = [p for start in range(0, pairs, 250) for p in judge.label(made[start : start + 250])]
    human = simulated_raters.SimulatedPeople(seed, raters=raters).label(made)
    return Labels(*(np.array([p.p_first for p in column], dtype=float) for column in (human, label)))


class Covered(NamedTuple):
    coverage: float
    narrower: float
    """Share of draws whose interval is narrower than that of the human labels alone."""
    half_width: float
    half_width_human: float
    correlation: float
    truth: float
    ai_mean: float


def resampled(found: Labels, *, draws: int = DRAWS, human: int = HUMAN, ai: int = AI, seed: int = 0) -> Covered:
    known = ~np.isnan(found.ai)
    y, f = found.human[known], found.ai[known]
    generator, truth = np.random.default_rng(seed), float(y.mean())
    inside, narrower, width, alone = 0, 0, [], []
    for _ in range(draws):
        few, many = generator.integers(len(y), size=human), generator.integers(len(y), size=ai)
        drawn = prediction_powered_win_rate(y[few], f[few], f[many])
        inside += drawn.low <= truth <= drawn.high
        width.append((drawn.high - drawn.low) / 2)
        alone.append((drawn.human_only_high - drawn.human_only_low) / 2)
        narrower += width[-1] < alone[-1]
    return Covered(
        coverage=inside / draws,
        narrower=narrower / draws,
        half_width=float(np.mean(width)),
        half_width_human=float(np.mean(alone)),
        correlation=float(np.corrcoef(y, f)[0, 1]),
        truth=truth,
        ai_mean=float(f.mean()),
    )


@pytest.mark.campaign
@pytest.mark.parametrize("raters", [1, 3])
def test_few_people_and_the_labs_judge(raters: int, tmp_path: Path) -> None:
    result = resampled(labels(AI, tmp_path, raters=raters, evidence=True))
    print(f"prediction-powered, lab, {raters} votes a pair: {result}")
    assert 0.93 <= result.coverage <= 0.97
    assert result.narrower > 0.95
    assert result.half_width < 0.95 * result.half_width_human


@pytest.mark.campaign
def test_few_people_and_a_judge_that_says_little(tmp_path: Path) -> None:
    """Its verdicts without evidence first: next to no gain, and the interval still holds."""
    result = resampled(labels(AI, tmp_path, raters=1, evidence=False))
    print(f"prediction-powered, lab, direct verdicts: {result}")
    assert 0.93 <= result.coverage <= 0.97
    assert result.half_width < 1.01 * result.half_width_human
