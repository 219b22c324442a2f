"""The last layer of a Llama-like model, computed only at the places that are read.

Below it every token is needed, since later tokens look at it; of the last layer's outputs nobody looks at any but those
that become a logit or a score. So queries, attention, output projection and MLP of all other tokens are left out there;
keys and values, which the read places look at, are not. Exact, gradients included. What it saves is up to one layer of
all: a tenth of a small model's work when labelling, more where only one token of a sequence is read.

As with the other stand-ins (``fused.py``), a layer is taken over only if it gives the same numbers on a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aifeedback.engine.attention import NAME, Plan, attention, window_of
from aifeedback.engine.cascade import KeyValue
from aifeedback.engine.fused import StandIn, attend, close, rotate, usable
from aifeedback.engine.native import Kernels
from aifeedback.engine.plain import base_of
from aifeedback.engine.tree import Layout

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
NORMS = {"q_norm", "k_norm"}
TRIAL = Layout(
    tokens_T=np.arange(5),
    depth_T=np.array([0, 1, 2, 3, 2]),
    end_T=np.array([5, 5, 4, 4, 5]),
    blocks=((0, 2, 5), (2, 4, 4), (4, 5, 5)),
    offset={},
)
"""Two tokens, below them one branch of two and one of one."""
TRIAL_READS = np.array([1, 3, 4])


def only_where_read(model: Any) -> StandIn | None:
    """The stand-in for the last layer of a model; None where it is not of the known form, or fails its trial."""
    layers = getattr(base_of(model), "layers", None)
    if not layers or not _is_known(layers[-1]) or usable(*model.parameters()) is None:
        return None
    layer = layers[-1]

    def forward(hidden_states: Tensor, *rest: Any, **given: Any) -> Any:
        plan: Plan | None = given.get("tree")
        turn = given.get("position_embeddings") or ()
        found = usable(hidden_states, *turn, *layer.parameters())
        is_last = base_of(model).layers[-1] is layer
        if (
            found is None
            or plan is None
            or plan.reads is None
            or rest
            or not is_last
            or not _is_plain(layer, plan, turn)
        ):
            return type(layer).forward(layer, hidden_states, *rest, **given)
        return _at_reads(found, layer, hidden_states, plan, turn)

    return StandIn(layer, "forward", forward) if _agrees(layer, forward) else None


def _is_known(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != PARTS:
        return False
    attends = layer.self_attn
    names = {name for name, _ in attends.named_children()}
    has_numbers = all(hasattr(attends, name) for name in ("scaling", "head_dim", "layer_idx", "config"))
    return names in (PROJECTIONS, PROJECTIONS | NORMS) and has_numbers


def _is_plain(layer: Any, plan: Plan, turn: tuple[Tensor, ...]) -> bool:
    """Whether this pass has no window in this layer, no dropout, rotates whole heads, as written out below, and nobody
    listens to the attention, which is not called as a module."""
    attends = layer.self_attn
    window = window_of(attends, {k: v for k, v in vars(attends).items() if k == "sliding_window"})
    looks_back = window is None or window > int(plan.layout.depth_T.max())
    drops = layer.training and getattr(attends, "attention_dropout", 0.0)
    turns = len(turn) == 2 and all(x.dim() == 3 and x.shape[::2] == (1, attends.head_dim) for x in turn)
    learns = any(x.requires_grad for x in turn)
    heard = attends._forward_hooks or attends._forward_pre_hooks or "forward" in vars(attends)
    return looks_back and turns and not (drops or learns or heard)


def _at_reads(found: Kernels, layer: Any, x: Tensor, plan: Plan, turn: tuple[Tensor, ...]) -> Tensor:
    """(1, T, D): the layer's output at the read places, zeros elsewhere."""
    attends = layer.self_attn
    assert plan.reads is not None
    at_U = torch.from_numpy(plan.reads)
    cos_TD, sin_TD = turn[0][0], turn[1][0]
    normed = layer.input_layernorm(x)
    key = rotate(found, _heads(attends, "k", normed), cos_TD, sin_TD)
    value = _heads(attends, "v", normed)
    if plan.collect is not None:
        plan.collect[attends.layer_idx] = KeyValue(key, value)
    out = x.new_zeros(x.shape)
    if not len(at_U):
        return out
    query = rotate(found, _heads(attends, "q", normed.index_select(1, at_U)), cos_TD[at_U], sin_TD[at_U])
    chain = plan.chain[attends.layer_idx] if plan.chain is not None else None
    mixed = attend(found, query, key, value, plan.layout.end_T, attends.scaling, chain, plan.reads)
    x = x.index_select(1, at_U) + attends.o_proj(mixed.transpose(1, 2).flatten(2))
    return out.index_copy(1, at_U, x + layer.mlp(layer.post_attention_layernorm(x)))


def _heads(attends: Any, which: str, x: Tensor) -> Tensor:
    """(1, tokens, D) → (1, heads, tokens, head size), normed where the model does so."""
    heads = getattr(attends, f"{which}_proj")(x).unflatten(-1, (-1, attends.head_dim))
    norm = getattr(attends, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _agrees(layer: Any, forward: Callable[..., Any]) -> bool:
    attends = layer.self_attn
    was_training = layer.training
    layer.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), attention([attends.config], NAME):
            torch.manual_seed(0)
            x = torch.randn(1, len(TRIAL.depth_T), attends.config.hidden_size)
            turn = tuple(torch.randn(1, len(TRIAL.depth_T), attends.head_dim) for _ in range(2))
            whole = type(layer).forward(layer, x, position_embeddings=turn, tree=Plan(TRIAL))
            read = forward(x, position_embeddings=turn, tree=Plan(TRIAL, reads=TRIAL_READS))
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a layer of another form
        return False
    finally:
        layer.train(was_training)
    return isinstance(whole, Tensor) and close(read[:, TRIAL_READS], whole[:, TRIAL_READS])
