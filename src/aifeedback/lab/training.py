"""Trains the lab's small language models: tree-packed rows, Muon for matrices and AdamW for the rest, all in steps.

A row is one post with its blocks; a block sees the post and itself and its positions follow the post's, so the result
equals training on separate documents while every post is computed once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aifeedback.config import Config
from aifeedback.lab import world
from aifeedback.lab.documents import Tree, draw_tree
from aifeedback.lab.muon import Muon
from aifeedback.types import Progress, silent


class Shape(Config):
    """Size of a Llama-style model."""

    width: int
    layers: int
    heads: int
    inner: int
    """Width of the feed-forward part."""


class Phase(Config):
    """One stretch of training on one mixture."""

    name: str
    mixture: Mapping[str, float]
    """Share of each kind of block (``documents.KINDS``)."""
    steps: int
    row_tokens: int = 256
    """Room of a row; a step has as many rows as make 1,024 tokens."""
    sentences: int | None = None
    """Train on fragments of this many sentences instead of whole posts."""
    shots: int | None = None
    """Judges of pairs: at most this many solved examples, after a preamble. None: the post comes first."""
    distraction: float = world.DISTRACTION
    """How often a sentence beside the case names another person, thing or day: more of them, more practice."""
    decay: float = 0.35
    """Share of the steps, at the end, over which the learning rate falls to zero."""
    matrix_lr: float = 0.02
    """Muon, hidden matrices."""
    other_lr: float = 6e-3
    """AdamW, embeddings and norms."""


class Rows(NamedTuple):
    """A packed batch: R rows of T tokens; N targets."""

    tokens_RT: Tensor
    positions_RT: Tensor
    mask_R1TT: Tensor
    target_index_N: Tensor
    """Flat index of the position that predicts each target."""
    target_N: Tensor
    weight_N: Tensor


STEP_TOKENS = 1024


def make_model(shape: Shape, tokenizer: Any, seed: int, *, family: str, context: int = 512) -> Any:
    """A LlamaForCausalLM with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        aifeedback_family=family,  # pyright: ignore[reportCallIssue]
    )
    model = LlamaForCausalLM(config)
    start_weights(model)
    return model


def start_weights(model: Any) -> None:
    """Words start loud and layers silent, so that a word's identity survives the residual stream.

    With the usual start (0.02 everywhere) Muon's first updates drown the embeddings, and looking words up is learned
    many times later. The final norm keeps the first logits near 1.
    """
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, 0.5)
        model.model.norm.weight.fill_(0.2)
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()


def pack(trees: Sequence[Tree], vocabulary: Mapping[str, int], pad: int) -> Rows:
    """Lay trees out as rows. Attention: causal, to the post and to the own block."""
    width = max(len(t.post) + sum(len(b.words) for b in t.blocks) for t in trees)
    tokens, positions, owners = [], [], []
    index: list[int] = []
    target: list[int] = []
    weight: list[float] = []
    for row, tree in enumerate(trees):
        ids = [vocabulary[w] for w in tree.post]
        places = list(range(len(ids)))
        owner = [0] * len(ids)
        for number, block in enumerate(tree.blocks, 1):
            start = row * width + len(ids)
            new = [vocabulary[w] for w in block.words]
            for i in range(1, len(new)):
                if block.weights[i] > 0:
                    index.append(start + i - 1)
                    target.append(new[i])
                    weight.append(block.weights[i])
            places += range(len(tree.post), len(tree.post) + len(new))
            owner += [number] * len(new)
            ids += new
        room = width - len(ids)
        tokens.append(ids + [pad] * room)
        positions.append(places + [0] * room)
        owners.append(owner + [-1] * room)
    owner_RT = torch.tensor(owners)
    same = owner_RT[:, :, None] == owner_RT[:, None, :]
    to_post = owner_RT[:, None, :] == 0
    mask = (same | to_post) & torch.ones(width, width, dtype=torch.bool).tril()
    return Rows(
        torch.tensor(tokens),
        torch.tensor(positions),
        mask[:, None],
        torch.tensor(index),
        torch.tensor(target),
        torch.tensor(weight),
    )


def loss_of(model: Any, rows: Rows) -> Tensor:
    """Weighted mean cross-entropy of the targets, in nats."""
    hidden = model.model(
        input_ids=rows.tokens_RT, position_ids=rows.positions_RT, attention_mask=rows.mask_R1TT, use_cache=False
    ).last_hidden_state
    logits = model.lm_head(hidden.flatten(0, 1)[rows.target_index_N])
    losses = torch.nn.functional.cross_entropy(logits, rows.target_N, reduction="none")
    return (losses * rows.weight_N).sum() / rows.weight_N.sum()


def draw_posts(rng: random.Random, phase: Phase) -> Tree:
    """A row of the posts-and-summaries world."""
    return draw_tree(rng, phase.mixture, phase.row_tokens, sentences=phase.sentences, distraction=phase.distraction)


def train_phase(
    model: Any,
    tokenizer: Any,
    phase: Phase,
    *,
    seed: int,
    draw: Callable[[random.Random, Phase], Tree] = draw_posts,
    progress: Progress = silent,
) -> float:
    """Train in place; return the mean loss of the last tenth of the steps. Equal arguments give equal weights."""
    vocabulary = tokenizer.get_vocab()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimisers = (
        Muon(matrices, lr=phase.matrix_lr),
        torch.optim.AdamW(others, lr=phase.other_lr, betas=(0.9, 0.98), weight_decay=0.0),
    )
    peaks = [[g["lr"] for g in o.param_groups] for o in optimisers]
    tail: list[float] = []
    model.train()
    for step in range(phase.steps):
        factor = _schedule(step, phase)
        for optimiser, lrs in zip(optimisers, peaks, strict=True):
            for group, lr in zip(optimiser.param_groups, lrs, strict=True):
                group["lr"] = lr * factor
        trees = [
            draw(world.stream(seed, phase.name, step, row), phase) for row in range(STEP_TOKENS // phase.row_tokens)
        ]
        loss = loss_of(model, pack(trees, vocabulary, tokenizer.pad_token_id))
        loss.backward()
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if step >= phase.steps * 0.9:
            tail.append(value)
        progress(step + 1, phase.steps, {"loss": value})
    model.eval()
    return math.fsum(tail) / max(1, len(tail))


def _schedule(step: int, phase: Phase) -> float:
    """Warm-up over 3 % of the steps, constant, then linear decay to zero."""
    warm = min(1.0, (step + 1) / max(1, round(0.03 * phase.steps)))
    left = (phase.steps - step) / max(1, round(phase.decay * phase.steps))
    return min(warm, left, 1.0)
