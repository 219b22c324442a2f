"""What each token adds to a text, in bytes: the ground on which a label is told from another and from a longer one."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from typing import Any

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
            found = list(islice(self._walk(text), MAX_SEQUENCES + 1))
            self._sequences[text] = sorted(found) if len(found) <= MAX_SEQUENCES else None
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
