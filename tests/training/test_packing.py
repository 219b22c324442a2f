"""SFT rows in one pass, packed end to end without padding: no row sees another, and the loss is that of each row by itself."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from aifeedback.training import compute, folders
from aifeedback.training.examples import Order, SftIds
from aifeedback.training.objective import Micro, Share
from aifeedback.training.sft import SftObjective, heldout_loss


def rows(count: int, *, seed: int = 0, first: int | None = None) -> list[SftIds]:
    """Rows of unlike lengths and weights that share nothing, or their first token."""
    draw = random.Random(seed)
    made = []
    for i in range(count):
        prompt = [4 + i if first is None else first, *(draw.randint(4, 60) for _ in range(draw.randint(0, 20)))]
        made.append(SftIds(prompt, [draw.randint(4, 60) for _ in range(draw.randint(1, 25))], 1.0 + i % 3, i))
    return made


def objective(model: Any, packed: list[SftIds]) -> SftObjective:
    order = Order(len(packed), batch=len(packed), seed=0)
    return SftObjective(model, packed, order=order, forward_tokens=100_000, share=Share(0, 1))


def alone(model: Any, row: SftIds) -> Any:
    """−log p of the row's completion, by transformers, with nothing beside it."""
    ids = torch.tensor([[*row.prompt, *row.completion]])
    logp = model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(-1)
    return -logp.gather(1, ids[0, 1:, None])[len(row.prompt) - 1 :].sum()


@pytest.mark.parametrize("first", [None, 9], ids=["nothing shared", "a token shared"])
def test_loss_and_gradient_are_those_of_single_rows(llama: Path, first: int | None) -> None:
    packed = rows(12, first=first)
    model, plain = (folders.load_policy(llama).double() for _ in range(2))
    seen: list[torch.Tensor] = []
    model.model.embed_tokens.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    compute.engine_of(model)  # tries the model out
    seen.clear()
    plan = objective(model, packed).plan(1)
    (micro,) = plan.micro
    loss = objective(model, packed)(micro).total
    expected = sum(row.weight * alone(plain, row) for row in packed) / sum(r.weight * len(r.completion) for r in packed)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    for (name, one), two in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert len(seen) == 1, "one pass"
    tokens = sum(len(row.prompt) + len(row.completion) for row in packed)
    assert tokens - 2 * len(packed) <= seen[0].numel() <= tokens, "and no padding in it"
    held = heldout_loss(model, packed, forward_tokens=100_000)
    assert held == pytest.approx(float(loss.detach()), rel=1e-6)


def test_no_row_sees_its_neighbours(llama: Path) -> None:
    """The same row first, last, or among others: its gradient on the embeddings of the others' tokens is zero too."""
    model = folders.load_policy(llama).double()
    (mine,), others = rows(1, seed=1), rows(8, seed=2)[1:]
    mine = mine._replace(prompt=[61, *mine.prompt], completion=[62, *mine.completion])
    values = []
    for packed in ([mine], [mine, *others], [*others, mine], [*others[3:], mine, *others[:3]]):
        weighed = [row if row is mine else row._replace(weight=0.0) for row in packed]
        model.zero_grad()
        objective(model, weighed)(Micro(weighed, 1.0)).total.backward()
        values.append(model.model.embed_tokens.weight.grad.clone())
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=0, atol=1e-6)
    strangers = sorted(set(range(64)) - {*mine.prompt, *mine.completion})
    assert float(values[-1][strangers].abs().max()) < 1e-12
    assert float(values[-1][61].abs().max()) > 1e-3
