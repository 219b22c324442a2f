"""Stages that ask models: sample, pair, label, score, revise. Nothing is trained here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar, Literal

from pydantic import Field

from aifeedback import files
from aifeedback.config import Config
from aifeedback.protocols import Labeler, Model, Reply
from aifeedback.records import Comparison, Completion, Preference, Prompt, Sampling
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage


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
    limit: int | None = None
    """Most prompts to use; None uses all."""
    sampling: SamplingSettings = SamplingSettings()
    base_url: str | None = None

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.model)
        yield from resolve.outside(self.prompts)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(count * self.per_prompt, {"completions.jsonl": count * self.per_prompt})

    def run(self, job: Job) -> Outcome:
        read = files.load_prompts(self.prompts, limit=self.limit)
        model = resolve.connect_model(self.model, job, base_url=self.base_url)
        drawn, outcome = draw(model, read.rows, self.sampling, self.per_prompt, job, source=self.model)
        files.write_completions(job.folder / "completions.jsonl", *zip_pairs(read.rows, drawn))
        files.write_records(job.folder / "completions.records.jsonl", [c for row in drawn for c in row])
        outcome.figures |= {"prompts": len(read.rows), "rows": account(read.report)}
        return outcome


def draw(
    model: Model,
    prompts: Sequence[Prompt],
    sampling: SamplingSettings,
    per_prompt: int,
    job: Job,
    *,
    source: str,
    batch: int = 256,
) -> tuple[list[list[Completion]], Outcome]:
    """``per_prompt`` completions of each prompt, prompt-major; failed answers are counted and left out."""
    drawn: list[list[Completion]] = [[] for _ in prompts]
    outcome = Outcome()
    problems: Counter[str] = Counter()
    truncated = 0
    total = per_prompt * len(prompts)
    for number in range(per_prompt):
        setting = sampling.at(job.seed * 1_000_003 + number)
        for start in range(0, len(prompts), batch):
            part = prompts[start : start + batch]
            replies = model.reply([policy_prompt(prompt) for prompt in part], setting)
            for offset, (prompt, reply) in enumerate(zip(part, replies, strict=True)):
                count(outcome, reply)
                if reply.problem is not None:
                    problems[reply.problem] += 1
                    continue
                truncated += reply.finish_reason == "length"
                completion = Completion.of(
                    prompt, reply.text, source=source, sampling=setting, finish_reason=reply.finish_reason
                )
                drawn[start + offset].append(completion)
            job.progress(number * len(prompts) + start + len(part), total, {})
    outcome.figures = {"completions": total, "truncated": truncated, "problems": dict(problems)}
    return drawn, outcome


def policy_prompt(prompt: Prompt) -> Any:
    """What a policy is given: bare text for one user message, messages for a dialogue."""
    return prompt.text if len(prompt.messages) == 1 and prompt.messages[0].role == "user" else list(prompt.messages)


def zip_pairs(
    prompts: Sequence[Prompt], drawn: Sequence[Sequence[Completion]]
) -> tuple[list[Prompt], list[Completion]]:
    """Parallel lists, each prompt repeated once per completion."""
    return (
        [prompt for prompt, row in zip(prompts, drawn, strict=True) for _ in row],
        [completion for row in drawn for completion in row],
    )


def count(outcome: Outcome, reply: Reply) -> None:
    outcome.calls += 1
    outcome.tokens += reply.prompt_tokens + reply.completion_tokens
    outcome.cost_usd += reply.cost_usd


def at_most(count: int | None, limit: int | None) -> int | None:
    """The smaller of the two, where they are known."""
    return limit if count is None else count if limit is None else min(count, limit)


def account(report: Any) -> dict[str, Any]:
    """Rows of a file: how many there were, were kept, and why the others were not."""
    return {"read": report.rows, "kept": report.kept, "skipped": dict(report.reasons)}


class Pair(Stage):
    """Completions of one prompt, two by two → ``comparisons.jsonl``. Equal texts make no comparison."""

    kind: ClassVar[str] = "pair"
    completions: str
    pairs: Literal["neighbours", "all"] = "neighbours"
    """neighbours: 1–2, 3–4, …; all: every two completions of a prompt."""
    limit: int | None = None

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.completions)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = rows.get(self.completions)
        if count is None or self.pairs == "all":
            return Forecast(0)
        return Forecast(0, {"comparisons.jsonl": at_most(count // 2, self.limit) or 0})

    def run(self, job: Job) -> Outcome:
        read = files.read_completions(self.completions)
        grouped: dict[str, tuple[Prompt, list[Completion]]] = {}
        for prompt, completion in zip(read.prompts, read.rows, strict=True):
            grouped.setdefault(prompt.id, (prompt, []))[1].append(completion)
        made: list[Comparison] = []
        same = 0
        for prompt, answers in grouped.values():
            chosen = combinations(answers, 2) if self.pairs == "all" else zip(answers[::2], answers[1::2], strict=False)
            for first, second in chosen:
                same += first.text == second.text
                if first.text != second.text:
                    made.append(Comparison.of(prompt, first, second))
        made = made[: self.limit]
        files.write_records(job.folder / "comparisons.jsonl", made)
        return Outcome({"comparisons": len(made), "equal_texts": same, "rows": account(read.report)})


class Label(Stage):
    """A labeler's preferences → ``preferences.jsonl`` (every judgement) and ``labelled.jsonl`` (loads in TRL)."""

    kind: ClassVar[str] = "label"
    comparisons: str
    judge: resolve.JudgeSpec
    limit: int | None = None
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
        preferences = label_all(resolve.labeler(self.judge, job), read.rows, job, self.batch)
        files.write_records(job.folder / "preferences.jsonl", preferences)
        files.write_labelled(job.folder / "labelled.jsonl", files.labelled(read, preferences))
        figures = label_figures(preferences, read.human)
        figures |= {"judge": resolve.described(self.judge, job), "rows": account(read.report)}
        return Outcome(figures, calls=len(preferences))


def label_all(labeler: Labeler, comparisons: Sequence[Comparison], job: Job, batch: int = 256) -> list[Preference]:
    """Labels in batches, so that progress shows and a stopped run finds its answers in the journal."""
    preferences: list[Preference] = []
    for start in range(0, len(comparisons), batch):
        preferences += labeler.label(comparisons[start : start + batch])
        unreadable = sum(p.p_first is None for p in preferences)
        job.progress(len(preferences), len(comparisons), {"unreadable": unreadable})
    return preferences


def label_figures(preferences: Sequence[Preference], human: Sequence[float | None]) -> dict[str, Any]:
    """What can be said of a set of labels: how many are known, why not, position bias, agreement with people."""
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
    """A judge's expected 1–10 score of each completion → ``scores.jsonl``."""

    kind: ClassVar[str] = "score"
    completions: str
    judge: resolve.JudgeSpec
    limit: int | None = None
    batch: int = Field(default=256, ge=1)

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside(self.completions)
        yield from resolve.outside_judge(self.judge)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.completions), self.limit)
        return Forecast(None if count is None else count * self.judge.calls_per_score)

    def run(self, job: Job) -> Outcome:
        read = files.read_completions(self.completions, limit=self.limit)
        scorer = resolve.scorer(self.judge, job)
        scores: list[Any] = []
        for start in range(0, len(read.rows), self.batch):
            end = start + self.batch
            scores += scorer.score(read.prompts[start:end], read.rows[start:end])
            job.progress(len(scores), len(read.rows), {})
        files.write_records(job.folder / "scores.jsonl", scores)
        known = [s.expected for s in scores if s.expected is not None]
        problems = Counter(str(s.problem) for s in scores if s.problem is not None)
        mean = sum(known) / len(known) if known else None
        figures = {
            "scores": len(known),
            "mean_expected": mean,
            "problems": dict(problems),
            "rows": account(read.report),
        }
        return Outcome(figures, calls=len(scores))


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Sample, Pair, Label, Score)}
