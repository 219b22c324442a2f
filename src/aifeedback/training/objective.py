"""What SFT, reward model and DPO share: settings, rows of token ids, and a process's share of a step."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, TypedDict

from torch import Tensor, nn

from aifeedback.errors import RecipeError, TrainingError
from aifeedback.training import folders
from aifeedback.training.examples import Order, split_by_tokens
from aifeedback.training.loop import Loss, Plan, Stop, plateau
from aifeedback.training.settings import RowConfig
from aifeedback.types import Prompt

logger = logging.getLogger(__name__)

TOO_LONG = ("prompt_too_long", "completion_too_long", "beyond_context_window")
"""Reasons for which a row is left out that a limit or another model would change."""


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


def stop_rule(config: RowConfig, heldout: Sequence[Any] | None) -> Stop | None:
    """The rule that ``patience`` asks for; raises RecipeError for settings that need held-out rows without any."""
    if config.patience is not None and (not heldout or config.evaluate_every is None):
        raise RecipeError(
            "needs held-out pairs or responses, and evaluate_every", key="patience", fix="give both, or leave it out"
        )
    if config.evaluate_every is not None and not heldout:
        raise RecipeError(
            "there are no held-out rows to evaluate on", key="evaluate_every", fix="give held-out rows, or leave it out"
        )
    return plateau(config.patience) if config.patience is not None else None


def planned_steps(rows: int, config: RowConfig) -> int:
    """Optimizer steps of a run."""
    return config.steps if config.steps is not None else -(-max(1, round(config.epochs * rows)) // config.batch)


def share_of(accelerator: Any) -> Share:
    """This process's share."""
    return Share(accelerator.process_index, accelerator.num_processes)


def largest(mine: int, share: Share) -> int:
    """The largest of a number over all processes."""
    if share.world == 1:
        return mine
    import torch.distributed as dist

    numbers: list[Any] = [None] * share.world
    dist.all_gather_object(numbers, mine)
    return max(numbers)


class Limits(TypedDict):
    """Length limits, as the encoders take them."""

    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    context_window: int | None


def limits(config: RowConfig, folder: str | PathLike[str]) -> Limits:
    """The limits of the settings and of the model in ``folder``."""
    return {
        "max_prompt_tokens": config.max_prompt_tokens,
        "max_completion_tokens": config.max_completion_tokens,
        "context_window": folders.context_window(folder),
    }


class Encoded(NamedTuple):
    """Rows to train on and to measure on as token ids."""

    kept: list[Any]
    held: list[Any]
    skipped: Counter[str]
    """Rows left out, by reason; those of held-out rows begin with ``heldout_``."""


def encoded(
    encode: Callable[..., tuple[list[Any], Counter[str]]],
    tokenizer: Any,
    rows: Sequence[Any],
    heldout: Sequence[Any] | None,
    config: RowConfig,
    folder: str | PathLike[str],
    **more: Any,
) -> Encoded:
    """Both files through an encoder of ``examples.py``, within the limits of the settings and of the model in ``folder``.

    Raises TrainingError where too few rows can be trained on.
    """
    within = limits(config, folder)
    kept, skipped = encode(tokenizer, rows, **within, **more)
    require_rows(kept, skipped)
    held, held_skipped = encode(tokenizer, heldout or (), **within, **more)
    skipped.update({f"heldout_{reason}": count for reason, count in held_skipped.items()})
    return Encoded(kept, held, skipped)


def require_rows(kept: Sequence[Any], skipped: Counter[str]) -> None:
    """Reports before the first step what is left out.

    Raises TrainingError with the reasons where no row can be used, or where more than half are left out for their
    length: training on the shortest is training on another data set.
    """
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    if not kept:
        raise TrainingError(f"no row can be trained on: {reasons or 'the data is empty'}")
    too_long = sum(skipped[reason] for reason in TOO_LONG)
    rows = len(kept) + sum(skipped.values())
    if 2 * too_long > len(kept) + too_long:
        raise TrainingError(
            f"{too_long} of {rows} rows are too long ({reasons})\n  → raise the limit that they exceed"
            " (max_prompt_tokens, max_completion_tokens), take a model with a longer context window, or shorten them"
        )
    if skipped:
        logger.warning("%d of %d rows are left out: %s", rows - len(kept), rows, reasons)
