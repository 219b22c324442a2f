"""The lab's world: posts that hold known facts, and candidate summaries of every quality. Pure Python, seeded.

A post is drawn from eight facts; a hash of those facts decides which split it belongs to, so splits cannot overlap
whatever the seeds. A candidate summary mentions some of the facts, gets some of them wrong, and may ramble, repeat
itself, break off or fall apart; a latent quality drives how often. Nothing here scores anything: see ``gold``.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from aifeedback.lab import words

Split: TypeAlias = Literal["build", "train", "test"]
"""``build`` trains the lab's own models, ``train`` is what a pipeline learns from, ``test`` is held out from both."""
SHARES: Mapping[Split, int] = {"build": 60, "train": 25, "test": 15}
Facts: TypeAlias = dict[str, str]

ABSENT_SHARE = 0.2
DISTRACTION = 0.5
"""How often a sentence beside the case names another person, thing or day."""
WRONG_RATES = (0.0, 0.0, 0.15, 0.40)
"""A summary draws one of these; each fact it mentions is then wrong at that rate."""


class Post(NamedTuple):
    facts: Facts
    distractors: Facts
    """Another person, thing or day that the post also names."""
    text: str


class Mistakes(NamedTuple):
    """How a candidate summary goes wrong; every field is a probability."""

    wrong: float = 0.0
    filler: float = 0.0
    repeat: float = 0.0
    cut: float = 0.0
    scramble: float = 0.0


FAULTLESS = Mistakes()


def stream(seed: int, *path: object) -> random.Random:
    """An independent generator for this seed and path; equal arguments, equal draws, on any machine."""
    return random.Random("/".join(map(str, (seed, *path))))


def split_of(facts: Facts) -> Split:
    """Which split a post with these facts belongs to."""
    place = zlib.crc32(" ".join(facts.get(slot, "-") for slot in words.SLOTS).encode()) % 100
    for split, share in SHARES.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares of the splits add up to 100")


def draw_facts(rng: random.Random, split: Split) -> Facts:
    while True:
        facts = {
            slot: rng.choice(values)
            for slot, values in words.VALUES.items()
            if slot not in words.OPTIONAL or rng.random() >= ABSENT_SHARE
        }
        if split_of(facts) == split:
            return facts


def draw_post(rng: random.Random, split: Split = "build", *, distraction: float = DISTRACTION) -> Post:
    """A post of about 50 words: its facts, one to three other sentences, in shuffled order."""
    facts = draw_facts(rng, split)
    sentences = [rng.choice(forms).format(**facts) for forms in post_forms(facts)[:-1]]
    distractors: Facts = {}
    for _ in range(rng.randint(1, 3)):
        sentences.append(_aside(rng, facts, distractors, distraction))
    rng.shuffle(sentences)
    question = rng.choice(words.POST_QUESTION).format(**facts)
    place = len(sentences) if rng.random() < 0.75 else rng.randrange(len(sentences))
    sentences.insert(place, question)
    return Post(facts, distractors, " ".join(sentences))


def draw_fragment(rng: random.Random, sentences: int, *, distraction: float = DISTRACTION) -> Post:
    """This many sentences of a post, in any order: short texts on which looking facts up is learned first."""
    facts = draw_facts(rng, "build")
    forms = rng.sample(post_forms(facts), min(sentences, len(post_forms(facts))))
    chosen = [rng.choice(f) for f in forms]
    known = {slot: value for slot, value in facts.items() if any(f"{{{slot}}}" in form for form in chosen)}
    texts = [form.format(**facts) for form in chosen]
    distractors: Facts = {}
    for _ in range(rng.randint(0, sentences)):
        texts.insert(rng.randint(0, len(texts)), _aside(rng, facts, distractors, distraction))
    return Post(known, distractors, " ".join(texts))


def post_forms(facts: Facts) -> list[tuple[str, ...]]:
    """The forms of each sentence that a post with these facts holds; the question comes last."""
    forms: list[tuple[str, ...]] = [words.POST_CORE, words.POST_WHERE]
    if "feeling" in facts:
        forms.append(words.POST_FEELING)
    if "excuse" in facts:
        forms.append(words.POST_EXCUSE)
    return [*forms, words.POST_QUESTION]


def _aside(rng: random.Random, facts: Facts, distractors: Facts, distraction: float) -> str:
    """A sentence beside the case; one that names a distractor also enters it into ``distractors``."""
    slot = rng.choice(words.DISTRACTED)
    if rng.random() < distraction and slot not in distractors:
        distractors[slot] = other_value(rng, slot, facts[slot])
        return rng.choice(words.DISTRACTORS[slot]).format(**distractors)
    return rng.choice(words.FILLERS)


def other_value(rng: random.Random, slot: str, value: str) -> str:
    """A value of this slot other than ``value``."""
    others = [v for v in words.VALUES[slot] if v != value]
    return rng.choice(others)


def draw_mention(rng: random.Random, facts: Facts, quality: float) -> Facts:
    """The facts that a summary of this quality, in [0, 1], mentions. The problem is always named."""
    chance = {
        "question": 0.3 + 0.6 * quality,
        "person": 0.6 + 0.38 * quality,
        "thing": 0.55 + 0.4 * quality,
        "feeling": 0.25 + 0.5 * quality,
        "place": 0.3,
        "day": 0.3,
        "excuse": 0.3,
        "problem": 1.0,
    }
    return {slot: value for slot, value in facts.items() if rng.random() < chance[slot]} or facts


def draw_summary(rng: random.Random, post: Post) -> str:
    """A candidate of random quality: what a mixed-quality data set holds."""
    quality = rng.random()
    mistakes = Mistakes(
        wrong=rng.choice(WRONG_RATES),
        filler=0.35 * (1 - quality) + 0.05,
        repeat=0.15 * (1 - quality) + 0.01,
        cut=0.15 * (1 - quality),
        scramble=0.10 * (1 - quality),
    )
    return write_summary(rng, draw_mention(rng, post.facts, quality), post.distractors, mistakes)


def write_summary(rng: random.Random, mentioned: Facts, distractors: Facts, mistakes: Mistakes = FAULTLESS) -> str:
    """Put these facts into sentences, with these mistakes."""
    stated = {slot: _maybe_wrong(rng, slot, value, distractors, mistakes.wrong) for slot, value in mentioned.items()}
    sentences = list(summary_sentences(rng, stated))
    if rng.random() < mistakes.filler:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(words.FILLERS))
    if rng.random() < mistakes.repeat and sentences:
        sentences.append(rng.choice(sentences))
    tokens = " ".join(sentences).split()
    if rng.random() < mistakes.scramble and len(tokens) > 5:
        start = rng.randrange(len(tokens) - 4)
        piece = tokens[start : start + 4]
        rng.shuffle(piece)
        tokens[start : start + 4] = piece
    if rng.random() < mistakes.cut and len(tokens) > 4:
        tokens = tokens[: rng.randrange(len(tokens) // 2, len(tokens) - 1)]
    return " ".join(tokens)


def summary_sentences(rng: random.Random, stated: Facts) -> Iterator[str]:
    """The sentences of a summary that states these facts."""
    if "problem" in stated:
        yield _core(rng, stated)
    if "feeling" in stated:
        yield rng.choice(words.SUMMARY_FEELING).format(**stated)
    if "excuse" in stated:
        yield rng.choice(words.SUMMARY_EXCUSE).format(**stated)
    if "question" in stated:
        yield rng.choice(words.SUMMARY_QUESTION).format(**stated)


def _core(rng: random.Random, stated: Facts) -> str:
    where = [f"at {stated['place']}"] if "place" in stated else []
    where += [f"on {stated['day']}"] if "day" in stated else []
    rng.shuffle(where)
    who = f"my {stated['person']}" if "person" in stated else "someone"
    what = f"our {stated['thing']}" if "thing" in stated else "something"
    core = [who, "has", stated["problem"], what]
    return " ".join([*where, *core, "."] if rng.random() < 0.3 else [*core, *where, "."])


def _maybe_wrong(rng: random.Random, slot: str, value: str, distractors: Facts, rate: float) -> str:
    return wrong_value(rng, slot, value, distractors) if rng.random() < rate else value


def wrong_value(rng: random.Random, slot: str, value: str, distractors: Facts) -> str:
    """A wrong value for a fact; half of the time the one that the post names in passing, if it names one."""
    if distractors.get(slot, value) != value and rng.random() < 0.5:
        return distractors[slot]
    return other_value(rng, slot, value)
