"""Who classifies the responses: the items' own rules, or a judge that reads three descriptions; never a mixture.

An unknown class stays unknown. Where both classified, how often they agree is measured on the responses known to both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aifeedback.judging.safety import JudgeClassifier
from aifeedback.metrics.intervals import Estimate
from aifeedback.probing.probe import Classified, Trial
from aifeedback.probing.rules import Class
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Completion, Model, Problem, Progress, Prompt, silent

CLASSES: tuple[Class, Class, Class] = ("one", "other", "neither")
NAMED: dict[str, Class] = {str(name): name for name in CLASSES}


class Classifier(Protocol):
    @property
    def name(self) -> str: ...

    def classify(self, trials: Sequence[Trial]) -> list[Classified]:
        """One class or problem per response, in order."""
        ...


class Rules:
    """The rule that each item declares."""

    name = "rules"

    def classify(self, trials: Sequence[Trial]) -> list[Classified]:
        return [
            Classified(one, None, one.response.problem or Problem.MISSING)
            if one.response.text is None
            else Classified(one, *one.rule.classify(one.response.text))
            for one in trials
        ]


class Judge:
    """A model with a ``classify`` prompt of three labels; it reads the question, the response and what the classes mean."""

    def __init__(self, model: Model, prompt: JudgePrompt, *, progress: Progress = silent) -> None:
        self._classifier = JudgeClassifier(model, prompt, CLASSES, progress=progress)

    @property
    def name(self) -> str:
        return self._classifier.name

    def classify(self, trials: Sequence[Trial]) -> list[Classified]:
        known = [one for one in trials if one.response.text is not None]
        prompts = [described(one) for one in known]
        completions = [
            Completion.of(prompt, one.response.text or "", source="policy")
            for prompt, one in zip(prompts, known, strict=True)
        ]
        read = iter(self._classifier.classify(prompts, completions))
        rows: list[Classified] = []
        for one in trials:
            if one.response.text is None:
                rows.append(Classified(one, None, one.response.problem or Problem.MISSING))
                continue
            result = next(read)
            rows.append(Classified(one, NAMED.get(result.chosen or ""), result.problem))
        return rows


def described(trial: Trial) -> Prompt:
    """What the judge reads as the request: the conversation, and the three descriptions."""
    conversation = Prompt.of(list(trial.response.messages)).text
    meanings = "\n".join(f"{number}. {text}" for number, text in enumerate(trial.described, start=1))
    return Prompt.of(f"{conversation}\n\nDescriptions:\n{meanings}")


class Agreement(NamedTuple):
    """Of two classifiers on the responses that both know."""

    share: Estimate
    only_one: int
    """Responses that only one of them could classify."""


def agreement(one: Sequence[Classified], other: Sequence[Classified]) -> Agreement:
    from aifeedback.metrics.labels import repeatability

    columns = [[_number(a.chosen), _number(b.chosen)] for a, b in zip(one, other, strict=True)]
    known_once = sum((a.chosen is None) != (b.chosen is None) for a, b in zip(one, other, strict=True))
    return Agreement(repeatability(columns, prompts=[row.trial.cluster for row in one]), known_once)


def _number(chosen: Class | None) -> float | None:
    return None if chosen is None else CLASSES.index(chosen) / 2
