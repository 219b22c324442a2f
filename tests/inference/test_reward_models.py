"""A reward model predicts no tokens; its hidden states are what prefixes are shared for."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from aifeedback.inference.forward import choose_path, last_hidden


def tiny() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForSequenceClassification(LlamaConfig(vocab_size=64, num_labels=1, pad_token_id=0, **size)).eval()


def test_a_reward_model_shares_prefixes() -> None:
    assert choose_path(tiny()) == "tree"


def test_its_hidden_states_are_the_plain_ones() -> None:
    model = tiny()
    rows = [[5, 6, 7, 8, 9], [5, 6, 7, 1], [5, 6, 2]]
    shared = last_hidden(model, rows, grad=False)
    with torch.inference_mode():
        plain = torch.stack([model.model(torch.tensor([row])).last_hidden_state[0, -1] for row in rows])
    assert torch.allclose(shared, plain, atol=1e-5)
