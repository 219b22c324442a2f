from __future__ import annotations

import itertools
import statistics

import pytest

from aifeedback.lab import gold, samples, words, world


@pytest.fixture(scope="module")
def posts() -> list[world.Post]:
    return [world.draw_post(world.stream(1, "t", i), "test") for i in range(400)]


def test_same_seed_same_world_and_another_seed_another() -> None:
    assert samples.comparisons(20, seed=3) == samples.comparisons(20, seed=3)
    assert samples.prompts(20, seed=3) != samples.prompts(20, seed=4)


def test_a_longer_draw_starts_with_the_shorter_one() -> None:
    assert samples.prompts(30, seed=5)[:10] == samples.prompts(10, seed=5)


def test_splits_cannot_overlap_whatever_the_seed() -> None:
    drawn = {
        split: {
            tuple(sorted(gold.facts_of(p).items()))
            for seed in (0, 1)
            for p in samples.prompts(300, split=split, seed=seed)
        }
        for split in world.SHARES
    }
    assert not drawn["train"] & drawn["test"]
    assert not drawn["build"] & (drawn["train"] | drawn["test"])


def test_gold_reads_the_facts_back_from_any_post(posts: list[world.Post]) -> None:
    for post in posts:
        assert gold.facts_of(samples.prompt_text(post)) == post.facts


def test_posts_have_the_promised_size(posts: list[world.Post]) -> None:
    lengths = [len(p.text.split()) for p in posts]
    assert 45 < statistics.mean(lengths) < 55
    assert max(lengths) <= 75


def test_every_cue_word_announces_one_kind_of_fact_only(posts: list[world.Post]) -> None:
    """The word before a fact, in posts and summaries, never stands before a fact of another kind."""
    before: dict[str, set[str]] = {}
    for i, post in enumerate(posts):
        summary = world.write_summary(world.stream(2, i), post.facts, {})
        for text in (post.text, summary):
            tokens = text.split()
            for cue, word in itertools.pairwise(tokens):
                if word in words.SLOT_OF:
                    before.setdefault(cue, set()).add(words.SLOT_OF[word])
    assert {cue: slots for cue, slots in before.items() if len(slots) > 1} == {}


def test_fact_pairs_differ_in_exactly_one_word_that_is_a_fact() -> None:
    for pair in samples.fact_pairs(200):
        first, second = pair.first.text.split(), pair.second.text.split()
        different = [(a, b) for a, b in zip(first, second, strict=True) if a != b]
        assert len(different) == 1
        a, b = different[0]
        assert words.SLOT_OF[a] == words.SLOT_OF[b]


def test_values_and_format_words_are_distinct() -> None:
    values = [v for vs in words.VALUES.values() for v in vs]
    assert len(set(values)) == len(values)
    assert not set(values) & {*words.FORMAT_WORDS, *words.SLOTS, *words.VERDICTS, *words.TALLIES}
