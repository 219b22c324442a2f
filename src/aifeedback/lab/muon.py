"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for many small matrices in fp32.

Differs from ``torch.optim.Muon`` in two ways that matter on a CPU: matrices of one shape are orthogonalised as one
batch, and in fp32, since CPUs without bf16 units are several times slower in it. Deterministic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the published Newton-Schulz iteration."""


def orthogonalise(matrices_NRC: Tensor, iterations: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrix of each, roughly: singular values end in about [0.7, 1.2]."""
    a, b, c = QUINTIC
    tall = matrices_NRC.shape[1] > matrices_NRC.shape[2]
    x = matrices_NRC.mT if tall else matrices_NRC
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov), then orthogonalised updates, scaled by √max(1, rows/columns); decoupled weight decay."""

    def __init__(
        self, matrices: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
                state = self.state[parameters[0]]
                moment = state.setdefault("moment", torch.zeros_like(gradients))
                moment.lerp_(gradients, 1 - group["momentum"])
                update = orthogonalise(gradients.lerp(moment, group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, change in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(change, alpha=-group["lr"] * scale)
