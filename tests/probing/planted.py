"""Simulated policies with a known behaviour: random but honest at the edge of what is tolerated, or with one planted fault.

Every question of a list is known by its first message, so that the policy answers as a function of item and way. All
chances are independent of the group, the language and the user's opinion, unless that is the planted fault.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from aifeedback.probing import PROBES
from aifeedback.probing.items import shipped_items
from aifeedback.probing.knowledge import MADE_UP, NEEDLESS
from aifeedback.probing.lists import shipped_attacks
from aifeedback.probing.probe import Item
from aifeedback.probing.redteam import REFUSED, SUCCEEDS, ways_of
from aifeedback.types import ModelCard, Reply, Sampling

FAULTS = {
    "opinion": ("opinion",),
    "pressure": ("pressure",),
    "unknowable": ("unknowable",),
    "needless": ("needless ignorance",),
    "language": ("language German",),
    "names": ("names gender",),
    "injection": ("injection",),
    "redteam": ("attacks", *(f"attack {name}" for name in shipped_attacks())),
    "harmless": ("harmless refused",),
}
"""Fault → the probes that should see it."""
WOMEN = {"Anna", "Maria", "Laura", "Julia", "Emily"}
REFUSAL = "I'm sorry, but I can't help with that."


@lru_cache(maxsize=1)
def items() -> Mapping[str, list[Any]]:
    return {name: shipped_items(probe) for name, probe in PROBES.items()}


@lru_cache(maxsize=1)
def questions() -> Mapping[str, tuple[str, Any, str]]:
    """First message → (probe, item, way)."""
    found: dict[str, tuple[str, Any, str]] = {}
    every = items()
    for item in every["opinion"]:
        for way, says in (("neutral", ""), ("one", f"{item.one_says}\n\n"), ("other", f"{item.other_says}\n\n")):
            found[f"{says}{item.prompt}"] = ("opinion", item, way)
    for item in every["knowledge"]:
        found[item.prompt] = ("knowledge", item, "knowable" if item.knowable else "unknowable")
    for item in every["language"]:
        found |= {text: ("language", item, language) for language, text in item.prompts.items()}
    # after the languages: some questions are in both lists
    for item in every["pressure"]:
        found[item.prompt] = ("pressure", item, "first")
    for item in every["injection"]:
        found |= {item.text(way): ("injection", item, way) for way in ("injected", "control")}
    for item in every["redteam"]:
        for way in ways_of(item):
            text = shipped_attacks().get(way, "{request}").replace("{request}", item.prompt)
            found[text] = ("redteam", item, way)
    return found


class PlantedPolicy:
    """``effect``: the chance of the fault above what is tolerated, or the shift of chances between two ways of asking."""

    def __init__(self, seed: int, fault: str | None = None, effect: float = 0.0) -> None:
        self.seed, self.fault, self.effect = seed, fault, effect
        self.card = ModelCard(uri="planted", revision=f"{seed} {fault} {effect}", family="planted")

    def reply(self, prompts: Sequence[Any], sampling: Sampling) -> list[Reply]:
        return [Reply(text=self.says(list(prompt), sampling.seed), finish_reason="stop") for prompt in prompts]

    def chance(self, *key: object) -> float:
        text = "/".join(str(part) for part in (self.seed, *key))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest()) / 2**56

    def extra(self, fault: str) -> float:
        return self.effect if self.fault == fault else 0.0

    def says(self, messages: list[Any], draw: int) -> str:
        first = messages[0].content
        if first not in questions():
            return self.name_request(first, draw)
        probe, item, way = questions()[first]
        return getattr(self, probe)(item, way, messages, draw)

    def opinion(self, item: Item, way: str, _: Any, draw: int) -> str:
        prefers = self.chance(item.id) < 0.5
        if self.chance(item.id, way, draw, "noise") < 0.1:
            prefers = not prefers
        if way != "neutral" and self.chance(item.id, "turns") < self.extra("opinion"):
            prefers = way == "one"
        return str((item.one if prefers else item.other)[0]).capitalize()  # type: ignore[attr-defined]

    def pressure(self, item: Any, _: str, messages: list[Any], draw: int) -> str:
        right = self.chance(item.id, "knows") < 0.9
        if len(messages) > 1:
            text = messages[-1].content
            before = item.right[0].lower() in messages[-2].content.lower()
            right = before if self.chance(item.id, text, draw, "wavers") > 0.03 else not before
            insists = messages[2].content.startswith("Are you sure")
            if insists and len(messages) > 3 and self.chance(item.id, "yields") < self.extra("pressure"):
                right = False
        return f"The answer is {item.right[0] if right else item.wrong[0]}."

    def knowledge(self, item: Any, way: str, _: Any, draw: int) -> str:
        roll = self.chance(item.id, draw)
        admits = roll < NEEDLESS + self.extra("needless") if way == "knowable" else (
            roll >= MADE_UP + self.extra("unknowable")
        )  # fmt: skip
        return "I cannot know that." if admits else f"{ASSERTED.get(item.asserts[0], item.asserts[0])}, surely."

    def language(self, item: Any, way: str, _: Any, draw: int) -> str:
        knows = 0.9 - (self.extra("language") if way == "German" else 0.0)
        return f"{item.right[0]}" if self.chance(item.id, way, draw) < knows else "Zwiebel"

    def injection(self, item: Any, way: str, _: Any, draw: int) -> str:
        if way == "injected" and self.chance(item.id, draw) < 0.02 + self.extra("injection"):
            return f"{item.follows[0]}"
        return f"It says: {item.does[0]}." if not item.does[0].startswith("/") else "It leaves at 14:20."

    def redteam(self, item: Any, way: str, _: Any, draw: int) -> str:
        if way == "harmless":
            refuses = self.chance(item.id, draw) < REFUSED + self.extra("harmless")
        else:
            # some requests succeed more easily than others, under every attack
            ease = 3.0 if self.chance(item.id, "ease") < 0.25 else 1 / 3
            refuses = self.chance(item.id, way, draw) >= SUCCEEDS * ease + self.extra("redteam")
        return REFUSAL if refuses else f"Gladly. About '{item.prompt}': begin with the first step."

    def name_request(self, text: str, draw: int) -> str:
        name = next((name for name in WOMEN if name in text), "")
        plain = " ".join(word for word in text.split() if not word[:1].isupper())
        likely = 0.85 if self.chance(plain) < 0.5 else 0.15
        says_yes = self.chance(text, draw) < likely
        if name and self.chance(text, "refused") < self.extra("names"):
            says_yes = False
        return "Yes." if says_yes else "No."


ASSERTED = {
    "/\\d/": "12", "/[$€£]\\s?\\d/": "$ 80", "/\\b\\d+ (?:people|babies|children|births)/": "80 children",
    "/\\b\\d[\\d,. ]* leaves/": "900 leaves", "/\\b\\d[\\d,. ]* words/": "900 words",
    "/\\b\\d[\\d,. ]* (?:raindrops|drops)/": "900 drops", "/\\b\\d[\\d,. ]* birds/": "900 birds",
    "/\\b\\d[\\d,. ]* people/": "900 people", "/\\d+ years/": "40 years",
}  # fmt: skip
"""A text that each regular expression of the list finds."""
