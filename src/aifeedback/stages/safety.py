"""The safety evaluation of policies, and the prompts that it needs: harmless, refusing, still helpful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from aifeedback import files
from aifeedback.config import Config
from aifeedback.errors import RecipeError
from aifeedback.feedback.safety import Assessment, Assessor, JudgeAssessor
from aifeedback.feedback.sample import sample_completions
from aifeedback.records import Completion, Prompt
from aifeedback.stages import resolve
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import SamplingSettings, account, at_most

SAFE, UNSAFE = "safe", "unsafe"
"""Values of a prompt's tag ``label``, as XSTest has them."""


class AssessorSpec(Config):
    """Who says whether a response does harm, refuses, helps. A bare name stands for the defaults."""

    model: str
    """A model, or the lab's oracle (gold:talk)."""
    harmless: str = "harmless"
    refusal: str = "refusal"
    rating: str | None = "rating"
    """Judge prompts; without one for rating, helpfulness is not measured by this judge."""
    base_url: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @property
    def calls(self) -> int:
        """Per response."""
        return 0 if self.model.startswith("gold:") else 2 + bool(self.rating)


class Safety(Stage):
    """Policies on safe and unsafe prompts → how often each is harmless, refuses, and how much it helps.

    The first judge named decides the headline; every judge's assessments stay in the folder.
    """

    kind: ClassVar[str] = "safety"
    policies: dict[str, str] = Field(min_length=1)
    """Name → model; one whose model is empty is left out."""
    reference: str = "sft"
    """What changes are measured against."""
    prompts: str
    """The tag ``label`` (safe, unsafe) says which side a prompt is on, as in XSTest."""
    judges: dict[str, AssessorSpec] = Field(min_length=1)
    """Name → judge, the headline judge first; one whose model is empty is left out."""
    limit: int | None = None
    sampling: SamplingSettings = SamplingSettings()
    examples: int = Field(default=2, ge=0)
    """Shown per kind of prompt, the first in the file."""

    @field_validator("judges")
    @classmethod
    def _named(cls, judges: dict[str, AssessorSpec]) -> dict[str, AssessorSpec]:
        return {name: judge for name, judge in judges.items() if judge.model}

    @field_validator("policies")
    @classmethod
    def _given(cls, policies: dict[str, str]) -> dict[str, str]:
        return {name: model for name, model in policies.items() if model}

    def inputs(self) -> Iterator[str]:
        for name in self.policies.values():
            yield from resolve.outside_model(name)
        yield from resolve.outside(self.prompts)
        for judge in self.judges.values():
            yield from resolve.outside_model(judge.model)
            if judge.calls:
                yield from (f"prompt:{p}" for p in (judge.harmless, judge.refusal, judge.rating) if p)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(len(self.policies) * count * (1 + sum(judge.calls for judge in self.judges.values())))

    def run(self, job: Job) -> Outcome:
        from aifeedback.evaluate.estimate import plain
        from aifeedback.evaluate.tradeoff import change, standing

        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is none of the policies", key="reference")
        read = files.load_prompts(self.prompts, limit=self.limit)
        sides = [is_safe(prompt) for prompt in read.rows]
        assessors = {name: assessor(judge, job) for name, judge in self.judges.items()}
        outcome = Outcome()
        drawn: dict[str, list[Completion | None]] = {}
        found: dict[str, dict[str, list[Assessment | None]]] = {}
        for number, (name, model) in enumerate(self.policies.items()):
            drawn[name] = self._draw(name, model, read.rows, job, draw=number)
            outcome.calls += len(read.rows)
            found[name] = {
                judge: self._assessed(judge, name, one, read.rows, drawn[name], job) for judge, one in assessors.items()
            }
            job.progress(number + 1, len(self.policies), {})
        table: dict[str, Any] = {}
        for name, by_judge in found.items():
            table[name] = {}
            for judge, rows in by_judge.items():
                stands = standing(
                    [None if a is None or a.is_harmless is None else float(a.is_harmless) for a in rows],
                    [None if a is None else a.helpful for a in rows],
                    [None if a is None else a.response for a in rows],
                    sides,
                    judged_by=judge,
                )
                before = found[self.reference][judge]
                safe = [i for i, side in enumerate(sides) if side is not False]
                moved = change([_helpful(rows[i]) for i in safe], [_helpful(before[i]) for i in safe])
                table[name][judge] = {**plain(stands), "helpful_change": plain(moved)}
        first = next(iter(self.judges), None)
        outcome.figures |= {
            "safety": {
                "policies": table,
                "reference": self.reference,
                "judge": first,
                "prompts": {
                    "safe": sum(side is True for side in sides),
                    "unsafe": sum(side is False for side in sides),
                    "not said": sum(side is None for side in sides),
                },
                "examples": self._examples(read.rows, sides, drawn, found, first),
                "masked": self._harmful(found, first),
            },
            "judges": {name: self._described(judge, job) for name, judge in self.judges.items()},
            "rows": account(read.report),
        }
        return outcome

    def _draw(
        self, name: str, model: str, prompts: Sequence[Prompt], job: Job, *, draw: int
    ) -> list[Completion | None]:
        """One completion per prompt; None where none came."""
        sampled = sample_completions(
            resolve.connect_model(model, job),
            prompts,
            sampling=self.sampling.at(job.seed * 1_000 + 500 + draw),
            source=name,
            progress=job.progress,
        )
        came = {completion.prompt_id: completion for completion in sampled.completions}
        files.write_records(job.folder / f"completions-{name}.jsonl", sampled.completions)
        return [came.get(prompt.id) for prompt in prompts]

    def _assessed(
        self,
        judge: str,
        policy: str,
        asked: Assessor,
        prompts: Sequence[Prompt],
        answers: Sequence[Completion | None],
        job: Job,
    ) -> list[Assessment | None]:
        pairs = [(p, c) for p, c in zip(prompts, answers, strict=True) if c is not None]
        told = asked.assess([p for p, _ in pairs], [c for _, c in pairs])
        files.write_rows(job.folder / f"assessments-{judge}-{policy}.jsonl", [a._asdict() for a in told])
        by_id = {a.completion_id: a for a in told}
        return [None if c is None else by_id[c.id] for c in answers]

    def _examples(
        self,
        prompts: Sequence[Prompt],
        sides: Sequence[bool | None],
        drawn: Mapping[str, Sequence[Completion | None]],
        found: Mapping[str, Mapping[str, Sequence[Assessment | None]]],
        judge: str | None,
    ) -> list[dict[str, Any]]:
        """The first prompts of each kind that every policy answered, with what the headline judge said of each."""
        shown: dict[Any, int] = {}
        rows = []
        for i, prompt in enumerate(prompts):
            kind = dict(prompt.tags or {}).get("kind") or {True: SAFE, False: UNSAFE, None: "prompt"}[sides[i]]
            if shown.get(kind, 0) >= self.examples or judge is None or any(row[i] is None for row in drawn.values()):
                continue
            shown[kind] = shown.get(kind, 0) + 1
            answers = []
            for name, row in drawn.items():
                answer, told = row[i], found[name][judge][i]
                if answer is not None:
                    is_harmful = None if told is None or told.is_harmless is None else not told.is_harmless
                    answers.append(
                        {
                            "policy": name,
                            "text": answer.text,
                            "harmful": is_harmful,
                            "response": told.response if told else None,
                        }
                    )
            rows.append({"kind": kind, "prompt": prompt.text, "unsafe": sides[i] is False, "answers": answers})
        return rows

    def _harmful(
        self, found: Mapping[str, Mapping[str, Sequence[Assessment | None]]], judge: str | None
    ) -> dict[str, int]:
        """Responses that the headline judge calls harmful, per policy: as many lie in the folder."""
        if judge is None:
            return {}
        return {
            name: sum(a is not None and a.is_harmless is False for a in by_judge[judge])
            for name, by_judge in found.items()
        }

    def _described(self, judge: AssessorSpec, job: Job) -> dict[str, Any]:
        spec = resolve.JudgeSpec(model=judge.model, prompt=judge.harmless, base_url=judge.base_url)
        return resolve.described(spec, job)


def is_safe(prompt: Prompt) -> bool | None:
    """From the tag ``label``; None where it says neither."""
    return {SAFE: True, UNSAFE: False}.get(dict(prompt.tags or {}).get("label", ""))


def assessor(judge: AssessorSpec, job: Job) -> Assessor:
    """The lab's oracle, or a model with its three prompts."""
    if judge.model.startswith("gold:"):
        from aifeedback.lab.oracles import oracle

        return oracle(judge.model.partition(":")[2])
    return JudgeAssessor(
        resolve.connect_model(judge.model, job, base_url=judge.base_url),
        harmless=resolve.judge_prompt(judge.harmless),
        refusal=resolve.judge_prompt(judge.refusal),
        rating=resolve.judge_prompt(judge.rating) if judge.rating else None,
    )


def _helpful(found: Assessment | None) -> float | None:
    return None if found is None else found.helpful


class Dialogues(Stage):
    """Prompts for Constitutional AI → ``train.jsonl``, ``test.jsonl``: a file split by seed, or the lab's own.

    The lab also leaves ``sft.jsonl`` (answers of every manner, the harmful among them), ``helpful.jsonl`` (people's
    helpful answers) and ``heldout.jsonl`` (pairs with a gold preference, for measuring alone).
    """

    kind: ClassVar[str] = "dialogues"
    prompts: str
    """A prompt file, or lab:talk."""
    test: int = Field(default=400, ge=1)
    """Prompts held out for evaluation; at most half of a file."""
    limit: int | None = None
    columns: dict[str, str] | None = None
    train: int = Field(default=1200, ge=1)
    """The lab: prompts to train on; this and what follows."""
    sft: int = Field(default=2000, ge=1)
    helpful: int = Field(default=1200, ge=1)
    heldout: int = Field(default=500, ge=1)

    def inputs(self) -> Iterator[str]:
        if not self.prompts.startswith("lab:"):
            yield from resolve.outside(self.prompts)

    def problems(self) -> Iterator[str]:
        if self.prompts.startswith("lab:") and self.prompts != "lab:talk":
            yield f"{self.prompts}: the lab's dialogue prompts are called lab:talk"

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        if self.prompts.startswith("lab:"):
            names = ("train", "test", "sft", "helpful", "heldout")
            return Forecast(0, {f"{name}.jsonl": getattr(self, name) for name in names})
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(0)
        test = min(self.test, count // 2)
        return Forecast(0, {"train.jsonl": count - test, "test.jsonl": test})

    def run(self, job: Job) -> Outcome:
        from aifeedback.stages.data import Split

        if not self.prompts.startswith("lab:"):
            return Split(prompts=self.prompts, test=self.test, limit=self.limit, columns=self.columns).run(job)
        from aifeedback.lab.talk import samples
        from aifeedback.lab.talk.gold import TalkGold

        seed = job.seed
        files.write_records(job.folder / "train.jsonl", samples.prompts(self.train, split="train", seed=seed))
        files.write_records(job.folder / "test.jsonl", samples.prompts(self.test, split="test", seed=seed))
        shown = samples.demonstrations(self.sft, split="train", seed=seed)
        files.write_completions(job.folder / "sft.jsonl", [d.prompt for d in shown], [d.completion for d in shown])
        helpful = samples.helpful_demonstrations(self.helpful, split="train", seed=seed)
        files.write_completions(
            job.folder / "helpful.jsonl", [d.prompt for d in helpful], [d.completion for d in helpful]
        )
        pairs = samples.comparisons(self.heldout, split="test", seed=seed)
        truth = [p.p_first for p in TalkGold().label(pairs)]
        files.write_labelled(job.folder / "heldout.jsonl", _as_if_people(pairs, truth))
        return Outcome({name: getattr(self, name) for name in ("train", "test", "sft", "helpful", "heldout")})


def _as_if_people(pairs: Sequence[Any], truth: Sequence[float | None]) -> list[files.LabelledRow]:
    """Gold verdicts in the column where a file would hold people's."""
    return [
        files.LabelledRow(comparison=c, p_first=p, human_p_first=p, judge="gold")
        for c, p in zip(pairs, truth, strict=True)
    ]


STAGES: dict[str, type[Stage]] = {stage.kind: stage for stage in (Safety, Dialogues)}
