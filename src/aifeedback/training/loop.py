"""The one training loop: accumulate, clip, step, log, checkpoint, resume.

An objective says what a step computes; the loop does the rest. Each process handles its own share of a step; losses
and figures are *sums* that are already divided by whole-step totals, so adding them over micro-batches and processes
gives the step's value, and one process computes what many do. Device, precision and process group come from
accelerate; FSDP2 from torch.

Bit-exactness on CPU: the data order is a function of the seed, random states are part of a checkpoint, and torch runs
its deterministic algorithms. ``metrics.jsonl`` holds nothing that depends on the clock; that is in ``timing.jsonl``.

``session`` goes from folder to folder: what SFT, reward model and DPO do before and after the loop. Stopping rules are
pure functions of all metric lines so far, so a resumed run stops at the same step.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.inference.forward import engine_of, forget_engine
from aifeedback.training import checkpoint, folders
from aifeedback.training.folders import attach, merge, restore_frozen
from aifeedback.training.metrics_log import About, Timing, Trail
from aifeedback.training.optim import build_optimizer, clip_gradients, joined, rate, set_rate, write_out
from aifeedback.training.settings import LoopConfig
from aifeedback.types import Progress, Record, content_id, silent


def plateau(
    patience: int,
    *,
    lower: Sequence[str] = ("heldout_loss",),
    higher: Sequence[str] = ("heldout_accuracy",),
    least: float = 1e-3,
) -> Callable[[Sequence[Mapping[str, float]]], str | None]:
    """Stops once none of the figures got better by ``least`` in the newest ``patience`` evaluations."""

    def stop(history: Sequence[Mapping[str, float]]) -> str | None:
        series = [[line[name] for line in history if name in line] for name in lower]
        series += [[-line[name] for line in history if name in line] for name in higher]
        series = [values for values in series if values]
        if not series or any(is_improving(values, patience, least) for values in series):
            return None
        return f"plateau: {', '.join((*lower, *higher))} no better for {patience} evaluations"

    return stop


def is_improving(values: Sequence[float], patience: int, least: float) -> bool:
    """Whether one of the newest ``patience`` values is below everything before by ``least`` (lower is better)."""
    if len(values) <= patience:
        return True
    return min(values[-patience:]) < min(values[:-patience]) - least


def lowest_loss(history: Sequence[Mapping[str, float]]) -> int | None:
    """The step with the lowest held-out loss, the earliest of equal ones; None before the first evaluation."""
    known = [line for line in history if "heldout_loss" in line]
    return int(min(known, key=lambda line: line["heldout_loss"])["step"]) if known else None


NOT_IDENTITY = {"checkpoint_every", "keep_checkpoints", "keep_rollouts", "trackers"}
"""Settings that may change between two starts of one run."""
LENGTH = ("steps", "epochs")
"""Settings that say how long a run is; a longer run continues where a shorter one ended."""


class TrainResult(Record):
    """What a training run reports; also written to ``training/result.json`` in its folder."""

    folder: str
    steps: int
    rows: int
    skipped: Mapping[str, int]
    """Rows left out, by reason."""
    seconds_per_step: float
    """Median, without evaluation and checkpoints."""
    tokens_per_s: float
    """Median over steps, of one process."""
    peak_memory_mb: float
    figures: Mapping[str, float]
    """Last value of every logged figure."""
    stopped: str | None = None
    """Why it ended before its last planned step."""
    best_step: int | None = None
    """The step whose weights are in the folder, where the run was stopped and went back to its best; None: the last."""
    identity: str = ""
    """Digest of model, data and settings, all but its length."""
    length: Mapping[str, float | None] = {}
    """The settings that said how long it is."""


class Title(NamedTuple):
    """What the card of the trained folder says first."""

    title: str
    summary: str


class Session:
    """One run from ``base`` to ``out``: the same model, data and settings resume where they were, or are done."""

    def __init__(
        self,
        kind: str,
        *,
        base: str | PathLike[str],
        out: str | PathLike[str],
        config: LoopConfig,
        rows: Sequence[Any],
        heldout: Sequence[Any] = (),
        further: Sequence[str | PathLike[str]] = (),
    ) -> None:
        weights = [folders.weights_digest(folder) for folder in (base, *further)]
        settings = config.model_dump(mode="json", exclude={*NOT_IDENTITY, *LENGTH})
        measured = [[row_key(row) for row in heldout]] if heldout else []
        self.identity = content_id(kind, weights, settings, [row_key(row) for row in rows], *measured)
        self.base, self.out, self.config = str(base), Path(out), config
        self.accelerator = start(config)
        self.adapters: Any = None

    @property
    def length(self) -> dict[str, float | None]:
        return {name: getattr(self.config, name) for name in LENGTH}

    def finished(self) -> TrainResult | None:
        """The result where this run is already complete; None where there is none, or a shorter run to extend.

        Raises RecipeError for a finished run of another kind in the folder, and for a longer one.
        """
        file = self.out / "training" / "result.json"
        if not file.exists():
            return None
        result = TrainResult.model_validate_json(file.read_text(encoding="utf-8"))
        if result.identity != self.identity:
            what = "already contains a finished run with other data, model or settings"
            raise RecipeError(what, file=self.out, fix="give another output folder, or delete this one first")
        if result.length == self.length:
            return result
        before, now = result.length.get("steps"), self.config.steps
        is_longer = (now > result.steps) if now is not None else before is None and self._has_more_epochs(result)
        if not is_longer:
            what = f"holds a finished run of {result.steps} steps, which is not shorter than this one"
            raise RecipeError(what, file=self.out, fix="give more steps to extend it, or another output folder")
        if checkpoint.latest(self.out / "training" / "checkpoints") is None:
            what = "holds a finished run whose checkpoint was not kept, so it cannot be extended"
            raise RecipeError(
                what, file=self.out, fix="train in another output folder, with keep_checkpoints of at least 1"
            )
        return None

    def _has_more_epochs(self, result: TrainResult) -> bool:
        return self.config.epochs > (result.length.get("epochs") or 0.0)

    def adapt(self, model: Any) -> Any:
        """The model as it is, or with adapters in it where the settings ask for them."""
        if self.config.lora is not None:
            self.adapters = attach(model, self.config.lora, seed=self.config.seed)
            forget_engine(model)
        if self.config.gradient_checkpointing:
            engine_of(model).recomputes = True
        return model

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights in memory."""
        return torch.bfloat16 if self.config.weights == "bf16" else torch.float32

    def run(self, objective: Any, *, steps: int, progress: Progress, **rest: Any) -> Outcome:
        """The loop, with this run's identity and folder."""
        return run(
            objective,
            config=self.config,
            steps=steps,
            out=self.out / "training",
            identity=self.identity,
            accelerator=self.accelerator,
            progress=progress,
            **rest,
        )

    def conclude(
        self,
        model: Any,
        tokenizer: Any,
        outcome: Outcome,
        title: Title,
        *,
        rows: int,
        skipped: Mapping[str, int],
    ) -> TrainResult:
        """Write the folder, then the result, last of all; of the checkpoints the last one stays, unless none is kept."""
        weights = {name: checkpoint.whole(value) for name, value in model.state_dict().items()}
        result = TrainResult(
            folder=str(self.out),
            rows=rows,
            skipped=dict(skipped),
            identity=self.identity,
            length=self.length,
            **outcome._asdict(),
        )
        if self.accelerator.is_main_process:
            self._save(model, weights, tokenizer, result, title)
        self.accelerator.wait_for_everyone()
        return result

    def _save(self, model: Any, weights: Mapping[str, Any], tokenizer: Any, result: TrainResult, title: Title) -> None:
        if self.config.shard and self.accelerator.num_processes > 1:
            settings = getattr(model, "generation_config", None)
            model = type(model)(model.config)
            model.generation_config = settings
            self.adapt(model)
            model.load_state_dict(weights)
        if self.adapters is not None:
            restore_frozen(model, self.base)
            model = merge(self.adapters, self.out / "adapter")
        settings = self.config.model_dump(mode="json")
        text = folders.card(*title, base=self.base, settings=settings, figures=result.figures)
        folders.save_folder(model, tokenizer, self.out, card=text, dtype=folders.stored_dtype(self.base))
        training = self.out / "training"
        (training / "result.partial").write_text(result.model_dump_json(indent=2), encoding="utf-8")
        (training / "result.partial").replace(training / "result.json")
        checkpoint.prune(training / "checkpoints", keep=min(1, self.config.keep_checkpoints))
        (training / "checkpoints" / BEST).unlink(missing_ok=True)


def row_key(row: Any) -> Mapping[str, Any]:
    """What of a row enters a run's identity."""
    if hasattr(row, "comparison"):
        margin = getattr(row, "margin", None)
        own = {} if margin is None else {"margin": margin}
        return {"id": row.comparison.id, "p_first": row.p_first, "weight": getattr(row, "weight", 1.0), **own}
    return {"prompt": row[0].id, "completion": row[1].id, "weight": row[2] if len(row) > 2 else 1.0}


BEST = "best.safetensors"
"""Weights of the best evaluated step, beside the checkpoints."""


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
    updates: int = 1
    """How often the micro-batches are gone through, with an optimizer update after each time."""


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
    """The last value of every metric, or its value at ``best_step``."""
    stopped: str | None
    """Why it ended before its last planned step."""
    best_step: int | None = None
    """The step whose weights a stopped run went back to; None: the last one made."""


Evaluate = Callable[[int], Mapping[str, float]]
"""evaluate(step): figures on held-out data; must not change anything."""
Best = Callable[[Sequence[Mapping[str, float]]], int | None]
"""best(history): the evaluated step whose weights a stopped run returns, or None; a pure function of all lines."""
Stop = Callable[[Sequence[Mapping[str, float]]], str | None]
"""stop(history): a reason to end now, or None; a pure function of all metric lines so far, so that it resumes."""


def start(config: LoopConfig) -> Any:
    """The accelerator: device, process group and precision of this process."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
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
    best: Best | None = None,
) -> Outcome:
    """Runs ``objective`` to step ``steps``, from the newest checkpoint under ``out`` if it has the same ``identity``.

    A run that ``stop`` ends goes back to the weights of the step that ``best`` names. Where anything raises, the steps
    made so far are kept as a checkpoint (by a single process), and a run without a step leaves no files. Raises
    RecipeError for a checkpoint of another run, and TrainingError where loss or gradient is not finite. The
    objective's modules hold the trained weights afterwards (whole on every process only without sharding).
    """
    out = Path(out)
    made = [folder for folder in (out, out.parent) if not folder.exists()]
    with _repeatable(config.seed, accelerator):
        wrapped = prepare(objective, config=config, accelerator=accelerator)
        optimizer = build_optimizer(objective.parameters(), config, rates=getattr(objective, "rates", None))
        keeper = _Keeper(
            objective,
            optimizer,
            folder=out,
            identity=identity,
            accelerator=accelerator,
            count=max(1, config.keep_checkpoints),
        )
        done, unevaluated = keeper.resume()
        if done > steps:
            what = f"has a checkpoint of step {done}, and this run ends at step {steps}"
            raise RecipeError(what, file=out, fix="give at least as many steps, or another output folder")
        is_main = accelerator.is_main_process
        about = About(out.parent.name, identity, config.model_dump(mode="json"), is_resumed=done > 0)
        trail = Trail(out, until=done, trackers=config.trackers, is_main=is_main, about=about)
        timing = Timing(accelerator.device)

        def conclude(step: int, figures: dict[str, float]) -> str | None:
            """Evaluates a step that was made, writes its line and keeps what is due; returns a reason to stop."""
            is_due = step == steps or (config.evaluate_every is not None and step % config.evaluate_every == 0)
            if evaluate is not None and is_due:
                keeper.hold(step, unevaluated=figures)
                objective.eval()
                with _whole(wrapped):
                    figures = {**figures, **evaluate(step)}
            trail.add({"step": step, **figures})
            keeper.hold(step)
            if best is not None and best(trail.lines) == step:
                keeper.keep_best(step)
            reason = stop(trail.lines) if stop else None
            if step % config.checkpoint_every == 0 or step == steps or reason:
                keeper.keep(step)
            progress(step, steps, figures)
            return reason

        try:
            reason = conclude(done, unevaluated) if unevaluated else stop(trail.lines) if stop and done else None
            for step in range(done + 1, steps + 1):
                if reason:
                    break
                began = time.perf_counter()
                objective.train()
                with _whole(wrapped):
                    plan = objective.plan(step)
                updates: list[dict[str, float]] = []
                for _ in range(plan.updates):
                    updates.append(_gradients(objective, wrapped, plan, config=config, accelerator=accelerator))
                    _require_finite(step, updates[-1])
                    keeper.release()
                    _move(optimizer, step, rate(step, steps=steps, config=config))
                of_updates = _over_updates(updates)
                of_plan = _add_over_processes({"tokens": float(plan.tokens), **plan.figures}, accelerator)
                figures = {"loss": of_updates.pop("loss"), **of_plan, **of_updates}
                figures["learning_rate"] = rate(step, steps=steps, config=config)
                timing.add(step, time.perf_counter() - began, tokens=figures.pop("tokens"))
                reason = conclude(step, figures)
        except BaseException:
            keeper.rescue()
            raise
        finally:
            trail.close(timing)
            if is_main and not trail.lines and not keeper.has_any:
                _remove(out, made)
        write_out(optimizer)
        back = keeper.restore_best() if reason and best is not None else None
        return Outcome(trail.steps, *timing.summary(), figures=trail.last(back), stopped=reason, best_step=back)


def prepare(objective: Any, *, config: LoopConfig, accelerator: Any) -> Any:
    """The objective on its device, wrapped for the processes there are; call the result, keep the objective."""
    objective.to(accelerator.device)
    if config.shard and accelerator.num_processes > 1:
        return _shard(objective, accelerator)
    return accelerator.prepare_model(objective)


def _gradients(objective: Any, wrapped: Any, plan: Plan, *, config: LoopConfig, accelerator: Any) -> dict[str, float]:
    """Leaves an update's clipped gradients in place and returns its metrics; moves nothing."""
    sums: dict[str, Tensor | float] = {"loss": 0.0}
    for at, micro in enumerate(plan.micro):
        with nullcontext() if at == len(plan.micro) - 1 else _unsynchronised(wrapped):
            loss = wrapped(micro)
            (loss.total * accelerator.num_processes).backward()
        for name, value in {"loss": loss.total, **loss.figures}.items():
            sums[name] = sums.get(name, 0.0) + value.detach()
        del loss
    norm = clip_gradients(objective.parameters(), config.max_grad_norm, rates=getattr(objective, "rates", None))
    return {**_add_over_processes(sums, accelerator), "grad_norm": float(norm)}


def _require_finite(step: int, figures: Mapping[str, float]) -> None:
    if not (math.isfinite(figures["loss"]) and math.isfinite(figures["grad_norm"])):
        raise TrainingError(
            f"step {step}: loss {figures['loss']}, gradient norm {figures['grad_norm']}"
            "\n  → lower learning_rate, or look for broken rows; weights of the last checkpoint are intact"
        )


def _over_updates(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every figure over the updates of a step."""
    return {name: sum(figures[name] for figures in updates) / len(updates) for name in updates[0]}


def _move(optimizer: torch.optim.Optimizer, step: int, learning_rate: float) -> None:
    set_rate(optimizer, learning_rate, step=step)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


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
def _whole(wrapped: Any) -> Generator[None]:
    """Lets code use the model outside the wrapped call: a sharded root has its own parameters gathered meanwhile."""
    if hasattr(wrapped, "unshard"):
        wrapped.unshard()
    yield
    if hasattr(wrapped, "reshard"):
        wrapped.reshard()


@contextmanager
def _unsynchronised(wrapped: Any) -> Generator[None]:
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
def _repeatable(seed: int, accelerator: Any) -> Generator[None]:
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

    def __init__(
        self, objective: Any, optimizer: Any, *, folder: Path, identity: str, accelerator: Any, count: int
    ) -> None:
        self.objective, self.optimizer, self.accelerator = objective, optimizer, accelerator
        self.folder, self.identity, self.count = folder / "checkpoints", identity, count
        self.held: tuple[int, Mapping[str, Tensor], dict[str, float]] | None = None

    @property
    def has_any(self) -> bool:
        """Whether a checkpoint of this run is on disk."""
        return checkpoint.latest(self.folder) is not None

    def resume(self) -> tuple[int, dict[str, float]]:
        """Puts the newest checkpoint back in place; returns its step (0 without one) and the step's metrics if it was
        not evaluated yet."""
        newest = checkpoint.latest(self.folder)
        if newest is None:
            return 0, {}
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
        return int(snapshot.facts["step"]), snapshot.facts.get("unevaluated", {})

    def hold(self, step: int, *, unevaluated: Mapping[str, float] | None = None) -> None:
        """Remembers random states and the objective's own state after ``step``: a failure in the next one moves them."""
        self.held = step, self._mine(), dict(unevaluated or {})

    def release(self) -> None:
        """From here on the weights belong to no whole step."""
        self.held = None

    def rescue(self) -> None:
        """Writes a checkpoint of the last whole step, if the weights are still its own.

        Several processes cannot do so once one of them has failed; they resume from their last checkpoint.
        """
        if self.held is None or self.accelerator.num_processes > 1:
            return
        step, mine, unevaluated = self.held
        if not checkpoint.path(self.folder, step).is_file():
            self._write(step, mine, unevaluated=unevaluated)

    def keep(self, step: int) -> None:
        """Writes a checkpoint of the step just made and drops the oldest ones."""
        self._write(step, self._mine())

    def keep_best(self, step: int) -> None:
        """Writes the trained weights of the best step so far in the place of the earlier best."""
        trained = checkpoint.trained_parameters(self.objective)
        states = self.optimizer.state
        full = {n: joined(p, states[p]) if "low" in states.get(p, {}) else p.detach() for n, p in trained.items()}
        tensors = {f"param/{name}": checkpoint.whole(value) for name, value in full.items()}
        if self.accelerator.is_main_process:
            facts = {"step": step, "identity": self.identity}
            checkpoint.write(checkpoint.Snapshot(tensors, facts), self.folder / BEST)
        self.accelerator.wait_for_everyone()

    def restore_best(self) -> int | None:
        """Puts the best step's weights in place and returns the step; None where this run kept none."""
        file = self.folder / BEST
        if not file.is_file():
            return None
        snapshot = checkpoint.read(file)
        if snapshot.facts["identity"] != self.identity:
            return None
        checkpoint.restore_parameters(snapshot, self.objective)
        return int(snapshot.facts["step"])

    def _mine(self) -> dict[str, Tensor]:
        mine = {"rng/cpu": torch.get_rng_state(), **{k: v.clone() for k, v in self.objective.state().items()}}
        if self.accelerator.device.type == "cuda":
            mine["rng/cuda"] = torch.cuda.get_rng_state(self.accelerator.device)
        return mine

    def _write(self, step: int, mine: Mapping[str, Tensor], **further: Any) -> None:
        everyone = _gather_objects(mine, self.accelerator)
        facts = {"step": step, "identity": self.identity, "processes": self.accelerator.num_processes, **further}
        snapshot = checkpoint.gather(self.objective, self.optimizer, rank_states=everyone, facts=facts)
        if self.accelerator.is_main_process:
            checkpoint.write(snapshot, checkpoint.path(self.folder, step))
            checkpoint.prune(self.folder, keep=self.count)
        self.accelerator.wait_for_everyone()


def _remove(out: Path, made: Sequence[Path]) -> None:
    """Removes what a run without a step left: the folders that it made, where nothing else is in them."""
    if out in made:
        shutil.rmtree(out, ignore_errors=True)
    for folder in made[1:]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _gather_objects(mine: Mapping[str, Tensor], accelerator: Any) -> list[Mapping[str, Tensor]]:
    if accelerator.num_processes == 1:
        return [mine]
    from accelerate.utils import gather_object

    return gather_object([{name: value.cpu() for name, value in mine.items()}])
