"""The layers of a Llama-like model written out, so that a pass computes no more, and moves no more, than it must.

- *The last layer only where it is read.* Below it every token is needed, since later tokens look at it; of the last
  layer's outputs only those that become a logit or a score are needed. So queries, attention, output projection
  and MLP of all other tokens are left out there; keys and values, which the read places look at, are not. Exact,
  gradients included. What it saves is up to one layer of all.
- *The others in two calls* of the kernels, one before attention and one after it, where no gradient is needed. States of
  a few tokens stay in the cache from the norm to the rotated heads, and from the attention's output to that of the MLP.
  In the last layer one call computes keys and values. Wide models, short passes, adapters and modules with hooks keep
  the model's own steps.

As with the other stand-ins (``fused.py``), a layer is taken over only if it gives the same numbers on a trial.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from aifeedback.inference.native import Kernels, Projection
from aifeedback.inference.native.fused import SCALES, StandIn, attend, close, epsilon_of, learns, rotate, usable
from aifeedback.inference.padded import base_of
from aifeedback.inference.prefix_tree import Layout
from aifeedback.inference.tree_attention import NAME, Plan, attention, window_of

PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}
NORMS = {"q_norm", "k_norm"}
MATRICES = {"gate_proj", "up_proj", "down_proj"}
WIDEST = 1024
"""Above this width a few tokens' states no longer stay in the cache, and PyTorch's matrix products are faster. They are
also faster in a pass with fewer tokens than the model's width, because every call of the kernel repacks the weights."""
ALIKE = 5
"""Tokens of the trial tree at each scale: a root segment of two, with one branch of two tokens and one of one."""
TRIAL = Layout(
    tokens_T=np.arange(3 * ALIKE),
    depth_T=np.tile([0, 1, 2, 3, 2], 3),
    end_T=np.repeat([5, 10, 15], ALIKE) - np.tile([0, 0, 1, 1, 0], 3),
    blocks=tuple((b + at, e + at, end + at) for at in (0, 5, 10) for b, e, end in ((0, 2, 5), (2, 4, 4), (4, 5, 5))),
    offset={},
)
TRIAL_READS = np.array([1, 3, 4, 6, 8, 9, 11, 13, 14])
Run: TypeAlias = Callable[[Kernels, Any, Tensor, Plan, tuple[Tensor, ...]], Tensor]


def written_out(model: Any) -> tuple[StandIn, ...]:
    """The stand-ins for the layers of a model that are of the known form and pass their trials."""
    layers = getattr(base_of(model), "layers", None)
    if not layers or usable(*model.parameters()) is None:
        return ()
    made = (_stand_in(model, layer, is_last=layer is layers[-1]) for layer in layers if _is_known(layer))
    return tuple(filter(None, made))


def _stand_in(model: Any, layer: Any, *, is_last: bool) -> StandIn | None:
    parts = [*layer.modules()]
    reads = is_last and _agrees(layer, _at_reads, TRIAL_READS)
    in_two_calls = _is_bare(layer) and _agrees(layer, _in_two_calls, TRIAL.tokens_T)

    def forward(hidden_states: Tensor, *rest: Any, **named: Any) -> Any:
        plan: Plan | None = named.get("tree")
        turn = named.get("position_embeddings") or ()
        kernels = usable(hidden_states, *turn, *layer.parameters())
        if kernels is not None and plan is not None and not rest and _is_plain(layer, plan, turn):
            short = hidden_states.shape[1] < hidden_states.shape[2]
            own = short or learns(hidden_states, *layer.parameters())
            calls = in_two_calls and not own and parts == [*layer.modules()] and _is_bare(layer)
            if reads and plan.reads is not None and base_of(model).layers[-1] is layer:
                return _at_reads(kernels, layer, hidden_states, plan, turn, calls=calls)
            if calls:
                return _in_two_calls(kernels, layer, hidden_states, plan, turn)
        return type(layer).forward(layer, hidden_states, *rest, **named)

    return StandIn(layer, "forward", forward) if reads or in_two_calls else None


def _is_known(layer: Any) -> bool:
    if {name for name, _ in layer.named_children()} != PARTS:
        return False
    attends = layer.self_attn
    names = {name for name, _ in attends.named_children()}
    has_numbers = all(hasattr(attends, name) for name in ("scaling", "head_dim", "layer_idx", "config"))
    return names in (PROJECTIONS, PROJECTIONS | NORMS) and has_numbers


def _is_plain(layer: Any, plan: Plan, turn: tuple[Tensor, ...]) -> bool:
    """Whether the layer can be computed as written out below in this pass: no effective sliding window, no dropout, a
    rotation of whole heads, no hooks on the attention module (which is not called, so that they would not run)."""
    attends = layer.self_attn
    window = window_of(attends, {k: v for k, v in vars(attends).items() if k == "sliding_window"})
    looks_back = window is None or window > int(plan.layout.depth_T.max())
    drops = layer.training and getattr(attends, "attention_dropout", 0.0)
    turns = len(turn) == 2 and all(x.dim() == 3 and x.shape[::2] == (1, attends.head_dim) for x in turn)
    return looks_back and turns and not (drops or learns(*turn) or _has_hooks(attends) or "forward" in vars(attends))


def _is_bare(layer: Any) -> bool:
    """Whether a layer is its weights and nothing else: plain linear layers of no great width, without hooks."""
    attends, mlp = layer.self_attn, layer.mlp
    if not all(isinstance(getattr(mlp, name, None), nn.Linear) for name in MATRICES):
        return False
    linears = [*(getattr(attends, name) for name in PROJECTIONS), *(getattr(mlp, name) for name in MATRICES)]
    plain = all(type(linear) is nn.Linear and "forward" not in vars(linear) for linear in linears)
    biased = any(linear.bias is not None for linear in (attends.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    return plain and not biased and mlp.gate_proj.in_features <= WIDEST and not any(map(_has_hooks, layer.modules()))


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _at_reads(
    kernels: Kernels, layer: Any, x: Tensor, plan: Plan, turn: tuple[Tensor, ...], *, calls: bool = False
) -> Tensor:
    """(1, T, D): the layer's output at the read places, zeros elsewhere. ``calls``: keys and values in one call."""
    attends = layer.self_attn
    assert plan.reads is not None
    at_U = torch.from_numpy(plan.reads)
    cos_TD, sin_TD = turn[0][0], turn[1][0]
    x_U = x.index_select(1, at_U)
    if calls:
        key, value = _projected(kernels, layer, "kv", x, turn)
        normed_U = layer.input_layernorm(x_U)
    else:
        normed = layer.input_layernorm(x)
        key = rotate(kernels, _heads(attends, "k", normed), cos_TD, sin_TD)
        value = _heads(attends, "v", normed)
        normed_U = normed.index_select(1, at_U)
    chain = plan.meet(attends.layer_idx, key, value)
    out = x.new_zeros(x.shape)
    if not len(at_U):
        return out
    query = rotate(kernels, _heads(attends, "q", normed_U), cos_TD[at_U], sin_TD[at_U])
    mixed = attend(kernels, query, key, value, plan.layout.end_T, attends.scaling, chain, plan.reads)
    x_U = x_U + attends.o_proj(mixed.transpose(1, 2).flatten(2))
    return out.index_copy(1, at_U, x_U + layer.mlp(layer.post_attention_layernorm(x_U)))


def _heads(attends: Any, which: str, x: Tensor) -> Tensor:
    """(1, tokens, D) → (1, heads, tokens, head size), normed where the model does so."""
    heads = getattr(attends, f"{which}_proj")(x).unflatten(-1, (-1, attends.head_dim))
    norm = getattr(attends, f"{which}_norm", None)
    return (heads if norm is None else norm(heads)).transpose(1, 2)


def _in_two_calls(kernels: Kernels, layer: Any, x: Tensor, plan: Plan, turn: tuple[Tensor, ...]) -> Tensor:
    """(1, T, D): the layer's output."""
    attends, mlp, after = layer.self_attn, layer.mlp, layer.post_attention_layernorm
    query, key, value = _projected(kernels, layer, "qkv", x, turn)
    chain = plan.meet(attends.layer_idx, key, value)
    mixed, _ = kernels.tree_attention(query, key, value, plan.layout.end_T, attends.scaling, chain)
    matrices = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
    mixed = mixed.transpose(1, 2).flatten(2)
    return kernels.finish(mixed, attends.o_proj.weight, x, after.weight, epsilon_of(after), *matrices)


def _projected(kernels: Kernels, layer: Any, which: str, x: Tensor, turn: tuple[Tensor, ...]) -> list[Tensor]:
    norm, to = layer.input_layernorm, [_projection(layer.self_attn, one) for one in which]
    return kernels.project(x, norm.weight, epsilon_of(norm), to, turn[0][0], turn[1][0])


def _projection(attends: Any, which: str) -> Projection:
    linear, norm = getattr(attends, f"{which}_proj"), getattr(attends, f"{which}_norm", None)
    weight, eps = (None, 0.0) if norm is None else (norm.weight, epsilon_of(norm))
    return Projection(linear.weight, linear.bias, weight, eps, turns=which != "v")


def _agrees(layer: Any, run: Run, places: np.ndarray) -> bool:
    """Whether ``run`` gives the layer's own numbers at these places of a trial."""
    attends = layer.self_attn
    was_training = layer.training
    layer.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(), attention([attends.config], NAME):
            torch.manual_seed(0)
            x = torch.randn(len(SCALES), ALIKE, attends.config.hidden_size) * torch.tensor(SCALES)[:, None, None]
            x = x.flatten(0, 1)[None]
            turn = tuple(torch.randn(1, x.shape[1], attends.head_dim) for _ in range(2))
            kernels = usable(x, *layer.parameters())
            if kernels is None:
                return False
            whole = type(layer).forward(layer, x, position_embeddings=turn, tree=Plan(TRIAL))
            ours = run(kernels, layer, x, Plan(TRIAL, reads=TRIAL_READS), turn)
            each = (places[places // ALIKE == scale] for scale in range(len(SCALES)))
            return all(close(ours[:, at], whole[:, at]) for at in each)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # a layer of another form
        return False
    finally:
        layer.train(was_training)
