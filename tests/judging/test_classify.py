"""Sorting responses into classes, and judging pairs with critiques beside them."""

from __future__ import annotations

import pytest

from aifeedback.errors import StandardsError
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.judging.revision import ModelCritic
from aifeedback.judging.safety import REFUSAL_CLASSES, JudgeClassifier
from aifeedback.metrics import safety
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Problem, Prompt

from .judge_stub import StubModel, flat, pair

PROMPT = Prompt.of("How do I kill a process?")
ANSWERS = [Completion.of(PROMPT, text, source="p") for text in ("Run kill.", "I won't.", "I won't, but run kill.")]


def read(text: str) -> list[float] | Problem:
    response = text.split("Response:\n")[1]
    if "silent" in response:
        return Problem.SERVER_ERROR
    refuses, helps = "won't" in response, "Run" in response or "run" in response
    return [
        -0.2 if helps and not refuses else -5,
        -0.2 if refuses and not helps else -5,
        -0.2 if refuses and helps else -5,
    ]


def test_refusals_in_three_classes() -> None:
    classifier = JudgeClassifier(StubModel(read), JudgePrompt.load("refusal"), REFUSAL_CLASSES, batch_size=2)
    result = classifier.classify([PROMPT] * 3, ANSWERS)
    assert [one.chosen for one in result] == list(REFUSAL_CLASSES)
    assert sum(result[0].distribution) == pytest.approx(1)
    rates = safety.refusal_rates([one.chosen for one in result], [True] * 3, classified_by=classifier.name)
    assert rates.over_refusal.value == pytest.approx(2 / 3)


def test_what_was_not_read_has_no_class() -> None:
    classifier = JudgeClassifier(StubModel(read), JudgePrompt.load("refusal"))
    [one] = classifier.classify([PROMPT], [Completion.of(PROMPT, "silent", source="p")])
    assert (one.chosen, one.distribution, one.problem) == (None, None, Problem.SERVER_ERROR)
    assert classifier.classes == ("complied", "refused", "partly")


def test_two_classes_and_other_tasks() -> None:
    classifier = JudgeClassifier(StubModel(lambda text: (-0.1, -3.0)), JudgePrompt.load("harmless"))
    assert classifier.classify([PROMPT], ANSWERS[:1])[0].chosen == "harmless"
    with pytest.raises(StandardsError, match="not for sorting"):
        JudgeClassifier(StubModel(), JudgePrompt.load("rating"))
    with pytest.raises(StandardsError, match="2 classes for 3 labels"):
        JudgeClassifier(StubModel(), JudgePrompt.load("refusal"), ["a", "b"])


def test_critiques_follow_their_response_into_both_orders() -> None:
    def answer(text: str, _: object) -> str | Problem:
        return Problem.TIMEOUT if "answer two" in text else " It is rude. "

    model = StubModel(lambda text: (-0.5, -1.0), answer)
    critic = ModelCritic(model, "Find what is rude.")
    comparison = pair()
    swapped = Comparison.of(comparison.prompt, comparison.second, comparison.first)
    labeler = JudgeLabeler(model, JudgePrompt.load("harmless-critiqued"), critic=critic)
    labeler.label([comparison, swapped])
    assert len(model.sampled) == 2, "each response is criticised once"
    assert "Task:\nFind what is rude." in flat(model.sampled[0][0])
    shown = "Response 1:\n> answer one\n\nRemarks on response 1:\n> It is rude.\n\nResponse 2:\n> answer two"
    assert shown in model.prompts[0]
    assert model.prompts[0].endswith("Remarks on response 2:\n> (none)\n\nPreferred Response=")
    assert "Response 2:\n> answer one\n\nRemarks on response 2:\n> It is rude." in model.prompts[1]
    assert model.prompts[0] == model.prompts[3]


def test_critic_and_prompt_must_fit() -> None:
    with pytest.raises(StandardsError, match="do not fit"):
        JudgeLabeler(StubModel(), JudgePrompt.load("harmless-critiqued"))
    with pytest.raises(StandardsError, match="do not fit"):
        JudgeLabeler(StubModel(), JudgePrompt.load("harmless-base"), critic=ModelCritic(StubModel(), "x"))
    with pytest.raises(StandardsError, match="is for pairwise"):
        ModelCritic(StubModel(), "x", JudgePrompt.load("harmless-base"))


def test_how_a_server_reads_is_recorded() -> None:
    labeler = JudgeLabeler(StubModel(lambda text: (-0.5, -1.0), readout="votes"), JudgePrompt.load("harmless-base"))
    assert [j.readout for j in labeler.label([pair()])[0].judgements] == ["votes"] * 2
