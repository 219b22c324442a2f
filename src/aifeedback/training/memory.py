"""Forecast of the memory that a trainer's state takes: weights, gradients, optimizer state, and second models.

From the shapes in a model folder's safetensors headers, without torch and without loading anything. Activations come on
top; they grow with ``forward_tokens``.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

from aifeedback.training.settings import LoopConfig, RLConfig

Shape = tuple[int, ...]
NOT_ADAPTED = ("embed", "lm_head", "score", "wte", "wpe")
"""Parts of names of matrices that adapters leave alone."""


def shapes_of(folder: Path) -> dict[str, Shape]:
    """Name → shape of every stored tensor; empty where the folder has no safetensors files."""
    shapes: dict[str, Shape] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def state_bytes(shapes: Mapping[str, Shape], config: LoopConfig, *, has_own_reference: bool = True) -> int:
    """Bytes of one process between two steps, gradients included.

    ``has_own_reference``: False where a judge in memory is the reference of reinforcement learning.
    """
    width = 2 if config.weights == "bf16" else 4
    base = sum(map(math.prod, shapes.values()))
    adapters = _adapters(shapes, config.lora.rank, config.lora.targets) if config.lora else {}
    trained = adapters or shapes
    # Adapters are in 32 bits whatever the base is in.
    width_trained = 4 if adapters else width
    count = sum(map(math.prod, trained.values()))
    model = width * base + (width_trained * count if adapters else 0)
    learns = count * width_trained + _optimizer_bytes(trained, config) + (2 * count if width_trained == 2 else 0)
    total = model + learns
    if isinstance(config, RLConfig):
        total += width * base if has_own_reference and not adapters else 0
        total += model + learns if config.chosen_baseline == "value" else 0
    return total


def _optimizer_bytes(trained: Mapping[str, Shape], config: LoopConfig) -> int:
    if config.optimizer == "adamw":
        return 8 * sum(map(math.prod, trained.values()))
    return 4 * sum(_moments(shape) for shape in trained.values())


def _moments(shape: Shape) -> int:
    """Numbers that Adafactor keeps of a tensor: row and column means of a matrix, everything of a vector."""
    return math.prod(shape) if len(shape) < 2 else math.prod(shape[:-1]) + math.prod((*shape[:-2], shape[-1]))


def _adapters(shapes: Mapping[str, Shape], rank: int, targets: tuple[str, ...] | None) -> dict[str, Shape]:
    adapters: dict[str, Shape] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        is_linear = len(shape) == 2 and not any(part in name for part in NOT_ADAPTED)
        if parts[-1] == "weight" and (parts[-2] in targets if targets else is_linear):
            adapters |= {f"{name}.A": (rank, shape[1]), f"{name}.B": (shape[0], rank)}
    return adapters
