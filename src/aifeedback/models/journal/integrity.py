"""The canonical form of a journal row and the hash chain over rows; pure functions, nothing is stored here.

``digest(n) = SHA-256(canonical row n)`` and ``link(n) = SHA-256(link(n−1) ‖ digest(n))``: an edited, removed, inserted
or moved row breaks every later link. Whoever rewrites all that follows goes unseen by the chain alone; to rule that out
too, keep ``Journal.head()`` somewhere else (a report prints it) and give it to ``Journal.verify``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from aifeedback.types import Message


class Entry(NamedTuple):
    """One call or rating, ready to be journalled."""

    kind: str
    """``labels``, ``reply``, ``rating``, or any other short name."""
    key: bytes
    """Content key, 32 bytes: two entries with one key are the same question."""
    setting: str
    """Canonical JSON of what all calls of one job share: the card, the labels, the decoding."""
    prompt_hash: bytes
    """SHA-256 of the rendered prompt; the text itself is not kept."""
    outcome: str
    """``ok`` or the name of a Problem."""
    answer: str
    """JSON of the Reading, Reply or Rating."""
    raw: str | None = None
    """JSON of what the server sent beyond the answer (top log-probabilities, its own fingerprint, attempts)."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    at: float = 0.0
    """Unix time."""
    is_final: bool = True
    """False: the call failed in transit, the question is still open, a later run may ask again."""


class Row(NamedTuple):
    """An entry as the journal holds it."""

    seq: int
    entry: Entry
    digest: bytes
    link: bytes

    @property
    def call_id(self) -> str:
        return call_id(self.entry.key)


def call_id(key: bytes) -> str:
    """Sixteen hex digits of the content key: the same question has the same id in every run and every export."""
    return key.hex()[:16]


def canonical(value: Any) -> str:
    """ASCII JSON with sorted keys and no spaces; infinities are written as Python writes them."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def prompt_hash(prompt: str | Sequence[Message]) -> bytes:
    """SHA-256 of a rendered prompt. A text and a one-message dialogue of the same text are different prompts."""
    if isinstance(prompt, str):
        form = "text:" + prompt
    else:
        form = "messages:" + canonical([[message.role, message.content] for message in prompt])
    return hashlib.sha256(form.encode("utf-8", "surrogatepass")).digest()


def setting_digest(setting: str) -> bytes:
    return hashlib.sha256(setting.encode("utf-8", "surrogatepass")).digest()


def content_key(setting: bytes, prompt: bytes) -> bytes:
    """The key of a question: digest of its setting, digest of its prompt."""
    return hashlib.sha256(b"aifeedback call 1\0" + setting + prompt).digest()


def row_digest(seq: int, entry: Entry, setting: bytes) -> bytes:
    """SHA-256 over every column, so that no bit of a row can change unseen."""
    texts = (
        entry.kind,
        entry.key.hex(),
        setting.hex(),
        entry.prompt_hash.hex(),
        entry.outcome,
        entry.answer,
        entry.raw,
    )
    tokens = (entry.prompt_tokens, entry.completion_tokens)
    figures = (float(entry.cost_usd), float(entry.seconds), float(entry.at))
    form = json.dumps([seq, *texts, *tokens, *figures, bool(entry.is_final)])
    return hashlib.sha256(form.encode("ascii")).digest()


def genesis(journal_id: str) -> bytes:
    """Link 0: what the first row is chained to."""
    return hashlib.sha256(b"aifeedback journal 1\0" + journal_id.encode()).digest()


def link(previous: bytes, digest: bytes) -> bytes:
    return hashlib.sha256(previous + digest).digest()
