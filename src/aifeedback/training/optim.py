"""Optimizers, learning-rate schedules and clipping.

Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) with a fixed learning rate and without parameter scaling is the
paper's optimizer. AdamW is torch's. Weight decay touches matrices only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aifeedback.training.settings import OptimConfig


class Rate(NamedTuple):
    """How some parameters differ from the others in how they move."""

    factor: float = 1.0
    """Times the rate of the step."""
    starts_after: int = 0
    """Steps at the start in which they do not move."""
    max_grad_norm: float | None = None
    """Their gradient is clipped by itself, to this norm; None: together with the others'."""


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    config: OptimConfig,
    *,
    rates: Callable[[nn.Parameter], Rate] | None = None,
) -> torch.optim.Optimizer:
    """An optimizer over the parameters that require a gradient; matrices, vectors and other ``rates`` are groups."""
    trained = [p for p in parameters if p.requires_grad]
    by_rate: dict[Rate, list[nn.Parameter]] = {}
    for parameter in trained:
        by_rate.setdefault(rates(parameter) if rates else Rate(), []).append(parameter)
    groups: list[dict[str, Any]] = []
    for own, members in by_rate.items():
        groups += [
            {"params": [p for p in members if p.ndim >= 2], "weight_decay": config.weight_decay, "rate": own},
            {"params": [p for p in members if p.ndim < 2], "weight_decay": 0.0, "rate": own},
        ]
    groups = [group for group in groups if group["params"]]
    if any(p.dtype == torch.bfloat16 for p in trained):
        return SplitWeights(groups, lr=config.learning_rate, kind=config.optimizer)
    if config.optimizer == "adamw":
        # One pass over memory instead of a dozen; plain tensors on a CPU only, where it needs nothing else.
        fused = all(p.device.type == "cpu" and not hasattr(p, "device_mesh") for p in trained)
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=fused or None)
    return Adafactor(groups, lr=config.learning_rate)


class Adafactor(torch.optim.Optimizer):
    """Second moments of matrices as the product of row and column means; updates clipped to a root mean square of one.

    The same numbers as transformers' Adafactor with ``scale_parameter=False, relative_step=False``; written out here
    because that one cannot step sharded (FSDP2) tensors.
    """

    def __init__(self, parameters: Any, *, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = _adafactor_update(parameter.grad, self.state[parameter]).mul_(group["lr"])
                    if group["weight_decay"]:
                        parameter.mul_(1.0 - group["weight_decay"] * group["lr"])
                    parameter.sub_(_placed_like(update, parameter))


class SplitWeights(torch.optim.Optimizer):
    """Adafactor or AdamW on fp32 weights whose upper halves are the model's bf16 parameters.

    The lower 16 bits are in the optimizer's state (``low``), so the master copy costs two bytes of a parameter instead of
    four, and what the model computes with is the master rounded to the nearest. One parameter is joined at a time.
    Parameters of another type are updated as they are.
    """

    def __init__(self, parameters: Any, *, lr: float, kind: str, weight_decay: float = 0.0) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        update_of = _adafactor_update if self.kind == "adafactor" else _adamw_update
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                master = joined(parameter, state) if parameter.dtype == torch.bfloat16 else parameter
                if group["weight_decay"]:
                    master.mul_(1.0 - group["weight_decay"] * group["lr"])
                master.sub_(update_of(parameter.grad.to(master.dtype), state).mul_(group["lr"]))
                if master is not parameter:
                    high, state["low"] = split(master)
                    parameter.copy_(high)


def split(master: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 tensor as its nearest bf16 values and the 16 bits (int16) that are missing; exact."""
    bits = master.view(torch.int32)
    high = (bits + 0x8000) >> 16
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def joined(parameter: Tensor, state: dict[str, Any]) -> Tensor:
    """The fp32 weights of a bf16 parameter, from the optimizer's state of it; a new tensor."""
    bits = parameter.detach().view(torch.int16).to(torch.int32) << 16
    return (bits + state["low"].to(torch.int32) if "low" in state else bits).view(torch.float32)


def write_out(optimizer: torch.optim.Optimizer) -> None:
    """Gives every bf16 parameter that was trained its fp32 weights, for saving."""
    for parameter, state in optimizer.state.items():
        if "low" in state:
            parameter.data = joined(parameter, state)


def _adamw_update(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """The step before the learning rate: betas 0.9 and 0.999, ε = 1e-8, as torch's AdamW."""
    state["step"] = state.get("step", 0) + 1
    first, second = _decayed(state, "first", gradient, 0.9), _decayed(state, "second", gradient.square(), 0.999)
    spread = (second / (1.0 - 0.999 ** state["step"])).sqrt_().add_(1e-8)
    return first / (1.0 - 0.9 ** state["step"]) / spread


def _decayed(state: dict[str, Any], name: str, value: Tensor, keep: float) -> Tensor:
    """The moving average of ``value`` that starts at zero."""
    state[name] = state[name].mul_(keep).add_(value, alpha=1.0 - keep) if name in state else value * (1.0 - keep)
    return state[name]


def _placed_like(update: Tensor, parameter: Tensor) -> Tensor:
    """Sharded as the parameter is; means over a sharded axis may leave the update whole on every process."""
    placements = getattr(parameter, "placements", None)
    if placements is None or getattr(update, "placements", None) == placements:
        return update
    return update.redistribute(placements=placements)  # type: ignore[attr-defined]


def _adafactor_update(gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """The step before the learning rate: section 4 of the paper, decay 1 − t^−0.8, clipping threshold 1."""
    state["step"] = state.get("step", 0) + 1
    keep = 1.0 - state["step"] ** -0.8
    square = gradient.square().add_(1e-30)
    if gradient.ndim < 2:
        moment = _moving(state, "square", square, keep)
        update = moment.rsqrt().mul_(gradient)
    else:
        row, column = _moving(state, "row", square.mean(-1), keep), _moving(state, "column", square.mean(-2), keep)
        row_factor = (row / row.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)
        update = gradient * row_factor * column.rsqrt().unsqueeze(-2)
    return update.div_(update.square().mean().sqrt().clamp(min=1.0))


def _moving(state: dict[str, Any], name: str, value: Tensor, keep: float) -> Tensor:
    """The moving average of ``value``; the first step keeps nothing of the zero it starts from."""
    state[name] = value if name not in state else state[name].mul_(keep).add_(value, alpha=1.0 - keep)
    return state[name]


def rate(step: int, *, steps: int, config: OptimConfig) -> float:
    """Learning rate of step ``step`` (the first is 1) out of ``steps``."""
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    ahead = max(0, steps - step + 1)
    left = ahead / max(1, steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.learning_rate * left
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    if config.schedule == "trapezoid":
        return config.learning_rate * min(1.0, ahead / max(1.0, config.decay_share * steps))
    return config.learning_rate


def set_rate(optimizer: torch.optim.Optimizer, value: float, *, step: int) -> None:
    """Gives every group the learning rate of this step, as far as the group's own ``Rate`` does not differ."""
    for group in optimizer.param_groups:
        own = group.get("rate", Rate())
        group["lr"] = value * own.factor if step > own.starts_after else 0.0


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float | None,
    *,
    rates: Callable[[nn.Parameter], Rate] | None = None,
) -> Tensor:
    """Scales gradients to ``max_norm`` where they are longer; returns their norm before that (None never scales).

    Parameters whose ``Rate`` has a norm of its own are clipped by themselves, and are not in the norm that is returned.
    """
    together: list[nn.Parameter] = []
    apart: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            own = rates(parameter).max_grad_norm if rates else None
            (together if own is None else apart.setdefault(own, [])).append(parameter)
    for own, members in apart.items():
        torch.nn.utils.clip_grad_norm_(members, own)
    norm = torch.nn.utils.clip_grad_norm_(together, max_norm if max_norm is not None else math.inf)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[attr-defined]
