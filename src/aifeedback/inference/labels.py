"""P(label | prompt), exactly: what event a label is, as a tree of token sequences, and its probability from logits.

**The event.** The prompt's tokens are fixed. A label's *spelling* is what the tokenizer's own tokens for it, at this
prompt's end, add to the text. The model's next tokens are the label if, at the end of some token, they spell exactly
that, and at the end of no later token spell a longer label of the set.

- Every token sequence with this spelling counts, not only the tokenizer's own: "10" may be one token or two.
- A token that runs on past the label ("12" for "1") is not the label; a token boundary must lie at its end.
- "1" beside "10": P("1") leaves out the mass that continues to spell "10". Without "10" in the set it does not.
- So labels of different spelling exclude each other, and their sum, the coverage, is at most 1.
- "1" and " 1" are two labels wherever the tokenizer distinguishes them; with ``either_space`` both count for "1". A label
  that cannot be spelled as written (no "1" without a word mark) is taken with a space before it.
- A label that names a control token is that token.

Lee et al. 2023 (arXiv 2309.00267) read "1" and "2" as one token each and "10" as a product of two; this is the same
wherever those are the only spellings.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import ModelError
from aifeedback.inference.encoding import control_ids

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
MAX_SEQUENCES = 256
"""A label that more token sequences than this spell is read in the tokenizer's own spelling alone."""


class Spelling:
    """The bytes of every token of one vocabulary, and all token sequences that spell given bytes.

    Control tokens spell nothing. Where a tokenizer marks words (a space before, ``##`` inside, ``</w>`` after), the
    mark is part of the spelling, as it is part of what decoding gives.
    """

    def __init__(self, tokenizer: Any, control: frozenset[int]) -> None:
        of_piece = _reader(tokenizer)
        added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items()}
        self.bytes: dict[int, bytes] = {}
        for piece, index in tokenizer.get_vocab().items():
            if index not in control and index != tokenizer.unk_token_id:
                spelled = added[index].encode() if index in added else of_piece(piece)
                if spelled:
                    self.bytes[index] = spelled
        self._by_first: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
        for index, spelled in self.bytes.items():
            self._by_first[spelled[0]].append((spelled, index))
        self._sequences: dict[bytes, list[tuple[int, ...]] | None] = {}

    def of(self, ids: tuple[int, ...]) -> bytes | None:
        """What a sequence spells; None where a token of it spells nothing."""
        parts = [self.bytes.get(i) for i in ids]
        return None if None in parts else b"".join(p for p in parts if p is not None)

    def sequences(self, text: bytes) -> list[tuple[int, ...]] | None:
        """Every token sequence that spells ``text``; None if there are more than ``MAX_SEQUENCES``."""
        if text not in self._sequences:
            spellings = list(islice(self._walk(text), MAX_SEQUENCES + 1))
            self._sequences[text] = sorted(spellings) if len(spellings) <= MAX_SEQUENCES else None
        return self._sequences[text]

    def _walk(self, text: bytes) -> Iterator[tuple[int, ...]]:
        starts: dict[int, list[tuple[int, int]]] = {}
        reaches_end = {len(text)}
        for at in range(len(text) - 1, -1, -1):
            steps = [(at + len(s), i) for s, i in self._by_first[text[at]] if text.startswith(s, at)]
            starts[at] = [(end, i) for end, i in steps if end in reaches_end]
            if starts[at]:
                reaches_end.add(at)
        stack: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        while stack:
            at, path = stack.pop()
            if at == len(text):
                yield path
            else:
                stack += [(end, (*path, i)) for end, i in starts[at]]


def _reader(tokenizer: Any) -> Any:
    """A function from a vocabulary entry to the bytes that it adds to a text, by the tokenizer's own decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder: Any = json.loads(backend.to_str())["decoder"] if backend is not None else {"type": "Metaspace"}
    parts: list[dict[str, Any]] = (decoder or {}).get("decoders", [decoder] if decoder else [])
    kinds = {part["type"]: part for part in parts}
    if "ByteLevel" in kinds:
        table = _byte_level()
        return lambda piece: bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()
    if "WordPiece" in kinds:
        inside = kinds["WordPiece"]["prefix"]
        return lambda piece: (piece[len(inside) :] if piece.startswith(inside) else f" {piece}").encode()
    if "BPEDecoder" in kinds:
        suffix = kinds["BPEDecoder"]["suffix"]
        return lambda piece: (f"{piece[: -len(suffix)]} " if suffix and piece.endswith(suffix) else piece).encode()
    if not parts:  # decoding joins with spaces
        return lambda piece: f" {piece}".encode()
    replaced = [(p["pattern"].get("String"), p["content"]) for p in parts if p["type"] == "Replace"]
    replaced += [(p["replacement"], " ") for p in parts if p["type"] == "Metaspace"] or [("▁", " ")][: not replaced]
    falls_back = "ByteFallback" in kinds or backend is None

    def read(piece: str) -> bytes:
        if falls_back and (byte := BYTE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new) if old else piece
        return piece.encode()

    return read


def _byte_level() -> dict[str, int]:
    """GPT-2's printable stand-ins: visible Latin-1 bytes are themselves, the others follow from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(visible)]
    return {chr(b): b for b in visible} | {chr(0x100 + n): b for n, b in enumerate(others)}


TAIL = 8
"""Tokens at the end of a prompt that can bear on how a label after it is spelled."""
ANCHORS = ("=", ":", "\n", ".", " ", "a")
"""Texts after which a label is tried where the prompt's last characters and the label would merge into one token."""


class Node(NamedTuple):
    path: tuple[int, ...]
    label: int | None
    """Index of the label whose event this path belongs to, or None on the way to one."""
    children: tuple[int, ...]
    """Indices of the nodes one token further."""


class LabelTree(NamedTuple):
    """Token sequences of a label set as a tree; node 0 is the prompt's end."""

    nodes: tuple[Node, ...]
    event: tuple[int, ...]
    """Which event each label is; labels that the tokenizer cannot tell apart share one."""

    @property
    def inner(self) -> list[int]:
        """Nodes whose next-token logits are needed."""
        return [i for i, node in enumerate(self.nodes) if node.children]


class LabelReader:
    """Finds the label tree at the end of a prompt; trees are remembered, since most prompts end alike."""

    def __init__(self, tokenizer: Any, *, either_space: bool = False) -> None:
        self.tokenizer = tokenizer
        self.either_space = either_space
        self.control = control_ids(tokenizer)
        self._spelling: Spelling | None = None
        self._trees: dict[tuple[tuple[int, ...], tuple[str, ...]], LabelTree] = {}
        self._anchored: dict[str, tuple[int, ...]] = {}

    @property
    def spelling(self) -> Spelling:
        if self._spelling is None:
            self._spelling = Spelling(self.tokenizer, self.control)
        return self._spelling

    def tree(self, prompt_ids: Sequence[int], labels: Sequence[str]) -> LabelTree:
        """The events of ``labels`` after a prompt. Raises ModelError for a label that has no tokens of its own."""
        tail = tuple(prompt_ids[-TAIL:])
        key = tail, tuple(labels)
        if key not in self._trees:
            if len(self._trees) > 4096:
                self._trees.clear()
            self._trees[key] = label_tree([self.event(tail, label) for label in labels])
        return self._trees[key]

    def event(self, tail: Sequence[int], label: str) -> list[tuple[int, ...]]:
        """All token sequences that spell ``label`` after a prompt that ends in the ids ``tail``."""
        forms = [label, f" {label}"] if self.either_space and not label.startswith(" ") else [label]
        sequences = [s for form in forms for s in self._sequences(tail, form)]
        if not sequences and not label.startswith(" "):
            sequences = self._sequences(tail, f" {label}")
        if not sequences:
            raise ModelError(f"the tokenizer has no tokens for the label {label!r}", fix="choose labels it can spell")
        return sorted(set(sequences))

    def _sequences(self, tail: Sequence[int], form: str) -> list[tuple[int, ...]]:
        own = self._own(tail, form)
        if not own:
            return []
        spelled = self.spelling.of(own)
        if spelled is None:  # a control token that the user named as a label
            return [own] if self.tokenizer.unk_token_id not in own else []
        return self.spelling.sequences(spelled) or [own]

    def _own(self, tail: Sequence[int], form: str) -> tuple[int, ...]:
        """The tokenizer's own tokens for a label at the end of a prompt, whose tokens stay as they are."""
        before = self.tokenizer.decode(list(tail), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        own = self._after(before, form)
        if not own and form not in self._anchored:
            after_others = (self._after(anchor, form) for anchor in ANCHORS)
            self._anchored[form] = next(filter(None, after_others), tuple(self._ids(form)))
        return own or self._anchored[form]

    def _after(self, text: str, form: str) -> tuple[int, ...]:
        """What a label's tokens add to those of a text; nothing where they merge with them."""
        start, whole = self._ids(text), self._ids(text + form)
        return tuple(whole[len(start) :]) if start and whole[: len(start)] == start else ()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def label_tree(events: Sequence[Sequence[tuple[int, ...]]]) -> LabelTree:
    """The tree of the given token sequences, one list per label. Equal lists are one event."""
    event_of: dict[tuple[int, ...], int] = {}
    numbers: dict[frozenset[tuple[int, ...]], int] = {}
    event = []
    for sequences in events:
        number = numbers.setdefault(frozenset(sequences), len(numbers))
        event.append(number)
        event_of |= dict.fromkeys(sequences, number)
    paths = sorted({s[:n] for s in event_of for n in range(len(s) + 1)})
    place = {path: i for i, path in enumerate(paths)}
    children: list[list[int]] = [[] for _ in paths]
    for path in paths[1:]:
        children[place[path[:-1]]].append(place[path])
    nodes = tuple(Node(p, event_of.get(p), tuple(c)) for p, c in zip(paths, children, strict=True))
    return LabelTree(nodes, tuple(event))


def label_logprobs(
    tree: LabelTree, logp_NC: dict[int, NDArray[np.float64]], logrest_N: dict[int, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """log P(label), (N, K), nats, for N prompts that share a tree.

    For each inner node: ``logp_NC``, log-probabilities of its children's tokens; ``logrest_N``, log-probability of
    every *other* token together (only sums of positive terms appear, so nothing cancels where the rest is tiny).
    """
    count = len(next(iter(logp_NC.values())))
    nowhere = np.full(count, -np.inf)
    miss: dict[int, NDArray[np.float64]] = {}  # log-probability, from a node on, that no label is completed

    def ends(i: int) -> NDArray[np.float64]:
        """log-probability, given node i was reached, that no label below it is completed."""
        node = tree.nodes[i]
        if not node.children:
            return np.zeros(count)
        parts = [logrest_N[i], *(logp_NC[i][:, c] + miss[child] for c, child in enumerate(node.children))]
        return np.logaddexp.reduce(parts, axis=0)

    reach = {0: np.zeros(count)}
    for i, node in enumerate(tree.nodes):
        for c, child in enumerate(node.children):
            reach[child] = reach[i] + logp_NC[i][:, c]
    total: dict[int, list[NDArray[np.float64]]] = {}
    for i in range(len(tree.nodes) - 1, 0, -1):  # children come after their parents
        label = tree.nodes[i].label
        if label is None:
            miss[i] = ends(i)
        else:
            miss[i] = nowhere
            total.setdefault(label, []).append(reach[i] + ends(i))
    by_event = {label: np.logaddexp.reduce(parts, axis=0) for label, parts in total.items()}
    return np.stack([by_event[number] for number in tree.event], axis=1)
