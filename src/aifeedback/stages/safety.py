"""The safety evaluation of policies, and the prompts that it needs: harmless, refusing, still helpful."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from aifeedback import files
from aifeedback.config import Config
from aifeedback.errors import RecipeError
from aifeedback.feedback.safety import Assessment, Assessor, JudgeAssessor
from aifeedback.records import Completion, Prompt
from aifeedback.stages import resolve
from aifeedback.stages.answers import answers, file_part, outside, sampled
from aifeedback.stages.base import Forecast, Job, Outcome, Stage
from aifeedback.stages.feedback import SamplingSettings, account, at_most
from aifeedback.stages.judges import require_server

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
    """Address of an OpenAI-compatible server."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _served(self) -> Self:
        require_server(self.model, self.base_url)
        return self

    @property
    def calls(self) -> int:
        """Per response."""
        return 0 if self.model.startswith("gold:") else 2 + bool(self.rating)

    def inputs(self) -> Iterator[str]:
        yield from resolve.outside_model(self.model)
        if self.calls:
            yield from (f"prompt:{p}" for p in (self.harmless, self.refusal, self.rating) if p)


class Safety(Stage):
    """Policies on safe and unsafe prompts → how often each is harmless, refuses, and how much it helps.

    The first judge named decides the headline; every judge's assessments stay in the folder.
    """

    kind: ClassVar[str] = "safety"
    policies: dict[str, str] = Field(min_length=1)
    """Name → model, or a file of its answers; one whose model is empty is left out."""
    reference: str = "sft"
    """What changes are measured against."""
    prompts: str
    """The tag ``label`` (safe, unsafe) says which side a prompt is on, as in XSTest."""
    judges: dict[str, AssessorSpec] = Field(min_length=1)
    """Name → judge, the headline judge first; one whose model is empty is left out."""
    limit: int | None = Field(default=None, ge=1)
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
            yield from outside(name)
        yield from resolve.outside(self.prompts)
        for judge in self.judges.values():
            yield from judge.inputs()

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        assessing = len(self.policies) * sum(judge.calls for judge in self.judges.values())
        return Forecast(count * (sampled(self.policies) + assessing))

    def run(self, job: Job) -> Outcome:
        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is none of the policies", key="reference")
        read = files.load_prompts(self.prompts, limit=self.limit)
        outcome = Outcome()
        drawn: dict[str, list[Completion | None]] = {}
        for number, (name, policy) in enumerate(self.policies.items()):
            sampling = self.sampling.at(job.seed * 1_000 + 500 + number)
            given = answers(name, policy, read.rows, job, sampling=sampling)
            drawn[name] = given.completions
            outcome.calls += given.calls
        outcome.figures |= {
            "safety": standings(drawn, read.rows, self.judges, self.reference, job, examples=self.examples),
            "judges": {name: described(judge, job) for name, judge in self.judges.items()},
            "rows": account(read.report),
        }
        return outcome


def standings(
    drawn: Mapping[str, Sequence[Completion | None]],
    prompts: Sequence[Prompt],
    judges: Mapping[str, AssessorSpec],
    reference: str,
    job: Job,
    *,
    examples: int = 2,
) -> dict[str, Any]:
    """What every judge says of every policy's answers: the figures that a report's part on harm is made of.

    The harmless rate is also read at the reference's mean length (Lee et al. 2023).
    """
    from aifeedback.evaluate import length_controlled_rate
    from aifeedback.evaluate.estimate import plain
    from aifeedback.evaluate.tradeoff import change, standing

    sides = [is_safe(prompt) for prompt in prompts]
    safe = [i for i, side in enumerate(sides) if side is not False]
    assessors = {name: assessor(judge, job) for name, judge in judges.items()}
    lengths = {name: [None if c is None else len(c.text) for c in row] for name, row in drawn.items()}
    usual = fmean([n for n in lengths[reference] if n is not None] or [0]) or 1.0
    found: dict[str, dict[str, list[Assessment | None]]] = {}
    for number, (name, row) in enumerate(drawn.items()):
        found[name] = {judge: _assessed(judge, name, one, prompts, row, job) for judge, one in assessors.items()}
        job.progress(number + 1, len(drawn), {})
    table: dict[str, Any] = {name: {} for name in found}
    for name, by_judge in found.items():
        for judge, rows in by_judge.items():
            harmless = [None if a is None or a.is_harmless is None else float(a.is_harmless) for a in rows]
            responses = [None if a is None else a.response for a in rows]
            stands = standing(harmless, [_helpful(a) for a in rows], responses, sides, judged_by=judge)
            before = found[reference][judge]
            moved = change([_helpful(rows[i]) for i in safe], [_helpful(before[i]) for i in safe])
            at_length = length_controlled_rate(harmless, lengths[name], usual)
            told = {"helpful_change": moved, "harmless_length_controlled": at_length}
            table[name][judge] = {**plain(stands), **plain(told)}
    first = next(iter(judges), None)
    return {
        "policies": table,
        "reference": reference,
        "judge": first,
        "prompts": {"safe": sides.count(True), "unsafe": sides.count(False), "not said": sides.count(None)},
        "examples": _examples(prompts, sides, drawn, found, first, examples),
        "masked": _harmful(found, first),
    }


def _assessed(
    judge: str,
    policy: str,
    asked: Assessor,
    prompts: Sequence[Prompt],
    given: Sequence[Completion | None],
    job: Job,
) -> list[Assessment | None]:
    pairs = [(p, c) for p, c in zip(prompts, given, strict=True) if c is not None]
    told = asked.assess([p for p, _ in pairs], [c for _, c in pairs])
    files.write_rows(
        job.folder / f"assessments-{file_part(judge)}-{file_part(policy)}.jsonl", [a._asdict() for a in told]
    )
    by_id = {a.completion_id: a for a in told}
    return [None if c is None else by_id[c.id] for c in given]


def _examples(
    prompts: Sequence[Prompt],
    sides: Sequence[bool | None],
    drawn: Mapping[str, Sequence[Completion | None]],
    found: Mapping[str, Mapping[str, Sequence[Assessment | None]]],
    judge: str | None,
    most: int,
) -> list[dict[str, Any]]:
    """The first prompts of each kind that every policy answered, with what the headline judge said of each."""
    shown: dict[Any, int] = {}
    rows = []
    for i, prompt in enumerate(prompts):
        kind = dict(prompt.tags or {}).get("kind") or {True: SAFE, False: UNSAFE, None: "prompt"}[sides[i]]
        if shown.get(kind, 0) >= most or judge is None or any(row[i] is None for row in drawn.values()):
            continue
        shown[kind] = shown.get(kind, 0) + 1
        told = [_shown(name, row[i], found[name][judge][i]) for name, row in drawn.items()]
        rows.append({"kind": kind, "prompt": prompt.text, "unsafe": sides[i] is False, "answers": told})
    return rows


def _shown(policy: str, answer: Completion | None, told: Assessment | None) -> dict[str, Any]:
    return {
        "policy": policy,
        "text": answer.text if answer else "",
        "harmful": None if told is None or told.is_harmless is None else not told.is_harmless,
        "response": told.response if told else None,
    }


def _harmful(found: Mapping[str, Mapping[str, Sequence[Assessment | None]]], judge: str | None) -> dict[str, int]:
    """Responses that the headline judge calls harmful, per policy: as many lie in the folder."""
    if judge is None:
        return {}
    return {
        name: sum(a is not None and a.is_harmless is False for a in by_judge[judge]) for name, by_judge in found.items()
    }


def described(judge: AssessorSpec, job: Job) -> dict[str, Any]:
    """Who assessed, by which words."""
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
    limit: int | None = Field(default=None, ge=1)
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
