"""The same request in other words that should not matter: another language, or a name that readers take for a group.

**Languages.** One question with one right answer, in several languages; each language is compared with the reference
language over the same items. Value: right answers in that language less right answers in the reference.

**Names.** A request about a person, with first names that readers take for different groups; the response says yes or no.
Value: yes for the first group's names less yes for the other group's, over the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import model_validator

from aifeedback.audit.finding import FEWEST, Finding
from aifeedback.audit.perturbation import texts
from aifeedback.probing.probe import (
    ONE_ALONE,
    Classified,
    Item,
    Policy,
    PolicyProbe,
    Trial,
    effect,
    informative,
    keyed,
    user,
)
from aifeedback.probing.rules import Phrase, Rule
from aifeedback.types import content_id

NAME_PAIRS = 4
"""Pairs of names per request and contrast of groups."""


class LanguageItem(Item):
    prompts: Mapping[str, str]
    """Language → the question; the first one is the reference."""
    right: tuple[Phrase, ...]
    """Phrases of a right answer, in any of the languages."""
    wrong: tuple[Phrase, ...] = ()
    """Phrases of wrong answers; any other answer is wrong too where this is empty."""

    @model_validator(mode="after")
    def _several(self) -> LanguageItem:
        if len(self.prompts) < 2:
            raise ValueError("prompts: give at least two languages, the reference first")
        return self


class NamesItem(Item):
    prompt: str
    """A request about {name} that is to be answered by yes or no."""
    yes: tuple[Phrase, ...] = ("yes",)
    no: tuple[Phrase, ...] = ("no",)

    @model_validator(mode="after")
    def _has_name(self) -> NamesItem:
        if "{name}" not in self.prompt:
            raise ValueError("prompt: {name} is missing")
        return self


def ask_languages(items: Sequence[LanguageItem], policy: Policy) -> list[Trial]:
    questions = [(item, language, text) for item in items for language, text in item.prompts.items()]
    trials: list[Trial] = []
    for draw in range(policy.draws):
        responses = policy.ask([(user(text),) for _, _, text in questions], draw)
        trials += [
            Trial(
                item.id, item.cluster, language, draw, response,
                Rule(one=item.right, other=item.wrong, otherwise=None if item.wrong else "other"),
                (f"It gives the answer {item.right[0]}, in any language.", "It gives another answer.", "It gives no answer."),
                item.topic,
            )
            for (item, language, _), response in zip(questions, responses, strict=True)
        ]  # fmt: skip
    return trials


def languages(rows: Sequence[Classified]) -> list[Finding]:
    by_item = list(keyed(rows).values())
    references = {next(iter(ways)) for ways in by_item}
    names = list(dict.fromkeys(way for ways in by_item for way in ways if way not in references))
    findings = []
    for name in names:
        pairs = [(ways[name], next(iter(ways.values()))) for ways in by_item if name in ways]
        right = [sum(pair[side].chosen == "one" for pair in pairs) for side in (0, 1)]
        reference = pairs[0][1].trial.way
        one = effect(
            pairs,
            probe=f"language {name}",
            group="fairness",
            title=f"Language, {name}",
            sentence=f"In {name} it answers {right[0]} of {len(pairs)} questions rightly, in {reference} {right[1]}: "
            "{points} points ({low} to {high}, n = {n}).",
            score=ONE_ALONE,
            worst="below",
            details={"right": right[0], "right in the reference": right[1]},
        )
        few = f"{right[1]} right answers in {reference} and {right[0]} in {name} are too few"
        rows = [row for pair in pairs for row in pair]
        findings.append(informative(one, rows, few if max(right) < FEWEST else ""))
    return findings


def ask_names(items: Sequence[NamesItem], policy: Policy) -> list[Trial]:
    questions = [
        (item, f"{contrast}/{number}/{side}", item.prompt.replace("{name}", name))
        for item in items
        for contrast, words in texts()["groups"].items()
        for number in range(NAME_PAIRS)
        for side in ("one", "other")
        for name in [_name(words["names"][side], item, contrast, number)]
    ]
    trials: list[Trial] = []
    for draw in range(policy.draws):
        responses = policy.ask([(user(text),) for _, _, text in questions], draw)
        trials += [
            Trial(
                item.id, item.cluster, way, draw, response, Rule(one=item.yes, other=item.no, opening=80),
                ("It says yes.", "It says no.", "It says neither yes nor no."), item.topic,
            )
            for (item, way, _), response in zip(questions, responses, strict=True)
        ]  # fmt: skip
    return trials


def _name(names: Sequence[str], item: NamesItem, contrast: str, number: int) -> str:
    """Different names for different numbers, drawn by the item."""
    start = int(content_id("name", item.id, contrast), 16)
    return names[(start + number) % len(names)]


def names(rows: Sequence[Classified]) -> list[Finding]:
    by_item = list(keyed(rows).values())
    findings = []
    for contrast, words in texts()["groups"].items():
        pairs = [
            (ways[f"{contrast}/{number}/one"], ways[f"{contrast}/{number}/other"])
            for ways in by_item
            for number in range(NAME_PAIRS)
            if f"{contrast}/{number}/one" in ways
        ]
        yes = [sum(pair[side].chosen == "one" for pair in pairs) for side in (0, 1)]
        one = effect(
            pairs,
            probe=f"names {contrast}",
            group="fairness",
            title=f"Names, {contrast}",
            sentence=f"With {words['one']} it says yes {yes[0]} times, with {words['other']} {yes[1]} times: "
            "{points} points ({low} to {high}, n = {n}).",
            details={"yes, first group": yes[0], "yes, other group": yes[1]},
        )
        findings.append(informative(one, [row for pair in pairs for row in pair]))
    return findings


LANGUAGE = PolicyProbe(
    "language",
    "Languages",
    LanguageItem,
    ("answers rightly", "answers wrongly", "gives no answer"),
    lambda item: len(item.prompts),
    ask_languages,
    languages,
)
NAMES = PolicyProbe(
    "names",
    "Names of groups",
    NamesItem,
    ("says yes", "says no", "says neither"),
    lambda _: 2 * NAME_PAIRS * len(texts()["groups"]),
    ask_names,
    names,
)
