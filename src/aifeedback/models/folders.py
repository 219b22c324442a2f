"""Model folders without loading them: who it is, and whether it holds what it is loaded as, so that no weight is ever
drawn at random in silence."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from aifeedback.errors import ModelError

_SCORERS = (
    "ForSequenceClassification",
    "ForRewardModel",
    "ForTokenClassification",
    "RewardModel",
    "ForSequenceScoring",
)
_READERS = ("ForMaskedLM", "ForQuestionAnswering", "ForMultipleChoice", "ForNextSentencePrediction")
MOST_NAMED = 3
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
IDENTITY = (*WEIGHTS, "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Files that decide what a model answers."""
RECORDS = frozenset({"command.json", "done.json", "figures.json", "files.json", "begun.json"})
"""What the command that trained a model leaves beside it: the model is the same without."""


def identity_digest(folder: Path) -> str:
    """SHA-256 over weights, tokenizer and configuration, sixteen hex digits: the revision of a local model."""
    return _digest(folder, IDENTITY, with_names=True)


def weights_digest(folder: Path) -> str:
    """SHA-256 over the weights alone, sixteen hex digits: equal for a copy under another name or configuration; empty
    where the folder has none."""
    return _digest(folder, WEIGHTS, with_names=False)


def family_of_folder(folder: Path) -> str:
    """As the model's own card has it: the family its configuration names, else its architecture; empty where unknown."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("aifeedback_family") or config.get("model_type") or "") if isinstance(config, dict) else ""


def _digest(folder: Path, patterns: tuple[str, ...], *, with_names: bool) -> str:
    digest, count = hashlib.sha256(), 0
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern) if p.name not in RECORDS}):
        count += 1
        if with_names:
            digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16] if count or with_names else ""


def check_is_generator(folder: str | PathLike[str]) -> None:
    """Raise ModelError where the folder says that it holds a reward model, or anything else that writes no text.

    Loaded as a causal language model it would get a head of random weights.
    """
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # the loader's own message is about this file
    listed = config.get("architectures") if isinstance(config, dict) else None
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if any(name.endswith(_SCORERS) for name in names):
        raise ModelError(
            f"this is a reward model or classifier ({names[0]}), not a language model",
            file=folder,
            fix=f"name it rm:{folder} where a reward or a judge of single responses is wanted",
        )
    if any(name.endswith(_READERS) for name in names):
        raise ModelError(
            f"this model ({names[0]}) does not write text from left to right",
            file=folder,
            fix="give a causal language model",
        )


def check_weights(folder: str | PathLike[str], info: Mapping[str, Any]) -> None:
    """Raise ModelError for weights that the folder lacks or that have another shape; ``info`` is the loading report."""
    lacking = sorted(map(str, info.get("missing_keys") or ()))
    reshaped = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info.get("mismatched_keys") or ())
    broken = [*lacking, *reshaped]
    if not broken:
        return
    more = f" and {len(broken) - MOST_NAMED} more" if len(broken) > MOST_NAMED else ""
    what = "weights are missing" if lacking else "weights have another shape than the configuration says"
    raise ModelError(
        f"{what}: {', '.join(broken[:MOST_NAMED])}{more}; they would be drawn at random",
        file=folder,
        fix="save the whole model with save_pretrained; merge an adapter before saving; a reward model is rm:FOLDER",
    )
