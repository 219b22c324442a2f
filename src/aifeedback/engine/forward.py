"""Any causal language model on many token sequences, with what they share computed once; differentiable.

Which way a model is run is *tested* on it, never looked up: hybrids accept tree masks and are silently wrong.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from aifeedback.engine.check import choose_path
from aifeedback.engine.head import TokenLogprobs, plain_head
from aifeedback.engine.passes import Engine, Path, by_segment, inputs, take, whole
from aifeedback.engine.plain import TURN, Read, base_of, logits_at, pad, read_padded
from aifeedback.engine.tree import build_tree


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
        yield from _padded_batches(model, sequences, reads, budget, hidden=hidden)
        return
    tree = build_tree(sequences)
    pending = by_segment(tree, reads)
    for pack, plan in whole(tree, budget):
        indices, places_U, at = take(pack, plan.layout, pending)
        if indices:
            with engine.running(path):
                given, places_U = inputs(model, plan, path, places_U), places_U.to(model.device)
                out_UX = hidden_at(model, places_U, **given) if hidden else logits_at(model, places_U, **given)[0]
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


def hidden_at(model: Any, places_U: Tensor, **given: Any) -> Tensor:
    """(U, D) final hidden states of one pack."""
    return base_of(model)(**given, use_cache=False).last_hidden_state[0, places_U]


_engines: weakref.WeakKeyDictionary[Any, Engine] = weakref.WeakKeyDictionary()


def engine_of(model: Any) -> Engine:
    """The engine of a model, remembered as long as the model lives, so that it is checked once."""
    with TURN:
        if model not in _engines:
            _engines[model] = Engine(weakref.proxy(model), path=choose_path(model))
        return _engines[model]


def _in_order(parts: list[Tensor], order: list[int], model: Any) -> Tensor:
    """Concatenated and put back into the order of the reads."""
    if not parts:
        return torch.empty(0, device=model.device)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back.to(model.device)]
