"""Several reward models that differ by seed, and how far they disagree: what one model is sure of may be its own error.

Coste et al. 2023 (arXiv 2310.02743): optimising against the mean, or the mean minus the spread, of an ensemble delays
over-optimisation. Members differ in their new head and in data order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.protocols import Progress, PromptLike, silent
from aifeedback.records import Comparison, Completion, Preference, Problem, Prompt
from aifeedback.train.reward_model import RewardModel, fit_reward_model
from aifeedback.train.rows import Pair
from aifeedback.train.session import TrainResult
from aifeedback.train.settings import RewardModelConfig


def fit_ensemble(
    model_dir: str | PathLike[str],
    rows: Sequence[Pair],
    config: RewardModelConfig,
    out: str | PathLike[str],
    *,
    members: int,
    heldout: Sequence[Pair] | None = None,
    progress: Progress = silent,
) -> list[TrainResult]:
    """Fits ``members`` reward models with seeds from ``config.seed`` on, in the folders ``out/member-0`` …"""
    return [
        fit_reward_model(
            model_dir,
            rows,
            config.model_copy(update={"seed": config.seed + i}),
            Path(out) / f"member-{i}",
            heldout=heldout,
            progress=progress,
        )
        for i in range(members)
    ]


class Judged(NamedTuple):
    """What an ensemble says of one completion."""

    mean: float
    spread: float
    """Standard deviation over members (n − 1), after each member's own offset; 0 for a single member."""


class RewardEnsemble:
    """Reward models asked together. As a reward function it gives mean − ``caution``·spread."""

    def __init__(self, folders: Sequence[str | PathLike[str]], *, caution: float = 0.0) -> None:
        self.members = [RewardModel(folder) for folder in folders]
        self.caution = caution
        self.encoding = self.members[0].encoding
        self.name = f"ensemble of {len(self.members)}: {self.members[0].name}"

    def judge(
        self, prompts: Sequence[Prompt | PromptLike], completions: Sequence[Completion | str]
    ) -> list[Judged | None]:
        """Mean and spread of each; None where any member could not score it."""
        return [_judged(values) for values in self._values(prompts, completions)]

    def scores(
        self, prompts: Sequence[Prompt | PromptLike], completions: Sequence[Completion | str]
    ) -> list[float | None]:
        """mean − caution·spread; None where any member could not score it."""
        return [None if j is None else j.mean - self.caution * j.spread for j in self.judge(prompts, completions)]

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """p_first is the mean of the members' own probabilities; unknown where one of them is unknown."""
        votes = [member.label(comparisons) for member in self.members]
        return [self._preference([vote[i] for vote in votes], c) for i, c in enumerate(comparisons)]

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float | None]:
        """TRL's signature; further columns are not used."""
        return self.scores(prompts, completions)

    def _values(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[tuple[float | None, ...]]:
        return list(zip(*(m.scores(prompts, completions) for m in self.members), strict=True))

    def _preference(self, votes: Sequence[Preference], comparison: Comparison) -> Preference:
        known = [vote.p_first for vote in votes if vote.p_first is not None]
        if len(known) < len(votes):
            problems = {vote.problem for vote in votes}
            problem = problems.pop() if len(problems) == 1 else Problem.MISSING  # all failed alike, or some did
            return Preference(comparison_id=comparison.id, source=self.name, p_first=None, problem=problem)
        return Preference(comparison_id=comparison.id, source=self.name, p_first=math.fsum(known) / len(known))


def _judged(values: Sequence[float | None]) -> Judged | None:
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None
    mean = math.fsum(known) / len(known)
    square = math.fsum((v - mean) ** 2 for v in known)
    return Judged(mean, math.sqrt(square / (len(known) - 1)) if len(known) > 1 else 0.0)
