"""What SFT, reward model and DPO share: settings, rows of token ids, and a process's share of a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.records import Prompt
from aifeedback.train.loop import Loss, Plan
from aifeedback.train.rows import Order, split_by_tokens
from aifeedback.train.settings import RowConfig


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


def row_order(rows: Sequence[Any], config: RowConfig, *, prompts: Sequence[Prompt]) -> Order:
    """The order of a run: it ends after ``epochs`` passes, or runs on for ``steps``. ``prompts`` by row of the file.

    Raises RecipeError where ``balance_by`` names a tag that no prompt has.
    """
    total = None if config.steps is not None else max(1, round(config.epochs * len(rows)))
    tag = config.balance_by
    groups = [prompts[row.row].tags.get(tag, "") for row in rows] if tag is not None else None
    if groups is not None and not any(groups):
        raise RecipeError(
            f"no prompt has the tag '{tag}'", key="balance_by", fix="name a tag of the data, or leave it out"
        )
    return Order(len(rows), batch=config.batch, seed=config.seed, total=total, groups=groups)


def planned_steps(rows: int, config: RowConfig) -> int:
    """Optimizer steps of a run."""
    return config.steps if config.steps is not None else -(-max(1, round(config.epochs * rows)) // config.batch)


def share_of(accelerator: Any) -> Share:
    """This process's share."""
    return Share(accelerator.process_index, accelerator.num_processes)


def limits(config: RowConfig) -> dict[str, int]:
    """The length limits, as the encoders take them."""
    return {"max_prompt_tokens": config.max_prompt_tokens, "max_completion_tokens": config.max_completion_tokens}


def require_rows(kept: Sequence[Any], skipped: Counter[str]) -> None:
    """Raises TrainingError with the reasons where no row can be used."""
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "the data is empty"
        raise TrainingError(f"no row can be trained on: {reasons}")
