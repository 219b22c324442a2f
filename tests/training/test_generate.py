"""The sampler against the model's own forward pass, on several architectures with random weights."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers

from aifeedback.errors import InputError
from aifeedback.inference import decoding
from aifeedback.inference.generation import draw, generate, truncated
from aifeedback.types import Sampling

VOCAB = 120
SMALL = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 128}
GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama-grouped-heads": ("Llama", {**LLAMA, "num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2", {**LLAMA, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**LLAMA, "num_key_value_heads": 2, "head_dim": 8}),
    "mistral-window": ("Mistral", {**LLAMA, "sliding_window": 8, "num_key_value_heads": 2}),
    "gpt2": ("GPT2", GPT2),
    "gpt-neox": ("GPTNeoX", LLAMA),
    "opt": ("OPT", {**SMALL, "ffn_dim": 48, "max_position_embeddings": 128, "word_embed_proj_dim": 32}),
    "gemma2": ("Gemma2", {**LLAMA, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}),
    "bloom": ("Bloom", {**SMALL, "n_head": 4}),
    "mamba": ("Mamba", {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "lfm2": ("Lfm2", {**LLAMA, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
}
FAST = {"llama", "llama-grouped-heads", "qwen2", "qwen3"}


def build(name: str, *, seed: int = 0, scale: float = 0.15) -> Any:
    kind, settings = ARCHITECTURES[name]
    config = getattr(transformers, f"{kind}Config")(**settings, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model_class = getattr(transformers, "MambaForCausalLM" if kind == "Mamba" else "AutoModelForCausalLM")
    torch.manual_seed(seed)
    model = model_class(config) if kind == "Mamba" else model_class.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1 or kind != "Mamba":
            centre = 1.0 if parameter.dim() == 1 and float(parameter.detach().mean()) > 0.5 else 0.0
            torch.nn.init.normal_(parameter, centre, scale)
    return model.eval()


def some_prompts(n: int = 8) -> list[list[int]]:
    draw = random.Random(3)
    return [[draw.randrange(3, VOCAB) for _ in range(draw.randint(4, 14))] for _ in range(n)]


@torch.no_grad()
def recomputed(model: Any, prompt: list[int], tokens: torch.Tensor, temperature: float) -> torch.Tensor:
    """log-probabilities of the tokens from one unpadded forward pass without a cache."""
    logits = model(torch.tensor([[*prompt, *tokens.tolist()]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float() / temperature, dim=-1).gather(1, tokens[:, None]).squeeze(1)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("samples", [1, 4])
def test_log_probabilities_equal_a_recomputation(name: str, samples: int) -> None:
    model, prompts = build(name), some_prompts()
    made = generate(
        model,
        prompts,
        samples_per_prompt=samples,
        sampling=Sampling(temperature=0.9, max_new_tokens=16),
        eos_ids=frozenset(range(2, 20)),
        pad_id=0,
        generator=torch.Generator().manual_seed(1),
    )
    assert 0 < made.finished_B.float().mean() < 1
    for row, (length, finished) in enumerate(zip(made.length_B.tolist(), made.finished_B.tolist(), strict=True)):
        tokens = made.tokens_BT[row, :length]
        expected = recomputed(model, prompts[row // samples], tokens, 0.9)
        torch.testing.assert_close(made.logp_BT[row, :length], expected, rtol=1e-5, atol=1e-5)
        assert finished == (int(tokens[-1]) in range(2, 20))
        assert not any(int(t) in range(2, 20) for t in tokens[:-1])
        assert made.tokens_BT[row, length:].eq(0).all()
        assert made.logp_BT[row, length:].eq(0).all()


@pytest.mark.parametrize("name", sorted(FAST))
def test_exact_to_1e_6_in_double_precision(name: str) -> None:
    model, prompts = build(name).double(), some_prompts()
    made = generate(
        model,
        prompts,
        samples_per_prompt=4,
        sampling=Sampling(temperature=0.9, max_new_tokens=12),
        eos_ids=frozenset({2}),
        pad_id=0,
        generator=torch.Generator().manual_seed(1),
    )
    for row, length in enumerate(made.length_B.tolist()):
        tokens = made.tokens_BT[row, :length]
        expected = recomputed(model, prompts[row // 4], tokens, 0.9)
        torch.testing.assert_close(made.logp_BT[row, :length], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_which_decoder_runs(name: str) -> None:
    decoder, _ = decoding.open_decoder(build(name), some_prompts(1), samples=2, max_new_tokens=3)
    assert isinstance(decoder, decoding.LlamaDecoder if name in FAST else decoding.CachedDecoder)


def test_falls_back_loudly_when_the_fast_decoder_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LLAMA_FAMILY", ("GraniteForCausalLM",))
    settings = {**LLAMA, "residual_multiplier": 0.3, "attention_multiplier": 0.5, "num_key_value_heads": 2}
    model = transformers.AutoModelForCausalLM.from_config(transformers.GraniteConfig(**settings)).eval()
    with torch.inference_mode(), pytest.warns(UserWarning, match="does not reproduce GraniteForCausalLM"):
        decoder, _ = decoding.open_decoder(model, some_prompts(2), samples=1, max_new_tokens=3)
    assert isinstance(decoder, decoding.CachedDecoder)


def test_both_decoders_draw_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build("qwen3"), some_prompts(8)
    uniform = torch.rand(32, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    settings: dict[str, Any] = {
        "samples_per_prompt": 4,
        "sampling": Sampling(temperature=0.9, max_new_tokens=16),
        "eos_ids": frozenset(range(2, 12)),
        "pad_id": 0,
        "uniform_BT": uniform,
    }
    fast = generate(model, prompts, **settings)
    monkeypatch.setattr(decoding, "LLAMA_FAMILY", ())
    plain = generate(model, prompts, **settings)
    assert torch.equal(fast.tokens_BT, plain.tokens_BT)
    torch.testing.assert_close(fast.logp_BT, plain.logp_BT, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = build("llama"), some_prompts(8)
    uniform = torch.rand(16, 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    settings: dict[str, Any] = {
        "samples_per_prompt": 2,
        "sampling": Sampling(temperature=1.0, max_new_tokens=12),
        "eos_ids": frozenset(range(2, 12)),
        "pad_id": 0,
    }
    together = generate(model, prompts, uniform_BT=uniform, **settings)
    monkeypatch.setattr("aifeedback.inference.generation.CACHE_BYTES", 1)
    apart = generate(model, prompts, uniform_BT=uniform, **settings)
    assert torch.equal(together.tokens_BT, apart.tokens_BT)
    torch.testing.assert_close(together.logp_BT, apart.logp_BT, rtol=1e-5, atol=1e-5)


def test_greedy_takes_the_most_likely_token() -> None:
    model, prompts = build("llama"), some_prompts(3)
    made = generate(model, prompts, sampling=Sampling(temperature=0, max_new_tokens=6), eos_ids=frozenset(), pad_id=0)
    for row, prompt in enumerate(prompts):
        ids = list(prompt)
        for token in made.tokens_BT[row].tolist():
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
    assert not made.finished_B.any()


def test_stop_ends_a_row() -> None:
    model, prompts = build("llama"), some_prompts(4)
    made = generate(
        model,
        prompts,
        sampling=Sampling(temperature=1, max_new_tokens=10),
        eos_ids=frozenset(),
        pad_id=0,
        generator=torch.Generator().manual_seed(0),
        stop=lambda tokens: len(tokens) >= 3 and tokens[-1] % 2 == 0,
    )
    for row, length in enumerate(made.length_B.tolist()):
        tokens = made.tokens_BT[row, :length].tolist()
        assert bool(made.finished_B[row]) == (length >= 3 and tokens[-1] % 2 == 0)
        assert all(t % 2 for t in tokens[2:-1])


def test_tokens_are_drawn_as_often_as_they_should_be() -> None:
    """20,000 draws against the distribution: chi-square with 6 degrees of freedom, 99.9 % point 22.5."""
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0, 0.5, float("-inf"), 0.3, -0.5])
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, logp = draw(logits.expand(n, -1), Sampling(temperature=0.7), uniform)
    expected = torch.softmax(logits / 0.7, dim=0)
    torch.testing.assert_close(logp, expected.log()[tokens])
    seen = torch.bincount(tokens, minlength=8).double()
    assert seen[5] == 0
    known = expected > 0
    assert float((((seen - n * expected) ** 2) / (n * expected))[known].sum()) < 22.5


def test_a_uniform_at_the_edge_never_draws_an_impossible_token() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]])
    edge = torch.tensor([1 - 2**-53], dtype=torch.float64)
    assert draw(logits, Sampling(), edge)[0].item() == 2
    assert draw(logits, Sampling(), torch.zeros(1, dtype=torch.float64))[0].item() == 1


def test_truncation_keeps_what_it_says() -> None:
    p = torch.tensor([[0.5, 0.2, 0.2, 0.1]])
    assert truncated(p, 1, None).tolist() == [[0.5, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(truncated(p, None, 0.6), torch.tensor([[0.5, 0.2, 0.0, 0.0]]))
    torch.testing.assert_close(truncated(p, None, 0.5), torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    assert torch.equal(truncated(p, None, 1.0), p)


def test_says_which_prompt_does_not_fit() -> None:
    model = build("llama")
    with pytest.raises(InputError, match=r"row 2.*exceed the model's context of 128"):
        generate(model, [[3], [4] * 120], sampling=Sampling(max_new_tokens=16), eos_ids=frozenset(), pad_id=0)
    with pytest.raises(InputError, match="no tokens"):
        generate(model, [[]], sampling=Sampling(), eos_ids=frozenset(), pad_id=0)
