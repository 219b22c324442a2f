"""Adafactor and AdamW against others' own, schedules against worked examples, clipping."""

from __future__ import annotations

import pytest
import torch

from aifeedback.training.optim import Adafactor, build_optimizer, clip_gradients, rate
from aifeedback.training.settings import OptimConfig


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adafactor_equals_transformers(weight_decay: float) -> None:
    from transformers.optimization import Adafactor as Theirs

    draw = torch.Generator().manual_seed(0)
    shapes = [(7, 5), (5,), (3, 4, 6)]
    start = [torch.randn(shape, generator=draw) for shape in shapes]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    one = Adafactor(ours, lr=1e-2, weight_decay=weight_decay)
    two = Theirs(theirs, lr=1e-2, weight_decay=weight_decay, scale_parameter=False, relative_step=False)
    for _ in range(20):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=draw) * 3
            b.grad = a.grad.clone()
        one.step()
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_rates() -> None:
    def at(schedule: str, *steps: int, **more: object) -> list[float]:
        config = OptimConfig(learning_rate=1.0, schedule=schedule, **more)  # type: ignore[arg-type]
        return [round(rate(step, steps=10, config=config), 4) for step in steps]

    assert at("constant", 1, 5, 10) == [1, 1, 1]
    assert at("constant", 1, 2, 4, 5, warmup_steps=4) == [0.25, 0.5, 1, 1]
    assert at("linear", 1, 6, 10) == [1, 0.5, 0.1]
    assert at("linear", 2, 3, 10, warmup_steps=2) == [1, 1, 0.125]
    assert at("cosine", 1, 6) == [1, 0.5]
    assert at("trapezoid", 1, 6, 7, 8, 10) == [1, 1, 1, 0.75, 0.25]


def test_weight_decay_touches_matrices_only() -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = build_optimizer(layer.parameters(), OptimConfig(optimizer="adamw", weight_decay=0.1))
    assert [(g["params"][0].ndim, g["weight_decay"]) for g in optimizer.param_groups] == [(2, 0.1), (1, 0.0)]


def test_clipping_returns_the_norm_before() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    for limit, expected in ((1.0, [0.6, 0.8]), (None, [3.0, 4.0]), (10.0, [3.0, 4.0])):
        parameter.grad = torch.tensor([3.0, 4.0])
        assert float(clip_gradients([parameter], limit)) == pytest.approx(5.0)
        assert parameter.grad.tolist() == pytest.approx(expected, abs=1e-5)


def test_adamw_in_one_pass_gives_the_same_numbers() -> None:
    draw = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=draw) for shape in [(7, 5), (5,)]]
    ours, plain = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    one = build_optimizer(ours, OptimConfig(optimizer="adamw", learning_rate=1e-2))
    two = torch.optim.AdamW(plain, lr=1e-2, weight_decay=0.0)
    assert one.defaults["fused"]
    for _ in range(20):
        for a, b in zip(ours, plain, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        one.step()
        two.step()
    for a, b in zip(ours, plain, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
