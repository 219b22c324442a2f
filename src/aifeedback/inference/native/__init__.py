"""The engine's own kernels for CPUs: attention over a packed tree, RMS norm, SwiGLU and rotary positions, fp32.

``kernels()`` gives them as functions of tensors, or None where they cannot be compiled (``build.py``) or do not compute
what they should. They are plain functions; ``fused.py`` makes them differentiable.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from ctypes import c_float, c_long, c_void_p
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aifeedback.inference.native.build import NoKernels, library_file

log = logging.getLogger(__name__)
CLOSE = 1e-4
"""Largest difference from the plain formulas that a freshly loaded library may show."""
_ROWS = [c_void_p, c_long, c_long]
_SIGNATURES: dict[str, list[Any]] = {
    "tree_attention": ([c_long, c_void_p] + [c_long] * 4 + [c_float, c_void_p] + _ROWS * 6 + [c_void_p, c_long]),
    "tree_attention_backward": (
        [c_long, c_void_p]
        + [c_long] * 3
        + [c_float, c_void_p]
        + _ROWS * 4
        + [c_void_p]
        + _ROWS
        + [c_void_p] * 3
        + [c_long]
    ),
    "rms_norm": [c_long, c_long, c_void_p, c_void_p, c_float, c_void_p, c_void_p, c_long],
    "rms_norm_backward": [c_long, c_long, *[c_void_p] * 6, c_long],
    "swiglu": [c_long, *[c_void_p] * 3, c_long],
    "swiglu_backward": [c_long, *[c_void_p] * 5, c_long],
    "rotate": [*[c_long] * 3, *_ROWS, *[c_void_p] * 3, c_long, c_long],
    "project": [c_long, c_long, c_void_p, c_void_p, c_float, c_long, *[c_void_p] * 2, c_long, c_void_p, c_long],
    "finish": [*[c_long] * 4, *[c_void_p] * 4, c_float, *[c_void_p] * 4, c_long],
}


class Projection(NamedTuple):
    """To the heads of queries, keys or values: ``weight`` (heads · D, width), ``bias`` (heads · D), the weight (D) and
    epsilon of the RMS norm of each head, and whether heads are turned by their position."""

    weight: Tensor
    bias: Tensor | None
    norm: Tensor | None
    eps: float
    turns: bool

    def tensors(self) -> list[Tensor]:
        return [x for x in self[:3] if x is not None]


class _Projection(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("weight", "bias", "norm", "out")),
        *((name, c_long) for name in ("heads", "turns")),
        ("eps", c_float),
    ]


@functools.cache
def kernels() -> Kernels | None:
    """The kernels of this machine, compiled on first use; None, with the reason logged, where there are none."""
    try:
        loaded = Kernels(ctypes.CDLL(str(library_file())))
        _check(loaded)
    except (NoKernels, OSError) as why:
        log.info("no kernels of our own on this machine (%s); PyTorch's are used", why)
        return None
    return loaded


def _rows(x: Tensor) -> tuple[int, int, int]:
    """(1, heads, T, D) as pointer and strides of heads and tokens."""
    return x.data_ptr(), x.stride(1), x.stride(2)


def _dense(x: Tensor) -> Tensor:
    """With its last dimension in one piece."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _places(at: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.ascontiguousarray(at, dtype=np.int64)


def _require(fit: bool, *tensors: Tensor) -> None:
    """Raises TypeError for what must not reach code that reads memory by address."""
    if not fit or any(x.dtype != torch.float32 or x.device.type != "cpu" for x in tensors):
        described = ", ".join(f"{tuple(x.shape)} {x.dtype} {x.device}" for x in tensors)
        raise TypeError(f"kernels take 32-bit tensors on the CPU whose shapes fit each other, not {described}")


class Kernels:
    """The functions of the C++ files; all tensors are float32 on the CPU."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, types in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = types, None

    def tree_attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        end_T: NDArray[np.int64],
        scale: float,
        chain: tuple[Tensor, Tensor] | None = None,
        at_Q: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The query at place i sees key j if j ≤ i < end[j], and the whole chain.

        ``query`` (1, heads, Q, D) at the ascending places ``at_Q``, or of all T tokens; ``key`` and ``value``
        (1, KV heads, T, D) may have fewer heads. Output (1, heads, Q, D), laid out as (Q, heads, D), and log-sum-exp
        (heads, Q).
        """
        query, key, value = map(_dense, (query, key, value))
        _, heads, Q, D = query.shape
        end_T, at_Q = _places(end_T), _places(np.arange(Q) if at_Q is None else at_Q)
        out = query.new_empty(1, Q, heads, D).transpose(1, 2)
        lse_HQ = query.new_empty(heads, Q)
        chain_key, chain_value = map(_dense, chain) if chain is not None else (key[:, :, :0], value[:, :, :0])
        fit = key.shape == value.shape == (1, key.shape[1], len(end_T), D) and len(query) == 1
        fit &= chain_key.shape == chain_value.shape == (1, key.shape[1], chain_key.shape[2], D)
        fit &= heads % key.shape[1] == 0 and len(at_Q) == Q and (Q == 0 or at_Q[-1] < len(end_T))
        _require(fit, query, key, value, chain_key, chain_value)
        self._library.tree_attention(
            Q, at_Q.ctypes.data, chain_key.shape[2], heads, key.shape[1], D, scale, end_T.ctypes.data, *_rows(query),
            *_rows(key), *_rows(value), *_rows(chain_key), *_rows(chain_value), *_rows(out), lse_HQ.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return out, lse_HQ

    def tree_attention_backward(
        self, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse_HQ: Tensor,
        end_T: NDArray[np.int64], scale: float, at_Q: NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Gradients of query, key and value, laid out as (tokens, heads, D)."""
        grad, query, key, value, out = map(_dense, (grad, query, key, value, out))
        _, heads, Q, D = query.shape
        end_T, at_Q = _places(end_T), _places(np.arange(Q) if at_Q is None else at_Q)
        fit = grad.shape == out.shape == query.shape and lse_HQ.shape == (heads, Q) and len(at_Q) == Q
        fit &= key.shape == value.shape == (1, key.shape[1], len(end_T), D)
        _require(fit, grad, query, key, value, out, lse_HQ)
        d_query = query.new_empty(1, Q, heads, D).transpose(1, 2)
        d_key, d_value = (query.new_zeros(1, len(end_T), key.shape[1], D).transpose(1, 2) for _ in range(2))
        self._library.tree_attention_backward(
            Q, at_Q.ctypes.data, heads, key.shape[1], D, scale, end_T.ctypes.data, *_rows(query), *_rows(key),
            *_rows(value), *_rows(out), lse_HQ.data_ptr(), *_rows(grad), d_query.data_ptr(), d_key.data_ptr(),
            d_value.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return d_query, d_key, d_value

    def rms_norm(self, x: Tensor, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """x / rms(x) · weight over the last dimension, and 1 / rms of every row."""
        x, weight_D = x.contiguous(), weight_D.contiguous()
        _require(weight_D.shape == x.shape[-1:], x, weight_D)
        y, inverse = torch.empty_like(x), x.new_empty(x.shape[:-1])
        self._library.rms_norm(
            inverse.numel(), x.shape[-1], x.data_ptr(), weight_D.data_ptr(), eps, y.data_ptr(),
            inverse.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return y, inverse

    def rms_norm_backward(self, grad: Tensor, x: Tensor, weight_D: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of x and weight."""
        grad, x, weight_D = grad.contiguous(), x.contiguous(), weight_D.contiguous()
        _require(grad.shape == x.shape, grad, x, weight_D, inverse)
        threads = torch.get_num_threads()
        d_x, d_weight = torch.empty_like(x), x.new_zeros(threads, x.shape[-1])
        self._library.rms_norm_backward(
            inverse.numel(), x.shape[-1], x.data_ptr(), weight_D.data_ptr(), inverse.data_ptr(), grad.data_ptr(),
            d_x.data_ptr(), d_weight.data_ptr(), threads,
        )  # fmt: skip
        return d_x, d_weight.sum(dim=0)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up."""
        gate, up = gate.contiguous(), up.contiguous()
        _require(gate.shape == up.shape, gate, up)
        y = torch.empty_like(gate)
        self._library.swiglu(y.numel(), gate.data_ptr(), up.data_ptr(), y.data_ptr(), torch.get_num_threads())
        return y

    def swiglu_backward(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up."""
        grad, gate, up = grad.contiguous(), gate.contiguous(), up.contiguous()
        _require(grad.shape == gate.shape, grad, gate, up)
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        self._library.swiglu_backward(
            grad.numel(), gate.data_ptr(), up.data_ptr(), grad.data_ptr(), d_gate.data_ptr(), d_up.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return d_gate, d_up

    def rotate(self, x: Tensor, cos_TD: Tensor, sin_TD: Tensor, *, backward: bool = False) -> Tensor:
        """x·cos + rotate_half(x)·sin for (1, heads, T, D), or its transpose; laid out as (T, heads, D)."""
        x, cos_TD, sin_TD = _dense(x), cos_TD.contiguous(), sin_TD.contiguous()
        _, heads, T, D = x.shape
        _require(len(x) == 1 and D % 2 == 0 and cos_TD.shape == sin_TD.shape == (T, D), x, cos_TD, sin_TD)
        y = x.new_empty(1, T, heads, D).transpose(1, 2)
        self._library.rotate(
            T, heads, D, *_rows(x), cos_TD.data_ptr(), sin_TD.data_ptr(), y.data_ptr(), int(backward),
            torch.get_num_threads(),
        )  # fmt: skip
        return y

    def project(
        self, x: Tensor, weight_D: Tensor, eps: float, to: Sequence[Projection], cos_TS: Tensor, sin_TS: Tensor
    ) -> list[Tensor]:
        """What a layer's attention is given: RMS norm of x (1, T, D), then each projection, (1, heads, T, head size)
        laid out as (T, heads, head size)."""
        T, D = x.shape[1:]
        size = cos_TS.shape[-1]
        x, weight_D, cos_TS, sin_TS = (a.contiguous() for a in (x, weight_D, cos_TS, sin_TS))
        to = [p._replace(**{k: a.contiguous() for k, a in p._asdict().items() if isinstance(a, Tensor)}) for p in to]
        heads = [len(p.weight) // size for p in to]
        fit = x.shape == (1, T, D) and weight_D.shape == (D,) and cos_TS.shape == sin_TS.shape == (T, size)
        fit &= all(p.weight.shape == (n * size, D) for p, n in zip(to, heads, strict=True))
        fit &= all(p.bias is None or p.bias.shape == p.weight.shape[:1] for p in to)
        fit &= size % 2 == 0 and all(p.norm is None or p.norm.shape == (size,) for p in to)
        _require(fit, x, weight_D, cos_TS, sin_TS, *(a for p in to for a in p.tensors()))
        out = [x.new_empty(1, T, n, size) for n in heads]
        projections = (_Projection * len(to))(
            *(
                _Projection(*map(_address, (*p[:3], y)), heads=n, turns=int(p.turns), eps=p.eps)
                for p, n, y in zip(to, heads, out, strict=True)
            )
        )
        self._library.project(
            T, D, x.data_ptr(), weight_D.data_ptr(), eps, size, cos_TS.data_ptr(), sin_TS.data_ptr(), len(to), projections,
            torch.get_num_threads(),
        )  # fmt: skip
        return [y.transpose(1, 2) for y in out]

    def finish(
        self, mixed: Tensor, o: Tensor, x: Tensor, weight_D: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        """What follows a layer's attention, whose output is ``mixed`` (1, T, wide): y + down(silu(gate) · up) of the
        RMS norm of y = x + o(mixed), x (1, T, D). Matrices as linear layers have them, ``gate`` (F, D)."""
        (T, D), wide, F = x.shape[1:], mixed.shape[-1], len(gate)
        mixed, o, x, weight_D, gate, up, down = (a.contiguous() for a in (mixed, o, x, weight_D, gate, up, down))
        fit = x.shape == (1, T, D) and mixed.shape == (1, T, wide) and o.shape == (D, wide) and weight_D.shape == (D,)
        fit &= gate.shape == up.shape == (F, D) and down.shape == (D, F)
        _require(fit, mixed, o, x, weight_D, gate, up, down)
        out = torch.empty_like(x)
        self._library.finish(
            T, D, wide, F, mixed.data_ptr(), o.data_ptr(), x.data_ptr(), weight_D.data_ptr(), eps, gate.data_ptr(),
            up.data_ptr(), down.data_ptr(), out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return out


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _check(kernels: Kernels) -> None:
    """Raises NoKernels where a library does not compute what the formulas say."""
    draw = torch.Generator().manual_seed(0)
    query, key, value, far_key, far_value = (
        torch.randn(1, heads, tokens, 24, generator=draw)
        for heads, tokens in ((4, 70), (2, 70), (2, 70), (2, 9), (2, 9))
    )
    end_T = np.repeat([70, 50, 70], [30, 20, 20])
    at_T = torch.arange(70)
    sees_TK = torch.cat(
        [torch.ones(70, 9, dtype=torch.bool), (at_T <= at_T[:, None]) & (at_T[:, None] < torch.from_numpy(end_T))],
        dim=1,
    )
    keys, values = (torch.cat(x, dim=2).repeat_interleave(2, 1) for x in ((far_key, key), (far_value, value)))
    plain = ((query @ keys.mT) * 0.2).masked_fill(~sees_TK, -torch.inf).softmax(-1) @ values
    flat, square, wide = query.flatten(0, 2), key[0, 0, :24], query[0, :2, :24].flatten(0, 1)
    normed = flat * torch.rsqrt(flat.square().mean(-1, keepdim=True) + 1e-6) * flat[0]
    cos, sin = (torch.randn(280, 8, generator=draw) for _ in range(2))
    heads = (normed @ square.mT).view(280, 3, 8).transpose(0, 1)
    turned = heads * cos + torch.cat([-heads[..., 4:], heads[..., :4]], dim=-1) * sin
    mixed = flat + flat.flip(0) @ square.mT
    within = mixed * torch.rsqrt(mixed.square().mean(-1, keepdim=True) + 1e-6) * flat[0]
    silu = torch.nn.functional.silu
    to = [Projection(square, None, None, 0.0, True)]
    pairs = {
        "tree_attention": (kernels.tree_attention(query, key, value, end_T, 0.2, (far_key, far_value))[0], plain),
        "swiglu": (kernels.swiglu(flat, flat + 1), silu(flat) * (flat + 1)),
        "rms_norm": (kernels.rms_norm(flat, flat[0], 1e-6)[0], normed),
        "project": (kernels.project(flat[None], flat[0], 1e-6, to, cos, sin)[0][0], turned),
        "finish": (
            kernels.finish(flat.flip(0)[None], square, flat[None], flat[0], 1e-6, wide, wide / 2, wide.mT / 9)[0],
            mixed + (silu(within @ wide.mT) * (within @ wide.mT / 2)) @ wide / 9,
        ),
    }
    for name, (ours, theirs) in pairs.items():
        if not float((ours - theirs).abs().max()) < CLOSE:
            raise NoKernels(f"{name} does not compute what it should")
