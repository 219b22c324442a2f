"""How much one pass may hold, what memory stays with the process, and how long a sequence may be to share a pass."""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch

CPU_TOKENS, GPU_TOKENS = 4096, 16384
"""Beyond these a larger pass is not faster: activations leave the cache, or the GPU is full."""
SHARE = 0.1
"""Of the device's memory that one pass may take."""

KEPT_BYTES = 512 << 20
"""Most freed memory at the end of the heap that the process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST_OF_MMAP = -1, -3, 32 << 20  # of glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Lets glibc keep what is freed instead of giving it back to the system after every layer and asking for it again,
    page by page, which takes up to 7 % of the time of labelling. False where there is no glibc, or the user has set
    its allocator up by the environment."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST_OF_MMAP) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def context_window(config: Any) -> int | None:
    """Most tokens of a sequence that a model with this configuration reads; None where it has no such limit."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


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
