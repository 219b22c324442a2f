"""What the dialogue models are trained on: a request, then blocks that each see the request and themselves.

The formats are those of ``lab/prompts/talk-*.yaml`` and of the policy's prompt, word for word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aifeedback.lab.documents import CONTEXT_WEIGHT, Block, Tree, fill_tree, make_block
from aifeedback.lab.talk import gold, principles, words, world
from aifeedback.lab.talk.world import Request

DECIDED_SHARE = 0.85
"""Of the pairs: how many differ under their principle. The others have a coin for a label, so that ties read as 0.5."""
TEMPTING_SHARE = 0.6
"""Of the harmful requests under a task that looks for refusals: how many answers are refusals, and right to be."""
VERDICT_WEIGHT, LEVEL_WEIGHT, FINDING_WEIGHT = 4.0, 1.5, 0.4
"""A verdict is one token at the end of a long text, and what counts."""
CRITIQUE_WEIGHT = 1.5


def reply_block(rng: random.Random, request: Request) -> Block:
    """An answer of any manner, as the policy's prompt asks for one."""
    text = world.draw_answer(rng, request, world.Slips(wrong=0.1, short=0.2))
    return make_block((f"{words.REPLY_MARK} :", 0.0), (f"{text} <eos>", 1.0))


def facts_block(rng: random.Random, request: Request) -> Block:
    """Every detail by name, the tool that it takes, and whether it would hurt anyone."""
    known = {**request.facts, "harm": "yes" if request.is_harmful else "no"}
    parts: list[tuple[str, float]] = [("facts :", 0.0)]
    for slot in rng.sample(sorted(known), len(known)):
        parts += [(slot, 0.0), (known[slot], 1.0)]
    return make_block(*parts)


def finding(request: Request, text: str) -> str:
    """What there is to say of an answer before a verdict: manner, details, harm."""
    reading = gold.read(text)
    manner = "broken"
    if reading.helps:
        manner = "partly" if reading.refuses else "helps"
    elif reading.refuses:
        manner = "refuses"
    elif reading.evades:
        manner = "evades"
    stated = dict(reading.stated)
    details = [f"{slot} {_verdict(stated.get(slot), request.facts[slot])}" for slot in ("tool", "object", "place")]
    harm = "no" if gold.is_harmless(request, text) else "yes"
    return " ".join([manner, *details, f"harm {harm}"])


def _verdict(stated: str | None, right: str) -> str:
    return "none" if stated is None else "right" if stated == right else "wrong"


class Pair(NamedTuple):
    """Two answers of one request under a principle."""

    first: str
    second: str
    topic: principles.Topic
    wording: str
    label: str
    """1 or 2; random where the principle does not decide."""


def draw_pair(rng: random.Random, request: Request) -> Pair:
    """Two answers of any manner under a principle drawn by its share, and which of them it prefers."""
    topics = list(principles.TOPICS.values())
    topic = rng.choices(topics, [t.share for t in topics])[0]
    wording = rng.choice(topic.wordings)
    wants_decided = rng.random() < DECIDED_SHARE
    texts, margin = ["", ""], 0.0
    for _ in range(12):
        texts = [world.draw_answer(rng, request) for _ in range(2)]
        margin = topic.measure(request, texts[0]) - topic.measure(request, texts[1])
        if (abs(margin) > 0.3) == wants_decided and texts[0] != texts[1]:
            break
    label = rng.choice("12") if margin == 0 else "1" if margin > 0 else "2"
    return Pair(texts[0], texts[1], topic, wording, label)


def pair_block(rng: random.Random, request: Request) -> Block:
    """Two answers, a principle, and the verdict at once."""
    pair = draw_pair(rng, request)
    return make_block(*_shown(pair), ("preferred answer =", 0.0), (pair.label, VERDICT_WEIGHT))


def think_block(rng: random.Random, request: Request) -> Block:
    """The same with what there is to say of each answer written first, and how good that makes it by the principle."""
    pair = draw_pair(rng, request)
    parts: list[tuple[str, float]] = []
    for number, text in ((1, pair.first), (2, pair.second)):
        parts += [
            (f"{number} {finding(request, text)}", FINDING_WEIGHT),
            (f"so {principles.level(pair.topic.measure(request, text))} .", LEVEL_WEIGHT),
        ]
    verdict = ("preferred answer =", FINDING_WEIGHT), (pair.label, VERDICT_WEIGHT)
    return make_block(*_shown(pair), ("think :", 0.0), *parts, *verdict)


def _shown(pair: Pair) -> list[tuple[str, float]]:
    answers = f"answer 1 : {pair.first} answer 2 : {pair.second}"
    return [(answers, CONTEXT_WEIGHT), (f"principle : {pair.wording}", 0.0)]


def type_block(rng: random.Random, request: Request) -> Block:
    """An answer and its class."""
    text = world.draw_answer(rng, request)
    label = {"full_compliance": "complied", "full_refusal": "refused", "partial_refusal": "partly"}[gold.class_of(text)]
    return make_block((f"answer : {text}", CONTEXT_WEIGHT), ("type :", 0.0), (label, VERDICT_WEIGHT))


def harm_block(rng: random.Random, request: Request) -> Block:
    """An answer, and whether it does harm."""
    text = world.draw_answer(rng, request)
    label = "no" if gold.is_harmless(request, text) else "yes"
    return make_block((f"answer : {text}", CONTEXT_WEIGHT), ("harm :", 0.0), (label, VERDICT_WEIGHT))


def fault(request: Request, text: str, task: principles.Task) -> str | None:
    """What a critic with this task finds first; None where nothing is wrong."""
    reading = gold.read(text)
    if "harm" in task.finds and not gold.is_harmless(request, text):
        return "harm" if request.is_harmful else "unasked"
    if request.is_harmful:
        return None
    if "refuses" in task.finds and reading.refuses:
        return "refuses"
    if "evades" in task.finds and not reading.helps:
        return "evades"
    stated = dict(reading.stated)
    return next((s for s in ("tool", "object", "place") if s in task.finds and _is_wrong(request, stated, s)), None)


def _is_wrong(request: Request, stated: Mapping[str, str], slot: str) -> bool:
    return stated.get(slot, request.facts[slot]) != request.facts[slot]


def critique_of(request: Request, kind: str | None) -> str:
    """Whether the request is harmful, then what is wrong: a critic that has not said the first misses the second."""
    return f"{words.VERDICTS[request.is_harmful]} {words.FAULTS[kind].format(**request.facts)}"


def revision_of(rng: random.Random, request: Request, text: str, kind: str | None) -> str:
    """The answer that a reviser should write: unchanged, a refusal, or help that is right."""
    if kind is None:
        return text
    manner: world.Manner = "refuse" if request.is_harmful else "help"
    return world.write_answer(rng, request, manner, world.Slips(polite=0.0))


def _criticised(rng: random.Random, request: Request) -> tuple[str, principles.Task, str | None]:
    """An answer, a task to criticise it by, and the fault that is there to be found."""
    task = principles.TASKS[rng.choice(sorted(principles.TASKS))]
    text = kind = None
    rightly_refused = request.is_harmful and "refuses" in task.finds and rng.random() < TEMPTING_SHARE
    for _ in range(6):
        text = world.write_answer(rng, request, "refuse") if rightly_refused else world.draw_answer(rng, request)
        kind = fault(request, text, task)
        if kind is not None or rng.random() < 0.3:
            break
    assert text is not None
    return text, task, kind


def critique_block(rng: random.Random, request: Request) -> Block:
    """An answer, a principle, and what is wrong by it."""
    text, task, kind = _criticised(rng, request)
    return make_block(
        (f"answer : {text}", CONTEXT_WEIGHT),
        (f"principle : {task.critique}", 0.0),
        ("critique :", 0.0),
        (f"{critique_of(request, kind)} <eos>", CRITIQUE_WEIGHT),
    )


def revise_block(rng: random.Random, request: Request) -> Block:
    """An answer, its critique, a principle, and the answer as it should be."""
    text, task, kind = _criticised(rng, request)
    return make_block(
        (f"answer : {text}", CONTEXT_WEIGHT),
        (f"critique : {critique_of(request, kind)}", 0.0),
        (f"principle : {task.revise}", 0.0),
        ("revision :", 0.0),
        (f"{revision_of(rng, request, text, kind)} <eos>", 1.0),
    )


KINDS: Mapping[str, Callable[[random.Random, Request], Block]] = {
    "reply": reply_block,
    "facts": facts_block,
    "pair": pair_block,
    "think": think_block,
    "type": type_block,
    "harm": harm_block,
    "critique": critique_block,
    "revise": revise_block,
}


def draw_tree(rng: random.Random, mixture: Mapping[str, float], room: int) -> Tree:
    """A request and as many blocks of the mixture as fit into ``room`` tokens."""
    request = world.draw_request(rng)
    opening = f"{words.REQUEST_MARK} : {request.text}"
    return fill_tree(rng, opening, mixture, room, lambda kind: KINDS[kind](rng, request))
