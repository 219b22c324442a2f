"""Pairs from completions: which two answers of a prompt are put side by side, and which of them is stored first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from random import Random
from typing import NamedTuple

from aifeedback.errors import InputError
from aifeedback.records import Comparison, Completion, Prompt


class Paired(NamedTuple):
    comparisons: list[Comparison]
    skipped: dict[str, int]
    """How many prompts or pairs gave no comparison, by reason."""


def pair_completions(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    per_prompt: int | None = None,
    across_sources: bool = False,
    seed: int = 0,
) -> Paired:
    """All pairs of different answers to the same prompt, or ``per_prompt`` of them drawn by seed.

    Storage order is drawn by seed too, so that it says nothing. Two answers with equal text are no pair.
    ``across_sources`` keeps only pairs whose answers come from different sources.
    """
    answers = by_prompt(prompts, completions)
    comparisons: list[Comparison] = []
    skipped = {"fewer than two answers": 0, "equal answers": 0, "same source": 0}
    for prompt in _distinct(prompts):
        random = Random(f"{seed}/{prompt.id}")
        own = answers.get(prompt.id, [])
        if len(own) < 2:
            skipped["fewer than two answers"] += 1
            continue
        usable = []
        for one, other in combinations(own, 2):
            reason = _unusable(one, other, across_sources)
            if reason:
                skipped[reason] += 1
            else:
                usable.append((one, other))
        if per_prompt is not None and len(usable) > per_prompt:
            usable = random.sample(usable, per_prompt)
        comparisons += [_stored(prompt, pair, random) for pair in usable]
    return Paired(comparisons, {reason: count for reason, count in skipped.items() if count})


def by_prompt(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Mapping[str, list[Completion]]:
    """Completions of each prompt, in their order. Raises InputError for one whose prompt is not among ``prompts``."""
    known = {prompt.id for prompt in prompts}
    grouped: dict[str, list[Completion]] = {}
    for completion in completions:
        if completion.prompt_id not in known:
            raise InputError(f"completion {completion.id} answers prompt {completion.prompt_id}, which is not given")
        grouped.setdefault(completion.prompt_id, []).append(completion)
    return grouped


def tournament(count: int, *, rounds: int, seed: int | str = 0) -> list[tuple[int, int]]:
    """Which of ``count`` answers meet: in each round all stand in a random circle and meet their neighbours.

    Every answer meets at least two others a round, and one round already connects all of them, so that strengths can
    be fitted. Pairs are (smaller, larger) and occur once; ``rounds·count`` of them at most, all pairs at the limit.
    """
    random, met = Random(f"{seed}"), set[tuple[int, int]]()
    for _ in range(rounds):
        circle = random.sample(range(count), count)
        for one, other in zip(circle, circle[1:] + circle[:1], strict=True):
            if one != other:
                met.add((min(one, other), max(one, other)))
    return sorted(met)


def _unusable(one: Completion, other: Completion, across_sources: bool) -> str | None:
    if one.text == other.text:
        return "equal answers"
    return "same source" if across_sources and one.source == other.source else None


def _stored(prompt: Prompt, pair: tuple[Completion, Completion], random: Random) -> Comparison:
    first, second = pair if random.random() < 0.5 else pair[::-1]
    return Comparison.of(prompt, first, second)


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({prompt.id: prompt for prompt in prompts}.values())
