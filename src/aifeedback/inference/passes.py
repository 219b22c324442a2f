"""One model on many token sequences, what they share computed once: ``Engine.read`` gives next-token logits.

- ``tree``: packs of token trees through our attention (``tree_attention.py``); keys and values of prefixes are kept.
- ``mask``: token trees with an explicit mask, for models whose attention cannot be replaced.
- ``padded``: batches sorted by length, for everything else (convolutions, state spaces, ALiBi …).

The limits of a pass come first: its token budget, how long a sequence may be to share a pass, and what freed memory the
process keeps.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from aifeedback.errors import ModelError
from aifeedback.inference.native.fused import replaced, stand_ins
from aifeedback.inference.native.layers import written_out
from aifeedback.inference.padded import TURN, Consume, Read, base_of, logits_at, read_padded, unwrapped
from aifeedback.inference.prefix_tree import (
    Layout,
    Pack,
    Segment,
    Tree,
    build_tree,
    chained_packs,
    cut_long,
    cut_prefix,
    layout,
    whole_packs,
)
from aifeedback.inference.tree_attention import NAME, KeyValue, Plan, attention, configs_of

CPU_TOKENS, GPU_TOKENS = 4096, 16384
"""Beyond these a larger pass is not faster: activations leave the cache, or the GPU is full."""
SHARE = 0.1
"""Of the device's memory that one pass may take."""

KEPT_BYTES = 512 << 20
"""Most freed memory at the end of the heap that the process keeps."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MOST_OF_MMAP = -1, -3, 32 << 20  # of glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of giving it back to the system after every layer and asking for it again,
    page by page, which takes up to 7 % of the time of labelling. False where there is no glibc, or the user has set
    its allocator up by the environment."""
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST_OF_MMAP) and mallopt(_TRIM_THRESHOLD, KEPT_BYTES))


def context_window(config: Any) -> int | None:
    """Most tokens of a sequence that a model with this configuration reads; None where it has no such limit."""
    longest = getattr(config.get_text_config(), "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None


def token_budget(model: Any) -> int:
    """Most tokens in one pass. Depends on the machine's *total* memory, so that it is the same from run to run."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    per_token = (8 * hidden + 3 * max(inner if isinstance(inner, int) else max(inner), hidden)) * model.dtype.itemsize
    room = int(SHARE * _memory_bytes(model.device) / per_token)
    return max(min(CPU_TOKENS if model.device.type == "cpu" else GPU_TOKENS, room), 256)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def longest_shared(model: Any) -> int | None:
    """Sequences longer than this get other rotary frequencies than shorter ones in the same pass; None: never."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    if any(kind.get("rope_type") == "dynamic" for kind in kinds):
        return config.max_position_embeddings
    if any(kind.get("rope_type") == "longrope" for kind in kinds):
        limits = [kind.get("original_max_position_embeddings") for kind in kinds]
        own = getattr(config, "original_max_position_embeddings", None)
        return next((limit for limit in (*limits, own) if limit), config.max_position_embeddings)
    return None


Path: TypeAlias = Literal["tree", "mask", "padded"]
PREFIX_CHUNK = 64
"""What all sequences of a job share is kept across calls in chunks of this many tokens."""


class Engine:
    """Runs one model in one of three ways. ``tokens``: most tokens in one pass; by default what suits the device."""

    def __init__(self, model: Any, *, path: Path, tokens: int | None = None) -> None:
        if model.device.type == "cpu":
            keep_freed_memory()
        self.model = model
        self.recomputes = False
        """Whether passes with gradients keep the inputs of layers alone and compute the rest again on the way back."""
        self.tokens = tokens or token_budget(model)
        self.path: Path = path
        self._configs = configs_of(model)
        self._stand_ins = (*stand_ins(model), *written_out(model)) if path == "tree" else ()
        self._prefix: dict[bytes, dict[int, KeyValue]] = {}
        self._prefix_of: Any = None

    def forget(self) -> None:
        """Drop what is kept between calls."""
        self._prefix = {}

    @contextmanager
    def running(self, path: Path) -> Generator[None]:
        """The model as it is called on this path: with our attention and kernels on ``tree``, with its own elsewhere.

        One thread at a time.
        """
        with self._as_on(path), recomputing(self.model, lambda: self._as_on(path), wanted=self.recomputes):
            yield

    @contextmanager
    def _as_on(self, path: Path) -> Generator[None]:
        if path != "tree":
            yield
            return
        with TURN, attention(self._configs, NAME), replaced(self._stand_ins):
            yield

    def path_for(self, longest: int) -> Path:
        """Sequences at which rotary frequencies change with the length of the batch cannot share one."""
        limit = longest_shared(self.model)
        return "padded" if limit is not None and longest > limit else self.path

    @torch.inference_mode()
    def read(self, sequences: Sequence[Sequence[int]], reads: Sequence[Read], consume: Consume) -> None:
        """Call ``consume(read indices, logits (R, V))`` batch by batch until every read was given its logits."""
        if not reads:
            return
        path = self.path_for(max(map(len, sequences)))
        if path == "padded":
            read_padded(self.model, sequences, reads, consume, tokens=self.tokens)
            return
        tree = build_tree(sequences)
        if path == "tree":
            prefix = cut_prefix(tree, PREFIX_CHUNK, min(p for _, p in reads))
            cut_long(prefix[-1].children if prefix else tree.roots, self.tokens)
            passes = self._chained(tree, prefix)
        else:
            passes = whole(tree, self.tokens)
        pending = by_segment(tree, reads)
        with TURN:  # what is kept between calls must not change meanwhile
            for pack, plan in passes:
                indices, places_U, at = take(pack, plan.layout, pending)
                if indices:
                    consume(indices, self._run(plan, path, places_U)[at])
                elif pack.goes_on:
                    self._run(plan, path)

    def _run(self, plan: Plan, path: Path, places_U: Tensor | None = None) -> Tensor:
        """Logits at the given places; without places only the keys and values."""
        batch = inputs(self.model, plan, path, torch.empty(0, dtype=torch.long) if places_U is None else places_U)
        with self.running(path):
            if places_U is None:
                return base_of(self.model)(**batch, use_cache=False).last_hidden_state
            return logits_at(self.model, places_U.to(self.model.device), **batch)[0]

    def _chained(self, tree: Tree, prefix: tuple[Segment, ...]) -> Iterator[tuple[Pack, Plan]]:
        """Packs in order, with the keys and values of their chains computed before them."""
        known: dict[int, dict[int, KeyValue]] = {}
        yield from self._kept_prefix(prefix, known)
        roots = prefix[-1].children if prefix else tree.roots
        joined: tuple[tuple[Segment, ...], dict[int, KeyValue] | None] = ((), None)
        for pack in chained_packs(roots, self.tokens, chain=prefix):
            for stale in known.keys() - {id(s) for s in pack.chain}:
                del known[stale]
            if pack.chain != joined[0]:
                joined = pack.chain, _joined([known[id(s)] for s in pack.chain])
            plan = Plan(layout(pack), joined[1], _chain_tokens(pack), {} if pack.goes_on else None)
            yield pack, plan
            if plan.collect is not None:
                known[id(pack.segments[0])] = plan.collect

    def _kept_prefix(
        self, prefix: tuple[Segment, ...], known: dict[int, dict[int, KeyValue]]
    ) -> Iterator[tuple[Pack, Plan]]:
        """The static prefix of a job: only the chunks that the last call did not start with are computed."""
        state = weights_state(self.model)
        if state != self._prefix_of:
            self._prefix, self._prefix_of = {}, state
        kept: dict[bytes, dict[int, KeyValue]] = {}
        text = b""
        for n, chunk in enumerate(prefix):
            text += chunk.tokens.tobytes()
            if text not in self._prefix:
                pack = Pack(prefix[:n], [chunk], True)
                chain = _joined([known[id(s)] for s in pack.chain])
                plan = Plan(layout(pack), chain, _chain_tokens(pack), {})
                yield pack, plan
                assert plan.collect is not None
                self._prefix[text] = plan.collect
            known[id(chunk)] = kept[text] = self._prefix[text]
        self._prefix = kept


@contextmanager
def recomputing(
    model: Any, around: Callable[[], AbstractContextManager[None]] = nullcontext, *, wanted: bool = True
) -> Generator[None]:
    """Layers that keep their inputs alone for the backward pass, and run again there under ``around``.

    transformers' own checkpointing runs in training mode only, and forgets how the engine calls the model.
    """
    if not wanted or not torch.is_grad_enabled():
        yield
        return
    kinds = set[str](getattr(unwrapped(model), "_no_split_modules", None) or ())
    layers = [module for module in base_of(model).modules() if type(module).__name__.removeprefix("FSDP") in kinds]
    if not layers:
        raise ModelError(
            "its layers are not known, so they cannot be computed again", fix="gradient_checkpointing=false"
        )
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        layer.forward = _computed_again(layer.forward, around)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _computed_again(forward: Callable[..., Any], around: Callable[[], AbstractContextManager[None]]) -> Any:
    def run(*args: Any, **named: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), around()), **named)

    return run


def inputs(model: Any, plan: Plan, path: Path, places_U: Tensor) -> dict[str, Any]:
    """What a model is called with to run one pack of which these places, ascending, are read."""
    plan.reads = places_U.numpy()
    device = model.device
    batch: dict[str, Any] = {
        "input_ids": torch.from_numpy(plan.layout.tokens_T).to(device)[None],
        "position_ids": torch.from_numpy(plan.layout.depth_T).to(device)[None],
    }
    if path == "tree":
        return batch | {"tree": plan}
    return batch | {"attention_mask": plan.bias(None, torch.empty(0, dtype=model.dtype, device=device))}


def weights_state(model: Any) -> tuple[Any, ...]:
    """Changes whenever an optimizer, or anything else that writes in place, has touched the weights, or PEFT's adapters
    were turned on, off or exchanged."""
    weights = tuple((p.data_ptr(), p._version) for p in model.parameters())
    adapted = (m for m in model.modules() if isinstance(getattr(m, "disable_adapters", None), bool))
    return weights, tuple((m.disable_adapters, tuple(m.active_adapters)) for m in adapted)


def whole(tree: Tree, budget: int) -> Iterator[tuple[Pack, Plan]]:
    for pack in whole_packs(tree.roots, budget):
        yield pack, Plan(layout(pack))


def by_segment(tree: Tree, reads: Iterable[Read]) -> dict[int, list[tuple[int, int]]]:
    """id of a segment → (read, place in the segment). Built after the last cut."""
    pending: dict[int, list[tuple[int, int]]] = {}
    for r, (sequence, position) in enumerate(reads):
        segment, place = tree.place(sequence, position)
        pending.setdefault(id(segment), []).append((r, place))
    return pending


def take(pack: Pack, where: Layout, pending: dict[int, list[tuple[int, int]]]) -> tuple[list[int], Tensor, Tensor]:
    """The reads that a pack serves: their indices, the places to read (U,), and each read's index among those."""
    served = [
        (r, where.offset[id(segment)] + place) for segment in pack.segments for r, place in pending.pop(id(segment), [])
    ]
    places_U, at = torch.unique(torch.tensor([p for _, p in served], dtype=torch.long), return_inverse=True)
    return [r for r, _ in served], places_U, at


def _chain_tokens(pack: Pack) -> int:
    return pack.chain[-1].stop if pack.chain else 0


def _joined(parts: list[dict[int, KeyValue]]) -> dict[int, KeyValue] | None:
    """Keys and values of a chain in one piece per layer."""
    if not parts:
        return None
    return {
        layer: KeyValue(*(torch.cat([part[layer][side] for part in parts], dim=2) for side in (0, 1)))
        for layer in parts[0]
    }
