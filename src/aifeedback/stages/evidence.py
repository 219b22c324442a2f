"""Stages that measure: policies against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field, field_validator

from aifeedback import files
from aifeedback.audit.examples import pick_examples
from aifeedback.errors import FileError, RecipeError
from aifeedback.evaluate.estimate import plain
from aifeedback.evaluate.independence import Source, dependence, verify_independence
from aifeedback.records import Comparison, Completion, Preference, Prompt
from aifeedback.stages import resolve
from aifeedback.stages.answers import Answers, answers, file_part, is_file, outside, sampled
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import SamplingSettings, account, at_most, by_order, label_all
from aifeedback.stages.judges import JudgeSpec
from aifeedback.stages.safety import AssessorSpec, described, standings


class Compare(Stage):
    """Policies against a reference and each other on held-out prompts, by one or several judges.

    The reference also meets a second draw of itself: whatever that is away from 50 % is noise. The first judge named
    decides the headline, the ranking and the examples; every judge's preferences stay in the folder.
    """

    kind: ClassVar[str] = "compare"
    policies: dict[str, str] = Field(min_length=1)
    """Name → model, or a file of its answers to these prompts. The reference is one of them."""
    reference: str = "sft"
    prompts: str
    judges: dict[str, resolve.JudgeSpec] = Field(min_length=1)
    """Name → judge, the headline judge first; one whose model is empty is left out."""
    safety: dict[str, AssessorSpec] = Field(default_factory=dict)
    """Name → who says whether an answer does harm, refuses, helps: harmless and over-refusal rates of the same answers."""
    trained_by: list[str] = Field(default_factory=list)
    """Models whose feedback trained any of the policies: evidence from them or their family is no proof."""
    limit: int | None = Field(default=None, ge=1)
    sampling: SamplingSettings = SamplingSettings()
    tidy: bool = True
    """Take trailing periods, spaces and line ends off before judging (Lee et al. 2023), and say how much that was."""

    @field_validator("judges")
    @classmethod
    def _named(cls, judges: dict[str, resolve.JudgeSpec]) -> dict[str, resolve.JudgeSpec]:
        return {name: judge for name, judge in judges.items() if judge.model}

    def inputs(self) -> Iterator[str]:
        for policy in self.policies.values():
            yield from outside(policy)
        yield from resolve.outside(self.prompts)
        for judge in self.judges.values():
            yield from resolve.outside_judge(judge)
        for assessor in self.safety.values():
            yield from assessor.inputs()

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        again = self.reference in self.policies and not is_file(self.policies[self.reference])
        others = len(self.policies) - 1
        judging = (others + again) * sum(judge.calls_per_pair for judge in self.judges.values())
        judging += others * (others - 1) // 2 * next(iter(self.judges.values())).calls_per_pair
        assessing = len(self.policies) * sum(judge.calls for judge in self.safety.values())
        return Forecast(count * (sampled(self.policies) + again + judging + assessing))

    def run(self, job: Job) -> Outcome:
        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is none of the policies", key="reference")
        read = files.load_prompts(self.prompts, limit=self.limit)
        outcome = Outcome()
        answered = self._draw(read.rows, job)
        outcome.calls += sum(given.calls for given in answered.values())
        drawn = {name: given.completions for name, given in answered.items()}
        again = drawn.pop(AGAIN, None)
        self._require_meetings(drawn)
        headline = next(iter(self.judges))
        meetings: dict[str, Meeting] = {}
        said_by: dict[str, list[Preference]] = {judge: [] for judge in self.judges}
        table: dict[str, dict[str, Any]] = {}
        for name, given in drawn.items():
            other = again if name == self.reference else drawn[self.reference]
            by_judge = {} if other is None else {
                judge: Meeting.held(self.judges[judge], judge, name, read.rows, given, other, job) for judge in self.judges
            }  # fmt: skip
            for judge, meeting in by_judge.items():
                said_by[judge] += meeting.said
            if headline in by_judge and name != self.reference:
                meetings[name] = by_judge[headline]
            table[name] = {
                "mean_length": _mean(len(c.text) for c in given if c is not None),
                "mean_words": _mean(len(c.text.split()) for c in given if c is not None),
                "answered": sum(c is not None for c in given),
                "tidied": answered[name].tidied,
                "kl": self._kl(name, read.rows, answered[name].untouched),
                "by_judge": {judge: meeting.figures() for judge, meeting in by_judge.items()},
            }
        head_to_head = {
            (one, other): Meeting.held(
                self.judges[headline], headline, f"{one}_vs_{other}", read.rows, drawn[one], drawn[other], job
            )
            for one, other in combinations([n for n in self.policies if n != self.reference], 2)
        }
        said_by[headline] += [said for meeting in head_to_head.values() for said in meeting.said]
        independence = self._independence(job)
        rounds = {(name, self.reference): meeting for name, meeting in meetings.items()} | head_to_head
        outcome.figures |= {
            "policies": {name: self._headline(row, independence) for name, row in table.items()},
            "head_to_head": {f"{one}_vs_{other}": m.win_rate for (one, other), m in head_to_head.items()},
            "ranking": _ranking(rounds),
            "independence": independence,
            "judges": {name: resolve.described(judge, job) for name, judge in self.judges.items()},
            "examples": [
                example
                for name, m in meetings.items()
                for example in pick_examples(m.pairs, m.said, first=name, second=self.reference, seed=job.seed)
            ],
            "rows": account(read.report),
        }
        if position := _position(said_by):
            outcome.figures["position_by_judge"] = position
        if self.safety:
            outcome.figures["safety"] = standings(drawn, read.rows, self.safety, self.reference, job)
            outcome.figures["assessors"] = {name: described(judge, job) for name, judge in self.safety.items()}
        return outcome

    def _draw(self, prompts: Sequence[Prompt], job: Job) -> dict[str, Answers]:
        """Every policy's answers, and a second draw of the reference unless it is a file."""
        asked = dict(self.policies)
        if not is_file(asked[self.reference]):
            asked[AGAIN] = asked[self.reference]
        drawn: dict[str, Answers] = {}
        # Every draw has random numbers of its own: with shared ones, similar policies would say the same by design.
        for number, (name, policy) in enumerate(asked.items()):
            sampling = self.sampling.at(job.seed * 1_000 + number)
            source = f"{self.reference} again" if name == AGAIN else name
            drawn[name] = answers(source, policy, prompts, job, sampling=sampling, tidy=self.tidy)
        return drawn

    def _require_meetings(self, drawn: Mapping[str, Sequence[Completion | None]]) -> None:
        """Raises FileError, before any judgement, where a file answers no prompt that the reference's file does."""
        for name, given in drawn.items():
            if not (is_file(self.policies[name]) and is_file(self.policies[self.reference])):
                continue
            pairs = zip(given, drawn[self.reference], strict=True)
            if not any(one is not None and other is not None for one, other in pairs):
                raise FileError(
                    f"shares no answered prompt with the reference, {self.policies[self.reference]}",
                    file=self.policies[name],
                    fix="give answers of both to the same prompts",
                )

    def _headline(self, row: Mapping[str, Any], independence: Mapping[str, Any]) -> dict[str, Any]:
        """One policy's line in the summary: the first judge's figures, and the first independent one's beside them."""
        by_judge, first = row["by_judge"], next(iter(self.judges))
        others = [name for name in by_judge if name != first and independence["judges"][name]["independent"]]
        return {
            "win_rate": by_judge[first]["win_rate"] if by_judge else None,
            "length_controlled": by_judge[first]["length_controlled"] if by_judge else None,
            "win_rate_independent": by_judge[others[0]]["win_rate"] if others else None,
            **row,
        }

    def _kl(self, name: str, prompts: Sequence[Prompt], given: Sequence[Completion | None]) -> float | None:
        """Mean log-ratio to the reference on the samples, where both are local folders that share a tokenizer."""
        own, reference = self.policies[name], self.policies[self.reference]
        if not (own.startswith(("hf:", "lab:")) and reference.startswith(("hf:", "lab:"))):
            return None
        if own == reference:
            return 0.0
        from aifeedback.train.divergence import sequence_kl

        pairs = [(p, c) for p, c in zip(prompts, given, strict=True) if c is not None]
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


AGAIN = "\0"
"""Stands for the second draw of the reference; no policy can be called that."""


@dataclass(frozen=True)
class Meeting:
    """Two policies' answers to the same prompts, and what one judge said."""

    pairs: list[Comparison]
    said: list[Preference]

    @classmethod
    def held(
        cls,
        judge: JudgeSpec,
        judge_name: str,
        name: str,
        prompts: Sequence[Prompt],
        ours: Sequence[Completion | None],
        theirs: Sequence[Completion | None],
        job: Job,
    ) -> Meeting:
        """Asks the judge, and leaves pairs and preferences in the folder."""
        pairs = [
            Comparison.of(prompt, one, other)
            for prompt, one, other in zip(prompts, ours, theirs, strict=True)
            if one is not None and other is not None
        ]
        said = label_all(resolve.labeler(judge, job), pairs, job)
        files.write_records(job.folder / f"comparisons-{file_part(name)}.jsonl", pairs)
        files.write_records(job.folder / f"preferences-{file_part(judge_name)}-{file_part(name)}.jsonl", said)
        return cls(pairs, said)

    @cached_property
    def win_rate(self) -> dict[str, Any]:
        """Of the first: a share in [0, 1] of the pairs with a verdict, with its interval; a tie is half a win."""
        from aifeedback.evaluate import win_rate

        return win_rate([p.p_first for p in self.said], hard=True).as_dict()

    def figures(self) -> dict[str, Any]:
        """Win rate of the first, raw and at equal length (characters)."""
        from aifeedback.evaluate import length_controlled_win_rate

        first, second = ([max(1, len(side.text)) for side in sides]
                         for sides in ([c.first for c in self.pairs], [c.second for c in self.pairs]))  # fmt: skip
        hard = [None if p.p_first is None else _hard(p.p_first) for p in self.said]
        return {
            "win_rate": self.win_rate,
            "length_controlled": length_controlled_win_rate(hard, first, second).as_dict(),
            "unknown": _unknown(self.said),
        }


def _ranking(rounds: Mapping[tuple[str, str], Meeting]) -> dict[str, Any]:
    """Bradley–Terry over all meetings, errors by prompt; win rates of every policy against every other, with the
    p-value against 50 % after Holm's correction over all meetings."""
    from aifeedback.evaluate import holm, rank_policies, win_rate

    matrix: dict[str, dict[str, Any]] = {}
    first, second, prompts = [], [], []
    p_first: list[float | None] = []
    for (one, other), meeting in rounds.items():
        known = [p.p_first for p in meeting.said]
        mirrored = [None if p is None else 1 - p for p in known]
        matrix.setdefault(one, {})[other] = dict(meeting.win_rate)
        matrix.setdefault(other, {})[one] = win_rate(mirrored, hard=True).as_dict()
        first += [one] * len(known)
        second += [other] * len(known)
        prompts += [pair.prompt.id for pair in meeting.pairs]
        p_first += known
    if not p_first:
        return {}
    adjusted = holm([matrix[one][other]["p_value"] for one, other in rounds])
    for (one, other), p in zip(rounds, adjusted, strict=True):
        matrix[one][other]["p_adjusted"] = matrix[other][one]["p_adjusted"] = plain(float(p))
    found = rank_policies(first, second, p_first, prompts=prompts)
    told = found.as_dict()
    return {**{key: told[key] for key in ("names", "value", "low", "high", "n", "method", "notes")}, "matrix": matrix}


def _position(said: Mapping[str, Sequence[Preference]]) -> dict[str, Any]:
    """Per judge that read any pair in both orders: how often the same slot won twice."""
    from aifeedback.evaluate import position_bias

    columns = {judge: by_order(preferences) for judge, preferences in said.items()}
    return {
        judge: position_bias(original, swapped).as_dict()
        for judge, (original, swapped) in columns.items()
        if any(p is not None for p in original) and any(p is not None for p in swapped)
    }


def _source(name: str, judge: JudgeSpec | str, job: Job) -> Source:
    family, uri = resolve.who(judge, job)
    return Source(name, uri, family, resolve.revision(judge, job))


def _hard(p: float) -> float:
    return 0.5 if p == 0.5 else float(p > 0.5)


def _mean(values: Iterator[int]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def _unknown(preferences: Sequence[Preference]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for preference in preferences:
        if preference.problem is not None:
            counted[str(preference.problem)] = counted.get(str(preference.problem), 0) + 1
    return counted


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Compare,)}
