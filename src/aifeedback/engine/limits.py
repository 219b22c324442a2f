"""How much one pass may hold, and how long a sequence may be to share one."""

from __future__ import annotations

import os
from typing import Any

import torch

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Beyond these a larger pass is not faster: activations leave the cache, or the GPU is full."""
SHARE = 0.1
"""Of the device's memory that one pass may take."""


def token_budget(model: Any) -> int:
    """Most tokens in one pass. Depends on the machine's *total* memory, so that it is the same from run to run."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    per_token = (8 * hidden + 3 * max(inner if isinstance(inner, int) else max(inner), hidden)) * model.dtype.itemsize
    room = int(SHARE * _memory_bytes(model.device) / per_token)
    return max(min(CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS, room), 256)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def longest_shared(model: Any) -> int | None:
    """Sequences longer than this get other rotary frequencies than shorter ones in the same pass; None: never."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    if any(kind.get("rope_type") == "dynamic" for kind in kinds):
        return config.max_position_embeddings
    if any(kind.get("rope_type") == "longrope" for kind in kinds):
        limits = [kind.get("original_max_position_embeddings") for kind in kinds]
        own = getattr(config, "original_max_position_embeddings", None)
        return next((limit for limit in (*limits, own) if limit), config.max_position_embeddings)
    return None
