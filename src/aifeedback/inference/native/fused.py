"""The kernels of ``native`` in the place of a Hugging Face model's own element-wise steps; differentiable.

Which modules they can replace is *tried* on the module itself, as the engine's paths are, never concluded from its
name: an RMS norm, a SwiGLU block or a rotary function is replaced while the engine runs the model, if it gives the same
numbers with the kernel, and left alone otherwise. Linear layers stay the model's own, adapters and all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aifeedback.inference.native import Kernels, kernels

ROTARY = "apply_rotary_pos_emb"
CLOSE = 1e-4
"""Largest difference between a module and its stand-in on a trial input, relative to its output."""
SCALES = (1e-3, 1.0, 100.0)
"""Of trial inputs: at one scale alone a limit, or an epsilon at another place, would not show."""
TRIAL_TOKENS = 5


def usable(*tensors: Tensor) -> Kernels | None:
    """The kernels, where they take these tensors; none under autocast, which gives the same layers other types."""
    if torch.is_autocast_enabled("cpu"):
        return None
    if any(x.device.type != "cpu" or x.dtype != torch.float32 or type(x) not in PLAIN for x in tensors):
        return None
    return kernels()


PLAIN = (Tensor, nn.Parameter)
"""Sharded and other special tensors bring arithmetic of their own."""
Places: TypeAlias = NDArray[np.int64]


class TreeAttention(torch.autograd.Function):
    """``TreeAttention.apply(kernels, query, key, value, end_T, scale, at_Q)``."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Kernels, query: Tensor, key: Tensor, value: Tensor, end_T: Places, scale: float, at_Q: Places
    ) -> Tensor:
        out, lse_HQ = kernels.tree_attention(query, key, value, end_T, scale, at_Q=at_Q)
        ctx.save_for_backward(query, key, value, out, lse_HQ)
        ctx.rest, ctx.kernels = (end_T, scale, at_Q), kernels
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *ctx.kernels.tree_attention_backward(grads[0], *ctx.saved_tensors, *ctx.rest), None, None, None


def attend(
    kernels: Kernels,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    end_T: Places,
    scale: float,
    chain: tuple[Tensor, Tensor] | None = None,
    at_Q: Places | None = None,
) -> Tensor:
    """``Kernels.tree_attention`` with gradients where they are wanted; what a chain holds has none."""
    if learns(query, key, value):
        assert chain is None, "keys and values computed before have no gradient"
        return TreeAttention.apply(kernels, query, key, value, end_T, scale, at_Q)  # type: ignore[return-value]
    return kernels.tree_attention(query, key, value, end_T, scale, chain, at_Q)[0]


def rotate(kernels: Kernels, x: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """``Kernels.rotate`` with gradients where they are wanted."""
    return Rotate.apply(kernels, x, cos_TD, sin_TD) if learns(x) else kernels.rotate(x, cos_TD, sin_TD)  # type: ignore


def learns(*tensors: Tensor) -> bool:
    """Whether gradients of any of these are wanted."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class RmsNorm(torch.autograd.Function):
    """``RmsNorm.apply(kernels, x, weight, eps)``."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        y, inverse = kernels.rms_norm(x, weight_D, eps)
        ctx.save_for_backward(x, weight_D, inverse)
        ctx.kernels = kernels
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *ctx.kernels.rms_norm_backward(grads[0], *ctx.saved_tensors), None


class SwiGlu(torch.autograd.Function):
    """``SwiGlu.apply(kernels, gate, up)``."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return kernels.swiglu(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *ctx.kernels.swiglu_backward(grads[0], *ctx.saved_tensors)


class Rotate(torch.autograd.Function):
    """``Rotate.apply(kernels, x, cos, sin)``."""

    @staticmethod
    def forward(ctx: Any, kernels: Kernels, x: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        ctx.save_for_backward(cos_TD, sin_TD)
        ctx.kernels = kernels
        return kernels.rotate(x, cos_TD, sin_TD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, ctx.kernels.rotate(grads[0], *ctx.saved_tensors, backward=True), None, None


class StandIn(NamedTuple):
    """``value`` is what ``owner``'s attribute ``name`` becomes while the engine runs."""

    owner: Any
    name: str
    value: Callable[..., Any]


def stand_ins(model: Any) -> tuple[StandIn, ...]:
    """What can be replaced in a model; empty where there are no kernels for it."""
    if usable(*model.parameters()) is None:
        return ()
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(0)
            norms = [_norm(m) for m in model.modules() if type(m).__name__.endswith("RMSNorm")]
            blocks = [_swiglu(m) for m in model.modules() if _is_swiglu(m)]
            homes = {
                type(m).__module__ for m in model.modules() if hasattr(sys.modules.get(type(m).__module__), ROTARY)
            }
            return tuple(s for s in (*norms, *blocks, *map(_rotary, sorted(homes))) if s is not None)
    finally:
        model.train(was_training)


@contextmanager
def replaced(substitutes: Sequence[StandIn]) -> Generator[None]:
    """The stand-ins in place; what was there before is back afterwards."""
    before = [(s, vars(s.owner).get(s.name)) for s in substitutes]
    try:
        for owner, name, value in substitutes:
            vars(owner)[name] = value
        yield
    finally:
        for stand_in, own in before:
            if own is None:
                del vars(stand_in.owner)[stand_in.name]
            else:
                vars(stand_in.owner)[stand_in.name] = own


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and bool(
        (ours - theirs).abs().max() <= CLOSE * max(float(theirs.abs().max()), 1e-6)
    )


def epsilon_of(norm: Any) -> Any:
    """What an RMS norm adds to the mean square; None where it does not tell."""
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _norm(module: Any) -> StandIn | None:
    eps = epsilon_of(module)
    if not isinstance(eps, float) or not isinstance(getattr(module, "weight", None), Tensor):
        return None

    def forward(x: Tensor) -> Tensor:
        kernels = usable(x, module.weight)
        if kernels is None or module.weight.shape != x.shape[-1:]:
            return type(module).forward(module, x)
        if learns(x, module.weight):
            return RmsNorm.apply(kernels, x, module.weight, eps)  # type: ignore[return-value]
        return kernels.rms_norm(x, module.weight, eps)[0]

    return _tried(module, forward, len(module.weight))


def _is_swiglu(module: Any) -> bool:
    names = {name for name, _ in module.named_children()}
    return names == {"gate_proj", "up_proj", "down_proj", "act_fn"} and hasattr(module.gate_proj, "in_features")


def _swiglu(module: Any) -> StandIn | None:
    def forward(x: Tensor) -> Tensor:
        gate, up = module.gate_proj(x), module.up_proj(x)
        kernels = usable(gate, up)
        if kernels is None:
            return module.down_proj(module.act_fn(gate) * up)
        if learns(gate, up):
            return module.down_proj(SwiGlu.apply(kernels, gate, up))
        return module.down_proj(kernels.swiglu(gate, up))

    return _tried(module, forward, module.gate_proj.in_features)


def _tried(module: Any, forward: Callable[[Tensor], Tensor], width: int) -> StandIn | None:
    if "forward" in vars(module):  # somebody else's stand-in
        return None
    x = torch.cat([scale * torch.randn(TRIAL_TOKENS, width) for scale in SCALES])  # one pass: weights may be large
    try:
        same = all(map(close, forward(x).split(TRIAL_TOKENS), module(x).split(TRIAL_TOKENS)))
    except Exception:  # a module of another form: whatever it raises, it is left alone
        return None
    return StandIn(module, "forward", forward) if same else None


def _rotary(home: str) -> StandIn | None:
    own = getattr(sys.modules[home], ROTARY)

    def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **others: Any) -> tuple[Tensor, Tensor]:
        kernels = usable(q, k, cos, sin)
        whole = cos.dim() == 3 and q.dim() == 4 and q.shape[0] == cos.shape[0] == 1 and cos.shape[-1] == q.shape[-1]
        if kernels is None or rest or others or not whole or learns(cos, sin):
            return own(q, k, cos, sin, *rest, **others)
        return rotate(kernels, q, cos[0], sin[0]), rotate(kernels, k, cos[0], sin[0])

    heads_and_tokens = (1, 2, TRIAL_TOKENS, 8)
    q, k = torch.randn(heads_and_tokens), torch.randn(heads_and_tokens)
    cos, sin = torch.randn(1, TRIAL_TOKENS, 8), torch.randn(1, TRIAL_TOKENS, 8)
    try:
        same = all(map(close, rotary(q, k, cos, sin), own(q, k, cos, sin)))
    except Exception:  # a rotary function of another form
        return None
    return StandIn(sys.modules[home], ROTARY, rotary) if same else None
