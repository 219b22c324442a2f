"""The dialogue world: requests that hold three details, and answers of every kind. Pure Python, seeded; scores nothing.

A hash of action and object decides the split of a request, so no model was trained on a test request's combination.
"""

from __future__ import annotations

import random
import zlib
from typing import Literal, NamedTuple, TypeAlias

from aifeedback.lab.talk import words
from aifeedback.lab.world import SHARES, Split

Kind: TypeAlias = Literal["benign", "contrast", "harmful"]
"""contrast: sounds dangerous, hurts nobody (the shape of XSTest's safe prompts)."""
Manner: TypeAlias = Literal["help", "refuse", "evade", "partly"]
KIND_SHARES: dict[Kind, float] = {"benign": 0.4, "contrast": 0.25, "harmful": 0.35}
KINDNESS_SHARE = 0.3
"""Of the benign requests: how many are about people."""


class Request(NamedTuple):
    kind: Kind
    action: str
    object: str
    place: str
    text: str

    @property
    def is_harmful(self) -> bool:
        return self.kind == "harmful"

    @property
    def facts(self) -> dict[str, str]:
        return {
            "action": self.action,
            "object": self.object,
            "place": self.place,
            "tool": words.TOOL_OF[self.action],
        }


class Slips(NamedTuple):
    """What may happen to an answer that helps; every field is a probability per answer."""

    wrong: float = 0.0
    """One of its details is another one."""
    short: float = 0.0
    """The place is left out."""
    polite: float = 0.3
    """A courtesy is added."""
    cut: float = 0.0
    """It breaks off before its end."""


CAREFUL = Slips()
CARELESS = Slips(wrong=0.3, short=0.25, cut=0.05)


def kind_of(action: str, target: str) -> Kind:
    """What a request for this action on this target is."""
    if action not in words.DANGEROUS:
        return "benign"
    return "harmful" if target in words.PEOPLE else "contrast"


def split_of(action: str, target: str) -> Split:
    """The split that every request for this action on this target is in."""
    place = zlib.crc32(f"{action} {target}".encode()) % 100
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares of the splits add up to 100")


def draw_request(rng: random.Random, split: Split = "build", kind: Kind | None = None) -> Request:
    """A request of about 16 words."""
    kind = kind or rng.choices(list(KIND_SHARES), list(KIND_SHARES.values()))[0]
    while True:
        if kind == "harmful":
            action, target = rng.choice(tuple(words.DANGEROUS)), rng.choice(words.PEOPLE)
        elif kind == "contrast":
            action, target = rng.choice(tuple(words.DANGEROUS)), rng.choice(words.TARGETS)
        elif rng.random() < KINDNESS_SHARE:
            action, target = rng.choice(tuple(words.KINDNESSES)), rng.choice(words.PEOPLE)
        else:
            action, target = rng.choice(tuple(words.CHORES)), rng.choice(words.THINGS)
        if split_of(action, target) == split:
            break
    place = rng.choice(words.PLACES)
    text = rng.choice(words.REQUESTS).format(action=action, object=target, place=place)
    if rng.random() < 0.5:
        text = f"{rng.choice(words.GREETINGS)} {text}"
    return Request(kind, action, target, place, text)


def write_answer(rng: random.Random, request: Request, manner: Manner, slips: Slips = CAREFUL) -> str:
    """An answer of this manner, whatever the request deserves."""
    if manner == "help":
        return _cut(rng, _help(rng, request, slips), slips.cut)
    if manner == "evade":
        return " ".join(rng.sample(words.EVADE, rng.choice((1, 1, 2))))
    refusal = rng.choice(words.REFUSE).format(**request.facts)
    if manner == "partly":
        return f"{refusal} {_help(rng, request, slips._replace(polite=0.0))}"
    return f"{refusal} {rng.choice(words.OFFER)}" if rng.random() < 0.4 else refusal


def _help(rng: random.Random, request: Request, slips: Slips) -> str:
    stated = dict(request.facts)
    if rng.random() < slips.wrong:
        slot = rng.choice(("tool", "tool", "object", "place"))
        stated[slot] = rng.choice([v for v in words.VALUES[slot] if v != stated[slot]])
    forms = words.HELP_SHORT if rng.random() < slips.short else words.HELP
    text = rng.choice(forms).format(**stated)
    if rng.random() < slips.polite:
        polite = rng.choice(words.POLITE)
        text = f"{text} {polite}" if polite == "good luck ." else f"{polite} {text}"
    return text


def _cut(rng: random.Random, text: str, rate: float) -> str:
    tokens = text.split()
    if rng.random() >= rate or len(tokens) < 4:
        return text
    return " ".join(tokens[: rng.randrange(len(tokens) // 2, len(tokens) - 1)])


ANY_MANNER: dict[Manner, float] = {"help": 0.5, "refuse": 0.25, "evade": 0.15, "partly": 0.1}
START_MANNERS: dict[Kind, dict[Manner, float]] = {
    "benign": {"help": 0.8, "refuse": 0.08, "evade": 0.12},
    "contrast": {"help": 0.6, "refuse": 0.3, "evade": 0.1},
    "harmful": {"help": 0.5, "refuse": 0.35, "evade": 0.05, "partly": 0.1},
}
"""What the demonstrations hold that a policy starts from: it does harm about as often as not, and refuses too much."""


def draw_answer(rng: random.Random, request: Request, slips: Slips = CARELESS) -> str:
    """An answer of any manner: what a judge has to be ready for."""
    manner = rng.choices(list(ANY_MANNER), list(ANY_MANNER.values()))[0]
    return write_answer(rng, request, manner, slips)


def draw_demonstration(rng: random.Random, request: Request) -> str:
    """An answer as the starting policy's training data hold it."""
    manners = START_MANNERS[request.kind]
    return write_answer(rng, request, rng.choices(list(manners), list(manners.values()))[0], CARELESS)
