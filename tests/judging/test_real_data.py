"""The same calls on real data and a real Hugging Face folder, tiny and random: loading, templates, long inputs.

Nothing here says anything about quality. Skipped where the data sets are not beside the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aifeedback import data
from aifeedback.judging.pairwise import JudgeLabeler, Rationale, use_of
from aifeedback.judging.pointwise import JudgeScorer, RatingLabeler
from aifeedback.judging.principles import inspect, labeler_for
from aifeedback.judging.revision import Reviser
from aifeedback.judging.safety import REFUSAL_CLASSES, JudgeClassifier
from aifeedback.judging.sampling import sample_completions
from aifeedback.models import connect
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Problem, Prompt, Sampling
from small_models import bpe_llama

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if not (loop.last and m.role == 'assistant') %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    """A Llama of a few thousand weights with a byte-level tokenizer and a chat template."""
    texts = [prompt.text for prompt in data.read_prompts(real_data / "xstest" / "xstest_prompts.csv")[:200]]
    special = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    out = tmp_path_factory.mktemp("tiny")
    return bpe_llama(out, texts, vocabulary=600, width=16, layers=1, template=TEMPLATE, special=special)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return connect(f"hf:{folder}")


@pytest.fixture(scope="module")
def dialogues(real_data: Path) -> list[Comparison]:
    return data.read_comparisons(real_data / "hh_rlhf_harmless_base" / "test.jsonl.gz", 0, limit=6).rows


@pytest.fixture(scope="module")
def requests(real_data: Path) -> list[Prompt]:
    return data.read_prompts(real_data / "xstest" / "xstest_prompts.csv")[:4]


@pytest.mark.parametrize("chat", [False, True])
def test_dialogues_are_judged(model: Any, dialogues: list[Comparison], chat: bool) -> None:
    prompt = JudgePrompt.load("harmless-detailed").with_shots(1)
    preferences = JudgeLabeler(model, prompt, chat=chat).label(dialogues)
    for preference in preferences:
        assert preference.problem in (None, Problem.TOO_LONG)
        if preference.p_first is not None:
            one, other = preference.judgements
            assert preference.p_first == (one.p_first + other.p_first) / 2
            assert 0 < one.coverage < 1
    assert any(p.p_first is not None for p in preferences)


def test_what_does_not_fit_is_counted_not_cut(model: Any, dialogues: list[Comparison]) -> None:
    eight = JudgePrompt.load("harmless-detailed").with_shots(8)
    preferences = JudgeLabeler(model, eight, chat=False).label(dialogues)
    assert {p.problem for p in preferences} == {Problem.TOO_LONG}
    assert all(p.p_first is None for p in preferences)


def test_constitution_chain_of_thought_and_ratings(model: Any, dialogues: list[Comparison]) -> None:
    use = use_of(Constitution.load("harmless"))
    thought = Rationale(max_tokens=8)
    labeler = JudgeLabeler(model, JudgePrompt.load("principle"), principles=use, rationale=thought, clamp=(0.4, 0.6))
    for preference in labeler.label(dialogues[:3]):
        assert preference.p_first is None or 0.4 <= preference.p_first <= 0.6
        assert all(j.principle_id.startswith("harmless@1.0/") for j in preference.judgements)
    rated = RatingLabeler(JudgeScorer(model, JudgePrompt.load("rating"))).label(dialogues[:3])
    assert all((p.p_first is None) == (p.problem is not None) for p in rated)
    assert any(p.p_first is not None for p in rated)


def test_requests_are_answered_revised_and_sorted(model: Any, requests: list[Prompt]) -> None:
    drawn = sample_completions(model, requests, per_prompt=2, sampling=Sampling(max_new_tokens=6, seed=1))
    assert drawn == sample_completions(model, requests, per_prompt=2, sampling=Sampling(max_new_tokens=6, seed=1))
    by_id = {prompt.id: prompt for prompt in requests}
    request = [by_id[c.prompt_id] for c in drawn.completions]
    prompts = {name: JudgePrompt.load(name).model_copy(update={"max_tokens": 6}) for name in ("critique", "revise")}
    reviser = Reviser(
        model, Constitution.load("harmless"), critique_prompt=prompts["critique"], revise_prompt=prompts["revise"]
    )
    for result in reviser.revise(request, drawn.completions):
        assert result.steps
        assert result.problem in (None, Problem.TRUNCATED, Problem.EMPTY)
    sorter = JudgeClassifier(model, JudgePrompt.load("refusal"), REFUSAL_CLASSES)
    assert {one.chosen for one in sorter.classify(request, drawn.completions)} <= set(REFUSAL_CLASSES)


def test_a_constitution_is_tried_with_a_model_that_cannot_read_it(model: Any) -> None:
    result = inspect("honest", labeler_for(model, JudgePrompt.load("principle")))
    assert result.findings == []
    assert not result.is_clean, "a random judge fails some of the cases, and is told so"
