"""The one training loop: accumulate, clip, step, log, checkpoint, resume.

An objective says what a step computes; the loop does the rest. Each process handles its own share of a step; losses
and figures are *sums* that are already divided by whole-step totals, so adding them over micro-batches and processes
gives the step's value, and one process computes what many do. Device, precision and process group come from
accelerate; FSDP2 from torch.

Bit-exactness on CPU: the data order is a function of the seed, random states are part of a checkpoint, and torch runs
its deterministic algorithms. ``metrics.jsonl`` holds nothing that depends on the clock; that is in ``timing.jsonl``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from aifeedback.engine.forward import engine_of
from aifeedback.errors import RecipeError, TrainingError
from aifeedback.protocols import Progress, silent
from aifeedback.train import checkpoint
from aifeedback.train.journal import Timing, Trail
from aifeedback.train.optim import build_optimizer, clip_gradients, rate, set_rate
from aifeedback.train.settings import LoopConfig


class Loss(NamedTuple):
    """What one micro-batch adds to the step."""

    total: Tensor
    """Scalar to differentiate: this micro-batch's part of the step's loss."""
    figures: Mapping[str, Tensor]
    """Parts of figures to log; they add up over micro-batches and processes."""


class Plan(NamedTuple):
    """One process's share of a step. Every process must return equally many micro-batches."""

    micro: Sequence[Any]
    tokens: int
    """Tokens that this process works on, for the speed figure."""
    figures: Mapping[str, float] = {}
    """Parts of figures known before the forward pass; they add up over processes."""


class Objective(Protocol):
    """What to optimise; also an ``nn.Module`` that holds everything trained, so that DDP and FSDP2 can wrap it."""

    def plan(self, step: int) -> Plan:
        """The micro-batches of step ``step`` (the first is 1); may sample and score."""
        ...

    def __call__(self, micro: Any) -> Loss: ...

    def state(self) -> Mapping[str, Tensor]:
        """Whatever else a resumed run needs; an empty mapping where the step number says it all."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None: ...


class Outcome(NamedTuple):
    """How a run went."""

    steps: int
    seconds_per_step: float
    tokens_per_s: float
    peak_memory_mb: float
    figures: dict[str, float]
    """The last value of every figure."""
    stopped: str | None
    """Why it ended before its last planned step."""


Evaluate = Callable[[int], Mapping[str, float]]
"""evaluate(step): figures on held-out data; must not change anything."""
Stop = Callable[[Sequence[Mapping[str, float]]], str | None]
"""stop(history): a reason to end now, or None; a pure function of all metric lines so far, so that it resumes."""


def start(config: LoopConfig) -> Any:
    """The accelerator: device, process group and precision of this process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and has_bf16)
    return Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=not torch.cuda.is_available())


def run(
    objective: Any,
    *,
    config: LoopConfig,
    steps: int,
    out: str | Path,
    identity: str,
    accelerator: Any,
    progress: Progress = silent,
    evaluate: Evaluate | None = None,
    stop: Stop | None = None,
) -> Outcome:
    """Runs ``objective`` to step ``steps``, from the newest checkpoint under ``out`` if it has the same ``identity``.

    Raises RecipeError for a checkpoint of another run, and TrainingError where loss or gradient is not finite. The
    objective's modules hold the trained weights afterwards (whole on every process only without sharding).
    """
    with _repeatable(config.seed, accelerator):
        wrapped = prepare(objective, config=config, accelerator=accelerator)
        optimizer = build_optimizer(objective.parameters(), config)
        keeper = _Keeper(objective, optimizer, folder=Path(out), identity=identity, accelerator=accelerator)
        done = keeper.resume()
        trail = Trail(Path(out), until=done, trackers=config.trackers, is_main=accelerator.is_main_process)
        timing = Timing(accelerator.device)
        try:
            reason = stop(trail.lines) if stop and done else None
            for step in range(done + 1, steps + 1):
                if reason:
                    break
                began = time.perf_counter()
                figures = _step(
                    objective, wrapped, optimizer, step, steps=steps, config=config, accelerator=accelerator
                )
                timing.add(step, time.perf_counter() - began, tokens=figures.pop("tokens"))
                is_due = step == steps or (config.evaluate_every is not None and step % config.evaluate_every == 0)
                if evaluate is not None and is_due:
                    objective.eval()
                    with _whole(wrapped):
                        figures |= evaluate(step)
                trail.add({"step": step, **figures})
                reason = stop(trail.lines) if stop else None
                if step % config.checkpoint_every == 0 or step == steps or reason:
                    keeper.keep(step, count=config.keep_checkpoints)
                progress(step, steps, figures)
        finally:
            trail.close(timing)
        return Outcome(trail.steps, *timing.summary(), figures=trail.last(), stopped=reason)


def prepare(objective: Any, *, config: LoopConfig, accelerator: Any) -> Any:
    """The objective on its device, wrapped for the processes there are; call the result, keep the objective."""
    objective.to(accelerator.device)
    if config.shard and accelerator.num_processes > 1:
        return _shard(objective, accelerator)
    return accelerator.prepare_model(objective)


def _step(
    objective: Any,
    wrapped: Any,
    optimizer: torch.optim.Optimizer,
    step: int,
    *,
    steps: int,
    config: LoopConfig,
    accelerator: Any,
) -> dict[str, float]:
    objective.train()
    with _whole(wrapped):
        plan = objective.plan(step)
    world = accelerator.num_processes
    sums: dict[str, Tensor | float] = {"loss": 0.0, "tokens": float(plan.tokens), **plan.figures}
    for at, micro in enumerate(plan.micro):
        with nullcontext() if at == len(plan.micro) - 1 else _unsynchronised(wrapped):
            loss = wrapped(micro)
            (loss.total * world).backward()
        for name, value in {"loss": loss.total, **loss.figures}.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        del loss
    norm = clip_gradients(objective.parameters(), config.max_grad_norm)
    figures = _add_over_processes(sums, accelerator)
    figures |= {"grad_norm": float(norm), "learning_rate": rate(step, steps=steps, config=config)}
    if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
        raise TrainingError(
            f"step {step}: loss {figures['loss']}, gradient norm {figures['grad_norm']}"
            "\n  → lower learning_rate, or look for broken rows; weights of the last checkpoint are intact"
        )
    set_rate(optimizer, figures["learning_rate"])
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return figures


def _add_over_processes(sums: Mapping[str, Tensor | float], accelerator: Any) -> dict[str, float]:
    names = list(sums)
    if accelerator.num_processes == 1:
        return {name: float(sums[name]) for name in names}
    values = torch.tensor([float(sums[name]) for name in names], dtype=torch.float64, device=accelerator.device)
    return dict(zip(names, accelerator.reduce(values, reduction="sum").tolist(), strict=True))


def _shard(objective: Any, accelerator: Any) -> Any:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if hasattr(objective, "model"):
        engine_of(objective.model)  # it tries the model out, which wants whole weights
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None)
    layers = {name for module in objective.modules() for name in (getattr(module, "_no_split_modules", None) or ())}
    for module in objective.modules():
        if type(module).__name__ in layers and any(p.requires_grad for p in module.parameters()):
            fully_shard(module, mp_policy=precision)
    fully_shard(objective, mp_policy=precision)
    return objective


@contextmanager
def _whole(wrapped: Any) -> Iterator[None]:
    """Lets code use the model outside the wrapped call: a sharded root has its own parameters gathered meanwhile."""
    if hasattr(wrapped, "unshard"):
        wrapped.unshard()
    yield
    if hasattr(wrapped, "reshard"):
        wrapped.reshard()


@contextmanager
def _unsynchronised(wrapped: Any) -> Iterator[None]:
    """Gradients of all but the last micro-batch stay on their process."""
    if hasattr(wrapped, "set_requires_gradient_sync"):
        wrapped.set_requires_gradient_sync(False)
        yield
        wrapped.set_requires_gradient_sync(True)
    elif hasattr(wrapped, "no_sync"):
        with wrapped.no_sync():
            yield
    else:
        yield


@contextmanager
def _repeatable(seed: int, accelerator: Any) -> Iterator[None]:
    """Own random state, deterministic algorithms; everything as before afterwards."""
    on_cpu = accelerator.device.type == "cpu"
    memory: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[] if on_cpu else [accelerator.device]):
        torch.manual_seed(seed * 1009 + accelerator.process_index)
        try:
            if on_cpu:
                torch.use_deterministic_algorithms(True)
                memory.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = fill


class _Keeper:
    """Writes and finds this run's checkpoints."""

    def __init__(self, objective: Any, optimizer: Any, *, folder: Path, identity: str, accelerator: Any) -> None:
        self.objective, self.optimizer, self.accelerator = objective, optimizer, accelerator
        self.folder, self.identity = folder / "checkpoints", identity

    def resume(self) -> int:
        """The step that the newest checkpoint stands at, put back in place; 0 where there is none."""
        newest = checkpoint.latest(self.folder)
        if newest is None:
            return 0
        snapshot = checkpoint.read(newest)
        world = self.accelerator.num_processes
        if snapshot.facts["identity"] != self.identity:
            what = "belongs to a run with other data, model or settings"
            raise RecipeError(what, file=newest, fix="give another output folder, or delete this one first")
        if snapshot.facts["processes"] != world:
            raise TrainingError(
                f"{newest} was written by {snapshot.facts['processes']} processes, this run has {world}"
            )
        mine = checkpoint.restore(snapshot, self.objective, self.optimizer, rank=self.accelerator.process_index)
        torch.set_rng_state(mine.pop("rng/cpu"))
        if "rng/cuda" in mine:
            torch.cuda.set_rng_state(mine.pop("rng/cuda"), self.accelerator.device)
        self.objective.load_state(mine)
        return int(snapshot.facts["step"])

    def keep(self, step: int, *, count: int) -> None:
        mine = {"rng/cpu": torch.get_rng_state(), **self.objective.state()}
        if self.accelerator.device.type == "cuda":
            mine["rng/cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        everyone = _gather_objects(mine, self.accelerator)
        facts = {"step": step, "identity": self.identity, "processes": self.accelerator.num_processes}
        snapshot = checkpoint.gather(self.objective, self.optimizer, rank_states=everyone, facts=facts)
        if self.accelerator.is_main_process:
            checkpoint.write(snapshot, checkpoint.path(self.folder, step))
            checkpoint.prune(self.folder, keep=count)
        self.accelerator.wait_for_everyone()


def _gather_objects(mine: Mapping[str, Tensor], accelerator: Any) -> list[Mapping[str, Tensor]]:
    if accelerator.num_processes == 1:
        return [mine]
    from accelerate.utils import gather_object

    return gather_object([{name: value.cpu() for name, value in mine.items()}])
