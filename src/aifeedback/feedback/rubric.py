"""Multi-criteria scores: each criterion is rated by itself, the total is their weighted mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aifeedback.errors import StandardsError
from aifeedback.feedback import readout
from aifeedback.feedback.score import JudgeScorer, ScoreSettings
from aifeedback.protocols import Model, Progress, silent
from aifeedback.records import Completion, Problem, Prompt, Score
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.wording import Wording


class RubricScores(NamedTuple):
    total: list[Score]
    by_criterion: Mapping[str, list[Score]]
    """Criterion id → its scores, in the order of the completions."""


class RubricScorer:
    """A ``Scorer`` over several criteria.

    The total's distribution is the weighted mixture of the criteria's distributions, so its expected rating is the
    weighted mean of theirs. One criterion that could not be read leaves the total unknown.
    """

    def __init__(
        self,
        model: Model,
        prompt: JudgePrompt,
        criteria: Sequence[Wording],
        settings: ScoreSettings | None = None,
        *,
        progress: Progress = silent,
    ) -> None:
        if not criteria:
            raise StandardsError("a rubric needs at least one criterion")
        if prompt.task != "rating":
            raise StandardsError(f"judge prompt '{prompt.name}' is for {prompt.task}, not for rating", key="task")
        self._criteria = tuple(criteria)
        self._scorers = [
            JudgeScorer(model, prompt, settings, wording=criterion, progress=progress) for criterion in criteria
        ]
        self._name = f"{model.card.uri} {prompt.name} {criteria[0].id.rsplit('/', 1)[0]}"

    @property
    def name(self) -> str:
        return self._name

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Score]:
        """The totals alone."""
        return self.score_all(prompts, completions).total

    def score_all(self, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> RubricScores:
        """Totals and the scores of each criterion."""
        by_criterion = {
            criterion.id: scorer.score(prompts, completions)
            for criterion, scorer in zip(self._criteria, self._scorers, strict=True)
        }
        columns = list(by_criterion.values())
        total = [self._total(c, [column[i] for column in columns]) for i, c in enumerate(completions)]
        return RubricScores(total, by_criterion)

    def _total(self, completion: Completion, scores: Sequence[Score]) -> Score:
        if any(score.distribution is None for score in scores):
            problems = {score.problem for score in scores}
            only = next(iter(problems)) if len(problems) == 1 else None
            return Score(completion_id=completion.id, judge=self._name, problem=only or Problem.MISSING)
        weights = np.array([criterion.weight for criterion in self._criteria])
        rows = np.array([score.distribution for score in scores], dtype=np.float64)
        mixture = weights @ rows / weights.sum()
        expected = min(max(readout.expected_score(mixture), 1.0), 10.0)
        coverages = [score.coverage for score in scores if score.coverage is not None]
        return Score(
            completion_id=completion.id,
            judge=self._name,
            value=readout.score_value(expected),
            expected=expected,
            distribution=tuple(float(p) for p in mixture),
            coverage=min(coverages) if coverages else None,
        )
