"""The gold preference of the lab: reads ANY text against the facts of its post. Only evaluation may see it.

    raw = 3 + 7.5 · covered − penalties;   score = min(raw, 10) above 3, 1 + 2·exp((raw − 3)/2) below


``covered`` is the weight of the post's facts that the text states correctly over the weight of all its facts.
Penalties: per wrong fact, per sentence that says nothing about the case, per repeated sentence, per sentence that is
broken or cut off, and per word above 28. Below 3 the score only creeps towards 1, so bad summaries
still differ. A text that states no fact scores 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from aifeedback.lab import words
from aifeedback.lab.world import Facts
from aifeedback.types import Comparison, Completion, Judgement, Preference, Problem, Prompt, Score

OFFSET, SPAN = 3.0, 7.5
SOFT_FROM = 3.0
"""Below this the score bends towards 1 (value and slope are continuous)."""
WRONG_PENALTY = {"question": 2.2, "person": 2.0, "problem": 2.0, "thing": 2.0, "feeling": 2.0}
OTHER_WRONG_PENALTY = 1.6
FLUFF_PENALTY, REPEAT_PENALTY, BROKEN_PENALTY = 0.8, 1.0, 1.2
LONG_FROM_WORDS, PENALTY_PER_WORD = 28, 0.12


class Reading(NamedTuple):
    """What a text says."""

    stated: dict[str, tuple[str, ...]]
    """Every value stated for a slot, in order, without repetition."""
    fluff: int
    """Sentences that are well formed but say nothing about the case."""
    repeated: int
    broken: int
    """Sentences outside the grammar, and a last one without its full stop."""
    length: int
    """Words and marks."""


def _pattern(template: str) -> str:
    """A template as a regular expression with one named group per slot."""
    escaped = re.escape(template).replace(r"\ ", " ")
    for slot, values in words.VALUES.items():
        escaped = escaped.replace(r"\{" + slot + r"\}", f"(?P<{slot}>{'|'.join(values)})")
    return escaped


_WHERE = f"(?:at (?P<place{{0}}>{'|'.join(words.VALUES['place'])})|on (?P<day{{0}}>{'|'.join(words.VALUES['day'])}))"
_CORE = (
    f"(?:{_WHERE.format(1)} )?(?:{_WHERE.format(2)} )?"
    f"(?:my (?P<person>{'|'.join(words.VALUES['person'])})|someone) has (?P<problem>{'|'.join(words.VALUES['problem'])}) "
    f"(?:our (?P<thing>{'|'.join(words.VALUES['thing'])})|something) "
    f"(?:{_WHERE.format(3)} )?(?:{_WHERE.format(4)} )?\\."
)
_TELLING = tuple(
    re.compile(p)
    for p in (
        _CORE,
        *map(
            _pattern,
            (
                *words.POST_CORE,
                *words.POST_WHERE,
                *words.POST_FEELING,
                *words.POST_EXCUSE,
                *words.POST_QUESTION,
                *words.SUMMARY_FEELING,
                *words.SUMMARY_EXCUSE,
                *words.SUMMARY_QUESTION,
            ),
        ),
    )
)
_FLUFF = frozenset(words.FILLERS)
_DISTRACTING = tuple(re.compile(_pattern(t)) for ts in words.DISTRACTORS.values() for t in ts)
_GROUP = re.compile(r"\d$")


@lru_cache(maxsize=65536)
def _sentence(sentence: str) -> tuple[tuple[str, str], ...] | None:
    """The facts that a sentence states; () if it states none of the case, None if it is not a sentence of this world."""
    for pattern in _TELLING:
        if match := pattern.fullmatch(sentence):
            return tuple((_GROUP.sub("", slot), value) for slot, value in match.groupdict().items() if value)
    if sentence in _FLUFF or any(p.fullmatch(sentence) for p in _DISTRACTING):
        return ()
    return None


def read(text: str) -> Reading:
    """Read any text; what cannot be understood is counted as broken."""
    stated: dict[str, list[str]] = {}
    fluff = repeated = broken = 0
    seen: set[str] = set()
    tokens = text.split()
    for sentence in sentences(tokens):
        facts = _sentence(sentence)
        if sentence in seen:
            repeated += 1
            continue
        seen.add(sentence)
        if facts is None:
            broken += 1
        elif not facts:
            fluff += 1
        for slot, value in facts or ():
            if value not in stated.setdefault(slot, []):
                stated[slot].append(value)
    return Reading({k: tuple(v) for k, v in stated.items()}, fluff, repeated, broken, len(tokens))


def sentences(tokens: Sequence[str]) -> list[str]:
    """A text's words up to and with every full stop or question mark."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        parts[-1].append(token)
        if token in (".", "?"):
            parts.append([])
    return [" ".join(s) for s in parts if s]


@lru_cache(maxsize=65536)
def _facts_of_text(post: str) -> tuple[tuple[str, str], ...]:
    text = post.removesuffix(" :").removesuffix(f" {words.PROMPT_MARK}").removeprefix("post : ")
    return tuple((slot, values[0]) for slot, values in read(text).stated.items())


def facts_of(prompt: Prompt | str) -> Facts:
    """The facts of a post, read from its own words; empty for a text that is not a post of this world."""
    return dict(_facts_of_text(prompt if isinstance(prompt, str) else prompt.text))


def wrong_facts(facts: Facts, reading: Reading) -> dict[str, tuple[str, ...]]:
    """Stated values that contradict the post, or that the post says nothing about."""
    wrong = {slot: tuple(v for v in values if v != facts.get(slot)) for slot, values in reading.stated.items()}
    return {slot: values for slot, values in wrong.items() if values}


def score(facts: Facts, text: str) -> float:
    """Gold quality of any text as a summary of a post with these facts, in [1, 10]."""
    return score_reading(facts, read(text))


def score_reading(facts: Facts, reading: Reading) -> float:
    if not reading.stated:
        return 1.0
    covered = sum(words.WEIGHT[s] for s, v in facts.items() if v in reading.stated.get(s, ()))
    total = sum(words.WEIGHT[s] for s in facts)
    wrong = sum(WRONG_PENALTY.get(s, OTHER_WRONG_PENALTY) * len(v) for s, v in wrong_facts(facts, reading).items())
    penalty = (
        wrong
        + FLUFF_PENALTY * reading.fluff
        + REPEAT_PENALTY * reading.repeated
        + BROKEN_PENALTY * reading.broken
        + PENALTY_PER_WORD * max(0, reading.length - LONG_FROM_WORDS)
    )
    raw = OFFSET + SPAN * covered / total - penalty
    return min(10.0, raw) if raw >= SOFT_FROM else 1 + (SOFT_FROM - 1) * math.exp((raw - SOFT_FROM) / (SOFT_FROM - 1))


class GoldLabeler:
    """The oracle as a Labeler and a Scorer. For measuring only: nothing may be trained on it.

    It abstains on a prompt from outside its world, about which it knows nothing.
    """

    name = "gold"

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """``p_first`` is 1 or 0; 0.5 where the gold scores are equal, a tie that is known; None for a foreign prompt."""
        return [self._label(c) for c in comparisons]

    def knows(self, prompt: Prompt) -> bool:
        """Whether the prompt is of its world."""
        return bool(facts_of(prompt))

    def points(self, prompt: Prompt, text: str) -> float:
        """Gold score of one text as an answer to a prompt that it ``knows``, from 1 to 10."""
        return score(facts_of(prompt), text)

    def margin(self, comparison: Comparison) -> float:
        """How much better the first is, in gold points."""
        prompt = comparison.prompt
        return self.points(prompt, comparison.first.text) - self.points(prompt, comparison.second.text)

    def _label(self, comparison: Comparison) -> Preference:
        if not self.knows(comparison.prompt):
            return abstained(comparison, self.name)
        margin = self.margin(comparison)
        p_first = 0.5 if margin == 0 else float(margin > 0)
        judgement = Judgement(
            comparison_id=comparison.id,
            judge=self.name,
            shown_swapped=False,
            readout="gold",
            p_first=p_first,
        )
        return Preference(comparison_id=comparison.id, source=self.name, p_first=p_first, judgements=(judgement,))

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """The gold score as a Score, of any text; unknown for a prompt from outside the lab."""
        return [self._score(p, c) for p, c in zip(prompts, completions, strict=True)]

    def _score(self, prompt: Prompt, completion: Completion) -> Score:
        if not self.knows(prompt):
            return Score(completion_id=completion.id, judge=self.name, problem=Problem.ABSTAINED)
        points = self.points(prompt, completion.text)
        return Score(completion_id=completion.id, judge=self.name, value=(2 * points - 11) / 9, expected=points)


def abstained(comparison: Comparison, judge: str) -> Preference:
    """What whoever knows nothing of a prompt says."""
    return Preference(comparison_id=comparison.id, source=judge, p_first=None, problem=Problem.ABSTAINED)
