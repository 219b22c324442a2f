"""How far a policy has moved from its reference, measured on finished samples.

k1 = Σ_t log π(a_t) − log π_ref(a_t) summed over a sequence is an unbiased estimate of KL(π ‖ π_ref) in nats per
sequence when the samples come from π (Schulman 2020, "Approximating KL divergence").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import NamedTuple

from aifeedback.inference.encoding import Encoding
from aifeedback.training import compute, folders
from aifeedback.training.examples import split_by_tokens
from aifeedback.types import Completion, Prompt


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

    The end token counts where the completion ended by itself. Samples at another temperature give the log-ratio under the
    distribution that was sampled, which is what is reported, not a KL.
    """
    encoding = Encoding.of(folders.load_tokenizer(policy))
    prompt_ids = encoding.prompts([p.messages for p in prompts])
    response_ids = [encoding.response(c.text, ended=c.finish_reason != "length") for c in completions]
    totals = [_totals(folder, prompt_ids, response_ids, forward_tokens) for folder in (policy, reference)]
    ratios = [own - other for own, other in zip(*totals, strict=True)]
    n = len(ratios)
    if n == 0:
        return Divergence(math.nan, math.nan, 0)
    mean = sum(ratios) / n
    spread = math.sqrt(sum((r - mean) ** 2 for r in ratios) / (n - 1)) if n > 1 else math.nan
    return Divergence(mean, spread / math.sqrt(n), n)


def _totals(
    folder: str | PathLike[str], prompt_ids: Sequence[list[int]], response_ids: Sequence[list[int]], forward_tokens: int
) -> list[float]:
    model = folders.load_policy(folder).eval()
    totals = [0.0] * len(response_ids)
    tokens = [len(p) + len(c) for p, c in zip(prompt_ids, response_ids, strict=True)]
    for group in split_by_tokens(range(len(response_ids)), tokens, limit=forward_tokens):
        logp = compute.sequence_logprobs(
            model, [prompt_ids[i] for i in group], [response_ids[i] for i in group], grad=False
        )
        for i, logp_T in zip(group, logp, strict=True):
            totals[i] = float(logp_T.sum())
    return totals
