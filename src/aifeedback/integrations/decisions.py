"""Answers to typed questions from a judge or a reward model: what ``serve`` says on /v1/systemone and /v1/decisions.

A *choice* question over responses: the state is the prompt, the options are the responses. A reward model answers with
the softmax of its rewards, which for two responses is the Bradley–Terry probability that it was trained on; a judge
with P(first better) from the two rating distributions. A *score* question about one response: the state holds prompt
and response, the levels are the judge's own scale; its distribution over the ratings is the answer.

Whatever cannot be answered by such a probability is refused with the reason: none is made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.types import Comparison, Completion, Labeler, Prompt, RewardFn, Scorer

Probabilities = Sequence[float] | None
"""Of the options, in their order; None where unknown."""


class Unanswerable(ValueError):
    """A question that this server has no probabilities for, or that is not a question."""


class Decider(NamedTuple):
    """What answers; None for a kind of question that it has no probabilities for."""

    choose: Callable[[Prompt, Sequence[str]], Probabilities] | None = None
    rate: Callable[[Prompt, str, int], Probabilities] | None = None
    """(prompt, response, number of levels)."""


class Question(NamedTuple):
    name: str
    kind: str
    options: Sequence[str]
    """What the answer calls its options."""
    texts: Sequence[str]
    """What they stand for: the responses of a choice, the levels of a score."""


def by_reward_model(reward: RewardFn) -> Decider:
    """Choices by the softmax of rewards. A reward has no scale of levels."""

    def choose(prompt: Prompt, texts: Sequence[str]) -> Probabilities:
        context = [m.model_dump() for m in prompt.messages] if prompt.is_dialogue else prompt.text
        rewards = reward([context] * len(texts), list(texts))
        known = [value for value in rewards if value is not None]
        if len(known) < len(texts):
            return None
        weights = [math.exp(value - max(known)) for value in known]
        return [weight / math.fsum(weights) for weight in weights]

    return Decider(choose=choose)


def by_judge(labeler: Labeler, scorer: Scorer) -> Decider:
    """Choices between two responses by the judge's preference, ratings on the judge's own scale."""

    def choose(prompt: Prompt, texts: Sequence[str]) -> Probabilities:
        if len(texts) != 2:
            raise Unanswerable(f"a judge compares two responses, not {len(texts)}")
        first, second = (Completion.of(prompt, text, source="request") for text in texts)
        p = labeler.label([Comparison.of(prompt, first, second)])[0].p_first
        return None if p is None else [p, 1.0 - p]

    def rate(prompt: Prompt, text: str, levels: int) -> Probabilities:
        score = scorer.score([prompt], [Completion.of(prompt, text, source="request")])[0]
        if score.value is None:
            return None
        if score.distribution is None or len(score.distribution) != levels:
            own = len(score.distribution) if score.distribution else "no"
            raise Unanswerable(f"the judge's scale has {own} levels, the question {levels}")
        return score.distribution

    return Decider(choose, rate)


# ---------------------------------------------------------------- requests and answers


def systemone(body: Mapping[str, Any], decider: Decider, model: str) -> dict[str, Any] | None:
    """The answer to a System One request; None where the judge could not tell. Raises Unanswerable."""
    questions = body.get("questions")
    if not isinstance(questions, Mapping) or not questions:
        raise Unanswerable("'questions' must map names to questions")
    answers: dict[str, Any] = {}
    for name, question in questions.items():
        one = _question(name, question, question.get("criteria") if isinstance(question, Mapping) else None)
        values = _decide(body.get("state"), one, decider)
        if values is None:
            return None
        keys = one.options if one.kind == "choice" else [str(level) for level in range(len(values))]
        shown: dict[str, Any] = {"probabilities": dict(zip(keys, values, strict=True))}
        if one.kind == "score":
            shown["legend"] = dict(zip(keys, one.texts, strict=True))
        answers[name] = {"type": one.kind, one.kind: _value(one, values), "confidence": confidence(values), **shown}
    return {"model": model, "answers": answers, "usage": {"input_tokens": 0, "output_tokens": 0}}


def decisions(body: Mapping[str, Any], decider: Decider, model: str) -> dict[str, Any] | None:
    """The answer to a Decisions request; None where the judge could not tell. Raises Unanswerable."""
    questions = body.get("questions")
    if not isinstance(questions, list) or not questions:
        raise Unanswerable("'questions' must be a list of questions")
    answers = []
    for question in questions:
        name = question.get("name") if isinstance(question, Mapping) else None
        one = _question(str(name or ""), question, _criteria(question))
        values = _decide(body.get("input"), one, decider)
        if values is None:
            return None
        if one.kind == "choice":
            listed = [{"value": v, "probability": p} for v, p in zip(one.options, values, strict=True)]
        else:
            listed = [
                {"value": n, "label": label, "probability": p}
                for n, (label, p) in enumerate(zip(one.options, values, strict=True))
            ]
        answer = {"type": one.kind, "name": name, one.kind: _value(one, values), "probabilities": listed}
        answers.append({**answer, "confidence": confidence(values)})
    return {"model": model, "answers": answers, "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}}


def confidence(values: Sequence[float]) -> float:
    """1 where one option has all the probability, 0 where all are alike: (K·max − 1)/(K − 1)."""
    return (len(values) * max(values) - 1.0) / (len(values) - 1.0)


def _criteria(question: Any) -> Any:
    """A Decisions question's options in System One's form."""
    if not isinstance(question, Mapping):
        return None
    kind, entry = ("choices", "value") if question.get("type") == "choice" else ("levels", "label")
    listed = question.get(kind)
    if not isinstance(listed, list) or not all(
        isinstance(e, Mapping) and isinstance(e.get(entry), str) for e in listed
    ):
        return None
    if kind == "levels":
        return [e[entry] for e in listed]
    return {e[entry]: e.get("description") for e in listed}


def _question(name: str, question: Any, criteria: Any) -> Question:
    kind = question.get("type") if isinstance(question, Mapping) else None
    if kind not in ("choice", "score"):
        raise Unanswerable(f"question '{name}' is of type {kind!r}; choice and score are answered here")
    if kind == "choice" and isinstance(criteria, Mapping) and len(criteria) > 1:
        if all(isinstance(text, str) and text != key for key, text in criteria.items()):
            return Question(name, kind, list(criteria), list(criteria.values()))
        raise Unanswerable(f"question '{name}': the text of each option must be the response that it stands for")
    if kind == "score" and isinstance(criteria, list) and len(criteria) > 1:
        levels = [str(level) for level in criteria]
        return Question(name, kind, levels, levels)
    raise Unanswerable(f"question '{name}' needs two options or more")


def _decide(state: Any, question: Question, decider: Decider) -> Probabilities:
    if question.kind == "choice":
        if decider.choose is None:
            raise Unanswerable("this reward has no probabilities of responses; serve a judge or a reward model")
        return decider.choose(_prompt(state), question.texts)
    if decider.rate is None:
        raise Unanswerable("a reward has no scale of levels; serve a judge to answer score questions")
    if not isinstance(state, Mapping) or not isinstance(state.get("response"), str):
        raise Unanswerable('a score question needs the state {"prompt": …, "response": "…"}')
    return decider.rate(_prompt(state), state["response"], len(question.options))


def _prompt(state: Any) -> Prompt:
    prompt = state.get("prompt") if isinstance(state, Mapping) else state
    try:
        if isinstance(prompt, str | list) and prompt:
            return Prompt.of(prompt)
    except ValueError:
        pass
    raise Unanswerable('the state must be the prompt (a text or messages), or {"prompt": …, "response": …}')


def _value(question: Question, values: Sequence[float]) -> Any:
    """The likeliest option, or the probability-weighted mean level, from 0."""
    if question.kind == "choice":
        return question.options[max(range(len(values)), key=values.__getitem__)]
    return math.fsum(level * p for level, p in enumerate(values))
