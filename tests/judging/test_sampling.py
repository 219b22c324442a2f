"""k answers to each prompt, each from its own seed."""

from __future__ import annotations

from aifeedback.judging.sampling import sample_completions
from aifeedback.types import Problem, Prompt, Sampling

from .judge_stub import StubModel

PROMPTS = [Prompt.of(f"question {i}") for i in range(5)]


def answer(text: str, sampling: Sampling) -> str:
    return f" {text} answered with {sampling.seed}\n"


def test_prompt_by_prompt_with_seeds_of_their_own() -> None:
    model = StubModel(answer=answer)
    sampled = sample_completions(model, PROMPTS, per_prompt=3, sampling=Sampling(temperature=0.9, seed=4))
    assert [c.prompt_id for c in sampled.completions] == [p.id for p in PROMPTS for _ in range(3)]
    assert len({c.text for c in sampled.completions}) == 15
    assert sampled.completions[0].text.startswith(" "), "kept as it came"
    assert {s.temperature for _, s in model.sampled} == {0.9}
    assert sampled.completions[0].source == "stub:judge"


def test_batches_change_nothing() -> None:
    whole = sample_completions(StubModel(answer=answer), PROMPTS, per_prompt=2)
    parts = sample_completions(StubModel(answer=answer), PROMPTS, per_prompt=2, batch_size=2)
    assert whole == parts


def test_what_was_not_answered_is_counted_not_made_up() -> None:
    model = StubModel(answer=lambda text, s: Problem.TIMEOUT if "2" in text else "fine")
    sampled = sample_completions(model, PROMPTS, per_prompt=2)
    assert len(sampled.completions) == 8
    assert [(u.prompt_id, u.sample, u.problem) for u in sampled.unanswered] == [
        (PROMPTS[2].id, 0, Problem.TIMEOUT),
        (PROMPTS[2].id, 1, Problem.TIMEOUT),
    ]
