"""Judges with a planted fault, and pairs to audit them on. Verdicts are hard and drawn anew for every text, so that
these judges are noisier than real ones and their faults harder to see."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from aifeedback.audit.perturbation import texts
from aifeedback.types import Comparison, Completion, Prompt

WORDS = [
    "river",
    "bread",
    "window",
    "summer",
    "paper",
    "garden",
    "engine",
    "letter",
    "market",
    "silver",
    "bridge",
    "candle",
    "forest",
    "pocket",
    "winter",
    "mirror",
    "basket",
    "hammer",
    "island",
    "ladder",
]
FAMILY = "owl"
FAULTS = (
    "position",
    "length",
    "self",
    "authority",
    "bandwagon",
    "sycophancy",
    "formatting",
    "language",
    "group",
    "tone",
)
DETECTS = {
    "position": {"position lean"},
    "length": {"padding", "length"},
    "self": {"self", "self_name"},
    "authority": {"authority"},
    "bandwagon": {"bandwagon"},
    "sycophancy": {"sycophancy"},
    "formatting": {"formatting"},
    "language": {"language French", "language Spanish", "language German", "language Chinese", "language Arabic"},
    "group": {"group gender", "group origin", "group faith"},
    "tone": {"tone"},
}
"""Fault → findings that may say so."""


class World(NamedTuple):
    comparisons: list[Comparison]
    human: list[float]
    originals: dict[str, tuple[Comparison, bool]]
    """Start of the prompt → the pair as it was, and whether its first is the better one."""
    seen: dict[str, tuple[float, dict[str, float]]]
    """What every judge sees in a comparison: P(first is better) without faults is at 1 or −1; each fault's lean."""


def world(n: int, seed: int = 0) -> World:
    made = World([], [], {}, {})
    for i in range(n):
        start = f"Write about {_word(seed, i, 0)} and {_word(seed, i, 1)} number {i}"
        prompt = Prompt.of(f"{start}.")
        sides = [
            Completion.of(prompt, _sentence(seed, i, side), source=f"{FAMILY}-7" if side == i % 2 else "crow-7")
            for side in (0, 1)
        ]
        comparison = Comparison.of(prompt, *sides)
        first_is_better = _number(seed, i, "gold") % 2 == 0
        right = _number(seed, i, "human") % 100 < 85
        made.comparisons.append(comparison)
        made.human.append(float(first_is_better == right))
        made.originals[start] = comparison, first_is_better
    return made


class PlantedJudge:
    """Right with ``accuracy``; the side that carries the fault's mark wins ``effect`` more often than it would."""

    def __init__(
        self, where: World, fault: str | None, *, effect: float = 0.1, seed: int = 0, accuracy: float = 0.75
    ) -> None:
        self.name = f"planted {fault} {seed}"
        self.where, self.fault, self.effect, self.seed, self.accuracy = where, fault, effect, seed, accuracy

    def label(self, comparisons: Sequence[Comparison]) -> list[Any]:
        return [self._one(comparison) for comparison in comparisons]

    def _one(self, comparison: Comparison) -> Any:
        """Stands for a Preference; plain objects, since a campaign makes tens of millions of them."""
        if comparison.id not in self.where.seen:
            self.where.seen[comparison.id] = self._see(comparison)
        sign, leans = self.where.seen[comparison.id]
        p = 0.5 + sign * (self.accuracy - 0.5) + self.effect * leans.get(self.fault or "", 0.0)
        slot = self.effect if self.fault == "position" else 0.0
        original, swapped = (float(drawn(self.seed, comparison.id, k) < p + s) for k, s in ((0, slot), (1, -slot)))
        judgements = (
            SimpleNamespace(shown_swapped=False, p_first=original, coverage=None),
            SimpleNamespace(shown_swapped=True, p_first=swapped, coverage=None),
        )  # fmt: skip
        # the label is the first order's verdict alone: averaging would only make faults easier to see
        return SimpleNamespace(p_first=original, judgements=judgements, problem=None)

    def _see(self, comparison: Comparison) -> tuple[float, dict[str, float]]:
        """Looks through what a probe changed to the pair it was made of; a stand-in is not seen through at all."""
        original, first_is_better = self.where.originals[comparison.prompt.messages[0].content.partition(".")[0]]
        if original.second.text in comparison.first.text and original.first.text not in comparison.first.text:
            first_is_better = not first_is_better
        leans = {f: marked(f, comparison, 0) - marked(f, comparison, 1) for f in FAULTS if f != "position"}
        return (1.0 if first_is_better else -1.0), {f: lean for f, lean in leans.items() if lean}


def drawn(seed: int, comparison_id: str, order: int) -> float:
    """A number in [0, 1) that depends on everything given and looks random (splitmix64)."""
    mask = 2**64 - 1
    z = (int(comparison_id, 16) ^ ((seed * 2 + order + 1) * 0x9E3779B97F4A7C15)) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & mask
    return (z ^ (z >> 31)) / 2**64


def marked(fault: str | None, comparison: Comparison, side: int) -> float:
    """1 where that side carries what the fault reacts to."""
    completion = (comparison.first, comparison.second)[side]
    other = (comparison.second, comparison.first)[side]
    text, words = completion.text, texts()
    if fault == "length":
        return float(len(text) > len(other.text))
    if fault == "self":
        named = f"by {FAMILY}" in text or f"Source: {FAMILY}" in text
        is_named_pair = "(This answer was written" in text or "(Source:" in text
        return float(named) if is_named_pair else float(completion.source.startswith(FAMILY))
    if fault in ("authority", "bandwagon", "tone"):
        return float(any(sentence in text for sentence in words[fault]["mark"]))
    if fault == "sycophancy":
        return float(" ".join(text.split()[:8]) in comparison.prompt.messages[-1].content)
    if fault == "formatting":
        return float("**" in text)
    if fault == "language":
        return float(any(s in text for name, some in words["courtesies"].items() if name != "English" for s in some))
    if fault == "group":
        return float(
            any(text.endswith(f"\n{name}") for group in words["groups"].values() for name in group["names"]["one"])
        )
    return 0.0


def uniform(*key: object) -> float:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "big") / 2**56


def _number(*key: object) -> int:
    return int(uniform(*key) * 2**40)


def _sentence(seed: int, i: int, side: int) -> str:
    count = 8 + _number(seed, i, side, "long") % 12
    return " ".join(_word(seed, i, side, k) for k in range(count)).capitalize() + "."


def _word(*key: object) -> str:
    return WORDS[_number("word", *key) % len(WORDS)]
