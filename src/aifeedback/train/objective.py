"""What SFT, reward model and DPO share: rows of token ids, a step's share of them, and the result they report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from aifeedback.errors import TrainingError
from aifeedback.records import Record
from aifeedback.train.loop import LoopConfig, Loss, Outcome, Plan
from aifeedback.train.rows import Order, split_by_tokens


class RowConfig(LoopConfig):
    """Settings of training on rows of a file."""

    max_prompt_tokens: int = Field(1024, ge=1)
    """Rows with a longer prompt are left out and counted."""
    max_completion_tokens: int = Field(128, ge=1)
    """Rows with a longer completion (EOS included) are left out and counted."""
    balance_by: str | None = None
    """A tag of the prompt: every value of it is drawn equally often."""


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
    peak_memory_mb: float
    figures: Mapping[str, float]
    """Last value of every logged figure."""
    stopped: str | None = None
    """Why it ended before its last planned step."""
    identity: str = ""
    """Digest of model, data and settings."""


class Share(NamedTuple):
    """Which process this is, of how many."""

    rank: int
    world: int


class Micro(NamedTuple):
    """Rows of one forward pass. ``scale`` divides their summed loss; an empty pass has scale 0."""

    rows: list[Any]
    scale: float


class RowObjective(nn.Module):
    """A model, encoded rows and their order. A subclass computes the loss of a micro-batch in ``forward``."""

    def __init__(self, model: Any, rows: Sequence[Any], *, order: Order, forward_tokens: int, share: Share) -> None:
        super().__init__()
        self.model, self.rows, self.order = model, rows, order
        self.forward_tokens, self.share = forward_tokens, share
        self.row_tokens = [row.tokens for row in rows]

    def weight(self, row: Any) -> float:
        """What a row adds to the denominator of a step's mean."""
        return row.weight

    def plan(self, step: int) -> Plan:
        chosen = self.order.step(step)
        total = sum(self.weight(self.rows[i]) for i in chosen)
        if not total > 0:
            raise TrainingError(f"step {step}: all row weights are zero")
        shares = [chosen[rank :: self.share.world] for rank in range(self.share.world)]
        groups = [split_by_tokens(share, self.row_tokens, limit=self.forward_tokens) for share in shares]
        passes = max(len(group) for group in groups)
        mine = groups[self.share.rank]
        micro = [Micro([self.rows[i] for i in group], 1.0 / total) for group in mine]
        micro += [Micro([self.rows[chosen[0]]], 0.0)] * (passes - len(mine))
        return Plan(micro, sum(self.row_tokens[i] for i in shares[self.share.rank]))

    def forward(self, micro: Micro) -> Loss:
        raise NotImplementedError

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        del state


def row_order(rows: Sequence[Any], config: RowConfig, *, groups: Sequence[str] | None = None) -> Order:
    """The order of a run: it ends after ``epochs`` passes, or runs on for ``steps``."""
    total = None if config.steps is not None else max(1, round(config.epochs * len(rows)))
    return Order(len(rows), batch=config.batch, seed=config.seed, total=total, groups=groups)


def planned_steps(rows: int, config: LoopConfig) -> int:
    """Optimizer steps of a run."""
    return config.steps if config.steps is not None else -(-max(1, round(config.epochs * rows)) // config.batch)


def require_rows(kept: Sequence[Any], skipped: Counter[str]) -> None:
    """Raises TrainingError with the reasons where no row can be used."""
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "the data is empty"
        raise TrainingError(f"no row can be trained on: {reasons}")


def finished(out: str | Path, identity: str) -> TrainResult | None:
    """The result of the same run where it is already complete; a finished other run in the folder raises."""
    file = Path(out) / "training" / "result.json"
    if not file.exists():
        return None
    result = TrainResult.model_validate(json.loads(file.read_text(encoding="utf-8")))
    if result.identity != identity:
        raise TrainingError(
            f"{out} holds a finished run with other data, model or settings\n  → give another output folder"
        )
    return result


def conclude(out: str | Path, outcome: Outcome, **rest: Any) -> TrainResult:
    """Writes the result, last of all, and drops the checkpoints that it makes needless."""
    result = TrainResult(folder=str(out), **outcome._asdict(), **rest)
    folder = Path(out) / "training"
    partial = folder / "result.partial"
    partial.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    partial.replace(folder / "result.json")
    for file in (folder / "checkpoints").glob("step-*.safetensors"):
        file.unlink()
    return result
