"""Layers written out: the same numbers, the last one at the read places alone, the others in two calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aifeedback.inference import native
from aifeedback.inference.forward import engine_of, last_hidden, sequence_logprobs
from aifeedback.inference.native import layers
from aifeedback.inference.native.layers import written_out
from aifeedback.inference.passes import Engine

from .architectures import CONFIGS, make

pytestmark = pytest.mark.skipif(native.kernels() is None, reason="no C++ compiler here")
ROWS = [[5, 6, 7, 8, 9, 1], [5, 6, 7, 8, 9, 2], [5, 6, 7, 3], [4, 4]]


def tokens_seen(module: Any, run: Any) -> int:
    """How many tokens went through a module."""
    seen: list[int] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    try:
        run()
    finally:
        hook.remove()
    return sum(seen)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n not in ("gpt_oss",)])
def test_is_taken_over_where_the_form_is_known(name: str) -> None:
    is_known = name in ("llama", "qwen2", "qwen2_sliding", "qwen3", "mistral_sliding")
    assert bool(written_out(make(name))) == is_known


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_only_read_tokens_go_through_it(name: str) -> None:
    model = make(name)
    engine_of(model)
    layers = model.model.layers
    assert tokens_seen(layers[-1].mlp, lambda: last_hidden(model, ROWS, grad=False)) == len(ROWS)
    assert tokens_seen(layers[-2].mlp, lambda: last_hidden(model, ROWS, grad=False)) == 10
    assert tokens_seen(layers[-1].self_attn.k_proj, lambda: last_hidden(model, ROWS, grad=False)) == 10


def test_a_pass_for_keys_and_values_reads_nothing() -> None:
    model = make("llama")
    engine = Engine(model, path="tree", tokens=4)
    long = [[*range(1, 30), n] for n in range(31, 35)]
    result: dict[int, Tensor] = {}

    def consume(indices: list[int], logits: Tensor) -> None:
        result.update(zip(indices, logits, strict=True))

    reads = [(i, len(row) - 1) for i, row in enumerate(long)]
    assert tokens_seen(model.model.layers[-1].mlp, lambda: engine.read(long, reads, consume)) == len(long)
    for i, row in enumerate(long):
        torch.testing.assert_close(result[i], model(input_ids=torch.tensor([row])).logits[0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mistral_sliding"])
def test_gradients_are_the_models_own(name: str) -> None:
    model = make(name)
    weights = torch.randn(len(ROWS), 32, generator=torch.Generator().manual_seed(0))
    ours = last_hidden(model, ROWS, grad=True)
    own = torch.stack([model.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in ROWS])
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-4)
    parameters = [p for n, p in model.model.named_parameters()]
    exact = torch.autograd.grad((own * weights).sum(), parameters)
    for a, b in zip(torch.autograd.grad((ours * weights).sum(), parameters), exact, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_a_window_shorter_than_the_rows_leaves_the_layer_alone() -> None:
    model = make("mistral_sliding")
    engine_of(model)
    rows = [list(range(1, 30)), [*range(1, 28), 40, 41]]
    assert tokens_seen(model.model.layers[-1].mlp, lambda: last_hidden(model, rows, grad=False)) == 31
    assert tokens_seen(model.model.layers[-1].mlp, lambda: last_hidden(model, ROWS, grad=False)) == len(ROWS)


def test_completions_are_read_where_their_tokens_are_predicted() -> None:
    model = make("llama")
    engine_of(model)
    prompts, completions = [[1, 2, 3], [1, 2, 3]], [[4, 5], [6]]
    count = tokens_seen(model.model.layers[-1].mlp, lambda: sequence_logprobs(model, prompts, completions, grad=False))
    assert count == 2  # the last token of the prompt, and the first of [4, 5]


def alone(model: Any, rows: list[list[int]] = ROWS) -> Tensor:
    """(N, D): the states of the rows, each in a plain pass."""
    return torch.stack([model.model(input_ids=torch.tensor([row])).last_hidden_state[0, -1] for row in rows])


def test_a_hook_on_its_attention_runs() -> None:
    model = make("llama")
    engine_of(model)
    model.model.layers[-1].self_attn.register_forward_hook(lambda _module, _given, out: (out[0] * 0.5, *out[1:]))
    torch.testing.assert_close(last_hidden(model, ROWS, grad=False), alone(model), atol=1e-4, rtol=1e-4)


def test_a_layer_that_is_no_longer_the_last_is_computed_whole() -> None:
    model = make("llama")
    engine_of(model)
    layers = model.model.layers
    layers.append(type(layers[0])(model.config, len(layers)))
    model.config.num_hidden_layers += 1
    torch.testing.assert_close(last_hidden(model, ROWS, grad=False), alone(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
def test_autocast_is_left_to_the_model(grad: bool) -> None:
    model = make("llama")
    exact = last_hidden(model, ROWS, grad=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = last_hidden(model, ROWS, grad=grad)
        logp = sequence_logprobs(model, [[1, 2]], [[3, 4]], grad=grad)[0]
    if grad:
        (result.square().sum() + logp.sum()).backward()
    assert float((result - exact).detach().abs().max() / exact.std()) < 0.2


def test_weights_of_another_type_than_when_it_was_tried() -> None:
    model = make("llama")
    engine_of(model)
    model.double()
    torch.testing.assert_close(last_hidden(model, ROWS, grad=False), alone(model), atol=1e-6, rtol=1e-6)


LONG = [[*range(1, 31), 5], [*range(1, 31), 6, 7, 8], [*range(3, 60)]]
"""More tokens than the models are wide."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens went through ``finish``, call by call."""
    seen: list[int] = []
    own = native.Kernels.finish

    def finish(kernels: native.Kernels, mixed: Tensor, *rest: Any) -> Tensor:
        seen.append(mixed.shape[1])
        return own(kernels, mixed, *rest)

    monkeypatch.setattr(native.Kernels, "finish", finish)
    return seen


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
def test_all_but_the_last_run_in_two_calls(name: str, calls: list[int]) -> None:
    model = make(name)
    engine_of(model)
    calls.clear()
    torch.testing.assert_close(last_hidden(model, LONG, grad=False), alone(model, LONG), atol=1e-4, rtol=1e-4)
    assert calls == [91, 91]
    last_hidden(model, ROWS, grad=False)  # fewer tokens than the model is wide
    last_hidden(model, LONG, grad=True)
    assert calls == [91, 91]


def test_keys_and_values_of_what_comes_before_are_seen_in_two_calls(calls: list[int]) -> None:
    model = make("qwen3")
    engine = Engine(model, path="tree", tokens=40)
    calls.clear()
    result: dict[int, Tensor] = {}
    reads = [(i, len(row) - 1) for i, row in enumerate(LONG)]
    engine.read(LONG, reads, lambda indices, logits: result.update(zip(indices, logits, strict=True)))
    assert len(calls) >= 4
    for i, row in enumerate(LONG):
        torch.testing.assert_close(result[i], model(input_ids=torch.tensor([row])).logits[0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["mlp.up_proj", "self_attn.k_proj", "input_layernorm", "mlp"])
def test_a_hook_on_any_part_runs(part: str, calls: list[int]) -> None:
    model = make("llama")
    engine_of(model)
    calls.clear()
    model.model.layers[0].get_submodule(part).register_forward_hook(lambda _module, _given, out: out * 0.5)
    torch.testing.assert_close(last_hidden(model, LONG, grad=False), alone(model, LONG), atol=1e-4, rtol=1e-4)
    assert calls == [91]


def test_a_part_that_was_exchanged_is_used(calls: list[int]) -> None:
    model = make("llama")
    engine_of(model)
    calls.clear()
    layer = model.model.layers[0]
    layer.mlp = nn.Sequential(nn.Linear(32, 32), nn.ReLU())
    model.model.layers[1].self_attn.q_proj = type("Other", (nn.Linear,), {})(32, 32)
    torch.testing.assert_close(last_hidden(model, LONG, grad=False), alone(model, LONG), atol=1e-4, rtol=1e-4)
    assert calls == []


def test_a_wide_model_keeps_its_own_products(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "WIDEST", 31)
    model = make("llama")
    torch.testing.assert_close(last_hidden(model, LONG, grad=False), alone(model, LONG), atol=1e-4, rtol=1e-4)
    assert calls == []


def test_another_epsilon_fails_the_trial() -> None:
    model = make("llama")
    layer = model.model.layers[0]
    assert layers._agrees(layer, layers._in_two_calls, layers.TRIAL.tokens_T)
    own = layer.input_layernorm.forward
    layer.input_layernorm.forward = lambda x: own(x * 3e-3)
    assert not layers._agrees(layer, layers._in_two_calls, layers.TRIAL.tokens_T)
