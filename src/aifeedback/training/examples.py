"""Training examples: rows, their token ids, the order in which they come, and which of them are used.

Rows are anything with the right attributes (a labelled row of a file, or the small tuples here). Encoding drops rows
that cannot be used and counts every reason; nothing is cut and nothing is guessed.

**Mixtures** of labels from several sources: declared proportions, weights per source, known noise.

RLHF + RLAIF (Lee et al. 2023) trains one reward model on human and AI labels together. How many rows of each went in is
part of the result, since "a mix" means nothing without it.

**Rows to imitate**, the baselines that need no preference optimisation.

Best-of-n / RAFT: of several samples per prompt, keep what scores highest, and fine-tune on it (Dong et al. 2023, arXiv
2304.06767). SFT on the judge's own answers (Sharma et al. 2024, arXiv 2402.12366) shows how much of RLAIF's gain is the
judge simply being the better writer. SFT on revisions is the supervised phase of Constitutional AI (arXiv 2212.08073).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.inference.encoding import Encoding
from aifeedback.types import Comparison, Completion, Prompt, Reply, Revision


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
    margin: float | None = None
    """By how much a reward model has to put the better completion ahead; None: as the settings say."""


class Pair(Protocol):
    """A comparison with its label, from wherever it comes; may also carry a ``weight`` (1 where it does not) and a
    ``margin``."""

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
    earlier: tuple[tuple[list[int], list[int]], ...] = ()
    """Earlier assistant turns that carry loss too: each with what came before it, as it is written at that point."""

    @property
    def turns(self) -> list[tuple[list[int], list[int]]]:
        """Prompt and completion of every turn that carries loss; the engine computes what they share once."""
        return [*self.earlier, (self.prompt, self.completion)]

    @property
    def counted(self) -> int:
        """Tokens that carry loss."""
        return sum(len(completion) for _, completion in self.turns)

    @property
    def tokens(self) -> int:
        return len(self.prompt) + self.counted


class PairIds(NamedTuple):
    """Token ids of one labelled comparison; both completions end with the token that ends a turn."""

    prompt: list[int]
    first: list[int]
    second: list[int]
    p_first: float
    weight: float
    row: int
    margin: float | None = None

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
    turns: str = "last",
) -> tuple[list[SftIds], Counter[str]]:
    """Usable rows as token ids, and how many were left out for which reason.

    ``turns``: ``all`` takes every assistant turn of the prompt as a completion too.
    """
    encoding = Encoding.of(tokenizer)
    encode = _Encoder(encoding, (max_prompt_tokens, max_completion_tokens, context_window))
    kept: list[SftIds] = []
    for index, row in enumerate(rows):
        prompt, completion = encode.prompt(row[0]), encoding.response(row[1].text)
        weight = float(row[2]) if len(row) > 2 else 1.0
        if encode.fits(prompt, completion):
            earlier = tuple(_earlier_turns(encoding, row[0])) if turns == "all" else ()
            kept.append(SftIds(prompt, completion, weight, index, earlier))
    return kept, encode.skipped


def _earlier_turns(encoding: Encoding, prompt: Prompt) -> Iterator[tuple[list[int], list[int]]]:
    for at, message in enumerate(prompt.messages):
        if message.role == "assistant" and at and message.content.strip():
            before = encoding.prompt(prompt.messages[:at])
            if before:
                yield before, encoding.response(message.content)


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

    ``whole``: as finished conversations, which is how a reward model reads them, with the margins of the rows; a row whose
    margin is not a number of at least 0 is left out.
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
        margin = getattr(row, "margin", None) if whole else None
        if margin is not None and not _is_margin(margin):
            encode.skipped["margin_unreadable"] += 1
            continue
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
            kept.append(PairIds(prompt, first, second, float(row.p_first), weight, index, margin))
    return kept, encode.skipped


def _is_margin(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < math.inf


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


class Source(NamedTuple):
    """One origin of labels."""

    name: str
    rows: Sequence[Pair]
    proportion: float = 1.0
    """Share of the mix, relative to the other sources'."""
    weight: float = 1.0
    """Multiplies the loss of each of its rows."""


class Mix(NamedTuple):
    rows: list[PairRow]
    counts: Mapping[str, int]
    """Rows taken from each source."""
    left_out: Mapping[str, int]
    """Rows whose label is not known, by source; none of them is in the mix."""


def mix(sources: Sequence[Source], *, rows: int | None = None, seed: int) -> Mix:
    """Draws rows without replacement in the declared proportions, in random order.

    ``rows=None`` takes as many as the proportions allow. Raises RecipeError where a source has too few known labels.
    """
    known = {s.name: [row for row in s.rows if row.p_first is not None] for s in sources}
    total = sum(s.proportion for s in sources)
    if len(known) != len(sources) or not total > 0 or min(s.proportion for s in sources) < 0:
        raise RecipeError("sources need different names and proportions that are not negative", key="mix")
    possible = [len(known[s.name]) * total / s.proportion for s in sources if s.proportion > 0]
    size = rows if rows is not None else int(min(possible) + 1e-9)
    counts = _apportioned([s.proportion / total for s in sources], size)
    generator = np.random.default_rng(seed)
    taken: list[PairRow] = []
    for source, count in zip(sources, counts, strict=True):
        have = known[source.name]
        if count > len(have):
            raise RecipeError(
                f"source '{source.name}' has {len(have)} labelled rows, {count} are asked for",
                key="mix",
                fix="lower rows or its proportion",
            )
        chosen = generator.permutation(len(have))[:count]
        taken += [reweighted(have[i], source.weight) for i in chosen]
    ordered = [taken[i] for i in generator.permutation(len(taken))]
    left_out = {s.name: len(s.rows) - len(known[s.name]) for s in sources}
    return Mix(ordered, {s.name: c for s, c in zip(sources, counts, strict=True)}, left_out)


def reweighted(row: Pair, weight: float) -> PairRow:
    """The row with its weight multiplied."""
    same = _with_label(row, row.p_first)
    return same._replace(weight=weight * same.weight)


def _with_label(row: Pair, p_first: float | None) -> PairRow:
    """The row with another label; weight and margin stay."""
    return PairRow(row.comparison, p_first, float(getattr(row, "weight", 1.0)), getattr(row, "margin", None))


def noisy_labels(rows: Sequence[Pair], *, accuracy: float) -> list[PairRow]:
    """Labels that are right with probability ``accuracy`` in [½, 1]: p becomes a·p + (1 − a)·(1 − p).

    For hard labels whose error rate is known (agreement of people with each other, a calibration set). An unknown label
    stays unknown.
    """
    if not 0.5 <= accuracy <= 1.0:
        raise RecipeError(f"a label accuracy of {accuracy} is not in [0.5, 1]", key="accuracy")
    return relabelled(rows, lambda p: accuracy * p + (1.0 - accuracy) * (1.0 - p))


def relabelled(rows: Sequence[Pair], change: Callable[[float], float]) -> list[PairRow]:
    """Rows with ``change`` applied to every known label, such as a fitted calibration."""
    return [_with_label(row, None if row.p_first is None else change(row.p_first)) for row in rows]


def hard_labels(rows: Sequence[Pair]) -> list[PairRow]:
    """Labels rounded to 0 or 1; a label of exactly one half has no direction and becomes unknown."""
    return [_with_label(row, None if row.p_first in (None, 0.5) else float(row.p_first > 0.5)) for row in rows]


def _apportioned(shares: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total``: the largest remainders get the rest."""
    exact = [share * total for share in shares]
    counts = [int(x + 1e-9) for x in exact]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


class Selection(NamedTuple):
    rows: list[SftRow]
    dropped: int
    """Prompts for which there was nothing to keep: no known score, no usable answer."""


def best_of_n(
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    scores: Sequence[Sequence[float | None]],
    *,
    keep: int = 1,
) -> Selection:
    """The ``keep`` best-scored completions of each prompt; among equal scores the earlier sample.

    A completion with an unknown score is never chosen; a prompt with none known is dropped and counted.
    """
    rows: list[SftRow] = []
    dropped = 0
    for prompt, samples, values in zip(prompts, completions, scores, strict=True):
        known = [(v, i) for i, v in enumerate(values) if v is not None and v == v]
        if len(values) != len(samples):
            raise ValueError(f"prompt {prompt.id}: {len(samples)} completions but {len(values)} scores")
        best = sorted(known, key=lambda pair: (-pair[0], pair[1]))[:keep]
        rows += [SftRow(prompt, samples[i]) for _, i in best]
        dropped += not known
    return Selection(rows, dropped)


def judge_answers(prompts: Sequence[Prompt], replies: Sequence[Reply], *, source: str) -> Selection:
    """The judge model's own answers as rows; replies with a problem, cut off or empty are dropped and counted."""
    rows = [
        SftRow(prompt, Completion.of(prompt, reply.text, source=source, finish_reason=reply.finish_reason))
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.problem is None and reply.finish_reason != "length" and reply.text.strip()
    ]
    return Selection(rows, len(prompts) - len(rows))


def final_revisions(prompts: Sequence[Prompt], revisions: Sequence[Revision], *, source: str) -> Selection:
    """The last round's text of each prompt; prompts whose last round has a problem are dropped and counted."""
    last: dict[str, Revision] = {}
    for revision in revisions:
        if revision.prompt_id not in last or revision.round >= last[revision.prompt_id].round:
            last[revision.prompt_id] = revision
    rows = [
        SftRow(prompt, Completion.of(prompt, last[prompt.id].after, source=source))
        for prompt in prompts
        if prompt.id in last and last[prompt.id].problem is None and last[prompt.id].after.strip()
    ]
    return Selection(rows, len(prompts) - len(rows))
