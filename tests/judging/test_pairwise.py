"""The judge of pairs over a stub model: orders, rationales, principles, and what happens when something is not read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifeedback.errors import RecipeError, StandardsError
from aifeedback.judging import pairwise
from aifeedback.judging.pairwise import JudgeLabeler, PrincipleUse, Rationale
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.registry import Wording
from aifeedback.types import Message, Problem, Sampling

from .judge_stub import StubModel, better_longer, flat, generated, pair, pairs

PROMPT = JudgePrompt.load("helpful-base")


def test_both_orders_are_asked_and_kept() -> None:
    model = StubModel(better_longer)
    [preference] = JudgeLabeler(model, PROMPT).label([pair(first="a much longer answer", second="short")])
    stored, swapped = preference.judgements
    assert (stored.shown_swapped, swapped.shown_swapped) == (False, True)
    assert stored.logprobs == swapped.logprobs[::-1], "log-probabilities stay as shown"
    assert stored.p_first == swapped.p_first == preference.p_first
    assert preference.p_first > 0.5
    assert preference.position_gap == 0
    assert (stored.call_id, swapped.call_id) == ("call 1", "call 2")
    assert stored.coverage == 0.9


@generated
@given(st.floats(-12, -0.01), st.floats(-12, -0.01))
def test_a_pure_slot_judge_gives_exactly_one_half(first: float, second: float) -> None:
    for average in ("probabilities", "logits"):
        labeler = JudgeLabeler(StubModel(lambda text: (first, second)), PROMPT, average=average)
        assert [p.p_first for p in labeler.label(pairs(3))] == [0.5] * 3


@generated
@given(st.floats(-5, 5), st.floats(-4, 4))
def test_an_additive_position_bias_keeps_its_sign_and_is_undone_by_logits(bias: float, truth: float) -> None:
    def biased(text: str) -> tuple[float, float]:
        is_stored_order = text.index("> first 0") < text.index("> second 0")
        return (bias + (truth if is_stored_order else -truth) - 20, -20.0)

    by_probability = JudgeLabeler(StubModel(biased), PROMPT).label(pairs(1))[0]
    by_logit = JudgeLabeler(StubModel(biased), PROMPT, average="logits").label(pairs(1))[0]
    assert pairwise.logit(by_logit.p_first) == pytest.approx(truth, abs=1e-9)
    if abs(truth) > 1e-9:
        assert (by_probability.p_first > 0.5) == (truth > 0)


def test_swapping_the_pair_gives_one_minus_p() -> None:
    def read(text: str) -> tuple[float, float]:
        return (-len(text.split("Response 1:")[1]) / 50 - 0.3, -0.9)

    for average in ("probabilities", "logits"):
        comparison = pair(first="tall", second="a taller one")
        labeler = JudgeLabeler(StubModel(read), PROMPT, average=average)
        [one], [other] = labeler.label([comparison]), labeler.label([comparison.swapped()])
        assert other.p_first == 1.0 - one.p_first


def test_one_order_is_drawn_by_seed_and_pair_and_not_by_place() -> None:
    comparisons = pairs(64)
    labeler = JudgeLabeler(StubModel(better_longer), PROMPT, orders="one", seed=3)
    shown = {p.comparison_id: p.judgements[0].shown_swapped for p in labeler.label(comparisons)}
    assert 16 < sum(shown.values()) < 48
    again = {p.comparison_id: p.judgements[0].shown_swapped for p in labeler.label(comparisons[::-1])}
    assert shown == again
    assert all(p.position_gap is None for p in labeler.label(comparisons[:2]))


@pytest.mark.parametrize("seen", [(-1.0, None), (-1.0, float("nan")), (3.0, -1.0), Problem.REFUSED, Problem.TIMEOUT])
def test_a_preference_needs_both_orders(seen: object) -> None:
    def read(text: str) -> object:
        return (-0.1, -3.0) if text.index("> first 0") < text.index("> second 0") else seen

    [preference] = JudgeLabeler(StubModel(read), PROMPT).label(pairs(1))
    assert preference.p_first is None
    assert preference.problem is Problem.MISSING
    known, unknown = preference.judgements
    assert known.p_first is not None
    assert unknown.p_first is None
    assert unknown.problem is not None


def test_a_problem_that_both_orders_share_is_named() -> None:
    [preference] = JudgeLabeler(StubModel(lambda text: Problem.TOO_LONG), PROMPT).label(pairs(1))
    assert preference.p_first is None
    assert preference.problem is Problem.TOO_LONG


def test_two_empty_responses_are_not_judged() -> None:
    model = StubModel(better_longer)
    empty, half = JudgeLabeler(model, PROMPT).label([pair(first="", second=" \n"), pair(first="", second="text")])
    assert (empty.p_first, empty.problem) == (None, Problem.EMPTY)
    assert half.p_first < 0.5
    assert len(model.prompts) == 2


def test_labels_that_carry_too_little_probability_are_unreadable() -> None:
    labeler = JudgeLabeler(StubModel(better_longer), PROMPT, min_coverage=0.95)
    assert labeler.label(pairs(1))[0].problem is Problem.UNREADABLE


def test_chain_of_thought_reads_the_same_labels_after_the_rationale() -> None:
    model = StubModel(better_longer, lambda text, sampling: "  it is longer, so\nbetter. ")
    [preference] = JudgeLabeler(model, PROMPT, rationale=Rationale()).label(pairs(1))
    request, sampling = model.sampled[0]
    assert flat(request).endswith("why.\n\nRationale:")
    assert sampling.temperature == 0
    assert sampling.max_new_tokens == 512
    assert model.prompts[0] == f"{request} it is longer, so\nbetter.\n\nPreferred Response="
    assert preference.judgements[0].rationale == "it is longer, so\nbetter."


def test_self_consistency_averages_over_rationales() -> None:
    def answer(text: str, sampling: Sampling) -> str:
        return "one" if sampling.seed % 2 else "two"

    def read(text: str) -> tuple[float, float]:
        return (-0.1, -2.0) if text.split("Rationale:")[1].startswith(" one") else (-2.0, -0.1)

    model = StubModel(read, answer)
    settings = Rationale(samples=6, temperature=0.7, top_k=40)
    [preference] = JudgeLabeler(model, PROMPT, rationale=settings, orders="one", seed=1).label(pairs(1))
    assert len(preference.judgements) == 6
    seeds = {sampling.seed for _, sampling in model.sampled}
    assert len(seeds) == 6
    assert {(s.temperature, s.top_k) for _, s in model.sampled} == {(0.7, 40)}
    known = [j.p_first for j in preference.judgements]
    assert preference.p_first == pytest.approx(sum(known) / 6)


def test_most_rationales_failing_leaves_the_preference_unknown() -> None:
    def answers(failing: int) -> JudgeLabeler:
        count = iter(range(100))
        model = StubModel(better_longer, lambda *_: Problem.REFUSED if next(count) % 4 < failing else "because")
        return JudgeLabeler(model, PROMPT, rationale=Rationale(samples=4, temperature=1.0), orders="one")

    assert answers(2).label(pairs(1))[0].p_first is not None
    assert answers(3).label(pairs(1))[0].problem is Problem.MISSING
    assert answers(4).label(pairs(1))[0].problem is Problem.REFUSED


def test_messages_continue_the_forced_ending() -> None:
    model = StubModel(better_longer, lambda *_: "because", has_chat_template=True)
    JudgeLabeler(model, PROMPT).label(pairs(1))
    user, assistant = model.prompts[0]
    assert (user.role, assistant) == ("user", Message(role="assistant", content="Preferred Response="))
    JudgeLabeler(model, PROMPT, rationale=Rationale()).label(pairs(1))
    assert model.prompts[-1][1].content == "because\n\nPreferred Response="
    JudgeLabeler(model, PROMPT, chat=False).label(pairs(1))
    assert isinstance(model.prompts[-1], str)


CRITERIA = [Wording("c@1/length", "Which is longer?", 3.0), Wording("c@1/first", "Which is shown first?", 1.0)]


def read_criteria(text: str) -> tuple[float, float]:
    return better_longer(text) if "longer?" in text.split("Question:")[1] else (-0.1, -2.4)


def test_each_principle_counts_by_its_weight() -> None:
    prompt = JudgePrompt.load("principle")
    labeler = JudgeLabeler(StubModel(read_criteria), prompt, principles=PrincipleUse(CRITERIA, "averaged"))
    [preference] = labeler.label([pair(first="a very long answer", second="short")])
    assert [j.principle_id for j in preference.judgements] == ["c@1/length"] * 2 + ["c@1/first"] * 2
    by_length = preference.judgements[0].p_first
    assert preference.p_first == pytest.approx((3 * by_length + 0.5) / 4)
    assert preference.position_gap == pytest.approx((0 + pairwise.softmax([-0.1, -2.4])[0] * 2 - 1) / 4)


def test_principles_are_drawn_by_weight_seed_and_pair() -> None:
    comparisons = pairs(200)
    drawn = PrincipleUse(CRITERIA, "drawn", seed=5)
    labeler = JudgeLabeler(StubModel(read_criteria), JudgePrompt.load("principle"), principles=drawn)
    named = [p.judgements[0].principle_id for p in labeler.label(comparisons)]
    assert 120 < named.count("c@1/length") < 180
    assert named[::-1] == [p.judgements[0].principle_id for p in labeler.label(comparisons[::-1])]


def test_all_principles_in_one_prompt() -> None:
    model = StubModel(better_longer)
    use = PrincipleUse(CRITERIA, "together")
    [preference] = JudgeLabeler(model, JudgePrompt.load("principle"), principles=use).label(pairs(1))
    assert "- Which is longer?\n- Which is shown first?" in flat(model.prompts[0])
    assert preference.judgements[0].principle_id == "c@1/all-2"


def test_one_unread_principle_leaves_the_preference_unknown() -> None:
    def read(text: str) -> object:
        return better_longer(text) if "longer?" in text else Problem.REFUSED

    labeler = JudgeLabeler(StubModel(read), JudgePrompt.load("principle"), principles=PrincipleUse(CRITERIA))
    assert labeler.label(pairs(1))[0].problem is Problem.MISSING


def test_clamping_keeps_the_side() -> None:
    labeler = JudgeLabeler(StubModel(better_longer), PROMPT, clamp=(0.4, 0.6))
    first, second = labeler.label([pair(first="long " * 30, second="x"), pair(first="x", second="long " * 30)])
    assert (first.p_first, second.p_first) == (0.6, 0.4)
    assert first.judgements[0].p_first > 0.9, "what was read stays as it was"


def test_batches_give_the_same_labels() -> None:
    comparisons = pairs(7)
    seen: list[tuple[int, int]] = []
    small = JudgeLabeler(StubModel(better_longer), PROMPT, batch_size=3, progress=lambda d, t, f: seen.append((d, t)))
    whole = JudgeLabeler(StubModel(better_longer), PROMPT)
    p_small = [p.p_first for p in small.label(comparisons)]
    assert p_small == [p.p_first for p in whole.label(comparisons)]
    assert seen == [(3, 7), (6, 7), (7, 7)]


def test_what_cannot_work_is_reported_before_anything_is_asked() -> None:
    model = StubModel()
    with pytest.raises(StandardsError, match="is for rating"):
        JudgeLabeler(model, JudgePrompt.load("rating"))
    with pytest.raises(StandardsError, match="give a constitution"):
        JudgeLabeler(model, JudgePrompt.load("principle"))
    with pytest.raises(StandardsError, match="never shows a principle"):
        JudgeLabeler(model, PROMPT, principles=PrincipleUse(CRITERIA))
    with pytest.raises(StandardsError, match="no chain of thought"):
        JudgeLabeler(model, PROMPT.model_copy(update={"rationale_request": None}), rationale=Rationale())
    with pytest.raises(RecipeError, match="did you mean 'orders'"):
        JudgeLabeler(model, PROMPT, order="both")


def test_settings_id_changes_with_anything_that_is_asked_differently() -> None:
    def identity(**how: object) -> str:
        return JudgeLabeler(StubModel(), PROMPT, **how).settings_id

    assert identity() == identity(batch_size=3)
    assert len({identity(), identity(orders="one"), identity(seed=1), identity(rationale=Rationale())}) == 4


def test_the_example_is_what_would_be_asked_first() -> None:
    model = StubModel(better_longer)
    labeler = JudgeLabeler(model, PROMPT)
    example = labeler.example(pair())
    labeler.label([pair()])
    assert example == model.prompts[0]
