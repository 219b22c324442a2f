"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) through peft, put into a model in place.

The model keeps its class and its attribute names, so that everything that runs it needs not know. After training the
adapters are merged: the folder that comes out is a plain one. The adapter alone is saved beside it.
"""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from aifeedback.errors import MissingExtra
from aifeedback.train.settings import LoraSettings

HEADS = ("score", "lm_head")


def peft_config(settings: LoraSettings) -> Any:
    """peft's form of the settings; raises MissingExtra without peft."""
    try:
        from peft import LoraConfig
    except ImportError as missing:
        raise MissingExtra("peft", "local") from missing
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets) if settings.targets else "all-linear",
        exclude_modules=list(HEADS),
    )


def attach(model: Any, settings: LoraSettings, *, seed: int) -> Any:
    """Freezes the model and puts adapters into it, drawn from ``seed``; a score head stays trained whole.

    Returns the handle that ``merge`` wants; the model itself is changed in place. Raises MissingExtra without peft.
    """
    config = peft_config(settings)
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        handle = get_peft_model(model, config)
    if hasattr(model, "score"):
        model.score.requires_grad_(True)
    return handle


def merge(handle: Any, adapter_folder: str | PathLike[str] | None = None) -> Any:
    """Adds the adapters into the weights and returns the plain model; saves them alone first if a folder is given.

    A trained score head is part of what is saved: peft puts it on the base model beside the adapters.
    """
    if adapter_folder is not None:
        handle.save_pretrained(str(adapter_folder))
        head = getattr(handle.get_base_model(), "score", None)
        if head is not None:
            _add_head(Path(adapter_folder), head)
    return handle.merge_and_unload()


def _add_head(folder: Path, head: Any) -> None:
    """Adds the head in peft's own form for modules that are trained whole."""
    from safetensors.torch import load_file, save_file

    weights = load_file(str(folder / "adapter_model.safetensors"))
    weights |= {
        f"base_model.model.score.{name}": value.detach().cpu().contiguous().clone()
        for name, value in head.state_dict().items()
    }
    save_file(weights, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
    settings = folder / "adapter_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    # Excluded modules are never kept whole: the head leaves that list.
    excluded = [name for name in config.get("exclude_modules") or [] if name != "score"]
    config |= {"modules_to_save": ["score"], "task_type": "SEQ_CLS", "exclude_modules": excluded or None}
    settings.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
