"""Token log-probabilities a few rows at a time against plain logits, values and gradients."""

from __future__ import annotations

import pytest
import torch

from aifeedback.inference import forward
from aifeedback.inference.forward import TokenLogprobs, plain_head, sequence_logprobs

from .architectures import make


@pytest.mark.parametrize("rows", [1, 4, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equals_log_softmax_and_its_gradients(monkeypatch: pytest.MonkeyPatch, rows: int, temperature: float) -> None:
    monkeypatch.setattr(forward, "ROWS", rows)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 5, generator=draw, requires_grad=True)
    weight = torch.randn(11, 5, generator=draw, requires_grad=True)
    token, outer = torch.randint(0, 11, (9,), generator=draw), torch.randn(9, generator=draw)
    wanted = ((hidden @ weight.T) / temperature).log_softmax(-1).gather(1, token[:, None]).squeeze(1)
    result = TokenLogprobs.apply(hidden, weight, token, temperature)
    assert isinstance(result, torch.Tensor)
    torch.testing.assert_close(result, wanted)
    exact = torch.autograd.grad((wanted * outer).sum(), [hidden, weight])
    ours = torch.autograd.grad((result * outer).sum(), [hidden, weight])
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(6, 4)
    result = TokenLogprobs.apply(hidden, weight, torch.tensor([0, 5, 2]), 1.0)
    assert isinstance(result, torch.Tensor)
    result.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_heads_that_do_more_are_left_to_the_model() -> None:
    assert plain_head(make("llama")) is not None
    assert plain_head(make("gemma2")) is None  # soft-capped logits
    prompts, completions = [[1, 2], [1, 2, 3]], [[4, 5], [6]]
    model = make("gemma2")
    result = torch.cat(sequence_logprobs(model, prompts, completions, grad=False))
    alone = [
        model(input_ids=torch.tensor([[*p, *c]])).logits[0].log_softmax(-1)[len(p) - 1 + t, token]
        for p, c in zip(prompts, completions, strict=True)
        for t, token in enumerate(c)
    ]
    torch.testing.assert_close(result, torch.stack(alone), atol=1e-4, rtol=1e-4)
