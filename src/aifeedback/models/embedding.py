"""Texts as unit vectors, by an embedding model folder (sentence-transformers' layout, or any encoder)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import MissingExtra, ModelError
from aifeedback.models.folders import check_weights

try:
    import torch
except ModuleNotFoundError as missing:
    raise MissingExtra("torch", "local") from missing

BATCH = 32
POOLING = Path("1_Pooling") / "config.json"
UNUSED = "pooler."
"""A layer behind the token vectors that pooling does not read; folders may lack it."""


class Embedder:
    """An encoder in memory, on a CPU. Token vectors are pooled as the folder says: their mean, or the first one's."""

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise ModelError("not an embedding model folder (config.json is missing)", file=self.folder)
        self._takes_first = _takes_first(self.folder / POOLING)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(self.folder), trust_remote_code=False)
            loaded: Any = AutoModel.from_pretrained(
                str(self.folder), dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as unusable:
            raise ModelError(f"not an embedding model: {unusable}", file=self.folder) from unusable
        model, info = loaded
        missing = [key for key in info["missing_keys"] if not str(key).startswith(UNUSED)]
        check_weights(self.folder, {**info, "missing_keys": missing})
        self.model = model.eval()
        self.longest = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N, D) vectors of length 1; a text longer than the model reads is cut."""
        vectors = []
        for start in range(0, len(texts), BATCH):
            batch = self.tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=self.longest is not None,
                max_length=self.longest,
                return_tensors="pt",
            )
            states_BTD = self.model(**batch).last_hidden_state.double()
            mask_BT1 = batch["attention_mask"].unsqueeze(-1)
            mean_BD = (states_BTD * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
            pooled_BD = states_BTD[:, 0] if self._takes_first else mean_BD
            vectors.append(torch.nn.functional.normalize(pooled_BD, dim=1).numpy())
        return np.concatenate(vectors) if vectors else np.zeros((0, 0))


def _takes_first(file: Path) -> bool:
    """Whether the first token's vector is the text's; without a file the mean is. Raises ModelError for other ways."""
    if not file.is_file():
        return False
    settings = json.loads(file.read_text(encoding="utf-8"))
    modes = {name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True}
    if modes == {"pooling_mode_cls_token"}:
        return True
    if modes == {"pooling_mode_mean_tokens"}:
        return False
    named = ", ".join(sorted(modes)) or "none"
    raise ModelError(f"pools by {named}; only mean_tokens and cls_token are known", file=file, fix="use another model")
