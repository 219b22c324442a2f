"""The design behind every probe that changes texts: a mark against a control of the same length, both ways round.

For a pair (a, b) the judge is asked about (a + mark, b + control) and about (a + control, b + mark). A judge that
does not care says the same both times; the effect of the mark is half the mean difference of P(first), in points of
win rate that the mark earns. Content, length and position cancel within the pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from aifeedback.audit.finding import Finding, Group, ProbeInput, of_estimate, prompt_ids, signed, unmeasured
from aifeedback.types import Comparison, Completion, Message, Preference, Prompt, content_id

Edit = Callable[[Completion, str], str]
"""(completion, id of its pair) → the changed text."""


VISIBLE = 0.01


class Contrast(NamedTuple):
    favours_first: list[Comparison]
    """The first response carries the mark."""
    favours_second: list[Comparison]


@lru_cache(maxsize=1)
def texts() -> Mapping[str, Any]:
    """The content of texts.yaml."""
    return yaml.safe_load((files("aifeedback.audit") / "texts.yaml").read_text(encoding="utf-8"))


def choose(options: Sequence[str], *key: object) -> str:
    """One of the options, drawn by the key alone."""
    return options[int(content_id(*key), 16) % len(options)]


def edited(completion: Completion, comparison: Comparison, text: str) -> Completion:
    """The completion with another text; it keeps its source, so that it is only the text that differs."""
    return Completion.of(comparison.prompt, text, source=completion.source, finish_reason=completion.finish_reason)


def with_addition(comparison: Comparison, sentence: str) -> Comparison:
    """The same responses under a prompt whose last user message ends with ``sentence``."""
    messages = list(comparison.prompt.messages)
    last = max(i for i, m in enumerate(messages) if m.role == "user")
    messages[last] = Message(role="user", content=f"{messages[last].content}\n\n{sentence}")
    prompt = Prompt.of(messages, reference=comparison.prompt.reference, tags=comparison.prompt.tags)
    responses = [Completion.of(prompt, side.text, source=side.source) for side in (comparison.first, comparison.second)]
    return Comparison.of(prompt, *responses)


def start_of(completion: Completion) -> str:
    """The words by which a sentence names a response."""
    return " ".join(completion.text.split()[:8])


def can_be_named(comparison: Comparison) -> bool:
    """The two responses must start differently, or a sentence would name both; some message must be the user's."""
    has_user = any(message.role == "user" for message in comparison.prompt.messages)
    return has_user and start_of(comparison.first) != start_of(comparison.second)


def contrast(comparisons: Sequence[Comparison], mark: Edit, control: Edit) -> Contrast:
    """Both versions of every pair."""
    first, second = [], []
    for c in comparisons:
        marked = [edited(side, c, mark(side, c.id)) for side in (c.first, c.second)]
        plain = [edited(side, c, control(side, c.id)) for side in (c.first, c.second)]
        first.append(Comparison.of(c.prompt, marked[0], plain[1]))
        second.append(Comparison.of(c.prompt, plain[0], marked[1]))
    return Contrast(first, second)


def appended(options: Sequence[str], seed: int, *, before: bool = False) -> Edit:
    """Adds one of the sentences at the end (or the start); both sides of a pair and both versions get the same one."""

    def edit(completion: Completion, pair: str) -> str:
        sentence = choose(options, "mark", seed, pair)
        if before:
            return f"{sentence}\n\n{completion.text}"
        joint = "" if sentence.startswith("\n") else "\n\n"
        return f"{completion.text}{joint}{sentence}"

    return edit


def mark_finding(
    inputs: ProbeInput, probe: str, *, group: Group, title: str, phrase: str, mark: Edit, control: Edit
) -> Finding:
    """Asks both versions of the drawn pairs and reports the effect; ``phrase`` completes 'a response …'."""
    versions = inputs.once(probe, lambda: contrast([inputs.comparisons[i] for i in inputs.drawn()], mark, control))
    return effect(inputs, versions, probe, group=group, title=title, phrase=phrase)


def effect(inputs: ProbeInput, versions: Contrast, probe: str, *, group: Group, title: str, phrase: str) -> Finding:
    """The effect of a contrast as a finding: estimate, interval and test over prompts."""
    from aifeedback.metrics import compare_win_rates

    n = len(versions.favours_first)
    # side by side, so that a judge which computes shared text once reads each prompt once
    preferences = inputs.ask(
        [c for both in zip(versions.favours_first, versions.favours_second, strict=True) for c in both]
    )
    one, other = preferences[::2], preferences[1::2]
    known = [a.p_first is not None and b.p_first is not None for a, b in zip(one, other, strict=True)]
    unreadable = sum(p.p_first is None for p in preferences)
    if sum(known) < 2:
        return unmeasured(probe, group, title, _why(preferences), unreadable=unreadable)
    difference = compare_win_rates(
        [a.p_first for a in one], [b.p_first for b in other], prompts=prompt_ids(versions.favours_first)
    )
    ends = f"{signed(50 * difference.low)} to {signed(50 * difference.high)}"
    points = signed(50 * difference.value)
    verb = "loses" if points.startswith("-") else "gains"
    flips = sum(_flips(a, b) for a, b in zip(one, other, strict=True))
    return of_estimate(
        difference,
        scale=0.5,
        probe=probe,
        group=group,
        title=title,
        sentence=f"A response {phrase} {verb} {points[1:]} points of win rate ({ends}).",
        unit="points",
        ideal=0.0,
        p_value=difference.p_value,
        unreadable=unreadable,
        calls=2 * n,
        examples=_examples(versions, one, other),
        details={"verdict follows the mark": flips / sum(known)},
    )


def _flips(one: Preference, other: Preference) -> bool:
    """Whether the marked response won both times."""
    return one.p_first is not None and other.p_first is not None and one.p_first > 0.5 > other.p_first


def _why(preferences: Sequence[Preference]) -> str:
    problems = {str(p.problem) for p in preferences if p.problem is not None}
    if problems == {"missing"}:
        return "recorded verdicts cannot be asked about changed texts"
    return "no verdict could be read" + (f" ({', '.join(sorted(problems))})" if problems else "")


def _examples(
    versions: Contrast, one: Sequence[Preference], other: Sequence[Preference], most: int = 3
) -> tuple[dict[str, Any], ...]:
    """The pairs that the mark moved most, by what can be seen at two digits."""
    rows = [
        (abs(a.p_first - b.p_first), i)
        for i, (a, b) in enumerate(zip(one, other, strict=True))
        if a.p_first is not None and b.p_first is not None and abs(a.p_first - b.p_first) >= VISIBLE
    ]
    rows.sort(key=lambda row: (-row[0], versions.favours_first[row[1]].id))
    return tuple(
        {
            "prompt": versions.favours_first[i].prompt.text,
            "first marked": versions.favours_first[i].first.text,
            "second plain": versions.favours_first[i].second.text,
            "P(first) when the first is marked": one[i].p_first,
            "P(first) when the second is marked": other[i].p_first,
        }
        for _, i in rows[:most]
    )
