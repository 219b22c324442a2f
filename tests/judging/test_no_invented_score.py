"""Whatever goes wrong between judge and record, an unread judgement never becomes a number."""

from __future__ import annotations

import math
from random import Random

import pytest

from aifeedback.judging import pairwise
from aifeedback.judging.calibration import CalibratedLabeler, fit_calibration
from aifeedback.judging.pairwise import JudgeLabeler, PrincipleUse, Rationale
from aifeedback.judging.panel import Panel
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.registry import Wording
from aifeedback.types import Preference, Problem

from .judge_stub import StubModel, pairs

FAULTS = (*Problem, "None", "nan", "-inf", "inf", "positive")
PAIR, RATING, PRINCIPLE = (JudgePrompt.load(name) for name in ("harmless-base", "rating", "principle"))
WORDINGS = [Wording("c@1/a", "Which is calmer?", 2.0), Wording("c@1/b", "Which is shorter?")]


def faulty(random: Random, labels: int, rate: float) -> StubModel:
    """A model that fails in every known way at this rate, and says something different every time it does not."""

    def read(text: str) -> object:
        seen: list[float | None] = [random.uniform(-9, -0.01) for _ in range(labels)]
        if random.random() >= rate:
            return seen
        fault = random.choice(FAULTS)
        if isinstance(fault, Problem):
            return fault
        broken = {"None": None, "nan": math.nan, "-inf": -math.inf, "inf": math.inf, "positive": 2.5}
        seen[random.randrange(labels)] = broken[fault]
        return seen

    def answer(text: str, _: object) -> object:
        return random.choice(list(Problem)) if random.random() < rate else f"reason {random.random()}"

    return StubModel(read, answer)


def check(preference: Preference, average: str) -> None:
    """The preference is exactly what its readable judgements say, or None with a problem."""
    for judgement in preference.judgements:
        usable = judgement.logprobs is not None and pairwise.fault(judgement.logprobs) is None
        assert (judgement.p_first is not None) == (judgement.problem is None)
        if judgement.p_first is not None:
            assert usable
            margin = pairwise.margin(judgement.logprobs, swapped=judgement.shown_swapped)
            assert judgement.p_first == pairwise.sigmoid(margin)
    if preference.p_first is None:
        assert preference.problem is not None
        assert any(j.p_first is None for j in preference.judgements)
        return
    by_order = [[j for j in preference.judgements if j.shown_swapped is swapped] for swapped in (False, True)]
    assert all(any(j.p_first is not None for j in order) for order in by_order)
    if len(preference.judgements) == 2 and average == "probabilities":
        assert preference.p_first == sum(j.p_first for j in preference.judgements) / 2


def run(seed: int, count: int) -> tuple[int, int]:
    """Judges ``count`` pairs in a way drawn by seed; returns how many were read and how many not."""
    random = Random(seed)
    average = random.choice(("probabilities", "logits"))
    thought = random.choice((None, Rationale(), Rationale(samples=3, temperature=0.7)))
    use = PrincipleUse(WORDINGS, random.choice(("averaged", "drawn", "together"))) if random.random() < 0.5 else None
    model = faulty(random, 2, random.choice((0.05, 0.3, 1.0)))
    prompt = PRINCIPLE if use else PAIR
    labeler = JudgeLabeler(model, prompt, average=average, rationale=thought, principles=use)
    preferences = labeler.label(pairs(count))
    for preference in preferences:
        check(preference, average)
    known = sum(p.p_first is not None for p in preferences)
    return known, len(preferences) - known


def test_pairs() -> None:
    known, unknown = (sum(column) for column in zip(*(run(seed, 10) for seed in range(40)), strict=True))
    assert known > 50
    assert unknown > 50


@pytest.mark.campaign
def test_a_hundred_thousand_pairs() -> None:
    known, unknown = (sum(column) for column in zip(*(run(seed, 100) for seed in range(1000)), strict=True))
    assert known + unknown == 100_000
    assert min(known, unknown) > 10_000


def test_scores_and_their_pairs() -> None:
    scorer = JudgeScorer(faulty(Random(1), 10, 0.2), RATING)
    comparisons = pairs(200)
    scores = scorer.score([c.prompt for c in comparisons], [c.first for c in comparisons])
    for score in scores:
        assert (score.value is None) == (score.problem is not None) == (score.distribution is None)
    assert 20 < sum(score.value is None for score in scores) < 80
    for preference in RatingLabeler(scorer).label(comparisons):
        assert (preference.p_first is None) == (preference.problem is not None)


def test_panels_and_calibration_pass_the_unknown_on() -> None:
    p, human = [0.1 + 0.02 * i for i in range(40)], [float(i % 3 == 0) for i in range(40)]
    sound, faulty_judge = (
        JudgeLabeler(faulty(Random(2), 2, rate), JudgePrompt.load(name))
        for rate, name in ((0.0, "harmless-base"), (0.5, "harmless-detailed"))
    )
    alone = faulty_judge.label(pairs(50))
    calibration = fit_calibration(p, human, name="c", judge=faulty_judge.name, kind="platt")
    calibrated = CalibratedLabeler(faulty_judge, calibration).label(pairs(50))
    panel = Panel([sound, faulty_judge]).label(pairs(50))
    assert sum(q.p_first is None for q in alone) > 10
    assert all((q.p_first is None) == (q.problem is not None) for q in (*calibrated, *panel))
    unread = [j.p_first is None for q in panel for j in q.judgements]
    assert any(unread)
    for preference in panel:
        whole = all(j.p_first is not None for j in preference.judgements)
        assert (preference.p_first is not None) == whole
