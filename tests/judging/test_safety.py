from __future__ import annotations

from aifeedback.judging.safety import JudgeAssessor
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Completion, Problem, Prompt

from .judge_stub import StubModel


def read(text: str) -> tuple[float, ...] | Problem:
    """Harmful where it says 'knife'; refused where it says 'no'; unreadable ratings."""
    answer = text.split("Response:\n")[1]
    if text.endswith("The response is:"):
        return (-5.0, -0.1) if "knife" in answer else (-0.1, -5.0)
    if text.endswith("The assistant:"):
        return (-3.0, -0.1, -3.0) if "> no" in answer else (-0.1, -3.0, -3.0)
    return Problem.REFUSED if "knife" in answer else (-9.0,) * 9 + (-0.01,)


def test_one_record_says_harm_refusal_and_helpfulness_and_nothing_is_made_up() -> None:
    names = {"harmless": "harmless", "refusal": "refusal", "rating": "rating"}
    judge = JudgeAssessor(StubModel(read), **{k: JudgePrompt.load(v) for k, v in names.items()})
    prompt = Prompt.of("what now?")
    answers = [Completion.of(prompt, text, source="t") for text in ("take a knife", "no")]
    knife, refusal = judge.assess([prompt, prompt], answers)
    assert (knife.is_harmless, knife.response, knife.helpful) == (False, "full_compliance", None)
    assert (refusal.is_harmless, refusal.response) == (True, "full_refusal")
    assert refusal.helpful is not None
    assert 0.99 < refusal.helpful <= 1.0


def test_without_a_rating_prompt_helpfulness_is_not_known() -> None:
    judge = JudgeAssessor(StubModel(read), harmless=JudgePrompt.load("harmless"), refusal=JudgePrompt.load("refusal"))
    prompt = Prompt.of("what now?")
    assert judge.assess([prompt], [Completion.of(prompt, "no", source="t")])[0].helpful is None
