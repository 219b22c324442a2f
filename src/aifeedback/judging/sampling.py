"""Completions and pairs: k responses to each prompt from a model, cleaned up, and which two of them form a pair.

Source: Lee et al. 2023 (arXiv 2309.00267), post-RL response formatting: policies learn to end in runs of such symbols.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from random import Random
from typing import NamedTuple

from aifeedback.errors import InputError
from aifeedback.judging.pairwise import derived_seed
from aifeedback.models.dialects import written
from aifeedback.models.pending import at_once, each_before_pending
from aifeedback.types import Comparison, Completion, Model, Problem, Progress, Prompt, Sampling, silent


class CleanedUp(NamedTuple):
    completions: list[Completion]
    changed: int
    """How many lost anything."""
    characters: int
    """How many characters went, in all."""
    share: float | None
    """Of all characters; None where there were none."""
    endings: dict[str, int]
    """What went, with how often; the most frequent five."""


def clean_up(prompts: Sequence[Prompt], completions: Sequence[Completion], *, trailing: str = " .\n\t") -> CleanedUp:
    """Remove these characters from the ends; the period that ends a sentence stays. Source names are kept."""
    cleaned, characters, total = [], 0, 0
    endings: Counter[str] = Counter()
    for prompt, completion in zip(prompts, completions, strict=True):
        text = _cleaned(completion.text, trailing)
        if text != completion.text:
            endings[completion.text[len(text) :]] += 1
        total += len(completion.text)
        characters += len(completion.text) - len(text)
        cleaned.append(
            completion
            if text == completion.text
            else Completion.of(
                prompt,
                text,
                source=completion.source,
                sampling=completion.sampling,
                finish_reason=completion.finish_reason,
            )
        )
    share = characters / total if total else None
    return CleanedUp(cleaned, endings.total(), characters, share, dict(endings.most_common(5)))


def _cleaned(text: str, trailing: str) -> str:
    kept = text.rstrip(trailing)
    spaces, period, _ = text[len(kept) :].partition(".")
    return kept + spaces + period if kept and period and not spaces.strip(" ") else kept


class Unanswered(NamedTuple):
    prompt_id: str
    sample: int
    problem: Problem
    call_id: str | None = None


class Sampled(NamedTuple):
    completions: list[Completion]
    """Prompt by prompt, each in order of its samples; what could not be answered is left out of here."""
    unanswered: list[Unanswered]
    thinking_removed: int = 0
    """Completions from which blocks of thinking were taken out."""


def sample_completions(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    per_prompt: int = 1,
    sampling: Sampling | None = None,
    source: str | None = None,
    batch_size: int = 256,
    progress: Progress = silent,
) -> Sampled:
    """``per_prompt`` answers to each prompt. An answer is kept as it came, spaces included, even when it is empty; only
    thinking before it is taken out, and an answer that never got beyond its thinking is not one.

    The same seed gives the same answers, whatever the batch size. ``source`` is the model's URI when not given.
    """
    sampling, source = sampling or Sampling(), source or model.card.uri
    completions: dict[tuple[str, int], Completion] = {}
    unanswered: list[Unanswered] = []
    total, done, thinking_removed = len(prompts) * per_prompt, 0, 0

    def draw(batch: Sequence[Prompt], sample: int) -> None:
        nonlocal done, thinking_removed
        drawn = sampling.model_copy(update={"seed": derived_seed(sampling.seed, "sample", sample)})
        for prompt, reply in zip(batch, model.reply([list(p.messages) for p in batch], drawn), strict=True):
            if reply.problem is not None:
                unanswered.append(Unanswered(prompt.id, sample, reply.problem, reply.call_id))
                continue
            answer = written(reply.text)
            if not answer.text and reply.text:
                is_cut = reply.finish_reason == "length"
                problem = Problem.TRUNCATED if is_cut else Problem.EMPTY
                unanswered.append(Unanswered(prompt.id, sample, problem, reply.call_id))
                continue
            thinking_removed += answer.blocks > 0
            completions[prompt.id, sample] = Completion.of(
                prompt, answer.text or "", source=source, sampling=drawn, finish_reason=reply.finish_reason
            )
        done += len(batch)
        progress(done, total, {"unanswered": len(unanswered)})

    size = at_once(model, batch_size)
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        each_before_pending(partial(draw, batch, sample) for sample in range(per_prompt))
    ordered = [completions[p.id, s] for p in prompts for s in range(per_prompt) if (p.id, s) in completions]
    return Sampled(ordered, sorted(unanswered, key=lambda missing: missing.sample), thinking_removed)


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

    Storage order is drawn by seed too, so that it carries no information. Two responses with equal text are not a pair.
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
            raise InputError(f"completion {completion.id} belongs to prompt {completion.prompt_id}, which is missing")
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
