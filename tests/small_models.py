"""Tiny models for tests, made on the spot: random or briefly trained Llamas with real tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def llama_config(vocabulary: int, *, width: int, layers: int = 2, **changes: Any) -> Any:
    """A Llama of four heads in two groups; BOS, EOS and PAD are the tokens 1, 2 and 3."""
    from transformers import LlamaConfig

    settings = {
        "intermediate_size": 2 * width,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    return LlamaConfig(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, **{**settings, **changes})


def bpe_llama(
    folder: Path,
    texts: Iterable[str],
    *,
    vocabulary: int = 1500,
    width: int = 64,
    layers: int = 2,
    template: str | None = None,
    special: tuple[str, str, str] = ("<s>", "</s>", "<pad>"),
) -> Path:
    """A random Llama folder whose byte-level BPE tokenizer was trained on ``texts``; any Unicode round-trips.

    ``special``: BOS, EOS and PAD. ``template``: chat template.
    """
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    bos, eos, pad = special
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=vocabulary, special_tokens=list(special), show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, model_max_length=2048
    )
    tokenizer.chat_template = template
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    LlamaForCausalLM(
        llama_config(len(tokenizer), width=width, layers=layers, tie_word_embeddings=True, **ids)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
