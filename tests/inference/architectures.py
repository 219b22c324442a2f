"""Tiny models with random weights, one per architecture that the engine is held to."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

VOCABULARY = 61
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = {"head_dim": 8}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FALCON = {k: v for k, v in SIZES.items() if k not in ("intermediate_size", "num_key_value_heads")}

CONFIGS: dict[str, Any] = {
    "llama": lambda: hf.LlamaConfig(**SIZES),
    "qwen2": lambda: hf.Qwen2Config(**SIZES),
    "qwen2_sliding": lambda: hf.Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=1),
    "qwen3": lambda: hf.Qwen3Config(**SIZES, **HEADS),
    "mistral_sliding": lambda: hf.MistralConfig(**SIZES, sliding_window=16),
    "gemma2": lambda: hf.Gemma2Config(**SIZES, **HEADS, sliding_window=16),
    "gemma3": lambda: hf.Gemma3TextConfig(**SIZES, **HEADS, sliding_window=16),
    "phi3": lambda: hf.Phi3Config(**SIZES),
    "gpt2": lambda: hf.GPT2Config(**GPT2),
    "falcon": lambda: hf.FalconConfig(**FALCON, multi_query=True, alibi=False, new_decoder_architecture=False),
    "olmo2": lambda: hf.Olmo2Config(**SIZES),
    "gpt_oss": lambda: hf.GptOssConfig(**SIZES, **HEADS, sliding_window=16, num_local_experts=4, num_experts_per_tok=2),
}
FALLBACK: dict[str, Any] = {
    "lfm2": lambda: hf.Lfm2Config(
        **SIZES, layer_types=["conv", "full_attention", "conv"], block_ff_dim=48, conv_L_cache=3
    ),
    "mamba": lambda: hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=8),
    "bloom": lambda: hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
}


def make(name: str, seed: int = 0) -> Any:
    """A model whose random weights are large enough that a wrong mask shows."""
    config = {**CONFIGS, **FALLBACK}[name]()
    torch.manual_seed(seed)
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model
