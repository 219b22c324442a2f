"""Stages that ask models: sample, pair, label, score. Nothing is trained here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from aifeedback import files, records
from aifeedback.config import Config
from aifeedback.feedback.pairing import pair_completions
from aifeedback.feedback.panel import disagreement
from aifeedback.feedback.rank import Design, RankScorer
from aifeedback.feedback.rubric import RubricScorer
from aifeedback.feedback.sample import Sampled, sample_completions
from aifeedback.protocols import Labeler, Scorer
from aifeedback.records import Comparison, Preference, Sampling
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.judges import JudgeSpec, Judging, rating_alone, require_server


class SamplingSettings(Config):
    """How completions are drawn."""

    temperature: float = Field(default=0.9, ge=0.0)
    top_k: int | None = None
    top_p: float | None = None
    max_new_tokens: int = Field(default=128, ge=1)
    stop: tuple[str, ...] = ()

    def at(self, seed: int) -> Sampling:
        return Sampling(**self.model_dump(), seed=seed)


class Sample(Stage):
    """k completions of each prompt → ``completions.jsonl``."""

    kind: ClassVar[str] = "sample"
    model: str
    prompts: str
    per_prompt: int = Field(default=2, ge=1)
    limit: int | None = Field(default=None, ge=1)
    """Most prompts to use; None uses all."""
    sampling: SamplingSettings = SamplingSettings()
    base_url: str | None = None
    """Address of an OpenAI-compatible server."""

    @model_validator(mode="after")
    def _served(self) -> Self:
        require_server(self.model, self.base_url)
        return self

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside_model(self.model)
        yield from resolve.outside(self.prompts)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(count * self.per_prompt, {"completions.jsonl": count * self.per_prompt})

    def run(self, job: Job) -> Outcome:
        read = files.load_prompts(self.prompts, limit=self.limit)
        model = resolve.connect_model(self.model, job, base_url=self.base_url)
        sampled = sample_completions(
            model,
            read.rows,
            per_prompt=self.per_prompt,
            sampling=self.sampling.at(job.seed),
            source=job.named(self.model),
            progress=job.progress,
        )
        asked = {prompt.id: prompt for prompt in read.rows}
        prompts = [asked[completion.prompt_id] for completion in sampled.completions]
        files.write_completions(job.folder / "completions.jsonl", prompts, sampled.completions)
        files.write_records(job.folder / "completions.records.jsonl", sampled.completions)
        figures = {"prompts": len(read.rows), **sampling_figures(sampled), "rows": account(read.report)}
        return Outcome(figures, calls=self.per_prompt * len(read.rows))


def sampling_figures(sampled: Sampled) -> dict[str, Any]:
    """How many answers came, how many were cut at the token limit, and why others did not come."""
    return {
        "completions": len(sampled.completions),
        "truncated": sum(c.finish_reason == "length" for c in sampled.completions),
        "problems": dict(Counter(str(missing.problem) for missing in sampled.unanswered)),
    }


def at_most(count: int | None, limit: int | None) -> int | None:
    """The smaller of the two, where they are known."""
    return limit if count is None else count if limit is None else min(count, limit)


def account(report: Any) -> dict[str, Any]:
    """Rows of a file: how many there were, were kept, and why the others were not."""
    return {"read": report.rows, "kept": report.kept, "skipped": dict(report.reasons)}


class Pair(Stage):
    """Completions of one prompt, two by two → ``comparisons.jsonl``; storage order is drawn by seed."""

    kind: ClassVar[str] = "pair"
    completions: str
    per_prompt: int | None = Field(default=1, ge=1)
    """Pairs per prompt, drawn by seed; null takes every two of its completions."""
    only: dict[str, str] = Field(default_factory=dict)
    """Tags that a prompt must carry to be used, such as label: safe."""
    limit: int | None = Field(default=None, ge=1)

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.completions)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = rows.get(self.completions)
        if count is None or self.per_prompt is None:
            return Forecast(0)
        return Forecast(0, {"comparisons.jsonl": at_most(count // 2, self.limit) or 0})

    def run(self, job: Job) -> Outcome:
        read = files.read_completions(self.completions)
        kept = [i for i, prompt in enumerate(read.prompts) if self.only.items() <= dict(prompt.tags or {}).items()]
        paired = pair_completions(
            [read.prompts[i] for i in kept], [read.rows[i] for i in kept], per_prompt=self.per_prompt, seed=job.seed
        )
        made = paired.comparisons[: self.limit]
        files.write_records(job.folder / "comparisons.jsonl", made)
        figures = {"comparisons": len(made), "skipped": paired.skipped, "rows": account(read.report)}
        return Outcome(figures)


class Label(Stage):
    """A labeler's preferences → ``preferences.jsonl`` (every judgement) and ``labelled.jsonl`` (loads in TRL)."""

    kind: ClassVar[str] = "label"
    comparisons: str
    judge: Judging
    limit: int | None = Field(default=None, ge=1)
    columns: dict[str, str] | None = None
    """Our column names → the file's."""
    criterion: str | None = None
    batch: int = Field(default=256, ge=1)
    """Comparisons that are asked, and journalled, together."""

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.comparisons)
        yield from resolve.outside_judge(self.judge)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.comparisons), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(count * self.judge.calls_per_pair, {"labelled.jsonl": count, "preferences.jsonl": count})

    def run(self, job: Job) -> Outcome:
        read = files.read_comparisons(
            self.comparisons, job.seed, columns=self.columns, criterion=self.criterion, limit=self.limit
        )
        preferences = self.labels(read.rows, job)
        files.write_records(job.folder / "preferences.jsonl", preferences)
        files.write_labelled(job.folder / "labelled.jsonl", files.labelled(read, preferences))
        figures = label_figures(preferences, read.human)
        figures |= {**resolve.judged_by(self.judge, job), "rows": account(read.report)}
        if told := resolve.constitutions(self.judge):
            figures["principles"] = [line for name in told for line in resolve.principles_told(name)]
        return Outcome(figures, calls=len(preferences))

    def labels(self, comparisons: Sequence[Comparison], job: Job) -> list[Preference]:
        """The labels, in order; where the work is done elsewhere, this is what differs."""
        batch = resolve.asked_together(self.judge, job, self.batch)
        return label_all(resolve.labeler(self.judge, job), comparisons, job, batch)


def label_all(labeler: Labeler, comparisons: Sequence[Comparison], job: Job, batch: int = 256) -> list[Preference]:
    """Labels in batches, so that progress shows and a stopped run finds its answers in the journal."""
    preferences: list[Preference] = []
    job.progress(0, len(comparisons), {})
    for start in range(0, len(comparisons), batch):
        preferences += labeler.label(comparisons[start : start + batch])
        unreadable = sum(p.p_first is None for p in preferences)
        job.progress(len(preferences), len(comparisons), {"unreadable": unreadable})
    return preferences


def label_figures(preferences: Sequence[Preference], human: Sequence[float | None]) -> dict[str, Any]:
    """What can be said of a set of labels: how many are known, why not, position bias, agreement with people,
    and ``label_mass``, how probable the labels together were to the judge on average."""
    from aifeedback.evaluate import alignment, position_bias

    p_first = [p.p_first for p in preferences]
    problems = Counter(str(p.problem) for p in preferences if p.problem is not None)
    figures: dict[str, Any] = {
        "labels": len(p_first) - sum(problems.values()),
        "unknown": sum(problems.values()),
        "problems": dict(problems),
    }
    if any(h is not None for h in human):
        figures["alignment"] = alignment(p_first, human).as_dict()
    original, swapped = by_order(preferences)
    if any(s is not None for s in swapped):
        figures["position_bias"] = position_bias(original, swapped).as_dict()
        if any(h is not None for h in human):
            figures["alignment_single"] = alignment(original, human).as_dict()
    seen = [j.coverage for p in preferences for j in p.judgements if j.coverage is not None]
    if seen:
        figures["label_mass"] = sum(seen) / len(seen)
    apart = [found for preference in preferences if (found := disagreement(preference))]
    if apart:
        spread, minority = (sum(getattr(d, name) for d in apart) / len(apart) for name in ("spread", "minority"))
        figures["disagreement"] = {"n": len(apart), "mean_spread": spread, "mean_minority": minority}
    return figures


def by_order(preferences: Sequence[Preference]) -> tuple[list[float | None], list[float | None]]:
    """P(first stored) as read with the storage order shown, and with the swapped order shown; None where not known."""
    columns: tuple[list[float | None], list[float | None]] = ([], [])
    for preference in preferences:
        for shown_swapped, column in zip((False, True), columns, strict=True):
            read = [j.p_first for j in preference.judgements if j.shown_swapped == shown_swapped]
            known = [p for p in read if p is not None]
            column.append(sum(known) / len(known) if known and len(known) == len(read) else None)
    return columns


class Score(Stage):
    """A judge's score of each completion → ``scores.jsonl``, and with the texts ``scored.jsonl``.

    A rubric's criteria, one by one, are in ``criteria.jsonl``.
    """

    kind: ClassVar[str] = "score"
    completions: str
    judge: JudgeSpec
    rank: Design | None = None
    """Judge the answers to a prompt two by two (all pairs, or a tournament) and score by the fitted win rate."""
    rounds: int = Field(default=2, ge=1)
    """Of a tournament; each answer meets two others in a round."""
    limit: int | None = Field(default=None, ge=1)
    batch: int = Field(default=256, ge=1)
    """Completions that are asked, and journalled, together; answers to one prompt stay together."""

    @model_validator(mode="before")
    @classmethod
    def _rates_alone(cls, values: Any) -> Any:
        """Without ``rank`` a judge rates each response alone, so its default prompt is a rating prompt."""
        if not isinstance(values, dict) or "judge" not in values or values.get("rank"):
            return values
        return {**values, "judge": rating_alone(values["judge"])}

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.completions)
        yield from resolve.outside_judge(self.judge)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.completions), self.limit)
        return Forecast(None if count is None or self.rank else count * self.judge.calls_per_score)

    def run(self, job: Job) -> Outcome:
        read = files.read_completions(self.completions, limit=self.limit)
        scores, criteria = self._scores(read, job)
        files.write_records(job.folder / "scores.jsonl", scores)
        files.write_completions(job.folder / "scored.jsonl", read.prompts, read.rows, scores)
        if criteria:
            files.write_records(job.folder / "criteria.jsonl", criteria)
        known = [s.value for s in scores if s.value is not None]
        expected = [s.expected for s in scores if s.expected is not None]
        figures = {
            "scores": len(known),
            "mean_value": sum(known) / len(known) if known else None,
            **({} if self.rank else {"mean_expected": sum(expected) / len(expected) if expected else None}),
            "problems": dict(Counter(str(s.problem) for s in scores if s.problem is not None)),
            "judge": resolve.described(self.judge, job),
            "rows": account(read.report),
        }
        return Outcome(figures, calls=len(scores))

    def _scores(self, read: files.Completions, job: Job) -> tuple[list[records.Score], list[records.Score]]:
        """The score of each completion in the file's order, and under a rubric those of its criteria."""
        scorer = self._scorer(job)
        scores: dict[int, records.Score] = {}
        criteria: list[records.Score] = []
        batch = resolve.asked_together(self.judge, job, self.batch)
        for places in _together([prompt.id for prompt in read.prompts], batch):
            prompts, answers = [read.prompts[i] for i in places], [read.rows[i] for i in places]
            if isinstance(scorer, RubricScorer):
                found = scorer.score_all(prompts, answers)
                criteria += [score for column in found.by_criterion.values() for score in column]
                scores |= zip(places, found.total, strict=True)
            else:
                scores |= zip(places, scorer.score(prompts, answers), strict=True)
            job.progress(len(scores), len(read.rows), {})
        return [scores[i] for i in range(len(read.rows))], criteria

    def _scorer(self, job: Job) -> Scorer:
        if self.rank is None:
            return resolve.scorer(self.judge, job)
        return RankScorer(resolve.labeler(self.judge, job), design=self.rank, rounds=self.rounds, seed=job.seed)


def _together(prompt_ids: Sequence[str], batch: int) -> Iterator[list[int]]:
    """Places of the completions in groups of at least ``batch``, none of which splits the answers to one prompt."""
    by_prompt: dict[str, list[int]] = {}
    for place, prompt_id in enumerate(prompt_ids):
        by_prompt.setdefault(prompt_id, []).append(place)
    group: list[int] = []
    for places in by_prompt.values():
        group += places
        if len(group) >= batch:
            yield group
            group = []
    if group:
        yield group


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Sample, Pair, Label, Score)}
