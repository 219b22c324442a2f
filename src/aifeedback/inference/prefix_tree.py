"""Token sequences → a tree of their common prefixes → packs that a model can compute in one pass.

Prefixes are found between *tokens* of whole sequences, so there are no boundaries to mark and none to get wrong. Packed
depth first, everything below a segment is one contiguous slice: that is what makes the attention of a tree a few dense
blocks (``tree_attention.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Segment:
    """A run of tokens that the same sequences share."""

    __slots__ = ("below", "children", "parent", "start", "tokens")

    def __init__(self, tokens: NDArray[np.int64], start: int, parent: Segment | None) -> None:
        self.tokens, self.start, self.parent = tokens, start, parent
        self.children: list[Segment] = []
        self.below = 0
        """Tokens in this segment and in everything under it."""

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)

    def split(self, at: int) -> Segment:
        """Cut the tokens before position ``at`` off into a new segment above this one, and return that."""
        above = self.tokens[: at - self.start]
        head = Segment(above, self.start, self.parent)
        if self.parent is not None:
            siblings = self.parent.children
            siblings[siblings.index(self)] = head
        self.tokens, self.start, self.parent = self.tokens[at - self.start :], at, head
        head.children.append(self)
        head.below = self.below
        self.below -= len(head.tokens)
        return head


class Tree(NamedTuple):
    roots: list[Segment]
    leaves: list[Segment]
    """For each sequence, the segment that holds its last token."""

    @property
    def tokens(self) -> int:
        return sum(root.below for root in self.roots)

    def place(self, sequence: int, position: int) -> tuple[Segment, int]:
        """The segment that holds a token, and where in it. Stays right when segments are cut."""
        segment = self.leaves[sequence]
        while segment.start > position and segment.parent is not None:
            segment = segment.parent
        return segment, position - segment.start


def build_tree(sequences: Sequence[Sequence[int]]) -> Tree:
    """The radix tree of non-empty sequences; equal ones share everything."""
    arrays = [np.asarray(s, dtype=np.int64) for s in sequences]
    keys = [a.astype(">u4").tobytes() for a in arrays]  # compares as the tokens do, at memcmp speed
    order = sorted(range(len(arrays)), key=keys.__getitem__)
    roots: list[Segment] = []
    leaves: list[Segment | None] = [None] * len(arrays)
    path: list[Segment] = []
    previous = np.empty(0, dtype=np.int64)
    for i in order:
        ids = arrays[i]
        shared = common_prefix(previous, ids)
        while path and path[-1].start >= shared:
            path.pop()
        if path and path[-1].stop > shared:
            path[-1] = _cut(roots, path[-1], shared)
        if len(ids) > shared:
            segment = Segment(ids[shared:], shared, path[-1] if path else None)
            (path[-1].children if path else roots).append(segment)
            path.append(segment)
        leaves[i] = path[-1]
        previous = ids
    for root in roots:
        _count(root)
    return Tree(roots, [leaf for leaf in leaves if leaf is not None])


def common_prefix(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many tokens two sequences share from their start."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if differs.any() else n


def _cut(roots: list[Segment], segment: Segment, at: int) -> Segment:
    head = segment.split(at)
    if head.parent is None:
        roots[roots.index(segment)] = head
    return head


def walk(root: Segment) -> Iterator[Segment]:
    """Depth first, parents before children."""
    stack = [root]
    while stack:
        segment = stack.pop()
        yield segment
        stack += reversed(segment.children)


def _count(root: Segment) -> None:
    for segment in reversed(list(walk(root))):
        segment.below = len(segment.tokens) + sum(child.below for child in segment.children)


def cut_long(roots: list[Segment], length: int) -> None:
    """Cut segments of more than ``length`` tokens into chains of shorter ones."""
    for root in list(roots):
        for segment in list(walk(root)):
            while len(segment.tokens) > length:
                _cut(roots, segment, segment.start + length)


def cut_prefix(tree: Tree, chunk: int, before: int) -> tuple[Segment, ...]:
    """Cut whole chunks off what *all* sequences share, up to position ``before``; return them, root first.

    What chunks a sequence starts with depends on its tokens alone, so their keys and values can be kept across calls.
    """
    heads: list[Segment] = []
    if len(tree.roots) == 1:
        segment = tree.roots[0]
        while segment.stop - segment.start > chunk and segment.start + chunk <= before:
            heads.append(_cut(tree.roots, segment, segment.start + chunk))
    return tuple(heads)


class Pack(NamedTuple):
    """Segments computed in one pass, depth first."""

    chain: tuple[Segment, ...]
    """Segments computed before, from the root down, that every token of the pack comes after."""
    segments: list[Segment]
    goes_on: bool
    """Whether its keys and values are needed by later packs (then it is one segment)."""

    @property
    def tokens(self) -> int:
        return sum(len(s.tokens) for s in self.segments)


def chained_packs(roots: list[Segment], budget: int, *, chain: tuple[Segment, ...] = ()) -> Iterator[Pack]:
    """Packs of at most ``budget`` tokens; what does not fit is computed first and attended to from then on.

    A pack comes after all the packs of its chain. ``chain``: what all of it comes after, computed before.
    """
    small, large = _parted(roots, budget)
    yield from (Pack(chain, group, False) for group in _grouped(small, budget))
    work: list[tuple[tuple[Segment, ...], Segment]] = [(chain, s) for s in reversed(large)]
    while work:
        chain, segment = work.pop()
        yield Pack(chain, [segment], bool(segment.children))
        chain = (*chain, segment)
        small, large = _parted(segment.children, budget)
        yield from (Pack(chain, group, False) for group in _grouped(small, budget))
        work += [(chain, s) for s in reversed(large)]


def _parted(siblings: list[Segment], budget: int) -> tuple[list[Segment], list[Segment]]:
    return [s for s in siblings if s.below <= budget], [s for s in siblings if s.below > budget]


def whole_packs(roots: list[Segment], budget: int) -> Iterator[Pack]:
    """Packs that need no others: each repeats the ancestors of what is in it. A long sequence may exceed ``budget``."""
    work: list[tuple[list[Segment], list[Segment]]] = [([], roots)]
    while work:
        path, siblings = work.pop()
        room = max(budget - sum(len(s.tokens) for s in path), 1)
        fitting = [s for s in siblings if s.below <= room or not s.children]
        for group in _grouped(fitting, room):
            yield Pack((), [*path, *group], False)
        work += [([*path, s], s.children) for s in reversed(siblings) if s.below > room and s.children]


def _grouped(siblings: list[Segment], budget: int) -> Iterator[list[Segment]]:
    """Whole subtrees in groups that fit, each as its segments depth first."""
    group: list[Segment] = []
    size = 0
    for segment in siblings:
        if group and size + segment.below > budget:
            yield group
            group, size = [], 0
        group += walk(segment)
        size += segment.below
    if group:
        yield group


class Layout(NamedTuple):
    """Where everything is in a pack of T tokens. The tokens of the chain come before, in a straight line."""

    tokens_T: NDArray[np.int64]
    depth_T: NDArray[np.int64]
    """Position in its own sequence."""
    end_T: NDArray[np.int64]
    """Where the slice ends that comes after this token: query i sees key j if j ≤ i < end[j]."""
    blocks: tuple[tuple[int, int, int], ...]
    """(start, stop, end): tokens [start, stop) see each other causally, and all of [stop, end) sees all of them."""
    offset: dict[int, int]
    """id of a segment → where its first token lies."""


def layout(pack: Pack) -> Layout:
    """Places of a pack's tokens; chains of segments without branches become one block."""
    offset, at = {}, 0
    for segment in pack.segments:
        offset[id(segment)] = at
        at += len(segment.tokens)
    end = {id(s): offset[id(s)] + len(s.tokens) for s in pack.segments}
    for segment in reversed(pack.segments):
        parent = segment.parent
        if parent is not None and id(parent) in end:
            end[id(parent)] = max(end[id(parent)], end[id(segment)])
    blocks: list[tuple[int, int, int]] = []
    for segment in pack.segments:
        start, stop = offset[id(segment)], offset[id(segment)] + len(segment.tokens)
        if blocks and blocks[-1][1] == start and blocks[-1][2] == end[id(segment)]:  # an only child
            blocks[-1] = (blocks[-1][0], stop, blocks[-1][2])
        else:
            blocks.append((start, stop, end[id(segment)]))
    return Layout(
        np.concatenate([s.tokens for s in pack.segments]),
        np.concatenate([np.arange(s.start, s.stop) for s in pack.segments]),
        np.concatenate([np.full(len(s.tokens), end[id(s)]) for s in pack.segments]),
        tuple(blocks),
        offset,
    )
