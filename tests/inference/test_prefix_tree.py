"""The token tree: every sequence is found again, nothing is held twice, packs keep their promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.inference.prefix_tree import (
    Pack,
    Segment,
    Tree,
    build_tree,
    chained_packs,
    cut_long,
    cut_prefix,
    layout,
    walk,
    whole_packs,
)

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


def spelled(tree: Tree, i: int) -> list[int]:
    segment: Segment | None = tree.leaves[i]
    parts: list[int] = []
    while segment is not None:
        parts = [*segment.tokens.tolist(), *parts]
        segment = segment.parent
    return parts


def prefixes(sequences: list[list[int]]) -> int:
    """Distinct non-empty prefixes: the fewest tokens that hold everything."""
    return len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})


def test_worked_example() -> None:
    tree = build_tree([[5, 6, 7, 8], [5, 6, 9], [5, 6, 7, 8], [5, 6], [1]])
    result = [s.tokens.tolist() for root in tree.roots for s in walk(root)]
    assert result == [[1], [5, 6], [7, 8], [9]]
    assert tree.leaves[0] is tree.leaves[2]
    assert tree.place(0, 1) == (tree.leaves[3], 1)
    assert tree.tokens == 6


@given(SEQUENCES)
def test_holds_every_sequence_once(sequences: list[list[int]]) -> None:
    tree = build_tree(sequences)
    assert [spelled(tree, i) for i in range(len(sequences))] == sequences
    assert tree.tokens == prefixes(sequences)
    for root in tree.roots:
        for segment in walk(root):
            assert segment.below == sum(len(s.tokens) for s in walk(segment))
            firsts = [int(child.tokens[0]) for child in segment.children]
            assert len(set(firsts)) == len(firsts)


@settings(deadline=None)
@given(SEQUENCES, st.integers(1, 20), st.integers(0, 3))
def test_chained_packs(sequences: list[list[int]], budget: int, chunk: int) -> None:
    """Within budget, every token once, chains complete and computed before."""
    tree = build_tree(sequences)
    heads = cut_prefix(tree, chunk, min(map(len, sequences)) - 1) if chunk else ()
    roots = heads[-1].children if heads else tree.roots
    cut_long(roots, budget)
    assert [spelled(tree, i) for i in range(len(sequences))] == sequences
    done = {id(head) for head in heads}
    total = sum(len(head.tokens) for head in heads)
    for pack in chained_packs(roots, budget, chain=heads):
        assert pack.tokens <= budget
        assert {id(s) for s in pack.chain} <= done
        assert not pack.goes_on or len(pack.segments) == 1
        inside = {id(s) for s in pack.segments}
        chain_end = pack.chain[-1] if pack.chain else None
        assert all(id(s.parent) in inside or s.parent is chain_end for s in pack.segments)
        done |= inside
        total += pack.tokens
    assert total == prefixes(sequences)


@settings(deadline=None)
@given(SEQUENCES, st.integers(1, 20))
def test_whole_packs_hold_every_ancestor(sequences: list[list[int]], budget: int) -> None:
    tree = build_tree(sequences)
    seen = set()
    for pack in whole_packs(tree.roots, budget):
        assert pack.tokens <= max(budget, max(map(len, sequences)))
        placed: set[int] = set()
        for segment in pack.segments:
            assert segment.parent is None or id(segment.parent) in placed
            placed.add(id(segment))
        seen |= placed
    assert seen == {id(s) for root in tree.roots for s in walk(root)}


@settings(deadline=None)
@given(SEQUENCES)
def test_layout_shows_a_token_its_ancestors_only(sequences: list[list[int]]) -> None:
    """Blocks and end_T say the same; what a sequence's last token sees is that sequence."""
    tree = build_tree(sequences)
    where = layout(Pack((), [s for root in tree.roots for s in walk(root)], False))
    total = len(where.tokens_T)
    at = np.arange(total)
    by_end = (at[None, :] <= at[:, None]) & (at[:, None] < where.end_T[None, :])
    by_block = np.zeros((total, total), dtype=int)
    for start, stop, end in where.blocks:
        by_block[start:stop, start:stop] += np.tri(stop - start, dtype=int)
        by_block[stop:end, start:stop] += 1
    assert (by_block == by_end).all()
    for i, sequence in enumerate(sequences):
        segment, place = tree.place(i, len(sequence) - 1)
        query = where.offset[id(segment)] + place
        assert where.tokens_T[by_end[query]].tolist() == sequence
        assert where.depth_T[by_end[query]].tolist() == list(range(len(sequence)))


def test_straight_runs_are_one_block() -> None:
    tree = build_tree([[1, 2], [1, 2, 3], [1, 2, 3, 4]])
    assert layout(Pack((), list(walk(tree.roots[0])), False)).blocks == ((0, 4, 4),)


def test_deep_nesting_needs_no_recursion() -> None:
    sequences = [[1] * n for n in range(1, 3000)]
    tree = build_tree(sequences)
    assert tree.tokens == 2999
    assert sum(pack.tokens for pack in chained_packs(tree.roots, 100)) == 2999


@pytest.mark.parametrize("before", [0, 3, 4, 8, 9])
def test_prefix_is_cut_in_whole_chunks_before_the_first_read(before: int) -> None:
    tree = build_tree([[1] * 9 + [2], [1] * 9 + [3]])
    heads = cut_prefix(tree, 4, before)
    assert [len(h.tokens) for h in heads] == [4] * (before // 4)
