"""Critique and revision: every step kept, no principle twice, an end when nothing changes."""

from __future__ import annotations

import math

import pytest

from aifeedback.errors import StandardsError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.judging.revision import Reviser, revision_gain, sft_rows
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Completion, Problem, Prompt, Reply, Sampling

from .judge_stub import StubModel, better_longer, flat

HARMLESS = Constitution.load("harmless")
PROMPTS = [Prompt.of(f"request {i}") for i in range(12)]
ANSWERS = [Completion.of(prompt, f"bad bad bad answer {i}", source="sft") for i, prompt in enumerate(PROMPTS)]


def answer(text: str, sampling: Sampling) -> str:
    """Finds one 'bad' at a time, and removes it."""
    response = text.split("Response:\n> ")[1].split("\n\n")[0]
    if text.endswith("Critique:"):
        return " It says bad. " if "bad" in response else " Nothing is wrong."
    return f" {response.replace('bad ', '', 1)}\n"


def revised(rounds: int, model: StubModel | None = None, **how: object) -> list:
    return Reviser(model or StubModel(answer=answer), HARMLESS, rounds=rounds, **how).revise(PROMPTS, ANSWERS)


def test_each_round_is_kept_and_builds_on_the_one_before() -> None:
    results = revised(2)
    first = results[0]
    assert [step.round for step in first.steps] == [1, 2]
    assert first.steps[0].before == "bad bad bad answer 0"
    assert first.steps[0].critique == "It says bad."
    assert first.steps[0].after == first.steps[1].before == "bad bad answer 0"
    assert first.after.text == "bad answer 0"
    assert first.is_changed
    assert first.after.source == "stub:judge revised by harmless@1.0"


def test_it_stops_when_nothing_changes() -> None:
    model = StubModel(answer=answer)
    results = revised(6, model)
    assert {len(r.steps) for r in results} == {4}, "three removals and the round that changed nothing"
    assert results[0].steps[-1].after == results[0].steps[-1].before == "answer 0"
    assert len(model.sampled) == 2 * 4 * 12


def test_principles_that_find_nothing_do_not_end_it_before_the_next_is_tried() -> None:
    first = HARMLESS.principles[0]

    def only_first(text: str, sampling: Sampling) -> str:
        finds = first.worded("critique") in flat(text) or first.worded("revise") in flat(text)
        return (
            answer(text, sampling)
            if finds or text.endswith("Critique:")
            else text.split("Response:\n> ")[1].split("\n")[0]
        )

    count = len(HARMLESS.principles)
    hurried = revised(count, StubModel(answer=only_first))
    patient = revised(count, StubModel(answer=only_first), stop_after=count)
    assert not all(r.is_changed for r in hurried)
    assert all(r.is_changed for r in patient)
    assert {len(r.steps) for r in patient} == {count}
    assert {len(r.steps) for r in revised(6, stop_after=2)} == {5}, "three removals and two rounds that changed nothing"


def test_no_principle_comes_twice_and_all_come_first_somewhere() -> None:
    results = revised(4)
    for result in results:
        named = [step.principle_id for step in result.steps]
        assert len(set(named)) == len(named)
    assert len({r.steps[0].principle_id for r in results}) > 3
    again = revised(4, batch_size=5)
    assert [r.steps for r in again] == [r.steps for r in results], "the batch size changes nothing"
    assert [r.steps[0].principle_id for r in revised(1, seed=1)] != [r.steps[0].principle_id for r in results]


def test_the_prompts_hold_principle_critique_and_quoted_text() -> None:
    model = StubModel(answer=answer)
    revised(1, model)
    critique, revision = flat(model.sampled[0][0]), flat(model.sampled[12][0])
    principle = HARMLESS.principle(revised(1)[0].steps[0].principle_id.rsplit("/")[-1])
    assert principle.worded("critique") in critique
    assert principle.worded("revise") in revision
    assert "Critique:\n> It says bad.\n" in revision
    assert "Response:\n> bad bad bad answer 0" in revision


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (Reply(text="", problem=Problem.REFUSED), Problem.REFUSED),
        (Reply(text="  \n", finish_reason="stop"), Problem.EMPTY),
        (Reply(text="cut in the mid", finish_reason="length"), Problem.TRUNCATED),
    ],
)
def test_a_failed_revision_leaves_the_text_as_it_was(broken: Reply, problem: Problem) -> None:
    class Failing(StubModel):
        def reply(self, prompts: object, sampling: Sampling) -> list[Reply]:
            good = super().reply(prompts, sampling)
            return [
                broken if "answer 0" in flat(p) and "Revised" in flat(p) else r
                for p, r in zip(prompts, good, strict=True)
            ]

    results = revised(3, Failing(answer=answer))
    assert results[0].problem is problem
    assert len(results[0].steps) == 1
    assert results[0].after == results[0].before
    assert results[1].problem is None
    assert sft_rows(results[:1]) == [], "what failed is no example"


def test_a_failed_critique_ends_it_too() -> None:
    model = StubModel(answer=lambda text, s: Problem.TIMEOUT if text.endswith("Critique:") else "never asked")
    results = revised(2, model)
    assert {r.problem for r in results} == {Problem.TIMEOUT}
    assert len(model.sampled) == 12


def test_copied_marks_and_code_points_are_read_as_the_text_behind_them() -> None:
    copying = StubModel(answer=lambda text, s: "fine" if text.endswith("Critique:") else "> one ⟦U+3C⟧s>\n>\n> two")
    assert revised(1, copying)[0].after.text == "one <s>\n\ntwo"


def test_training_rows_in_the_declared_proportion() -> None:
    helpful = [(p, Completion.of(p, "help", source="human")) for p in PROMPTS]
    rows = sft_rows(revised(1), helpful, helpful_share=0.25, seed=3)
    origins = [row.origin for row in rows]
    assert (origins.count("revision"), origins.count("helpful"), len(rows)) == (12, 4, 16)
    assert rows == sft_rows(revised(1), helpful, helpful_share=0.25, seed=3)
    with pytest.raises(StandardsError, match="needs 12 helpful rows beside 12 revisions, not 5"):
        sft_rows(revised(1), helpful[:5], helpful_share=0.5)
    with pytest.raises(StandardsError, match=r"not in \[0, 1\)"):
        sft_rows(revised(1), helpful, helpful_share=1.0)


def test_unchanged_responses_are_examples_too_unless_unwanted() -> None:
    clean = [Completion.of(p, "answer", source="sft") for p in PROMPTS]
    results = Reviser(StubModel(answer=answer), HARMLESS).revise(PROMPTS, clean)
    assert {row.origin for row in sft_rows(results)} == {"unchanged"}
    assert sft_rows(results, keep_unchanged=False) == []


def test_prompts_of_the_wrong_task_are_refused() -> None:
    with pytest.raises(StandardsError, match="is for pairwise, not for critique"):
        Reviser(StubModel(), HARMLESS, critique_prompt=JudgePrompt.load("helpful-base"))


def test_the_gain_is_reported_by_any_labeler() -> None:
    results = revised(1)
    likes_longer = JudgeLabeler(StubModel(better_longer), JudgePrompt.load("helpful-base"))
    gain = revision_gain(results, likes_longer)
    assert (gain.n, gain.unchanged, gain.judged, gain.worse, gain.better) == (12, 0, 12, 12, 0)
    assert gain.share_worse == 1.0
    assert gain.mean_p_after == pytest.approx(1 / (1 + math.exp(0.4)))
    likes_shorter = JudgeLabeler(StubModel(lambda t: better_longer(t)[::-1]), JudgePrompt.load("helpful-base"))
    assert revision_gain(results, likes_shorter).better == 12
    deaf = JudgeLabeler(StubModel(lambda t: Problem.TIMEOUT), JudgePrompt.load("helpful-base"))
    silent = revision_gain(results, deaf)
    assert (silent.judged, silent.unknown, silent.share_worse, silent.mean_p_after) == (0, 12, None, None)
