"""``score``: a judge's score of each completion (d-RLAIF's expected rating, a rubric, good–bad, or a ranking)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from aifeedback import data, types
from aifeedback.config import Cli
from aifeedback.errors import RecipeError
from aifeedback.judging.diagnosis import Cause
from aifeedback.judging.pointwise import RubricScorer
from aifeedback.judging.ranking import Design, RankScorer
from aifeedback.judging.spec import JudgeSpec, judge_from_options, rating_alone
from aifeedback.refs import Ref
from aifeedback.steps import connect
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict, on_label_mass, on_unknown, percent
from aifeedback.types import Scorer


class ScoreFigures(Figures):
    scores: int
    """Completions with a known score."""
    mean_value: float | None = None
    """Mean reward in [−1, 1]."""
    mean_expected: float | None = None
    """Mean expected rating on the judge's own scale."""
    problems: dict[str, int]
    judge: JudgeCard
    rows: Rows
    label_mass: float | None = None
    """Mean probability of the ratings together."""
    spread: float | None = None
    """Standard deviation of the known rewards."""
    cause: Cause | None = None
    """The most frequent reason for unknown scores."""

    @property
    def is_unread(self) -> bool:
        return not self.scores and sum(self.problems.values()) > 0

    def verdict(self) -> Verdict:
        unknown = sum(self.problems.values())
        total = self.scores + unknown
        mass, rest = on_label_mass(self.label_mass), on_unknown(unknown, total, "completions", self.cause)
        if self.is_unread and rest is not None:
            return rest
        if mass is not None and mass.level == "bad":
            return mass
        if self.scores > 1 and self.spread is not None and self.spread < EQUAL:
            meaning = f"All {self.scores:,} scores are equal: the judge does not distinguish the completions."
            return Verdict("bad", meaning, "Do not train on these scores; try another --prompt or another judge.")
        if verdict := rest or mass:
            return verdict
        mean = "" if self.mean_value is None else f", mean reward {self.mean_value:+.2f}"
        seen = "" if self.label_mass is None else f", label mass {percent(self.label_mass)}"
        return Verdict("ok", f"{self.scores:,} of {total:,} completions scored{mean}{seen}.")


EQUAL = 1e-3
"""Rewards, in [−1, 1], whose standard deviation is smaller do not depend on the completions."""


class Score(Step):
    """Score completions with a judge model; writes scores.jsonl, scored.jsonl and, under a rubric, criteria.jsonl."""

    kind: ClassVar[str] = "score"
    main: ClassVar[str] = "scored.jsonl"
    Figures = ScoreFigures
    completions: Annotated[Ref, Cli(("--data", "--completions"), metavar="FILE")]
    """Completions to score."""
    judge: Annotated[JudgeSpec, Cli(flatten=(JudgeSpec,), panel="Judge")]
    """Who scores."""
    rank: Design | None = None
    """Judge the responses to each prompt in pairs (all pairs, or a tournament) and score by the fitted win rate."""
    rounds: int = Field(default=2, ge=1)
    """Rounds of a tournament; each response meets two others in a round."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many completions."""
    batch: Annotated[int, Cli(is_hidden=True)] = Field(default=256, ge=1)
    """Completions that are judged, and journalled, together; responses to one prompt stay together."""

    @model_validator(mode="before")
    @classmethod
    def _rates_alone(cls, values: Any) -> Any:
        """Without ``rank`` a judge rates each response alone, so that its default prompt is a rating prompt."""
        if not isinstance(values, dict) or "judge" not in values or values.get("rank"):
            return values
        return {**values, "judge": rating_alone(values["judge"])}

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Score:
        judge = {"by": "pairs" if settings.get("rank") else "ratings", **settings.get("judge", {})}
        judge = judge_from_options(judge)
        if "members" in judge:
            raise RecipeError("a panel cannot score", key="--judge", fix="give a single --judge and --prompt")
        return super().from_options({**settings, "judge": judge}, chosen)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.completions), self.limit)
        return Forecast(None if count is None or self.rank else count * self.judge.calls_per_score)

    def run(self, context: Context) -> ScoreFigures:
        read = data.read_completions(self.completions, limit=self.limit)
        scores, criteria = self._scores(read, context)
        data.write_records(context.folder / "scores.jsonl", scores)
        data.write_completions(context.folder / "scored.jsonl", read.prompts, read.rows, scores)
        if criteria:
            data.write_records(context.folder / "criteria.jsonl", criteria)
        known = [s.value for s in scores if s.value is not None]
        masses = [s.coverage for s in scores if s.coverage is not None]
        expected = [s.expected for s in scores if s.expected is not None and not self.rank]
        return ScoreFigures(
            scores=len(known),
            mean_value=sum(known) / len(known) if known else None,
            mean_expected=sum(expected) / len(expected) if expected else None,
            problems=dict(Counter(str(s.problem) for s in scores if s.problem is not None)),
            judge=connect.judge_card(self.judge, context),
            rows=Rows.of(read.report),
            label_mass=fmean(masses) if masses else None,
            spread=pstdev(known) if known else None,
            cause=context.cause(scores),
        )

    def _scores(self, read: data.Completions, context: Context) -> tuple[list[types.Score], list[types.Score]]:
        """The score of each completion in file order, and under a rubric those of its criteria."""
        scorer = self._scorer(context)
        scores: dict[int, types.Score] = {}
        criteria: list[types.Score] = []
        batch = connect.batch_for(self.judge, context, self.batch)
        for positions in whole_prompts([prompt.id for prompt in read.prompts], batch):
            prompts, completions = [read.prompts[i] for i in positions], [read.rows[i] for i in positions]
            if isinstance(scorer, RubricScorer):
                rubric_scores = scorer.score_all(prompts, completions)
                criteria += [score for column in rubric_scores.by_criterion.values() for score in column]
                scores |= zip(positions, rubric_scores.total, strict=True)
            else:
                scores |= zip(positions, scorer.score(prompts, completions), strict=True)
            context.progress(len(scores), len(read.rows), {})
        return [scores[i] for i in range(len(read.rows))], criteria

    def _scorer(self, context: Context) -> Scorer:
        if self.rank is None:
            return connect.scorer(self.judge, context)
        return RankScorer(connect.labeler(self.judge, context), design=self.rank, rounds=self.rounds, seed=context.seed)


def whole_prompts(prompt_ids: Sequence[str], batch: int) -> Iterator[list[int]]:
    """Positions of the completions in groups of at least ``batch`` that never split the responses to one prompt."""
    positions: dict[str, list[int]] = {}
    for position, prompt_id in enumerate(prompt_ids):
        positions.setdefault(prompt_id, []).append(position)
    group: list[int] = []
    for own in positions.values():
        group += own
        if len(group) >= batch:
            yield group
            group = []
    if group:
        yield group
