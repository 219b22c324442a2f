"""What the judges of pairs read before a post: a preamble, solved examples; and what they write: checks of both summaries.

The four parts of a judge prompt (Lee et al. 2023, section 3) in the lab's words. Preambles and formats are those of
``lab/prompts/pairs-*.yaml``, word for word.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple

from aifeedback.lab import documents, gold, world
from aifeedback.lab.documents import CONTEXT_WEIGHT, KINDS, Block, Tree, fill_tree, make_block
from aifeedback.lab.world import Post

PREAMBLES = {
    "none": "",
    "base": "which summary is better ?",
    "detailed": (
        "a good summary of the post has the right question person problem thing feeling place day and excuse . "
        "it is short and has no fluff . which summary is better ?"
    ),
}
"""What the task is; the detailed one also says what makes a summary good."""
VERDICT_WEIGHT = 3.0


class Solved(NamedTuple):
    """Two summaries of a post, what there is to say of each, and which is better (1 or 2)."""

    post: Post
    first: str
    second: str
    checks: tuple[str, str]
    ratings: tuple[int, int]
    better: int


def solve(rng: random.Random, post: Post, doubt: float = 0.0) -> Solved:
    """Two candidates of different gold quality with their written checks."""
    first, second, better = documents.draw_pair(rng, post, doubt)
    readings = [gold.read(text) for text in (first, second)]
    one, two = (documents.evidence(post.facts, reading) for reading in readings)
    high, low = (documents.nearest_rating(gold.score_reading(post.facts, reading)) for reading in readings)
    return Solved(post, first, second, (one, two), (high, low), better)


def rationale(solved: Solved) -> str:
    """The chain of thought: per summary its check and its rating."""
    return " ".join(
        f"{number} {check} rating : {rating}"
        for number, check, rating in zip((1, 2), solved.checks, solved.ratings, strict=True)
    )


def exemplar(rng: random.Random, *, with_rationale: bool) -> str:
    """One solved example as it stands in a prompt."""
    solved = solve(rng, world.draw_post(rng, "build"))
    thought = f" check : {rationale(solved)}" if with_rationale else ""
    shown = f"post : {solved.post.text} summary 1 : {solved.first} summary 2 : {solved.second}"
    return f"{shown}{thought} preferred summary = {solved.better}"


def checked_pair_block(rng: random.Random, post: Post) -> Block:
    """Two summaries, the check and rating of each, and the verdict."""
    solved = solve(rng, post, doubt=0.3)
    parts: list[tuple[str, float]] = []
    for number, check, rating in zip((1, 2), solved.checks, solved.ratings, strict=True):
        parts += [(str(number), 0.2), (check, 1.0), ("rating :", 0.2), (str(rating), documents.RATING_WEIGHT)]
    return make_block(
        ("summary 1 :", 0.0),
        (solved.first, CONTEXT_WEIGHT),
        ("summary 2 :", CONTEXT_WEIGHT),
        (solved.second, CONTEXT_WEIGHT),
        ("check :", CONTEXT_WEIGHT),
        *parts,
        ("preferred summary =", 1.0),
        (str(solved.better), VERDICT_WEIGHT),
    )


def draw_tree(rng: random.Random, mixture: Mapping[str, float], room: int, shots: int, distraction: float) -> Tree:
    """A preamble, up to ``shots`` solved examples, a post, and as many blocks as fit into ``room`` tokens."""
    post = world.draw_post(rng, "build", distraction=distraction)
    preamble = rng.choice(sorted(PREAMBLES))
    given = [PREAMBLES[preamble]]
    with_rationale = rng.random() < 0.3
    given += [exemplar(rng, with_rationale=with_rationale) for _ in range(rng.choice(range(shots + 1)))]
    given.append(f"post : {post.text}")
    kinds = {**KINDS, "checked pair": checked_pair_block}
    return fill_tree(rng, " ".join(given), mixture, room, lambda kind: kinds[kind](rng, post))
