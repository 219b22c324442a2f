"""The differentiable functions against padded batches: log-probabilities, hidden states and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from aifeedback.inference.forward import last_hidden, sequence_logprobs

from .architectures import CONFIGS, FALLBACK, make


def samples() -> tuple[list[list[int]], list[list[int]]]:
    """Three prompts, three completions each; some share their first tokens, one is empty."""
    draw = torch.Generator().manual_seed(5)
    prompts, completions = [], []
    for _ in range(3):
        prompt = torch.randint(3, 60, (int(torch.randint(2, 25, (1,), generator=draw)),), generator=draw).tolist()
        for _ in range(3):
            length = int(torch.randint(0, 9, (1,), generator=draw))
            prompts.append(prompt)
            completions.append(torch.randint(3, 6, (length,), generator=draw).tolist())
    return prompts, [*completions[:-1], []]


def plain_logprobs(
    model: Any, prompts: list[list[int]], completions: list[list[int]], temperature: float
) -> list[Tensor]:
    out = []
    for prompt, completion in zip(prompts, completions, strict=True):
        logits = model(torch.tensor([[*prompt, *completion]])).logits[0].float() / temperature
        rows = torch.log_softmax(logits, -1)[len(prompt) - 1 : len(prompt) - 1 + len(completion)]
        out.append(rows[torch.arange(len(completion)), torch.tensor(completion, dtype=torch.long)])
    return out


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    scale = max(float(g.abs().max()) for g in wanted.values())
    for name in wanted:
        assert float((found[name] - wanted[name]).abs().max()) < 1e-5 * scale, name


@pytest.mark.parametrize("name", [*CONFIGS, *FALLBACK])
def test_logprobs_and_gradients(name: str) -> None:
    model = make(name)
    prompts, completions = samples()
    result = sequence_logprobs(model, prompts, completions, temperature=0.9, grad=True)
    wanted = plain_logprobs(model, prompts, completions, 0.9)
    assert [len(f) for f in result] == [len(c) for c in completions]
    torch.testing.assert_close(torch.cat(result).detach(), torch.cat(wanted).detach(), atol=1e-5, rtol=0)
    weigh = torch.linspace(-1, 1, sum(map(len, completions)))
    assert_same_gradients(
        gradients(model, (torch.cat(result) * weigh).sum()), gradients(model, (torch.cat(wanted) * weigh).sum())
    )


@pytest.mark.parametrize("name", [*CONFIGS, *FALLBACK])
def test_hidden_states_and_gradients(name: str) -> None:
    model = make(name)
    sequences = [[*p, *c] for p, c in zip(*samples(), strict=True)]
    result = last_hidden(model, sequences, grad=True)
    wanted = torch.stack([model.base_model(torch.tensor([s])).last_hidden_state[0, -1] for s in sequences])
    torch.testing.assert_close(result.detach(), wanted.detach(), atol=1e-5, rtol=0)
    weigh = torch.linspace(-1, 1, result.numel()).view_as(result)
    assert_same_gradients(gradients(model, (result * weigh).sum()), gradients(model, (wanted * weigh).sum()))


def test_without_gradients_in_small_packs() -> None:
    model = make("llama")
    prompts, completions = samples()
    wanted = sequence_logprobs(model, prompts, completions, grad=True)
    from aifeedback.inference.forward import engine_of

    engine_of(model).tokens = 30
    result = sequence_logprobs(model, prompts, completions, grad=False)
    assert not any(f.requires_grad for f in result)
    torch.testing.assert_close(torch.cat(result), torch.cat(wanted).detach(), atol=1e-5, rtol=0)


def test_shared_tokens_are_computed_once() -> None:
    model = make("llama")
    prompts, completions = [[7] * 20] * 4, [[3, 4], [3, 5], [3, 4], [6]]
    seen: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda m, inputs, out: seen.append(inputs[0].numel()))
    sequence_logprobs(model, prompts, completions, grad=True)
    checked = len(seen)
    sequence_logprobs(model, prompts, completions, grad=True)
    assert seen[checked:] == [20 + 4]


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model = make("llama")
    prompts, completions = samples()

    def loss() -> Tensor:
        return torch.cat(sequence_logprobs(model, prompts, completions, grad=True)).sum()

    wanted = gradients(model, loss())
    model.gradient_checkpointing_enable()
    model.train()
    assert_same_gradients(gradients(model, loss()), wanted)


def test_lora_adapters_are_trained_through_it() -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = peft.get_peft_model(
        make("llama"), peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    prompts, completions = samples()
    result = gradients(model, torch.cat(sequence_logprobs(model, prompts, completions, grad=True)).sum())
    wanted = gradients(model, torch.cat(plain_logprobs(model, prompts, completions, 1.0)).sum())
    assert_same_gradients(result, wanted)
    assert all("lora" in name for name in result)


def test_nothing_to_do() -> None:
    model = make("llama")
    assert sequence_logprobs(model, [], [], grad=False) == []
    assert [len(x) for x in sequence_logprobs(model, [[3]], [[]], grad=False)] == [0]
