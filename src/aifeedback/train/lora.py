"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft, put into a model in place.

The model keeps its class and its attribute names, so that everything that runs it needs not know. After training the
adapters are merged: the folder that comes out is a plain one. The adapter alone is saved beside it.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from aifeedback.errors import MissingExtra
from aifeedback.train.settings import LoraSettings

HEADS = ("score", "lm_head")


def attach(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Freezes the model and puts adapters into it, drawn from ``seed``; a score head stays trained whole.

    Returns the handle that ``merge`` wants; the model itself is changed in place. Raises MissingExtra without peft.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as missing:
        raise MissingExtra("peft", "local") from missing
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) if settings.targets else "all-linear",
        exclude_modules=list(HEADS),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        handle = get_peft_model(model, config)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    return handle


def merge(handle: Any, adapter_folder: str | PathLike[str] | None = None) -> Any:
    """Adds the adapters into the weights and returns the plain model; saves them alone first if a folder is given."""
    if adapter_folder is not None:
        handle.save_pretrained(str(adapter_folder))
    return handle.merge_and_unload()
