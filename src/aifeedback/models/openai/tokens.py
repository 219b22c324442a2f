"""Samples of a server as token ids with their log-probabilities: what a trainer needs, and a text cannot give.

Prompts go out as ids to ``/completions``. A response is read from ``token_ids`` (vLLM: ``return_token_ids``) or from tokens
written ``token_id:N``, with the log-probability of each. It is never tokenised again: another split of the same text is
another sample, of another probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.models.openai.wire import Unusable
from aifeedback.types import Problem

MARK = "token_id:"


class Sampled(NamedTuple):
    """One response."""

    ids: list[int]
    """The token that ended it included."""
    logp: list[float]
    """Of each token, in nats, as the server reports it."""


def request(
    prompt: Sequence[int], *, samples: int, temperature: float, max_tokens: int, stops: Sequence[int], seed: int
) -> dict[str, Any]:
    """The fields of a request for samples of the whole distribution.

    What would narrow it is switched off by name, since servers take defaults from the model's generation settings.
    """
    return {
        "prompt": list(prompt),
        "n": samples,
        "temperature": temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": max_tokens,
        "stop_token_ids": list(stops),
        "seed": seed,
        "logprobs": 1,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def sampled(body: Mapping[str, Any], *, samples: int, max_tokens: int, stops: Sequence[int]) -> list[Sampled]:
    """The responses of one prompt. Raises Unusable for anything but as many as were asked for, each with its ids."""
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != samples:
        count = len(choices) if isinstance(choices, list) else 0
        raise _unusable(f"{count} responses came where n = {samples} were asked for")
    ordered = sorted(choices, key=lambda one: one.get("index", 0))
    return [_one(choice, max_tokens, frozenset(stops)) for choice in ordered]


def _one(choice: Mapping[str, Any], max_tokens: int, stops: frozenset[int]) -> Sampled:
    table = choice.get("logprobs")
    table = table if isinstance(table, Mapping) else {}
    logp, ids = table.get("token_logprobs"), choice.get("token_ids")
    if ids is None:
        tokens = table.get("tokens")
        tokens = tokens if isinstance(tokens, list) else []
        ids = [int(t.removeprefix(MARK)) for t in tokens if isinstance(t, str) and t.removeprefix(MARK).isdigit()]
        ids = ids if ids and len(ids) == len(tokens) and tokens[0].startswith(MARK) else None
    if not isinstance(ids, list) or not isinstance(logp, list):
        what = "token ids (token_ids, or tokens written token_id:N)" if ids is None else "log-probabilities"
        raise _unusable(f"the response has no {what}: the server cannot draw samples to train on")
    numbers = [float(value) for value in logp if isinstance(value, int | float)]
    if len(numbers) != len(ids) or not all(map(math.isfinite, numbers)) or not 1 <= len(ids) <= max_tokens:
        raise _unusable(f"{len(ids)} tokens with {len(numbers)} log-probabilities, at most {max_tokens} were asked for")
    is_cut = len(ids) == max_tokens
    if not is_cut and ids[-1] not in stops:
        raise _unusable(f"a response of {len(ids)} tokens ends without the token that ended it ({sorted(stops)})")
    return Sampled([int(token) for token in ids], numbers)


def _unusable(cause: str) -> Unusable:
    return Unusable(Problem.SERVER_ERROR, cause, tries=1)
