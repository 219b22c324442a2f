"""The world as records: prompts, training summaries, comparisons and fact pairs, each from a seed and a split."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import NamedTuple

from aifeedback.lab import words, world
from aifeedback.lab.world import Post, Split
from aifeedback.types import Comparison, Completion, Prompt

TOPICS = {
    "music": "guitar piano violin",
    "devices": "phone laptop camera",
    "household": "lamp kettle carpet mirror",
    "belongings": "bike ring jacket tent",
}
TOPIC_OF = {thing: topic for topic, things in TOPICS.items() for thing in things.split()}
SOURCE = "lab:candidates"


class Demonstration(NamedTuple):
    """A prompt with a completion to imitate."""

    prompt: Prompt
    completion: Completion


def prompts(count: int, *, split: Split = "train", seed: int = 0) -> list[Prompt]:
    """Posts to summarise. Tags: split, topic, and length (short or long post)."""
    return [_prompt(_post(seed, "prompts", split, i), split) for i in range(count)]


def demonstrations(count: int, *, split: Split = "train", seed: int = 0) -> list[Demonstration]:
    """Mixed-quality summaries for supervised fine-tuning: many leave facts out, a third hold a wrong one."""
    rows = []
    for i in range(count):
        post = _post(seed, "demonstrations", split, i)
        text = world.draw_summary(world.stream(seed, "demonstration", split, i), post)
        prompt = _prompt(post, split)
        rows.append(Demonstration(prompt, Completion.of(prompt, text, source=SOURCE, finish_reason="stop")))
    return rows


def comparisons(count: int, *, split: Split = "train", seed: int = 0) -> list[Comparison]:
    """Two different candidates of one post each, storage order random."""
    rows = []
    for i in range(count):
        post = _post(seed, "comparisons", split, i)
        rng = world.stream(seed, "candidates", split, i)
        first = second = world.draw_summary(rng, post)
        while second == first:
            second = world.draw_summary(rng, post)
        rows.append(_comparison(_prompt(post, split), first, second))
    return rows


def triples(count: int, *, split: Split = "test", seed: int = 0) -> list[Comparison]:
    """All three pairs of three different candidates of each post: whoever prefers in circles shows it here."""
    rows = []
    for i in range(count):
        post = _post(seed, "triples", split, i)
        rng = world.stream(seed, "three candidates", split, i)
        rows += all_pairs(_prompt(post, split), lambda post=post, rng=rng: world.draw_summary(rng, post), SOURCE)
    return rows


def all_pairs(prompt: Prompt, draw: Callable[[], str], source: str) -> list[Comparison]:
    """Every two of the first three different texts that are drawn."""
    texts: list[str] = []
    while len(texts) < 3:
        if (text := draw()) not in texts:
            texts.append(text)
    made = [Completion.of(prompt, text, source=source, finish_reason="stop") for text in texts]
    return [Comparison.of(prompt, one, other) for one, other in combinations(made, 2)]


def fact_pairs(count: int, *, split: Split = "test", seed: int = 0) -> list[Comparison]:
    """A faultless summary against the same text with ONE fact wrong, storage order random.

    Only the post distinguishes them: a judge that never checks facts scores 50 % here.
    """
    rows = []
    for i in range(count):
        post = _post(seed, "facts", split, i)
        rng = world.stream(seed, "mistake", split, i)
        mentioned = world.draw_mention(rng, post.facts, rng.random())
        slot = rng.choice(sorted(mentioned))
        false = {**mentioned, slot: world.wrong_value(rng, slot, mentioned[slot], post.distractors)}
        clean, faulty = (world.write_summary(world.stream(seed, "text", split, i), m, {}) for m in (mentioned, false))
        pair = (clean, faulty) if rng.random() < 0.5 else (faulty, clean)
        rows.append(_comparison(_prompt(post, split), *pair))
    return rows


def prompt_text(post: Post) -> str:
    """What the policy reads."""
    return f"post : {post.text} {words.PROMPT_MARK} :"


def _post(seed: int, purpose: str, split: Split, index: int) -> Post:
    return world.draw_post(world.stream(seed, purpose, split, index), split)


def _prompt(post: Post, split: Split) -> Prompt:
    length = "long" if len(post.text.split()) > 50 else "short"
    return Prompt.of(prompt_text(post), tags={"split": split, "topic": TOPIC_OF[post.facts["thing"]], "length": length})


def _comparison(prompt: Prompt, first: str, second: str) -> Comparison:
    made = [Completion.of(prompt, text, source=SOURCE, finish_reason="stop") for text in (first, second)]
    return Comparison.of(prompt, *made)
