"""Which way a model can be run, by trying: shared prefixes against plain passes on a few rows of tokens."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from aifeedback.engine.passes import Engine, Path
from aifeedback.engine.plain import Read, read_padded, unwrapped

log = logging.getLogger(__name__)
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
TOLERANCE, TOLERANCE_HALF = 1e-3, 0.06
"""Largest difference of a logit, as a share of the standard deviation of logits; for 32-bit and for 16-bit weights."""
LONGEST_WINDOW = 256
"""A sliding window up to this size is tried with rows that are longer than it."""


def choose_path(model: Any) -> Path:
    """The first of ``tree``, ``mask`` and ``padded`` that gives the model's own numbers; warns where it is the last."""
    reasons = []
    paths: tuple[Path, ...] = ("tree", "mask")
    for path in paths:
        why_not = difference(model, path)
        if why_not is None:
            return path
        reasons.append(f"{path}: {why_not}")
    log.warning(
        "%s cannot share prefixes and runs in padded batches (%s)",
        unwrapped(model).config.model_type,
        "; ".join(reasons),
    )
    return "padded"


def difference(model: Any, path: Path) -> str | None:
    """None where a path gives a model's own logits; otherwise what is wrong with it."""
    config = unwrapped(model).config.get_text_config()
    strange = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if strange:
        return f"has {', '.join(sorted(strange))} layers"
    rows = trial_rows(config)
    reads = [(i, p) for i, row in enumerate(rows) for p in range(len(row)) if p % 3 == 0 or p > len(row) - 4]
    was_training = model.training
    model.eval()
    try:
        plain = collected(lambda s, r, c: read_padded(model, s, r, c, tokens=1), rows, reads)
        budgets = max(map(len, rows)), sum(map(len, rows))  # in many passes, and all in one
        engine = Engine(model, path=path)
        shared = []
        for tokens in budgets:
            engine.tokens = tokens
            engine.forget()
            shared.append(collected(engine.read, rows, reads))
    except Exception as refused:  # whatever a model raises, it cannot be run this way
        return f"{type(refused).__name__}: {str(refused).splitlines()[0] if str(refused) else 'no message'}"
    finally:
        model.train(was_training)
    largest = max(float((found - plain).abs().max() / plain.std().clamp(min=1e-12)) for found in shared)
    tolerance = TOLERANCE if plain.dtype == torch.float32 and model.dtype == torch.float32 else TOLERANCE_HALF
    return None if largest <= tolerance else f"logits differ by {largest:.2g} of their standard deviation"


def trial_rows(config: Any) -> list[list[int]]:
    """Rows that share, branch, nest and repeat; longer than the sliding window where that is short."""
    vocabulary = min(config.vocab_size, 1000)
    window = getattr(config, "sliding_window", None)
    is_short = window is not None and window <= LONGEST_WINDOW and getattr(config, "use_sliding_window", True)
    room = getattr(config, "max_position_embeddings", None) or 4096
    length = max(window + 9 if is_short and window else 0, 70)
    body = [(7 * i * i + 3 * i + 5) % vocabulary for i in range(length)][: room - 16]
    ends = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6, 7, 8], [9]]
    return [*([*body, *(t % vocabulary for t in end)] for end in ends), body[: len(body) // 2], [*body[:5], 0, 1, 2]]


def collected(read: Any, rows: list[list[int]], reads: list[Read]) -> Tensor:
    found: dict[int, Tensor] = {}

    def consume(indices: list[int], logits_RV: Tensor) -> None:
        found.update(zip(indices, logits_RV.detach().float().cpu().unbind(), strict=True))

    with torch.inference_mode():
        read(rows, reads, consume)
    return torch.stack([found[i] for i in range(len(reads))])
