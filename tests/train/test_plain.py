"""Shared prefixes change nothing: same values and same gradients as padded batches."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from aifeedback.train import compute, folders, plain


def ids(count: int, *, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    draw = random.Random(seed)
    prompts = [[draw.randint(4, 60) for _ in range(draw.randint(1, 9))] for _ in range(count)]
    return prompts + prompts, [[draw.randint(4, 60) for _ in range(draw.randint(1, 9))] for _ in range(2 * count)]


@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_log_probabilities_and_gradients(llama: Path, temperature: float) -> None:
    prompts, completions = ids(6)
    found = []
    for forward in (plain, compute):
        model = folders.load_policy(llama)
        logp = torch.cat(
            forward.sequence_logprobs(model, prompts, completions, temperature=temperature, grad=True)
        )
        (logp * torch.linspace(0.5, 1.5, len(logp))).sum().backward()
        found.append((logp.detach(), {n: p.grad for n, p in model.named_parameters()}))
    assert torch.allclose(found[0][0], found[1][0], atol=2e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-4), name


def test_last_hidden_and_gradients(llama: Path) -> None:
    prompts, completions = ids(6, seed=1)
    sequences = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    found = []
    for forward in (plain, compute):
        model = folders.load_scorer(llama, seed=0)
        hidden = forward.last_hidden(model, sequences, grad=True)
        (hidden * torch.linspace(0.5, 1.5, hidden.numel()).view_as(hidden)).sum().backward()
        found.append((hidden.detach(), {n: p.grad for n, p in model.base_model.named_parameters()}))
    assert torch.allclose(found[0][0], found[1][0], atol=2e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-4), name


def test_no_gradient_is_kept_where_none_is_wanted(llama: Path) -> None:
    prompts, completions = ids(2)
    model = folders.load_policy(llama)
    for forward in (plain, compute):
        assert not any(x.requires_grad for x in forward.sequence_logprobs(model, prompts, completions, grad=False))
        assert not forward.last_hidden(model, completions, grad=False).requires_grad
