"""Attention over a packed tree on a CPU, as a cascade of dense blocks; differentiable.

Every block of tokens (``tree.Layout.blocks``) attends causally to itself, and everything below it attends to it without
a mask. A query's partial results over its ancestors are merged by their log-sum-exp, which is exact: with (o₁, l₁) and
(o₂, l₂), o = o₁ + σ(l₂ − l₁)·(o₂ − o₁) and l = log(eˡ¹ + eˡ²). The backward pass gives every block the *merged* output
and log-sum-exp, from which it recovers its share of the gradient.

Short blocks of about equal length share one call, since a call costs as much as tens of tokens: each is padded at its
end, where its own queries do not look, with its last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
LONGEST_SHORT = 48
"""Blocks up to this many tokens share calls; longer ones are no faster together."""
FULL = 0.75
"""The least share of real tokens that a block has in a shared call."""


class Group(NamedTuple):
    """N short blocks of at most L tokens that are computed together."""

    count: int
    places: Tensor
    """(N·L,) where each token lies in the pack; behind the end of a shorter block, its last token again."""
    real: Tensor | None
    """Which of ``places`` are tokens rather than padding; None where all are."""

    def gather(self, states: Tensor) -> Tensor:
        """(1, heads, T, …) → (N, heads, L, …)."""
        picked = states[0].transpose(0, 1).index_select(0, self.places)
        return picked.unflatten(0, (self.count, -1)).transpose(1, 2)

    def scatter(self, parts: Tensor, out: Tensor) -> None:
        """(N, heads, L, …) to their places in ``out`` (1, heads, T, …)."""
        rows = parts.transpose(1, 2).flatten(0, 1)
        places = self.places
        if self.real is not None:
            rows, places = rows.index_select(0, self.real), places.index_select(0, self.real)
        out[0].transpose(0, 1).index_copy_(0, places, rows)

    def without_padding(self, parts: Tensor) -> Tensor:
        """(N, heads, L, …) with zeros where there is padding."""
        if self.real is None:
            return parts
        kept = torch.zeros(len(self.places), dtype=torch.bool)
        kept[self.real] = True
        return parts * kept.view(self.count, 1, -1, *[1] * (parts.dim() - 3))


class Blocks(NamedTuple):
    """What a cascade has to compute."""

    alone: tuple[slice, ...]
    """Long blocks, and short ones that have no others like them: one call each."""
    groups: tuple[Group, ...]
    above: tuple[tuple[slice, slice], ...]
    """(block, what is below it)."""


def blocks_of(blocks: Sequence[tuple[int, int, int]]) -> Blocks:
    """From (start, stop, end) of every block."""
    alone = [slice(start, stop) for start, stop, _ in blocks if stop - start > LONGEST_SHORT]
    groups: list[list[slice]] = []
    short = [slice(start, stop) for start, stop, _ in blocks if stop - start <= LONGEST_SHORT]
    for block in sorted(short, key=lambda b: (b.start - b.stop, b.start)):
        if groups and block.stop - block.start >= FULL * (groups[-1][0].stop - groups[-1][0].start):
            groups[-1].append(block)
        else:
            groups.append([block])
    alone += [group[0] for group in groups if len(group) == 1]
    above = [(slice(start, stop), slice(stop, end)) for start, stop, end in blocks if stop < end]
    return Blocks(tuple(alone), tuple(_group(g) for g in groups if len(g) > 1), tuple(above))


def _group(blocks: list[slice]) -> Group:
    longest = max(b.stop - b.start for b in blocks)
    wanted_NL = torch.tensor([b.start for b in blocks])[:, None] + torch.arange(longest)
    last_N1 = torch.tensor([b.stop - 1 for b in blocks])[:, None]
    is_real = (wanted_NL <= last_N1).flatten()
    real = None if bool(is_real.all()) else is_real.nonzero().squeeze(1)
    return Group(len(blocks), torch.minimum(wanted_NL, last_N1).flatten(), real)


class KeyValue(NamedTuple):
    """(1, KV heads, tokens, head size) each, positions already encoded."""

    key: Tensor
    value: Tensor


def cascade(
    query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float | None, chain: KeyValue | None = None
) -> tuple[Tensor, Tensor]:
    """Output (1, heads, T, head size), contiguous once heads and T change places, and log-sum-exp (1, heads, T)."""
    _, heads, total, size = query.shape
    out = query.new_empty(1, total, heads, size).transpose(1, 2)
    lse = out.new_empty(1, total, heads, dtype=torch.promote_types(out.dtype, torch.float32)).transpose(1, 2)
    for here in blocks.alone:
        part, partial_lse = _forward(query[:, :, here], key[:, :, here], value[:, :, here], 0.0, True, scale=scale)
        out[:, :, here], lse[:, :, here] = part, partial_lse
    for group in blocks.groups:
        part, partial_lse = _forward(*map(group.gather, (query, key, value)), 0.0, True, scale=scale)
        group.scatter(part, out)
        group.scatter(partial_lse, lse)
    for here, below in blocks.above:
        part = _forward(query[:, :, below], key[:, :, here], value[:, :, here], scale=scale)
        _merge(out[:, :, below], lse[:, :, below], *part)
    if chain is not None:
        _merge(out, lse, *_forward(query, *chain, scale=scale))
    return out, lse


def _merge(out: Tensor, lse: Tensor, part: Tensor, partial_lse: Tensor) -> None:
    """Merges a partial result into ``out`` and ``lse``, in place."""
    weight = torch.sigmoid(partial_lse - lse).to(out.dtype).unsqueeze(-1)
    torch.lerp(out, part, weight, out=out)
    torch.logaddexp(lse, partial_lse, out=lse)


class Cascade(torch.autograd.Function):
    """``Cascade.apply(query, key, value, blocks, scale)``: the output of ``cascade``, with gradients."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Blocks, scale: float | None) -> Tensor:
        out, lse = cascade(query, key, value, blocks, scale)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, out, lse = ctx.saved_tensors
        grad_out, blocks = grads[0], ctx.blocks
        found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for here in blocks.alone:
            given = (x[:, :, here] for x in (grad_out, query, key, value, out, lse))
            for grad, part in zip(found, _backward(*given, 0.0, True, scale=ctx.scale), strict=True):
                grad[:, :, here] = part
        for group in blocks.groups:
            mine = group.without_padding(group.gather(grad_out))  # so that padding adds nothing to keys and values
            given = map(group.gather, (query, key, value, out, lse))
            for grad, part in zip(found, _backward(mine, *given, 0.0, True, scale=ctx.scale), strict=True):
                group.scatter(part, grad)
        for here, below in blocks.above:
            queried = (x[:, :, below] for x in (out, lse))
            parts = _backward(
                grad_out[:, :, below], query[:, :, below], key[:, :, here], value[:, :, here], *queried, 0.0, False,
                scale=ctx.scale,
            )  # fmt: skip
            for grad, place, part in zip(found, (below, here, here), parts, strict=True):
                grad[:, :, place] += part
        return *found, None, None
