"""Attention over a packed tree of sequences, as an attention function of transformers.

*On a CPU* one call of our own kernel (``native``), or a cascade of dense blocks in PyTorch's (``cascade.py``).

*On a GPU* the same visibility, j ≤ i < end[j], is one flex_attention call.

*Masked.* Layers with soft-capping, sinks or a window shorter than the sequences use the model's own attention with the
same visibility as an explicit mask.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from aifeedback.engine.cascade import Cascade, KeyValue, blocks_of, cascade
from aifeedback.engine.fused import attend, usable
from aifeedback.engine.tree import Layout

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
    """The only places whose final hidden states are wanted, ascending; None: not said."""
    _made: dict[Any, Any] = field(default_factory=dict)

    def meet(self, layer: int, key: Tensor, value: Tensor) -> KeyValue | None:
        """The keys and values that a layer's queries see besides these, its own, which are kept where they are wanted."""
        if self.collect is not None:
            self.collect[layer] = KeyValue(key, value)
        return self.chain[layer] if self.chain is not None else None

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Made once per pack, used by every layer."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def visible(self, window: int | None, device: torch.device) -> Tensor:
        """(T, chain + T) booleans: which query sees which key; ``window``: a key this far back is out of sight."""
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
    """The sliding window of this layer: as it is passed, else as the configuration tells."""
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
    found = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    return [config for config in found.values() if hasattr(config, "_attn_implementation_internal")]


@contextmanager
def attention(configs: Sequence[Any], name: str) -> Iterator[None]:
    """A model with another attention function; its own is back afterwards."""
    before = [config._attn_implementation_internal for config in configs]
    try:
        for config in configs:
            config._attn_implementation_internal = name
        yield
    finally:
        for config, own in zip(configs, before, strict=True):
            config._attn_implementation_internal = own
