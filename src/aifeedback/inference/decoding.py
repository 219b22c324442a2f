"""One token at a time: the two ways a causal language model continues a batch of prompts with a key-value cache.

``LlamaDecoder`` writes out the forward pass of the Llama family (Llama, Qwen2, Qwen3, Mistral without a window) in few
kernels: fused projections, norm weights folded into them, rotation as one complex product, keys stored transposed in a
preallocated cache, and one attention per *group* of samples, so that samples of one prompt read the prompt's keys once.
``CachedDecoder`` (``decoding.py``) drives any Hugging Face model through its own forward. Both answer the same four
calls, and ``open_decoder`` takes the fast one only where it reproduces the model's own numbers on these prompts.
"""

from __future__ import annotations

import inspect
import warnings
import weakref
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from aifeedback.inference.padded import TURN

COMPACT = 0.875
"""The cache is copied without its finished rows once no more than this share of them is still running."""


class CachedDecoder:
    """Any Hugging Face causal LM, through its own forward and cache.

    Full-attention models get a preallocated cache that is written in place, left-padded prompts and dropped rows.
    Models with windows, convolutions or recurrent state take prompts of one length at a time (``generate`` sees to
    it), keep their own cache class and carry finished rows along.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        parameters = inspect.signature(model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self.cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        self.full_attention = full_attention(model)

    def start(self, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_new_tokens: int) -> Tensor:
        from transformers import DynamicCache

        device = self.model.device
        T = max(len(ids) for ids in prompt_ids)
        lengths = torch.tensor([len(ids) for ids in prompt_ids], device=device)
        token_PT = torch.tensor([[0] * (T - len(ids)) + list(ids) for ids in prompt_ids], device=device)
        mask_PT = (torch.arange(T, device=device) >= T - lengths[:, None]).long()
        if self.full_attention:
            self.cache: Any = DynamicCache()
            self.cache.layers = [_in_place_layer(T + max_new_tokens) for _ in range(_layer_count(self.model))]
        else:
            self.cache = None
            token_PT, mask_PT = (x.repeat_interleave(samples, dim=0) for x in (token_PT, mask_PT))
            lengths = lengths.repeat_interleave(samples)
        positions = (torch.cumsum(mask_PT, dim=1) - 1).clamp_(min=0)
        logits = self._forward(token_PT, mask_PT, positions)
        if self.full_attention:
            self.cache.batch_repeat_interleave(samples)
            mask_PT, lengths = mask_PT.repeat_interleave(samples, dim=0), lengths.repeat_interleave(samples)
        else:
            logits = logits[::samples]
        self.mask_RT = F.pad(mask_PT, (0, max_new_tokens), value=1)
        self.position_R, self.filled, self.slot_A = lengths, T, None
        return logits

    def step(self, token_A: Tensor) -> Tensor:
        token_R = token_A
        if self.slot_A is not None:
            token_R = token_A.new_zeros(len(self.position_R)).index_copy_(0, self.slot_A, token_A)
        self.filled += 1
        logits = self._forward(token_R[:, None], self.mask_RT[:, : self.filled], self.position_R[:, None])
        self.position_R = self.position_R + 1
        return logits if self.slot_A is None else logits[self.slot_A]

    def _forward(self, token: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        place: dict[str, Any] = {"position_ids": positions} if self.takes_positions else {}
        place[self.cache_name] = self.cache
        if self.full_attention:
            place["attention_mask"] = mask
        with TURN:
            out = self.model(input_ids=token, use_cache=True, **place)
        self.cache = out[self.cache_name]
        return out.logits[:, -1]

    def drop(self, keep: Tensor) -> None:
        slot_A = keep if self.slot_A is None else self.slot_A[keep]
        if not self.full_attention or len(slot_A) > COMPACT * len(self.position_R):
            self.slot_A = slot_A
            return
        self.cache.batch_select_indices(slot_A)
        self.mask_RT, self.position_R, self.slot_A = self.mask_RT[slot_A], self.position_R[slot_A], None


def full_attention(model: Any) -> bool:
    """Whether every layer attends to the whole past, so that left padding and a plain cache are safe."""
    config = model.config.get_text_config()
    if not hasattr(config, "num_attention_heads"):
        return False
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not windowed and not getattr(model, "_is_stateful", False)


def _layer_count(model: Any) -> int:
    return model.config.get_text_config().num_hidden_layers


def _in_place_layer(max_length: int) -> Any:
    """A cache layer that writes into storage allocated once, and shows the filled part of it."""
    from transformers.cache_utils import DynamicLayer

    class InPlaceLayer(DynamicLayer):
        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
                self.storage = [x.new_empty(*x.shape[:2], max_length, x.shape[3]) for x in (key_states, value_states)]
                self.filled = 0
            end = self.filled + key_states.shape[2]
            for stored, new in zip(self.storage, (key_states, value_states), strict=True):
                stored[:, :, self.filled : end] = new
            self.filled = end
            return self._show()

        def _show(self) -> tuple[Tensor, Tensor]:
            keys, values = (stored[:, :, : self.filled] for stored in self.storage)
            self.keys, self.values = keys, values
            return keys, values

        def batch_repeat_interleave(self, repeats: int) -> None:
            self.storage = [stored.repeat_interleave(repeats, dim=0) for stored in self.storage]
            self._show()

        def batch_select_indices(self, indices: Tensor) -> None:
            self.storage = [stored[indices] for stored in self.storage]
            self._show()

    return InPlaceLayer()


LLAMA_FAMILY = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM")
GROUP = 8
"""Most samples that share one block of prompt keys; a group computes the scores between its samples and masks them."""
FAST_PARAMETERS = 300_000_000
"""Above this many parameters the fused copy of the weights costs more than the saved kernel launches."""

_agreement: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
"""Models whose own numbers the fast decoder was compared with, and the outcome; forgotten with the model."""


class Decoder(Protocol):
    """A batch in generation. Rows are prompt-major: ``samples`` rows for each prompt, fewer as rows are dropped."""

    def start(self, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_new_tokens: int) -> Tensor:
        """Logits (P, V) after each prompt; the next ``step`` takes P × samples tokens."""
        ...

    def step(self, token_A: Tensor) -> Tensor:
        """Append one token to each running row; logits (A, V) after it."""
        ...

    def drop(self, keep: Tensor) -> None:
        """Continue with these rows only, given as indices into the running ones."""
        ...


def open_decoder(model: Any, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_new_tokens: int) -> Any:
    """A started decoder and its first logits: ``(decoder, logits_PV)``."""
    if _is_plain_llama(model):
        decoder = LlamaDecoder(model)
        logits_PV = decoder.start(prompt_ids, samples=samples, max_new_tokens=max_new_tokens)
        if model not in _agreement:
            _agreement[model] = _agrees(model, prompt_ids, logits_PV)
        if _agreement[model]:
            return decoder, logits_PV
        warnings.warn(
            f"the fast decoder does not reproduce {type(model).__name__}; using the model's own forward", stacklevel=3
        )
    decoder = CachedDecoder(model)
    return decoder, decoder.start(prompt_ids, samples=samples, max_new_tokens=max_new_tokens)


def _agrees(model: Any, prompt_ids: Sequence[Sequence[int]], logits_PV: Tensor) -> bool:
    """Whether the shortest and the longest prompt give the model's own logits, within rounding."""
    lengths = [len(ids) for ids in prompt_ids]
    for row in {lengths.index(min(lengths)), lengths.index(max(lengths))}:
        own_V = model(torch.tensor([list(prompt_ids[row])], device=model.device), logits_to_keep=1).logits[0, -1]
        if not torch.allclose(own_V, logits_PV[row], rtol=1e-4, atol=1e-4):
            return False
    return True


def _is_plain_llama(model: Any) -> bool:
    """Whether every part of the model is what ``LlamaDecoder`` writes out: no adapter, window or hook."""
    if type(model).__name__ not in LLAMA_FAMILY or model.dtype not in (torch.float32, torch.float64):
        return False
    if not _agreement.get(model, True):
        return False
    config = model.config
    layers = model.model.layers
    linears = [m for layer in layers for m in layer.modules() if hasattr(m, "in_features")]
    return (
        sum(p.numel() for p in model.parameters()) <= FAST_PARAMETERS
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True))
        and config.hidden_act in ("silu", "swish")
        and config.rope_parameters["rope_type"] in ("default", "linear", "llama3")
        and all(type(m) is torch.nn.Linear for m in [*linears, model.lm_head])
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    )


class LlamaDecoder:
    """The forward pass of a Llama-style model, written for one new token per row.

    Cache layout, per layer: keys (G, K, D, L) and values (G, K, L, D) for G groups and K key-value heads. The first
    columns are the prompt's, then every step adds one column per sample of the group; a mask keeps samples apart.
    """

    def __init__(self, model: Any) -> None:
        self.model, config = model, model.config
        self.heads = config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.eps = config.rms_norm_eps
        self.embed = model.model.embed_tokens.weight
        self.layers = [self._fuse(layer) for layer in model.model.layers]
        norm = model.model.norm.weight
        self.head = (model.lm_head.weight * norm).t().contiguous()
        self.head_bias = model.lm_head.bias

    def _fuse(self, layer: Any) -> dict[str, Tensor | None]:
        attention, mlp = layer.self_attn, layer.mlp
        norm1, norm2 = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
        q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
        scale = self.head_dim**-0.5
        q_norm = getattr(attention, "q_norm", None)
        q_scale = 1.0 if q_norm is not None else scale
        weight = torch.cat((self._pairs(q.weight) * q_scale, self._pairs(k.weight), v.weight)) * norm1
        bias = None
        if q.bias is not None:
            bias = torch.cat((self._pairs(q.bias) * q_scale, self._pairs(k.bias), v.bias))
        head_norm = None
        if q_norm is not None:
            rows = [self._pairs(q_norm.weight) * scale] * self.heads + [
                self._pairs(attention.k_norm.weight)
            ] * self.kv_heads
            head_norm = torch.stack(rows)
        gate_up = torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)) * norm2
        gate_up_bias = None
        if mlp.gate_proj.bias is not None:
            gate_up_bias = torch.cat((mlp.gate_proj.bias, mlp.up_proj.bias))
        return {
            "qkv": weight.t().contiguous(),
            "qkv_bias": bias,
            "head_norm": head_norm,
            "o": attention.o_proj.weight.t().contiguous(),
            "o_bias": attention.o_proj.bias,
            "gate_up": gate_up.t().contiguous(),
            "gate_up_bias": gate_up_bias,
            "down": mlp.down_proj.weight.t().contiguous(),
            "down_bias": mlp.down_proj.bias,
        }

    def _pairs(self, weight: Tensor) -> Tensor:
        """Rows of each head reordered so that the two numbers that RoPE rotates together are neighbours."""
        shape = weight.shape
        return weight.view(-1, 2, self.head_dim // 2, *shape[1:]).transpose(1, 2).reshape(shape)

    def start(self, prompt_ids: Sequence[Sequence[int]], *, samples: int, max_new_tokens: int) -> Tensor:
        device, dtype = self.embed.device, self.embed.dtype
        self.group = next(g for g in range(min(samples, GROUP), 0, -1) if samples % g == 0)
        T = max(len(ids) for ids in prompt_ids)
        pad_P = torch.tensor([T - len(ids) for ids in prompt_ids], device=device)
        token_PT = torch.tensor([[0] * (T - len(ids)) + list(ids) for ids in prompt_ids], device=device)
        position_PT = (torch.arange(T, device=device) - pad_P[:, None]).clamp_(min=0)
        self.rotations = self._rotations(T + max_new_tokens)
        valid_PT = torch.arange(T, device=device) >= pad_P[:, None]
        seen_TT = torch.ones(T, T, dtype=torch.bool, device=device).tril_()
        mask_PTT = (valid_PT[:, None, :] & seen_TT) | torch.eye(T, dtype=torch.bool, device=device)
        self.cache = []
        x_PTD = self._prefill(token_PT, position_PT, mask_PTT.unsqueeze(1), samples // self.group, max_new_tokens)
        logits_PV = self._logits(x_PTD[:, -1])
        self._start_mask(valid_PT, samples // self.group, max_new_tokens, dtype)
        self.position_R = (T - pad_P).repeat_interleave(samples)
        self.slot_A: Tensor | None = None
        self.filled = T
        return logits_PV

    def _rotations(self, length: int) -> Tensor:
        """exp(i·position·frequency), (length, D/2), from the model's own rotary table."""
        rotary = self.model.model.rotary_emb
        where = torch.arange(length, device=self.embed.device)[None]
        cos, sin = rotary(self.embed[:1], where)
        half = self.head_dim // 2
        return torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())

    def _prefill(self, token_PT: Tensor, position_PT: Tensor, mask: Tensor, groups: int, new_tokens: int) -> Tensor:
        P, T = token_PT.shape
        turn_PT = self.rotations[position_PT]
        x = self.embed[token_PT].view(P * T, -1)
        for layer in self.layers:
            qkv = self._project(x, layer, turn_PT.view(P * T, 1, -1)).view(P, T, -1, self.head_dim).transpose(1, 2)
            q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
            self._store_prompt(k, v, groups, new_tokens)
            mixed = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, scale=1.0, enable_gqa=self.heads != self.kv_heads
            )
            x = self._finish(x, mixed.transpose(1, 2).reshape(P * T, -1), layer)
        return x.view(P, T, -1)

    def _store_prompt(self, k_PKTD: Tensor, v_PKTD: Tensor, groups: int, new_tokens: int) -> None:
        P, K, T, D = k_PKTD.shape
        length = T + new_tokens * self.group
        keys = k_PKTD.new_zeros(P, groups, K, D, length)
        values = k_PKTD.new_zeros(P, groups, K, length, D)
        keys[..., :T] = k_PKTD.transpose(-1, -2).unsqueeze(1)
        values[..., :T, :] = v_PKTD.unsqueeze(1)
        self.cache.append((keys.flatten(0, 1), values.flatten(0, 1)))

    def _start_mask(self, valid_PT: Tensor, groups: int, new_tokens: int, dtype: torch.dtype) -> None:
        """Additive mask (G·K, g·heads/K, L): no padding of the prompt, no column of another sample."""
        P, T = valid_PT.shape
        allowed = valid_PT[:, None, None, :].expand(P, groups, self.group, T)
        own = torch.eye(self.group, dtype=torch.bool, device=valid_PT.device).repeat(1, new_tokens)
        allowed = torch.cat((allowed, own.expand(P, groups, -1, -1)), dim=-1).flatten(0, 1)
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, float("-inf"))
        queries = self.heads // self.kv_heads
        mask = mask[:, None, :, None, :].expand(-1, self.kv_heads, -1, queries, -1)
        self.mask = mask.reshape(mask.shape[0] * self.kv_heads, self.group * queries, -1).contiguous()

    def step(self, token_A: Tensor) -> Tensor:
        slot_A, R = self.slot_A, len(self.position_R)
        position_A = self.position_R if slot_A is None else self.position_R.index_select(0, slot_A)
        turn_A = self.rotations.index_select(0, position_A).unsqueeze(1)
        x = self.embed.index_select(0, token_A)
        first, last = self.filled, self.filled + self.group
        for layer, (keys, values) in zip(self.layers, self.cache, strict=True):
            qkv = self._project(x, layer, turn_A)
            if slot_A is not None:
                qkv = qkv.new_zeros(R, qkv.shape[1]).index_copy_(0, slot_A, qkv)
            mixed = self._attend(qkv, keys, values, first, last)
            x = self._finish(x, mixed if slot_A is None else mixed.index_select(0, slot_A), layer)
        self.filled = last
        self.position_R += 1
        return self._logits(x)

    def _project(self, x: Tensor, layer: dict[str, Any], turn: Tensor) -> Tensor:
        """Rotated queries and keys, and values: (rows, (H + 2K)·D). Queries carry the attention scale."""
        qkv = torch.mm(self._normed(x), layer["qkv"])
        if layer["qkv_bias"] is not None:
            qkv += layer["qkv_bias"]
        rotated = (self.heads + self.kv_heads) * self.head_dim
        qk = qkv[:, :rotated]
        if layer["head_norm"] is not None:
            heads = qk.reshape(len(x), -1, self.head_dim)
            qk.copy_((F.rms_norm(heads, (self.head_dim,), eps=self.eps) * layer["head_norm"]).view(len(x), -1))
        pairs = torch.view_as_complex(qk.view(len(x), self.heads + self.kv_heads, self.head_dim // 2, 2))
        pairs *= turn
        return qkv

    def _attend(self, qkv: Tensor, keys: Tensor, values: Tensor, first: int, last: int) -> Tensor:
        g, K, D = self.group, self.kv_heads, self.head_dim
        q, k, v = qkv.split((self.heads * D, K * D, K * D), dim=1)
        keys[..., first:last] = k.view(-1, g, K, D).permute(0, 2, 3, 1)
        values[:, :, first:last] = v.view(-1, g, K, D).transpose(1, 2)
        q = q.view(-1, g, K, self.heads // K, D).transpose(1, 2).reshape(-1, g * (self.heads // K), D)
        score = torch.baddbmm(self.mask[:, :, :last], q, keys.flatten(0, 1)[:, :, :last])
        mixed = torch.bmm(torch.softmax(score, dim=-1), values.flatten(0, 1)[:, :last])
        return mixed.view(-1, K, g, self.heads // K, D).transpose(1, 2).reshape(len(qkv), self.heads * D)

    def _finish(self, x: Tensor, mixed: Tensor, layer: dict[str, Any]) -> Tensor:
        x = torch.addmm(x, mixed, layer["o"])
        if layer["o_bias"] is not None:
            x += layer["o_bias"]
        gate_up = torch.mm(self._normed(x), layer["gate_up"])
        if layer["gate_up_bias"] is not None:
            gate_up += layer["gate_up_bias"]
        gate, up = gate_up.chunk(2, dim=1)
        x = torch.addmm(x, F.silu(gate).mul_(up), layer["down"])
        if layer["down_bias"] is not None:
            x += layer["down_bias"]
        return x

    def _normed(self, x: Tensor) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        return x * mean_square.add_(self.eps).rsqrt_()

    def _logits(self, x: Tensor) -> Tensor:
        logits = torch.mm(self._normed(x), self.head)
        return logits if self.head_bias is None else logits + self.head_bias

    def drop(self, keep: Tensor) -> None:
        R, g = len(self.position_R), self.group
        slot_A = keep if self.slot_A is None else self.slot_A[keep]
        groups = torch.unique(slot_A // g)
        if len(groups) * g > COMPACT * R:
            self.slot_A = slot_A
            return
        new_group = torch.full((R // g,), -1, device=slot_A.device)
        new_group[groups] = torch.arange(len(groups), device=slot_A.device)
        slot_A = new_group[slot_A // g] * g + slot_A % g
        heads = (groups[:, None] * self.kv_heads + torch.arange(self.kv_heads, device=groups.device)).flatten()
        self.cache = [(keys[groups], values[groups]) for keys, values in self.cache]
        self.mask = self.mask[heads]
        self.position_R = self.position_R.view(-1, g)[groups].flatten()
        self.slot_A = None if len(slot_A) == len(self.position_R) else slot_A
