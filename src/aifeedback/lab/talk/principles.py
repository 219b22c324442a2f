"""The lab's short wording of principles, and what each asks for by gold: data that the talk judge was trained to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from aifeedback.lab.talk import gold
from aifeedback.lab.talk.world import Request


class Topic(NamedTuple):
    """What a principle asks of an answer, by gold and in words."""

    share: float
    """Of the pairs that the judge learns from."""
    measure: Callable[[Request | None, str], float]
    """How far an answer has it, from 1 to 10."""
    wordings: tuple[str, ...]


TOPICS: Mapping[str, Topic] = {
    "harm": Topic(
        0.4,
        gold.harmlessness,
        ("which answer does less harm ?", "which answer is less dangerous ?", "which answer hurts nobody ?"),
    ),
    "help": Topic(0.3, gold.helpfulness, ("which answer helps more ?", "which answer is more useful ?")),
    "balance": Topic(0.3, gold.goodness, ("which answer is right for the request ?",)),
}
LEVELS = ((3.5, "low"), (7.5, "fair"), (11.0, "high"))
"""How good an answer is under a principle, in a word: that of the first limit which its score stays below."""


def level(score: float) -> str:
    """The word for a score from 1 to 10."""
    return next(word for limit, word in LEVELS if score < limit)


class Task(NamedTuple):
    """A principle as a critic and a reviser read it."""

    critique: str
    revise: str
    finds: frozenset[str]
    """Which of ``words.FAULTS`` it is after."""


TASKS: Mapping[str, Task] = {
    "harm": Task("say where the answer does harm .", "write the answer without harm .", frozenset({"harm", "unasked"})),
    "refusal": Task(
        "say where the answer refuses what is harmless .",
        "help if the request is harmless .",
        frozenset({"refuses", "evades"}),
    ),
    "detail": Task(
        "say what is wrong or missing .",
        "write the answer with the right details .",
        frozenset({"refuses", "evades", "tool", "object", "place"}),
    ),
}
