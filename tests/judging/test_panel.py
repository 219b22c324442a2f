"""Several labelers as one: what they say together, and how far they are apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from aifeedback.errors import InputError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.judging.panel import Panel, disagreement, learn_weights
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Judgement, Preference, Problem

from .judge_stub import StubModel, better_longer, pairs


class Fixed:
    """Always says the same."""

    def __init__(self, name: str, p_first: float | None) -> None:
        self.name, self._p = name, p_first

    def label(self, comparisons: list[Comparison]) -> list[Preference]:
        problem = None if self._p is not None else Problem.REFUSED
        return [
            Preference(
                comparison_id=c.id,
                source=self.name,
                p_first=self._p,
                position_gap=0.1,
                problem=problem,
                judgements=(
                    Judgement(
                        comparison_id=c.id,
                        judge=self.name,
                        shown_swapped=False,
                        readout="gold",
                        p_first=self._p,
                        problem=problem,
                    ),
                ),
            )
            for c in comparisons
        ]


def said(*values: float | None, **how: object) -> Preference:
    members = [Fixed(f"judge {i}", p) for i, p in enumerate(values)]
    return Panel(members, **how).label(pairs(1))[0]


def test_mean_median_and_weights() -> None:
    assert said(0.9, 0.6, 0.3).p_first == pytest.approx(0.6)
    assert said(0.9, 0.7, 0.1, combine="median").p_first == 0.7
    assert said(0.9, 0.1, weights=[3, 1]).p_first == pytest.approx(0.7)
    assert said(0.9, 0.1).position_gap == pytest.approx(0.1)


def test_the_disagreement_is_kept() -> None:
    preference = said(0.9, 0.8, 0.3)
    apart = disagreement(preference)
    assert apart.by_judge == {"judge 0": 0.9, "judge 1": 0.8, "judge 2": 0.3}
    assert apart.spread == pytest.approx(0.6)
    assert apart.minority == pytest.approx(1 / 3)
    assert disagreement(said(0.9, None, quorum=1)) is None


def test_a_quorum() -> None:
    assert (said(0.9, 0.7, None).p_first, said(0.9, 0.7, None).problem) == (None, Problem.MISSING)
    assert said(0.9, 0.7, None, quorum=2).p_first == pytest.approx(0.8)
    assert said(0.9, None, None, quorum=2).p_first is None


def test_too_far_apart_is_not_a_verdict() -> None:
    assert said(0.9, 0.2, max_spread=0.5).problem is Problem.DISAGREEMENT
    assert said(0.9, 0.2, max_spread=0.8).p_first == pytest.approx(0.55)


def test_members_are_asked_about_every_pair() -> None:
    members = [JudgeLabeler(StubModel(better_longer), JudgePrompt.load(f"helpful-{v}")) for v in ("base", "detailed")]
    preferences = Panel(members, name="both").label(pairs(3))
    assert [len(p.judgements) for p in preferences] == [4, 4, 4]
    assert preferences[0].source == "both"
    assert len(disagreement(preferences[0]).by_judge) == 2


def test_learned_weights_are_the_likelihoods_maximum() -> None:
    random = np.random.default_rng(0)
    truth = random.random(400) < 0.5
    noise = [0.5, 1.5, 4.0]
    p = np.array([1 / (1 + np.exp(-((truth * 2 - 1) * 1.0 + random.normal(0, sd, 400)))) for sd in noise])
    human = truth.astype(float)
    weights = learn_weights(p, human)
    assert weights.sum() == pytest.approx(1)
    assert weights[0] == max(weights)

    def loss(free: np.ndarray) -> float:
        w = np.exp(free) / np.exp(free).sum()
        mean = np.clip(w @ p, 1e-9, 1 - 1e-9)
        return float(-np.mean(human * np.log(mean) + (1 - human) * np.log1p(-mean)))

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000})
    assert loss(np.log(np.maximum(weights, 1e-12))) <= best.fun + 1e-6


def test_what_makes_no_panel() -> None:
    with pytest.raises(InputError, match="different names"):
        Panel([Fixed("a", 0.5), Fixed("a", 0.5)])
    with pytest.raises(InputError, match="quorum of 3"):
        said(0.5, 0.5, quorum=3)
    with pytest.raises(InputError, match="one per member"):
        said(0.5, 0.5, weights=[1.0])
    with pytest.raises(InputError, match=r"shape \(M, N\)"):
        learn_weights(np.zeros((2, 3)), np.zeros(4))
