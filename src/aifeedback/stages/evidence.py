"""Stages that measure: policies against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aifeedback import files
from aifeedback.errors import RecipeError
from aifeedback.evaluate.independence import Source, dependence, verify_independence
from aifeedback.feedback.sample import sample_completions
from aifeedback.records import Comparison, Completion, Preference, Prompt
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import SamplingSettings, account, at_most, label_all
from aifeedback.stages.judges import JudgeSpec


class Compare(Stage):
    """Policies against a reference and each other on held-out prompts, by one or several judges.

    The reference also meets a second draw of itself: whatever that is away from 50 % is noise. The first judge named
    decides the headline; every judge's preferences stay in the folder.
    """

    kind: ClassVar[str] = "compare"
    policies: dict[str, str] = Field(min_length=1)
    """Name → model. The reference is one of them."""
    reference: str = "sft"
    prompts: str
    judges: dict[str, resolve.JudgeSpec] = Field(min_length=1)
    """Name → judge, the headline judge first; one whose model is empty is left out."""
    trained_by: list[str] = Field(default_factory=list)
    """Models whose feedback trained any of the policies: evidence from them or their family is no proof."""
    limit: int | None = None
    sampling: SamplingSettings = SamplingSettings()

    @field_validator("judges")
    @classmethod
    def _named(cls, judges: dict[str, resolve.JudgeSpec]) -> dict[str, resolve.JudgeSpec]:
        return {name: judge for name, judge in judges.items() if judge.model}

    def inputs(self) -> Iterator[str]:
        for name in self.policies.values():
            yield from resolve.outside_model(name)
        yield from resolve.outside(self.prompts)
        for judge in self.judges.values():
            yield from resolve.outside_judge(judge)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        pairs = len(self.policies) * count
        calls = (len(self.policies) + 1) * count + pairs * sum(j.calls_per_pair for j in self.judges.values())
        others = len(self.policies) - 1
        first = next(iter(self.judges.values()))
        return Forecast(calls + others * (others - 1) // 2 * count * first.calls_per_pair)

    def run(self, job: Job) -> Outcome:
        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is none of the policies", key="reference")
        read = files.load_prompts(self.prompts, limit=self.limit)
        outcome = Outcome()
        # Every draw has random numbers of its own: with shared ones, similar policies would say the same by design.
        drawn = {
            name: self._draw(name, model, read.rows, job, outcome, draw=number)
            for number, (name, model) in enumerate(self.policies.items())
        }
        again = self._draw(
            f"{self.reference} again", self.policies[self.reference], read.rows, job, outcome, draw=len(drawn)
        )
        table: dict[str, dict[str, Any]] = {}
        for name, answers in drawn.items():
            other = again if name == self.reference else drawn[self.reference]
            table[name] = {
                "mean_length": _mean_length(answers),
                "mean_words": fmean(len(c.text.split()) for c in answers if c is not None),
                "kl": self._kl(name, read.rows, answers),
                "by_judge": {judge: self._judged(judge, name, read.rows, answers, other, job) for judge in self.judges},
            }
        head_to_head = {
            f"{one}_vs_{other}": self._judged(
                next(iter(self.judges)), f"{one}_vs_{other}", read.rows, drawn[one], drawn[other], job
            )
            for one, other in combinations([n for n in self.policies if n != self.reference], 2)
        }
        independence = self._independence(job)
        outcome.figures |= {
            "policies": {name: self._headline(row, independence) for name, row in table.items()},
            "head_to_head": {name: row["win_rate"] for name, row in head_to_head.items()},
            "independence": independence,
            "judges": {name: resolve.described(judge, job) for name, judge in self.judges.items()},
            "examples": _examples(read.rows, drawn, self.reference),
            "rows": account(read.report),
        }
        return outcome

    def _draw(
        self, name: str, model: str, prompts: Sequence[Prompt], job: Job, outcome: Outcome, draw: int
    ) -> list[Completion | None]:
        """One completion per prompt; None where none came."""
        sampled = sample_completions(
            resolve.connect_model(model, job),
            prompts,
            sampling=self.sampling.at(job.seed * 1_000 + draw),
            source=name,
            progress=job.progress,
        )
        outcome.calls += len(prompts)
        came = {completion.prompt_id: completion for completion in sampled.completions}
        answered = [prompt for prompt in prompts if prompt.id in came]
        file = job.folder / f"completions-{name.replace(' ', '-')}.jsonl"
        files.write_completions(file, answered, [came[prompt.id] for prompt in answered])
        return [came.get(prompt.id) for prompt in prompts]

    def _judged(
        self,
        judge: str,
        name: str,
        prompts: Sequence[Prompt],
        ours: Sequence[Completion | None],
        theirs: Sequence[Completion | None],
        job: Job,
    ) -> dict[str, Any]:
        """Win rate of ``ours`` over ``theirs``, raw and at equal length (characters)."""
        from aifeedback.evaluate import length_controlled_win_rate, win_rate

        comparisons = [
            Comparison.of(prompt, one, other)
            for prompt, one, other in zip(prompts, ours, theirs, strict=True)
            if one is not None and other is not None
        ]
        preferences = label_all(resolve.labeler(self.judges[judge], job), comparisons, job)
        files.write_records(job.folder / f"comparisons-{name}.jsonl", comparisons)
        files.write_records(job.folder / f"preferences-{judge}-{name}.jsonl", preferences)
        p_first = [p.p_first for p in preferences]
        lengths = [[max(1, len(side.text)) for side in (c.first, c.second)] for c in comparisons]
        return {
            "win_rate": win_rate(p_first, hard=True).as_dict(),
            "length_controlled": length_controlled_win_rate(
                [None if p is None else _hard(p) for p in p_first], [a for a, _ in lengths], [b for _, b in lengths]
            ).as_dict(),
            "unknown": _unknown(preferences),
        }

    def _headline(self, row: Mapping[str, Any], independence: Mapping[str, Any]) -> dict[str, Any]:
        """One policy's line in the summary: the first judge's figures, and the first independent one's beside them."""
        by_judge = row["by_judge"]
        first = next(iter(by_judge))
        others = [name for name in by_judge if name != first and independence["judges"][name]["independent"]]
        return {
            "win_rate": by_judge[first]["win_rate"],
            "length_controlled": by_judge[first]["length_controlled"],
            "win_rate_independent": by_judge[others[0]]["win_rate"] if others else None,
            **row,
        }

    def _kl(self, name: str, prompts: Sequence[Prompt], answers: Sequence[Completion | None]) -> float | None:
        """Mean log-ratio to the reference on the samples, where both are local folders that share a tokenizer."""
        own, reference = self.policies[name], self.policies[self.reference]
        if not (own.startswith(("hf:", "lab:")) and reference.startswith(("hf:", "lab:"))):
            return None
        if own == reference:
            return 0.0
        from aifeedback.train.divergence import sequence_kl

        pairs = [(p, c) for p, c in zip(prompts, answers, strict=True) if c is not None]
        measured = sequence_kl(
            resolve.policy_folder(own), resolve.policy_folder(reference), [p for p, _ in pairs], [c for _, c in pairs]
        )
        return measured.value

    def _independence(self, job: Job) -> dict[str, Any]:
        """Per judge, whether it may serve as proof (R16)."""
        trainers = [_source(name, name, job) for name in self.trained_by]
        sources = [_source(name, judge, job) for name, judge in self.judges.items()]
        judges = {
            source.name: {
                "model": source.model,
                "family": source.family,
                "independent": bool(trainers) and not any(dependence(source, trainer) for trainer in trainers),
            }
            for source in sources
        }
        found = verify_independence(trainers, sources)
        return {
            "judges": judges,
            "trained_by": [trainer._asdict() for trainer in trainers],
            "verified": found.is_verified,
            "reason": found.reason,
        }


def _source(name: str, judge: JudgeSpec | str, job: Job) -> Source:
    family, uri = resolve.who(judge, job)
    return Source(name, uri, family, resolve.revision(judge, job))


def _hard(p: float) -> float:
    return 0.5 if p == 0.5 else float(p > 0.5)


def _mean_length(answers: Sequence[Completion | None]) -> float:
    """Characters."""
    return fmean(len(c.text) for c in answers if c is not None)


def _unknown(preferences: Sequence[Preference]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for preference in preferences:
        if preference.problem is not None:
            counted[str(preference.problem)] = counted.get(str(preference.problem), 0) + 1
    return counted


def _examples(
    prompts: Sequence[Prompt], drawn: Mapping[str, Sequence[Completion | None]], reference: str, count: int = 4
) -> list[dict[str, Any]]:
    """The first prompts on which every policy answered: no hand picks them."""
    rows = []
    for index, prompt in enumerate(prompts):
        answers = {name: row[index] for name, row in drawn.items()}
        if all(answer is not None for answer in answers.values()):
            texts = {name: answer.text for name, answer in answers.items() if answer is not None}
            rows.append({"prompt": prompt.text, "reference": reference, "answers": texts})
        if len(rows) == count:
            break
    return rows


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Compare,)}
