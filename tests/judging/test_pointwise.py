"""Direct scores, rubrics, and pair labels made from two ratings."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.errors import StandardsError
from aifeedback.judging.pairwise import Rationale, p_from_ratings, softmax
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler, RubricScorer
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.rubric import Rubric
from aifeedback.types import Completion, Problem, Prompt

from .judge_stub import StubModel, flat, pair, pairs

RATING, GOODBAD = JudgePrompt.load("rating"), JudgePrompt.load("goodbad")
PROMPT = Prompt.of("the question")


def answers(*texts: str) -> list[Completion]:
    return [Completion.of(PROMPT, text, source="policy") for text in texts]


def by_length(text: str) -> list[float]:
    """Peaks at one point per three characters of the response."""
    response = text.split("Response:\n")[1].split("\n\n")[0].removeprefix("> ")
    return [-((label - len(response) / 3) ** 2) / 4 - 0.5 for label in range(1, 11)]


def test_the_expected_rating_becomes_the_reward() -> None:
    [score] = JudgeScorer(StubModel(by_length), RATING).score([PROMPT], answers("x" * 15))
    p = np.array(softmax([-((i - 5) ** 2) / 4 for i in range(1, 11)]))
    assert score.distribution == pytest.approx(p, abs=1e-12)
    assert score.expected == pytest.approx(float(p @ np.arange(1, 11)), abs=1e-12)
    assert score.value == pytest.approx((2 * score.expected - 11) / 9, abs=1e-12)
    assert (score.coverage, score.call_id, score.judge) == (0.9, "call 1", "stub:judge rating")


def test_scores_keep_the_order_over_batches() -> None:
    texts = ["x" * n for n in (3, 9, 15, 21, 27)]
    seen: list[int] = []
    scorer = JudgeScorer(StubModel(by_length), RATING, batch_size=2, progress=lambda done, *_: seen.append(done))
    values = [score.value for score in scorer.score([PROMPT] * 5, answers(*texts))]
    assert values == sorted(values)
    assert seen == [2, 4, 5]


def test_good_and_bad() -> None:
    [score] = JudgeScorer(StubModel(lambda text: (-0.2, -1.9)), GOODBAD).score([PROMPT], answers("fine"))
    good, bad = softmax([-0.2, -1.9])
    assert score.value == pytest.approx(good - bad)
    assert (score.expected, score.distribution) == (None, None)


@pytest.mark.parametrize("problem", [Problem.REFUSED, Problem.SERVER_ERROR, Problem.TOO_LONG])
def test_what_could_not_be_asked_has_no_score(problem: Problem) -> None:
    [score] = JudgeScorer(StubModel(lambda text: problem), RATING).score([PROMPT], answers("x"))
    assert (score.value, score.expected, score.distribution, score.problem) == (None, None, None, problem)


def test_a_hidden_label_counts_as_zero_only_within_the_allowed_mass() -> None:
    seen = [np.log(0.1), None, None, *[np.log(0.112)] * 7]  # 0.884 seen; the stub states a coverage of 0.9

    def scored(hidden_mass: float) -> object:
        return JudgeScorer(StubModel(lambda text: seen), RATING, hidden_mass=hidden_mass).score([PROMPT], answers("x"))[
            0
        ]

    assert scored(0.0).problem is Problem.LABEL_HIDDEN
    assert scored(0.05).problem is Problem.LABEL_HIDDEN
    kept = scored(0.2)
    assert kept.distribution[1:3] == (0, 0)
    assert sum(kept.distribution) == pytest.approx(1)


def test_evidence_first_then_the_rating() -> None:
    words = {
        "name": "evidence",
        "task": "rating",
        "labels": list(range(1, 11)),
        "sample": "post : {{ context }} summary : {{ response }}",
        "ending": "rating :",
        "rationale_request": "check :",
        "rationale_stop": ["rating"],
        "rationale_max_tokens": 64,
        "between": " ",
        "quote": "none",
        "chat": False,
    }
    model = StubModel(lambda text: [-float(i) for i in range(10)], lambda *_: " person aunt uncle wrong . ")
    scorer = JudgeScorer(model, JudgePrompt.read(words), rationale=Rationale())
    [score] = scorer.score([PROMPT], answers("my uncle"))
    assert flat(model.sampled[0][0]) == "post : the question summary : my uncle check :"
    assert model.sampled[0][1].stop == ("rating",)
    assert model.sampled[0][1].max_new_tokens == 64
    assert model.prompts == ["post : the question summary : my uncle check : person aunt uncle wrong . rating :"]
    assert score.rationale == "person aunt uncle wrong ."


def test_several_rationales_average_their_distributions() -> None:
    model = StubModel(
        lambda text: [-0.1 if text.endswith(f"{i} times\n\nRating=") else -5.0 for i in range(1, 11)],
        lambda text, sampling: f"good {sampling.seed % 2 + 1} times",
    )
    scorer = JudgeScorer(model, RATING, rationale=Rationale(samples=8, temperature=1.0), seed=2)
    [score] = scorer.score([PROMPT], answers("x"))
    assert len(model.prompts) == 8
    ones = sum("good 1 times" in flat(p) for p in model.prompts)
    assert 0 < ones < 8
    assert score.distribution[0] > score.distribution[2]
    assert score.distribution[1] > score.distribution[2]


def test_pair_labels_from_ratings() -> None:
    scorer = JudgeScorer(StubModel(by_length), RATING)
    comparison = pair(first="x" * 20, second="x" * 10)
    [one, other] = RatingLabeler(scorer).label([comparison, comparison.swapped()])
    first, second = scorer.score([comparison.prompt] * 2, [comparison.first, comparison.second])
    assert one.p_first == p_from_ratings(first.distribution, second.distribution) > 0.5
    assert other.p_first == 1 - one.p_first
    assert one.position_gap is None
    assert one.judgements[0].readout == "ratings"


def test_a_completion_is_rated_once() -> None:
    model = StubModel(by_length)
    a, b, c = answers("xxx", "xxxxxx", "xxxxxxxxx")
    from aifeedback.types import Comparison

    RatingLabeler(JudgeScorer(model, RATING)).label([Comparison.of(PROMPT, *two) for two in ((a, b), (b, c), (a, c))])
    assert len(model.prompts) == 3


def test_one_unread_rating_leaves_the_pair_unknown() -> None:
    scorer = JudgeScorer(StubModel(lambda t: by_length(t) if "> first" in t else Problem.TIMEOUT), RATING)
    [preference] = RatingLabeler(scorer).label(pairs(1))
    assert (preference.p_first, preference.problem) == (None, Problem.MISSING)
    both = RatingLabeler(JudgeScorer(StubModel(lambda t: Problem.TIMEOUT), RATING)).label(pairs(1))
    assert both[0].problem is Problem.TIMEOUT


def test_pair_labels_from_good_and_bad() -> None:
    # P(good) 0.9 and 0.2: first good and second bad 0.72, ties 0.18 + 0.08; 0.72 + 0.13 = 0.85
    def read(text: str) -> tuple[float, float]:
        good = 0.9 if "> first" in text else 0.2
        return float(np.log(good)), float(np.log(1 - good))

    [preference] = RatingLabeler(JudgeScorer(StubModel(read), GOODBAD)).label(pairs(1))
    assert preference.p_first == pytest.approx(0.85)


def read_criterion(text: str) -> list[float]:
    top = 9 if "Helpful." in text.split("Criterion:")[1] else 3
    return [-0.1 if label == top else -8.0 for label in range(1, 11)]


def test_a_rubric_is_the_weighted_mean_of_its_criteria() -> None:
    rubric = Rubric.load("general")
    scorer = RubricScorer(StubModel(read_criterion), JudgePrompt.load("criterion-rating"), rubric.rating_wordings())
    scores = scorer.score_all([PROMPT], answers("x"))
    assert list(scores.by_criterion) == [f"general@1.0/{c.id}" for c in rubric.criteria]
    expected = [own[0].expected for own in scores.by_criterion.values()]
    weights = [c.weight for c in rubric.criteria]
    assert scores.total[0].expected == pytest.approx(np.average(expected, weights=weights))
    assert scores.total[0].judge == "stub:judge criterion-rating general@1.0"


def test_one_unread_criterion_leaves_the_total_unknown() -> None:
    def read(text: str) -> object:
        return Problem.REFUSED if "Honest." in text else read_criterion(text)

    criteria = Rubric.load("general").rating_wordings()
    [score] = RubricScorer(StubModel(read), JudgePrompt.load("criterion-rating"), criteria).score(
        [PROMPT], answers("x")
    )
    assert (score.value, score.problem) == (None, Problem.MISSING)


def test_what_cannot_work_is_reported_before_anything_is_asked() -> None:
    with pytest.raises(StandardsError, match="is for pairwise"):
        JudgeScorer(StubModel(), JudgePrompt.load("helpful-base"))
    with pytest.raises(StandardsError, match="the criterion do not fit"):
        JudgeScorer(StubModel(), JudgePrompt.load("criterion-rating"))
    with pytest.raises(StandardsError, match="the criterion do not fit"):
        RubricScorer(StubModel(), RATING, Rubric.load("general").rating_wordings())
