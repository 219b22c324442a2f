"""What training reads: rows, their token ids, and the order in which they come.

Rows are anything with the right attributes (a labelled row of a file, or the small tuples here). Encoding drops rows
that cannot be used and counts every reason; nothing is cut and nothing is guessed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from aifeedback.engine.chat import Encoding
from aifeedback.errors import TrainingError
from aifeedback.records import Comparison, Completion, Prompt


class SftRow(NamedTuple):
    """One answer to imitate. ``weight`` multiplies its loss."""

    prompt: Prompt
    completion: Completion
    weight: float = 1.0


class PairRow(NamedTuple):
    """A comparison with its label; None is not known and is left out. ``weight`` multiplies its loss."""

    comparison: Comparison
    p_first: float | None
    weight: float = 1.0


class Pair(Protocol):
    """A comparison with its label, from wherever it comes; may also carry a ``weight`` (1 where it does not)."""

    @property
    def comparison(self) -> Comparison: ...

    @property
    def p_first(self) -> float | None: ...


class SftIds(NamedTuple):
    """Token ids of one row to imitate; the completion ends with the token that ends a turn."""

    prompt: list[int]
    completion: list[int]
    weight: float
    row: int

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.completion)


class PairIds(NamedTuple):
    """Token ids of one labelled comparison; both completions end with the token that ends a turn."""

    prompt: list[int]
    first: list[int]
    second: list[int]
    p_first: float
    weight: float
    row: int

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.first) + len(self.second)


def encode_sft(
    tokenizer: Any,
    rows: Sequence[SftRow | tuple[Prompt, Completion]],
    *,
    max_prompt_tokens: int | None = None,
    max_completion_tokens: int | None = None,
    context_window: int | None = None,
) -> tuple[list[SftIds], Counter[str]]:
    """Usable rows as token ids, and how many were left out for which reason."""
    encoding = Encoding.of(tokenizer)
    encode = _Encoder(encoding, (max_prompt_tokens, max_completion_tokens, context_window))
    kept: list[SftIds] = []
    for index, row in enumerate(rows):
        prompt, completion = encode.prompt(row[0]), encoding.response(row[1].text)
        weight = float(row[2]) if len(row) > 2 else 1.0
        if encode.fits(prompt, completion):
            kept.append(SftIds(prompt, completion, weight, index))
    return kept, encode.skipped


def encode_pairs(
    tokenizer: Any,
    rows: Sequence[Pair],
    *,
    max_prompt_tokens: int | None = None,
    max_completion_tokens: int | None = None,
    context_window: int | None = None,
    whole: bool = False,
) -> tuple[list[PairIds], Counter[str]]:
    """Usable labelled comparisons as token ids, and how many were left out for which reason.

    ``whole``: as finished conversations, which is how a reward model reads them.
    """
    encoding = Encoding.of(tokenizer)
    encode = _Encoder(encoding, (max_prompt_tokens, max_completion_tokens, context_window))
    kept: list[PairIds] = []
    for index, row in enumerate(rows):
        if row.p_first is None:
            encode.skipped["p_first_unknown"] += 1
            continue
        if not 0.0 <= row.p_first <= 1.0:
            raise TrainingError(f"row {index + 1}: p_first = {row.p_first!r} is not a probability in [0, 1]")
        comparison = row.comparison
        prompt = encode.prompt(comparison.prompt)
        if whole:
            first, second = (
                encoding.conversation(comparison.prompt.messages, side.text)
                for side in (comparison.first, comparison.second)
            )
            fits = encode.fits(prompt, first[len(prompt) :], second[len(prompt) :])
            shared = min(len(prompt), _shared(first, second))
            prompt, first, second = first[:shared], first[shared:], second[shared:]
        else:
            first, second = encoding.response(comparison.first.text), encoding.response(comparison.second.text)
            fits = encode.fits(prompt, first, second)
        weight = float(getattr(row, "weight", 1.0))
        if fits:
            kept.append(PairIds(prompt, first, second, float(row.p_first), weight, index))
    return kept, encode.skipped


def _shared(first: list[int], second: list[int]) -> int:
    """Length of the common beginning."""
    for at, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return at
    return min(len(first), len(second))


class _Encoder:
    """Encodes prompts once each and counts what does not fit."""

    def __init__(self, encoding: Encoding, limits: tuple[int | None, int | None, int | None]) -> None:
        self.encoding, self.limits = encoding, limits
        self.known: dict[str, list[int]] = {}
        self.skipped: Counter[str] = Counter()

    def prompt(self, prompt: Prompt) -> list[int]:
        if prompt.id not in self.known:
            self.known[prompt.id] = self.encoding.prompt(prompt.messages)
        return self.known[prompt.id]

    def fits(self, prompt: list[int], *completions: list[int]) -> bool:
        most_prompt, most_completion, window = (math.inf if n is None else n for n in self.limits)
        longest = max(len(ids) for ids in completions)
        if not prompt:
            self.skipped["prompt_empty"] += 1
        elif len(prompt) > most_prompt:
            self.skipped["prompt_too_long"] += 1
        elif longest > most_completion:
            self.skipped["completion_too_long"] += 1
        elif len(prompt) + longest > window:
            self.skipped["beyond_context_window"] += 1
        else:
            return True
        return False


class Order:
    """Which rows each step sees: a pure function of the seed, so a resumed run needs no iterator state.

    Every epoch is a fresh permutation; the stream runs on from one epoch into the next and ends after ``total`` rows
    (None: never). With ``groups``, every group is drawn equally often, small groups more than once per epoch.
    """

    def __init__(
        self, rows: int, *, batch: int, seed: int, total: int | None = None, groups: Sequence[str] | None = None
    ) -> None:
        self.rows, self.batch, self.seed, self.total, self.groups = rows, batch, seed, total, groups
        self._epochs: dict[int, np.ndarray] = {}

    def step(self, step: int) -> list[int]:
        """Row indices of step ``step`` (the first is 1); the last step of a total may be shorter."""
        start = (step - 1) * self.batch
        stop = start + self.batch if self.total is None else min(start + self.batch, self.total)
        return [int(self._epoch(at // self.rows)[at % self.rows]) for at in range(start, stop)]

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            self._epochs = {e: order for e, order in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = draw_epoch(self.rows, seed=self.seed, epoch=epoch, groups=self.groups)
        return self._epochs[epoch]


def draw_epoch(rows: int, *, seed: int, epoch: int, groups: Sequence[str] | None = None) -> np.ndarray:
    """One epoch's order: a permutation, or ``rows`` draws with every group equally often (within one)."""
    generator = np.random.default_rng([seed, epoch])
    if groups is None:
        return generator.permutation(rows)
    names = sorted(set(groups))
    by_group = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    share = [rows // len(names) + (i < rows % len(names)) for i in range(len(names))]
    drawn = [_cycle(generator, members, count) for members, count in zip(by_group, share, strict=True)]
    return generator.permutation(np.concatenate(drawn))


def _cycle(generator: np.random.Generator, members: np.ndarray, count: int) -> np.ndarray:
    rounds = -(-count // len(members))
    return np.concatenate([generator.permutation(members) for _ in range(rounds)])[:count]


def split_by_tokens(rows: Sequence[int], tokens: Sequence[int], *, limit: int) -> list[list[int]]:
    """Consecutive groups of rows with at most ``limit`` tokens each (a longer single row stands alone)."""
    groups: list[list[int]] = []
    held = 0
    for row in rows:
        if not groups or held + tokens[row] > limit:
            groups.append([])
            held = 0
        groups[-1].append(row)
        held += tokens[row]
    return groups
