"""Best-of-n, the judge's answers and revisions as rows: only what is known is chosen, the rest is counted."""

from __future__ import annotations

import pytest

from aifeedback.training.examples import best_of_n, final_revisions, judge_answers
from aifeedback.types import Completion, Problem, Prompt, Reply, Revision

PROMPTS = [Prompt.of(f"question {i}") for i in range(3)]


def test_best_of_n_never_picks_an_unscored_sample() -> None:
    samples = [[Completion.of(p, f"{p.text} {i}", source="policy") for i in range(3)] for p in PROMPTS]
    scores = [[0.1, None, 0.3], [None, None, float("nan")], [0.5, 0.5, 0.2]]
    chosen = best_of_n(PROMPTS, samples, scores)
    assert [row.completion.text for row in chosen.rows] == ["question 0 2", "question 2 0"]
    assert chosen.dropped == 1
    assert len(best_of_n(PROMPTS, samples, scores, keep=2).rows) == 4
    with pytest.raises(ValueError, match="3 completions but 2 scores"):
        best_of_n(PROMPTS, samples, [[0.1, 0.2]] * 3)


def test_judge_answers_leave_out_refusals_and_cut_answers() -> None:
    replies = [
        Reply(text="good", finish_reason="stop"),
        Reply(text="", problem=Problem.REFUSED),
        Reply(text="cut off", finish_reason="length"),
    ]
    chosen = judge_answers(PROMPTS, replies, source="judge")
    assert [(row.completion.text, row.completion.source) for row in chosen.rows] == [("good", "judge")]
    assert chosen.dropped == 2


def test_only_the_last_round_counts() -> None:
    def revision(prompt: Prompt, round_: int, after: str, problem: Problem | None = None) -> Revision:
        return Revision(
            prompt_id=prompt.id, round=round_, principle_id="p", before="b", critique="c", after=after, problem=problem
        )

    revisions = [
        revision(PROMPTS[0], 2, "second"),
        revision(PROMPTS[0], 1, "first"),
        revision(PROMPTS[1], 1, "fine"),
        revision(PROMPTS[1], 2, "", Problem.EMPTY),
    ]
    chosen = final_revisions(PROMPTS, revisions, source="revised")
    assert [row.completion.text for row in chosen.rows] == ["second"]
    assert chosen.dropped == 2
