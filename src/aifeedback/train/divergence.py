"""How far a policy has moved from its reference, measured on finished samples.

k1 = Σ_t log π(a_t) − log π_ref(a_t) summed over a sequence is an unbiased estimate of KL(π ‖ π_ref) in nats per
sequence when the samples come from π (Schulman 2020, "Approximating KL divergence").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

from aifeedback.engine.encoding import encode_completion, encode_prompt
from aifeedback.records import Completion, Prompt
from aifeedback.train import compute, folders
from aifeedback.train.rows import split_by_tokens


class Divergence(NamedTuple):
    """Mean k1 in nats per sequence, its standard error (NaN for fewer than two), and the number of sequences."""

    value: float
    standard_error: float
    n: int


def sequence_kl(
    policy: str | PathLike[str],
    reference: str | PathLike[str],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    forward_tokens: int = 16_384,
) -> Divergence:
    """KL(policy ‖ reference) over completions that ``policy`` sampled at temperature 1 without top-k or top-p.

    EOS counts where the completion ended by itself. Samples at another temperature give the log-ratio under the
    distribution that was sampled, which is what is reported, not a KL.
    """
    tokenizer = folders.load_tokenizer(policy)
    asked = [encode_prompt(tokenizer, p.messages) for p in prompts]
    said = [
        encode_completion(tokenizer, c.text) + ([tokenizer.eos_token_id] if c.finish_reason != "length" else [])
        for c in completions
    ]
    totals = [_totals(folder, asked, said, forward_tokens) for folder in (policy, reference)]
    ratios = [own - other for own, other in zip(*totals, strict=True)]
    n = len(ratios)
    if n == 0:
        return Divergence(math.nan, math.nan, 0)
    mean = sum(ratios) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in ratios) / (n - 1)) if n > 1 else math.nan
    return Divergence(mean, spread / math.sqrt(n), n)


def _totals(
    folder: str | PathLike[str], asked: Sequence[list[int]], said: Sequence[list[int]], forward_tokens: int
) -> list[float]:
    model = folders.load_policy(folder).eval()
    totals = [0.0] * len(said)
    tokens = [len(p) + len(c) for p, c in zip(asked, said, strict=True)]
    for group in split_by_tokens(range(len(said)), tokens, limit=forward_tokens):
        logp = compute.sequence_logprobs(model, [asked[i] for i in group], [said[i] for i in group], grad=False)
        for i, logp_T in zip(group, logp, strict=True):
            totals[i] = float(logp_T.sum())
    return totals
