"""Attention over a packed tree of sequences, as an attention function of transformers; differentiable.

*On a CPU* one call of our own kernel (``native``), or, without it, a cascade of dense blocks on PyTorch's.

*On a GPU* the same visibility, j ≤ i < end[j], is one flex_attention call.

*Masked.* Layers with soft-capping, sinks or a window shorter than the sequences use the model's own attention with the
same visibility as an explicit mask.

**The cascade.** Every block of tokens (``tree.Layout.blocks``) attends causally to itself, and everything below it
attends to it without a mask. A query's partial results over its ancestors are merged by their log-sum-exp, which is
exact: with (o₁, l₁) and (o₂, l₂), o = o₁ + σ(l₂ − l₁)·(o₂ − o₁) and l = log(eˡ¹ + eˡ²). The backward pass gives every
block the *merged* output and log-sum-exp, from which it recovers its share of the gradient.

Short blocks of about equal length share one call, since a call costs as much as tens of tokens: each is padded at its
end with copies of its last token, which the causal order keeps from its own queries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from aifeedback.inference.native.fused import attend, usable
from aifeedback.inference.prefix_tree import Layout

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
LONGEST_SHORT = 48
"""Blocks up to this many tokens share calls; longer ones are not faster together."""
FULL = 0.75
"""The least share of real tokens that a block has in a shared call."""


class Group(NamedTuple):
    """N short blocks of at most L tokens that are computed together."""

    blocks: int
    places: Tensor
    """(N·L,) where each token is in the pack; behind the end of a shorter block, its last token again."""
    real: Tensor | None
    """Which of ``places`` are tokens rather than padding; None where all are."""

    def gather(self, states: Tensor) -> Tensor:
        """(1, heads, T, …) → (N, heads, L, …)."""
        picked = states[0].transpose(0, 1).index_select(0, self.places)
        return picked.unflatten(0, (self.blocks, -1)).transpose(1, 2)

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
        return parts * kept.view(self.blocks, 1, -1, *[1] * (parts.dim() - 3))


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
    """Output (1, heads, T, head size), contiguous after heads and T are transposed, and log-sum-exp (1, heads, T)."""
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
    """Merge a partial result into ``out`` and ``lse``, in place."""
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
        grads_in = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        for here in blocks.alone:
            saved = (x[:, :, here] for x in (grad_out, query, key, value, out, lse))
            for grad, part in zip(grads_in, _backward(*saved, 0.0, True, scale=ctx.scale), strict=True):
                grad[:, :, here] = part
        for group in blocks.groups:
            mine = group.without_padding(group.gather(grad_out))  # so that padding adds nothing to keys and values
            saved = map(group.gather, (query, key, value, out, lse))
            for grad, part in zip(grads_in, _backward(mine, *saved, 0.0, True, scale=ctx.scale), strict=True):
                group.scatter(part, grad)
        for here, below in blocks.above:
            queried = (x[:, :, below] for x in (out, lse))
            parts = _backward(
                grad_out[:, :, below], query[:, :, below], key[:, :, here], value[:, :, here], *queried, 0.0, False,
                scale=ctx.scale,
            )  # fmt: skip
            for grad, place, part in zip(grads_in, (below, here, here), parts, strict=True):
                grad[:, :, place] += part
        return *grads_in, None, None


NAME = "aifeedback_tree"


@dataclass
class Plan:
    """How the tokens of one pack see each other and what was computed before. Goes through the model's keywords."""

    layout: Layout
    chain: dict[int, KeyValue] | None = None
    """Layer → keys and values of the tokens that come before all of the pack's."""
    chain_tokens: int = 0
    collect: dict[int, KeyValue] | None = None
    """Filled with this pack's own keys and values where given."""
    reads: NDArray[np.int64] | None = None
    """The only places whose final hidden states are wanted, ascending; None if unspecified."""
    _made: dict[Any, Any] = field(default_factory=dict)

    def meet(self, layer: int, key: Tensor, value: Tensor) -> KeyValue | None:
        """The cached keys and values before the pack, or None; the layer's own (these) are stored if they are collected."""
        if self.collect is not None:
            self.collect[layer] = KeyValue(key, value)
        return self.chain[layer] if self.chain is not None else None

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Made once per pack, used by every layer."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def visible(self, window: int | None, device: torch.device) -> Tensor:
        """(T, chain + T) booleans: which query sees which key; ``window``: keys at this distance or more are masked."""
        depth_T = torch.from_numpy(self.layout.depth_T).to(device)
        end_T = torch.from_numpy(self.layout.end_T).to(device)
        at_T = torch.arange(len(depth_T), device=device)
        within_TT = (at_T[None, :] <= at_T[:, None]) & (at_T[:, None] < end_T[None, :])
        chain_C = torch.arange(self.chain_tokens, device=device)
        visible_TK = torch.cat([within_TT.new_ones(len(depth_T), self.chain_tokens), within_TT], dim=1)
        if window is not None:
            visible_TK &= depth_T[:, None] - torch.cat([chain_C, depth_T])[None, :] < window
        return visible_TK

    def bias(self, window: int | None, like: Tensor) -> Tensor:
        """``visible`` as an additive mask (1, 1, T, chain + T)."""
        visible_TK = self.visible(window, like.device)
        return torch.zeros(visible_TK.shape, dtype=like.dtype, device=like.device).masked_fill_(
            ~visible_TK, torch.finfo(like.dtype).min
        )[None, None]


def tree_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: Plan,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """One layer: (1, heads, T, head size) queries, keys and values in, (1, T, heads, head size) out."""
    if query.dtype != value.dtype:  # under autocast, after rotary positions in 32-bit
        query, key = query.to(value.dtype), key.to(value.dtype)
    chain = tree.meet(module.layer_idx, key, value)
    window = window_of(module, others)
    if window is not None and window > int(tree.layout.depth_T.max()):
        window = None
    others.pop("sliding_window", None)
    plain = others.get("softcap") is None and others.get("s_aux") is None and others.get("position_bias") is None
    if plain and window is None and dropout == 0 and query.shape[-1] == value.shape[-1]:
        on_device = _on_cpu if query.device.type == "cpu" else _flex
        return on_device(query, key, value, chain, tree, scaling).transpose(1, 2), None
    return _masked(module, query, key, value, chain, tree, window, scaling, dropout, others, plain), None


def window_of(module: Any, keywords: dict[str, Any]) -> int | None:
    """The sliding window of this layer: as it is passed, otherwise from the configuration."""
    if "sliding_window" in keywords:
        return keywords["sliding_window"]
    config = module.config
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if window is None or getattr(config, "use_sliding_window", True) is False:
        return None
    return window if kinds is None or kinds[module.layer_idx] == "sliding_attention" else None


def _on_cpu(
    query: Tensor, key: Tensor, value: Tensor, chain: KeyValue | None, plan: Plan, scale: float | None
) -> Tensor:
    kernels = usable(query, key, value)
    if kernels is not None:
        scale = float(query.shape[-1] ** -0.5) if scale is None else scale
        return attend(kernels, query, key, value, plan.layout.end_T, scale, chain)
    blocks = plan.remember("blocks", lambda: blocks_of(plan.layout.blocks))
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        assert chain is None, "keys and values computed before have no gradient"
        return Cascade.apply(query, key, value, blocks, scale)  # type: ignore[return-value]
    return cascade(query, key, value, blocks, scale, chain)[0]


def _flex(query: Tensor, key: Tensor, value: Tensor, chain: KeyValue | None, plan: Plan, scale: float | None) -> Tensor:
    """The whole tree in one call: compiled on a GPU, in plain form (and without gradients) on a CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    before = 0 if chain is None else plan.chain_tokens
    if chain is not None:
        key, value = torch.cat([chain.key, key], dim=2), torch.cat([chain.value, value], dim=2)
    total = query.shape[2]

    def block_mask() -> Any:
        end_T = torch.from_numpy(plan.layout.end_T).to(query.device)

        def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            inside = (k - before).clamp(min=0)
            return (k < before) | ((inside <= q) & (q < end_T[inside]))

        return create_block_mask(sees, None, None, total, before + total, device=str(query.device))

    flex: Any = flex_attention if query.device.type == "cpu" else _compiled()
    mask = plan.remember("flex", block_mask)
    return flex(query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1])


_compiled_flex: list[Any] = []


def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    if not _compiled_flex:
        _compiled_flex.append(torch.compile(flex_attention, dynamic=True))
    return _compiled_flex[0]


def _masked(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    chain: KeyValue | None,
    plan: Plan,
    window: int | None,
    scaling: float | None,
    dropout: float,
    others: dict[str, Any],
    plain: bool,
) -> Tensor:
    """The model's own attention with an explicit mask; scaled_dot_product_attention where it has no extras."""
    if chain is not None:
        key, value = torch.cat([chain.key, key], dim=2), torch.cat([chain.value, value], dim=2)
    mask = plan.remember(("bias", window), lambda: plan.bias(window, query))
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    attend = AttentionInterface()["sdpa"] if plain or own is None else own
    return attend(module, query, key, value, mask, scaling=scaling, dropout=dropout, **others)[0]


AttentionInterface.register(NAME, tree_attention)


def configs_of(model: Any) -> list[Any]:
    """Every configuration object in a model that says which attention to use."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [config for config in configs.values() if hasattr(config, "_attn_implementation_internal")]


@contextmanager
def attention(configs: Sequence[Any], name: str) -> Generator[None]:
    """Use another attention function for the model, and restore its own on exit."""
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own
