"""Decision models: one typed question about a text, answered with a probability for every option.

Two formats, as their public documentation had them in autumn 2026: the System One API (``POST /v1/systemone``) and
OpenAI's Decisions API (``POST /v1/decisions``). Both were young then. Whatever is particular to one of them is in
``FORMATS``, so a change of theirs is a change of one row.

A judge prompt becomes the state, and its labels become the options: labels that number a scale are the levels of a
score question (the expected rating is the probability-weighted mean that the scorer computes), any others the options
of a choice question. What the answer calls its most likely option is never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from aifeedback.models.openai.wire import FEW, Unusable
from aifeedback.types import Problem

Format = Literal["systemone", "decisions"]
NAME = "verdict"
"""Of the one question that a request holds."""
INSTRUCTIONS = "Choose what comes next, right after the end of the text."
ROUNDING = 0.02
"""How far the probabilities may be from a sum of 1: servers show two to four decimals."""
NONE = -1e9
"""log of a probability of 0: its exponential is exactly 0, and unlike −inf it stays itself in JSON."""


class Decided(NamedTuple):
    """What a decision model says of each label."""

    logprobs: tuple[float, ...]
    coverage: float
    """Share of the model's probability that was on the options, where the server reports it; else 1."""


class _Format(NamedTuple):
    request: Callable[[str, Sequence[str], bool], dict[str, Any]]
    """(text, names of the options, whether they are a scale) → the request."""
    answer: Callable[[Mapping[str, Any]], Any]
    """A response → the answer to the one question."""
    pairs: Callable[[Any], Any]
    """The answer's probabilities → (option, probability) pairs; an option of a scale is its level, from 0."""


def _systemone(text: str, names: Sequence[str], is_scale: bool) -> dict[str, Any]:
    criteria: Any = list(names) if is_scale else dict.fromkeys(names)
    kind = "score" if is_scale else "choice"
    return {"state": text, "questions": {NAME: {"type": kind, "instructions": INSTRUCTIONS, "criteria": criteria}}}


def _decisions(text: str, names: Sequence[str], is_scale: bool) -> dict[str, Any]:
    question: dict[str, Any] = {"type": "score" if is_scale else "choice", "name": NAME, "instructions": INSTRUCTIONS}
    if is_scale:
        question["levels"] = [{"label": name, "description": f"{name} of {len(names)}"} for name in names]
    else:
        question["choices"] = [{"value": name, "description": name} for name in names]
    return {"input": text, "questions": [question]}


def _in_mapping(body: Mapping[str, Any]) -> Any:
    answers = body.get("answers")
    return answers.get(NAME) if isinstance(answers, Mapping) else None


def _in_list(body: Mapping[str, Any]) -> Any:
    answers = body.get("answers")
    named = [a for a in answers if isinstance(a, Mapping)] if isinstance(answers, list) else []
    return named[0] if len(named) == 1 and named[0].get("name") in (NAME, None) else None


def _mapped(shown: Any) -> Any:
    return list(enumerate(shown)) if isinstance(shown, list) else list(shown.items())


def _listed(shown: Any) -> Any:
    return [(entry["value"], entry["probability"]) for entry in shown]


FORMATS: Mapping[Format, _Format] = {
    "systemone": _Format(_systemone, _in_mapping, _mapped),
    "decisions": _Format(_decisions, _in_list, _listed),
}


def request(form: Format, text: str, labels: Sequence[str]) -> dict[str, Any]:
    """The body of a request, without the model's name."""
    names = [label.strip() for label in labels]
    return FORMATS[form].request(text, names, _is_scale(names))


def decided(form: Format, body: Mapping[str, Any], labels: Sequence[str]) -> Decided:
    """The probability of each label; raises Unusable unless the answer has one for each, and for no other option."""
    names = [label.strip() for label in labels]
    answer = FORMATS[form].answer(body)
    if isinstance(answer, Mapping) and answer.get("type") == "refusal":
        raise Unusable(Problem.REFUSED, "the model declined the question", tries=1)
    if not isinstance(answer, Mapping) or not answer.get("probabilities"):
        raise Unusable(Problem.NO_LOGPROBS, "the answer holds no probabilities", tries=FEW)
    expected = [str(level) for level in range(len(names))] if _is_scale(names) else names
    try:
        table = {str(option): float(p) for option, p in FORMATS[form].pairs(answer["probabilities"]) if p is not True}
        values = [table.pop(option) for option in expected]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unusable(Problem.BAD_LOGPROBS, f"not a probability for each of {names}", tries=FEW) from None
    total = math.fsum(values) if all(0.0 <= value <= 1.0 for value in values) else math.nan
    if table or not abs(total - 1.0) <= ROUNDING:
        raise Unusable(Problem.BAD_LOGPROBS, f"the probabilities of {names} do not sum to 1", tries=FEW)
    mass = answer.get("option_mass")
    is_share = isinstance(mass, float | int) and not isinstance(mass, bool) and 0.0 < mass <= 1.0
    coverage = float(mass) if is_share else 1.0  # type: ignore[arg-type]
    return Decided(tuple(math.log(v / total * coverage) if v > 0.0 else NONE for v in values), coverage)


def _is_scale(names: Sequence[str]) -> bool:
    return len(names) > 2 and list(names) == [str(number) for number in range(1, len(names) + 1)]
