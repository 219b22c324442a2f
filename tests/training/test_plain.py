"""Shared prefixes change nothing: same values and same gradients as padded batches."""

from __future__ import annotations

import random
from pathlib import Path

import padded
import pytest
import torch

from aifeedback.training import compute, folders


def ids(count: int, *, seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    draw = random.Random(seed)
    prompts = [[draw.randint(4, 60) for _ in range(draw.randint(1, 9))] for _ in range(count)]
    return prompts + prompts, [[draw.randint(4, 60) for _ in range(draw.randint(1, 9))] for _ in range(2 * count)]


@pytest.mark.parametrize("temperature", [1.0, 0.9])
def test_log_probabilities_and_gradients(llama: Path, temperature: float) -> None:
    prompts, completions = ids(6)
    found = []
    for forward in (padded, compute):
        model = folders.load_policy(llama)
        logp = torch.cat(forward.sequence_logprobs(model, prompts, completions, temperature=temperature, grad=True))
        (logp * torch.linspace(0.5, 1.5, len(logp))).sum().backward()
        found.append((logp.detach(), {n: p.grad for n, p in model.named_parameters()}))
    assert torch.allclose(found[0][0], found[1][0], atol=2e-5)
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-4), name


def test_last_hidden_and_gradients(llama: Path) -> None:
    prompts, completions = ids(6, seed=1)
    sequences = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
    found = []
    for forward in (padded, compute):
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
    for forward in (padded, compute):
        assert not any(x.requires_grad for x in forward.sequence_logprobs(model, prompts, completions, grad=False))
        assert not forward.last_hidden(model, completions, grad=False).requires_grad


@pytest.mark.parametrize("rows", [3, 256])
def test_fused_cross_entropy(llama: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(compute, "ROWS", rows)
    prompts, completions = ids(5, seed=2)
    scale = [0.1 * (i + 1) for i in range(len(prompts))]
    one, two = folders.load_policy(llama), folders.load_policy(llama)
    logp = padded.sequence_logprobs(one, prompts, completions, grad=True)
    expected = -sum(s * x.sum() for s, x in zip(scale, logp, strict=True))
    found = compute.completion_nll(two, prompts, completions, scale=scale)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    (2 * expected).backward()
    (2 * found).backward()
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4), name


def test_hidden_states_of_completions_feed_the_head(llama: Path) -> None:
    prompts, completions = ids(4, seed=3)
    model = folders.load_policy(llama)
    hidden = compute.completion_hidden(model, prompts, completions, grad=False)
    logits = model.lm_head(hidden)
    token = torch.tensor([t for c in completions for t in c])
    logp = torch.cat(padded.sequence_logprobs(model, prompts, completions, grad=False))
    assert torch.allclose(logits.log_softmax(-1)[torch.arange(len(token)), token], logp, atol=2e-5)
