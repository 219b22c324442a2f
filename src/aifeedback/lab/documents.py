"""What the lab's models are trained on: a post, then blocks that each see the post and themselves.

A block is text whose words carry a loss weight: 1 on what a model has to produce, little on what it is given.
The formats are those of ``prompts/*.yaml`` and of the policy's prompt, word for word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aifeedback.lab import gold, words, world
from aifeedback.lab.world import Facts, Post

CONTEXT_WEIGHT = 0.05
RATING_WEIGHT = 3.0
"""A rating is one token among fifty, and the hardest."""
FAULTS = ("fluff", "repeat", "cut")
FIRST_BETTER_SHARE = 0.58
"""How often the better summary comes first in training pairs: the prior that shows as position bias when unsure."""


class Block(NamedTuple):
    words: list[str]
    weights: list[float]


class Tree(NamedTuple):
    post: list[str]
    blocks: list[Block]


def make_block(*parts: tuple[str, float]) -> Block:
    """(text, weight of its tokens in the loss), one after another."""
    tokens: list[str] = []
    weights: list[float] = []
    for text, weight in parts:
        new = text.split()
        tokens += new
        weights += [weight] * len(new)
    weights[0] = 0.0  # which block comes is not a question about what was given
    return Block(tokens, weights)


def nearest_rating(score: float) -> int:
    """Gold score as one of the ten labels."""
    return min(10, max(1, round(score)))


def evidence(facts: Facts, reading: gold.Reading) -> str:
    """The written check of a summary: per fact what it says, what the post says, the verdict; then its other faults."""
    wrong = gold.wrong_facts(facts, reading)
    lines = []
    for slot in words.SLOTS:
        there = facts.get(slot, "none")
        stated = wrong[slot][0] if slot in wrong else (reading.stated.get(slot) or ("none",))[0]
        lines.append(f"{slot} {stated} {there} {verdict(stated, there)}")
    counts = (reading.fluff, reading.repeated, reading.broken)
    lines += [f"{name} {words.TALLIES[min(3, count)]}" for name, count in zip(FAULTS, counts, strict=True)]
    return " ".join(lines) + " ."


def verdict(stated: str, there: str) -> str:
    if stated == there:
        return "absent" if stated == "none" else "right"
    return "missed" if stated == "none" else "wrong"


def copy_block(rng: random.Random, post: Post) -> Block:
    """A faithful summary, as the policy's prompt asks for one."""
    mentioned = world.draw_mention(rng, post.facts, rng.random())
    text = world.write_summary(rng, mentioned, post.distractors)
    return make_block((f"{words.PROMPT_MARK} :", 0.0), (f"{text} <eos>", 1.0))


def extraction_block(rng: random.Random, post: Post) -> Block:
    """Every fact of the post by name, in random order, and some that it does not hold."""
    slots = [s for s in rng.sample(words.SLOTS, len(words.SLOTS)) if s in post.facts or rng.random() < 0.3]
    parts: list[tuple[str, float]] = [("facts :", 0.0)]
    for slot in slots:
        parts += [(slot, 0.0), (post.facts.get(slot, "none"), 1.0)]
    return make_block(*parts)


def drill_block(rng: random.Random, post: Post) -> Block:
    """A check of invented facts, without any text to look at: teaches what 'the same' means, and what it is worth."""
    facts = world.draw_facts(rng, "build")
    stated: dict[str, tuple[str, ...]] = {}
    parts: list[tuple[str, float]] = [("compare :", 0.0)]
    silent, wrong = rng.choice((0.1, 0.3, 0.5)), rng.choice((0.0, 0.1, 0.2, 0.5))
    for slot in words.SLOTS:
        there = facts.get(slot, "none")
        value = "none" if rng.random() < silent else there
        if value != "none" and rng.random() < wrong:
            value = rng.choice(words.VALUES[slot])
        if value != "none":
            stated[slot] = (value,)
        parts += [(f"{slot} {value} {there}", 0.0), (verdict(value, there), 1.0)]
    counts = [rng.choice((0, 0, 0, 0, 0, 0, 0, 0, 1, 2)) for _ in range(3)]
    parts += [(f"{name} {words.TALLIES[count]}", 0.0) for name, count in zip(FAULTS, counts, strict=True)]
    rating = nearest_rating(gold.score_reading(facts, gold.Reading(stated, *counts, length=17)))
    return make_block(*parts, (". rating :", 0.0), (str(rating), RATING_WEIGHT))


def candidate(rng: random.Random, post: Post, doubt: float = 0.0) -> str:
    """A candidate summary; with probability ``doubt`` a clean one with many wrong facts, to practise checking."""
    if rng.random() >= doubt:
        return world.draw_summary(rng, post)
    mentioned = world.draw_mention(rng, post.facts, rng.random())
    return world.write_summary(rng, mentioned, post.distractors, world.Mistakes(wrong=rng.choice((0.2, 0.5))))


def evidence_block(rng: random.Random, post: Post, doubt: float = 0.0) -> Block:
    """A summary, its written check, its rating."""
    text = candidate(rng, post, doubt)
    reading = gold.read(text)
    rating = nearest_rating(gold.score_reading(post.facts, reading))
    return make_block(
        ("summary :", 0.0),
        (text, CONTEXT_WEIGHT),
        ("check :", CONTEXT_WEIGHT),
        (evidence(post.facts, reading), 1.0),
        ("rating :", 1.0),
        (str(rating), RATING_WEIGHT),
    )


def doubtful_evidence_block(rng: random.Random, post: Post) -> Block:
    return evidence_block(rng, post, doubt=0.6)


def rating_block(rng: random.Random, post: Post) -> Block:
    """A summary and its rating at once."""
    text = candidate(rng, post)
    rating = nearest_rating(gold.score(post.facts, text))
    return make_block(("summary :", 0.0), (text, CONTEXT_WEIGHT), ("rating :", CONTEXT_WEIGHT), (str(rating), 1.0))


def draw_pair(rng: random.Random, post: Post, doubt: float = 0.0) -> tuple[str, str, int]:
    """Two candidates of different gold quality, and which is better (1 or 2)."""
    for _ in range(100):
        texts = [candidate(rng, post, doubt) for _ in range(2)]
        scores = [gold.score(post.facts, t) for t in texts]
        if abs(scores[0] - scores[1]) >= 0.25:
            break
    else:
        raise AssertionError(f"no two summaries of different quality for {post}")
    order = (0, 1) if (scores[0] > scores[1]) == (rng.random() < FIRST_BETTER_SHARE) else (1, 0)
    first, second = (texts[i] for i in order)
    return first, second, 1 if scores[order[0]] > scores[order[1]] else 2


def pair_block(rng: random.Random, post: Post) -> Block:
    """Two summaries and the verdict at once."""
    first, second, better = draw_pair(rng, post)
    return make_block(
        ("summary 1 :", 0.0),
        (first, CONTEXT_WEIGHT),
        ("summary 2 :", CONTEXT_WEIGHT),
        (second, CONTEXT_WEIGHT),
        ("preferred summary =", CONTEXT_WEIGHT),
        (str(better), 1.0),
    )


KINDS: Mapping[str, Callable[[random.Random, Post], Block]] = {
    "copy": copy_block,
    "extraction": extraction_block,
    "drill": drill_block,
    "evidence": evidence_block,
    "doubtful": doubtful_evidence_block,
    "rating": rating_block,
    "pair": pair_block,
}


def draw_tree(
    rng: random.Random,
    mixture: Mapping[str, float],
    room: int,
    *,
    sentences: int | None = None,
    distraction: float = world.DISTRACTION,
) -> Tree:
    """A post, or a fragment of ``sentences`` sentences, and as many blocks of the mixture as fit into ``room`` tokens."""
    if sentences:
        post = world.draw_fragment(rng, sentences, distraction=distraction)
    else:
        post = world.draw_post(rng, "build", distraction=distraction)
    return fill_tree(rng, f"post : {post.text}", mixture, room, lambda kind: KINDS[kind](rng, post))


def fill_tree(
    rng: random.Random, opening: str, mixture: Mapping[str, float], room: int, draw: Callable[[str], Block]
) -> Tree:
    """What is given, and as many blocks of the mixture's kinds as fit into ``room`` tokens with it."""
    start = opening.split()
    kinds, weights = list(mixture), list(mixture.values())
    blocks: list[Block] = []
    left = room - len(start)
    while True:
        block = draw(rng.choices(kinds, weights)[0])
        if len(block.words) > left:
            return Tree(start, blocks)
        blocks.append(block)
        left -= len(block.words)
