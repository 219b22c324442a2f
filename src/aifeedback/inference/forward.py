"""Any causal language model on many token sequences, with what they share computed once; differentiable.

Which way a model is run is *tested* on it, never looked up: hybrids accept tree masks and are silently wrong.
``choose_path`` compares shared prefixes with plain passes on a few rows of tokens.

**Log-probabilities of given tokens** are computed a few rows of logits at a time. Neither pass keeps a (rows ×
vocabulary) matrix: the backward pass computes the logits again, which costs one product more and saves, for R rows and
V words, 8·R·V bytes.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from aifeedback.inference.padded import TURN, Read, base_of, logits_at, pad, read_padded, unwrapped
from aifeedback.inference.passes import Engine, Path, by_segment, inputs, take, whole
from aifeedback.inference.prefix_tree import build_tree

SCALED_HEADS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "dim_model_base")
"""Settings of models that do more to their logits than the output matrix."""
ROWS = 256
"""Rows of logits that are held at a time; fewer make the products slow."""


def plain_head(model: Any) -> nn.Linear | None:
    """The output matrix of a model whose logits are nothing but hidden states times it; None for every other."""
    head = unwrapped(model).get_output_embeddings()
    config = unwrapped(model).config.get_text_config()
    is_plain = type(head) is nn.Linear and type(head.weight) is nn.Parameter and getattr(head, "bias", None) is None
    return head if is_plain and not any(getattr(config, name, None) for name in SCALED_HEADS) else None


class TokenLogprobs(torch.autograd.Function):
    """``TokenLogprobs.apply(hidden (R, D), weight (V, D), token (R,), temperature)``: (R,) log p in nats, fp32."""

    @staticmethod
    def forward(ctx: Any, hidden_RD: Tensor, weight_VD: Tensor, token_R: Tensor, temperature: float) -> Tensor:
        logp_R = torch.empty(len(token_R), device=hidden_RD.device)
        lse_R = torch.empty_like(logp_R)
        for rows, logits_CV in _chunks(hidden_RD, weight_VD, temperature):
            lse_R[rows] = logits_CV.logsumexp(-1)
            logp_R[rows] = logits_CV.gather(1, token_R[rows, None]).squeeze(1) - lse_R[rows]
        ctx.save_for_backward(hidden_RD, weight_VD, token_R, lse_R)
        ctx.temperature = temperature
        return logp_R

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden_RD, weight_VD, token_R, lse_R = ctx.saved_tensors
        grad_R1 = (grads[0] / ctx.temperature)[:, None]
        d_hidden_RD = torch.empty_like(hidden_RD) if ctx.needs_input_grad[0] else None
        d_weight_VD = torch.zeros_like(weight_VD) if ctx.needs_input_grad[1] else None
        for rows, logits_CV in _chunks(hidden_RD, weight_VD, ctx.temperature):
            slope_CV = logits_CV.sub_(lse_R[rows, None]).exp_().mul_(-grad_R1[rows])
            slope_CV = slope_CV.scatter_add_(1, token_R[rows, None], grad_R1[rows]).to(hidden_RD.dtype)
            if d_hidden_RD is not None:
                torch.mm(slope_CV, weight_VD, out=d_hidden_RD[rows])
            if d_weight_VD is not None:
                d_weight_VD.addmm_(slope_CV.T, hidden_RD[rows])
        return d_hidden_RD, d_weight_VD, None, None


def _chunks(hidden_RD: Tensor, weight_VD: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits in fp32); the logits may be written to."""
    for at in range(0, len(hidden_RD), ROWS):
        rows = slice(at, at + ROWS)
        logits_CV = (hidden_RD[rows] @ weight_VD.T).float()
        yield rows, logits_CV.div_(temperature) if temperature != 1.0 else logits_CV


log = logging.getLogger(__name__)
KNOWN_LAYERS = {"full_attention", "sliding_attention"}
TOLERANCE, TOLERANCE_HALF = 1e-3, 0.06
"""Largest difference of a logit, as a share of the standard deviation of logits; for 32-bit and for 16-bit weights."""
LONGEST_WINDOW = 256
"""A sliding window up to this size is tried with rows that are longer than it."""


def choose_path(model: Any) -> Path:
    """The first of ``tree``, ``mask`` and ``padded`` that gives the model's own numbers; warns where it is the last."""
    reasons = []
    paths: tuple[Path, ...] = ("tree", "mask")
    for path in paths:
        why_not = difference(model, path)
        if why_not is None:
            return path
        reasons.append(f"{path}: {why_not}")
    log.warning(
        "%s cannot share prefixes and runs in padded batches (%s)",
        unwrapped(model).config.model_type,
        "; ".join(reasons),
    )
    return "padded"


def difference(model: Any, path: Path) -> str | None:
    """None where a path gives a model's own logits; otherwise what is wrong with it."""
    config = unwrapped(model).config.get_text_config()
    strange = set(getattr(config, "layer_types", None) or []) - KNOWN_LAYERS
    if strange:
        return f"has {', '.join(sorted(strange))} layers"
    rows = trial_rows(config)
    reads = [(i, p) for i, row in enumerate(rows) for p in range(len(row)) if p % 3 == 0 or p > len(row) - 4]
    was_training = model.training
    model.eval()
    try:
        plain = collected(lambda s, r, c: read_padded(model, s, r, c, tokens=1), rows, reads)
        budgets = max(map(len, rows)), sum(map(len, rows))  # in many passes, and all in one
        engine = Engine(model, path=path)
        shared = []
        for tokens in budgets:
            engine.tokens = tokens
            engine.forget()
            shared.append(collected(engine.read, rows, reads))
    except Exception as refused:  # whatever a model raises, it cannot be run this way
        return f"{type(refused).__name__}: {str(refused).splitlines()[0] if str(refused) else 'no message'}"
    finally:
        model.train(was_training)
    largest = max(float((logits - plain).abs().max() / plain.std().clamp(min=1e-12)) for logits in shared)
    tolerance = TOLERANCE if plain.dtype == torch.float32 and model.dtype == torch.float32 else TOLERANCE_HALF
    return None if largest <= tolerance else f"logits differ by {largest:.2g} of their standard deviation"


def trial_rows(config: Any) -> list[list[int]]:
    """Rows that share, branch, nest and repeat; longer than the sliding window where that is short."""
    vocabulary = min(config.vocab_size, 1000)
    window = getattr(config, "sliding_window", None)
    is_short = window is not None and window <= LONGEST_WINDOW and getattr(config, "use_sliding_window", True)
    room = getattr(config, "max_position_embeddings", None) or 4096
    length = max(window + 9 if is_short and window else 0, 70)
    body = [(7 * i * i + 3 * i + 5) % vocabulary for i in range(length)][: room - 16]
    ends = [[1, 2, 3, 4], [1, 2, 5], [1, 2, 5, 6, 7, 8], [9]]
    return [*([*body, *(t % vocabulary for t in end)] for end in ends), body[: len(body) // 2], [*body[:5], 0, 1, 2]]


def collected(read: Any, rows: list[list[int]], reads: list[Read]) -> Tensor:
    outputs: dict[int, Tensor] = {}

    def consume(indices: list[int], logits_RV: Tensor) -> None:
        outputs.update(zip(indices, logits_RV.detach().float().cpu().unbind(), strict=True))

    with torch.inference_mode():
        read(rows, reads, consume)
    return torch.stack([outputs[i] for i in range(len(reads))])


def sequence_logprobs(
    model: Any,
    prompt_ids: Sequence[Sequence[int]],
    completion_ids: Sequence[Sequence[int]],
    *,
    temperature: float = 1.0,
    grad: bool,
) -> list[Tensor]:
    """log p of each token of each completion given its prompt, in nats: one float32 1-D tensor per completion.

    Shared prefixes are computed once, gradients included. ``temperature`` divides the logits. Neither prompt nor
    completion may make an empty sequence; a prompt has one token at least.
    """
    sequences = [[*p, *c] for p, c in zip(prompt_ids, completion_ids, strict=True)]
    reads = [(i, len(p) - 1 + t) for i, p in enumerate(prompt_ids) for t in range(len(completion_ids[i]))]
    target = torch.tensor([t for c in completion_ids for t in c], dtype=torch.long, device=model.device)
    parts: list[Tensor] = []
    order: list[int] = []
    with torch.set_grad_enabled(grad):
        head = plain_head(model) if reads and _path(model, sequences) != "padded" else None
        for indices, states in _read_batches(model, sequences, reads, hidden=head is not None):
            if head is not None:
                parts.append(TokenLogprobs.apply(states, head.weight, target[indices], temperature))  # type: ignore
            else:
                logits_RV = states.float() / temperature if temperature != 1.0 else states.float()
                chosen_R = logits_RV.gather(1, target[indices, None]).squeeze(1)
                parts.append(chosen_R - torch.logsumexp(logits_RV, dim=1))
            order += indices
        return list(_in_order(parts, order, model).split([len(c) for c in completion_ids]))


def last_hidden(model: Any, sequences: Sequence[Sequence[int]], *, grad: bool) -> Tensor:
    """Final hidden state (after the last norm) of the last token of each sequence, (N, D), shared prefixes once."""
    reads = [(i, len(s) - 1) for i, s in enumerate(sequences)]
    parts, order = [], []
    with torch.set_grad_enabled(grad):
        for indices, hidden_RD in _read_batches(model, sequences, reads, hidden=True):
            parts.append(hidden_RD)
            order += indices
        return _in_order(parts, order, model)


def _read_batches(
    model: Any, sequences: Sequence[Sequence[int]], reads: Sequence[Read], *, hidden: bool
) -> Iterator[tuple[list[int], Tensor]]:
    """(read indices, logits or hidden states) per pass. With gradients all is one pass, since the graph is one."""
    if not reads:
        return
    engine, path = engine_of(model), _path(model, sequences)
    budget = sum(map(len, sequences)) if torch.is_grad_enabled() else engine.tokens
    if path == "padded":
        with engine.running(path):
            yield from _padded_batches(model, sequences, reads, budget, hidden=hidden)
        return
    tree = build_tree(sequences)
    pending = by_segment(tree, reads)
    for pack, plan in whole(tree, budget):
        indices, places_U, at = take(pack, plan.layout, pending)
        if indices:
            with engine.running(path):
                batch, places_U = inputs(model, plan, path, places_U), places_U.to(model.device)
                out_UX = hidden_at(model, places_U, **batch) if hidden else logits_at(model, places_U, **batch)[0]
            yield indices, out_UX[at]


def _path(model: Any, sequences: Sequence[Sequence[int]]) -> Path:
    checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    if torch.is_grad_enabled() and model.training and checkpoints:
        return "padded"  # what is computed again on the way back would no longer know the tree
    return engine_of(model).path_for(max(map(len, sequences)))


def _padded_batches(
    model: Any, sequences: Sequence[Sequence[int]], reads: Sequence[Read], budget: int, *, hidden: bool
) -> Iterator[tuple[list[int], Tensor]]:
    if not hidden:
        batches: list[tuple[list[int], Tensor]] = []
        read_padded(model, sequences, reads, lambda r, logits: batches.append((r, logits)), tokens=budget)
        yield from batches
        return
    longest = max(map(len, sequences))
    rows = max(budget // longest, 1)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for n in range(0, len(order), rows):
        batch = order[n : n + rows]
        ids_BT, mask_BT = pad([sequences[i] for i in batch], device=model.device)
        with TURN:
            hidden_BTD = base_of(model)(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        last_B = mask_BT.sum(dim=1) - 1
        yield batch, hidden_BTD[torch.arange(len(batch), device=model.device), last_B]


def hidden_at(model: Any, places_U: Tensor, **batch: Any) -> Tensor:
    """(U, D) final hidden states of one pack."""
    return base_of(model)(**batch, use_cache=False).last_hidden_state[0, places_U]


_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()


def engine_of(model: Any) -> Engine:
    """The engine of a model, remembered as long as the model lives, so that it is checked once."""
    with TURN:
        if model not in _engines:
            _engines[model] = Engine(weakref.proxy(model), path=choose_path(model))
        return _engines[model]


def forget_engine(model: Any) -> None:
    """Lets ``engine_of`` check a model again, whose layers were exchanged."""
    with TURN:
        _engines.pop(model, None)


def _in_order(parts: list[Tensor], order: list[int], model: Any) -> Tensor:
    """Concatenated and put back into the order of the reads."""
    if not parts:
        return torch.empty(0, device=model.device)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back.to(model.device)]
