"""``safety``: how often policies are harmless, refuse, and still help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from aifeedback import data
from aifeedback.errors import RecipeError
from aifeedback.judging.safety import Assessment, Assessor, JudgeAssessor
from aifeedback.judging.spec import JudgeSpec, Served
from aifeedback.refs import JudgeRef, PolicyRef, PromptRef, Ref, file_part
from aifeedback.steps import connect, evidence
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.evidence import Independence
from aifeedback.steps.policies import responses, sampled
from aifeedback.steps.sample import BRIEFLY, SamplingSettings
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step, at_most
from aifeedback.types import Completion, Prompt

SAFE, UNSAFE = "safe", "unsafe"
"""Values of a prompt's tag ``label``, as XSTest has them."""


class AssessorSpec(Served):
    """Who says whether a response does harm, refuses, helps. A bare name stands for the defaults."""

    model: JudgeRef
    """A model, or the lab's oracle (gold:talk)."""
    harmless: PromptRef = PromptRef("harmless")
    """Judge prompt for harm."""
    refusal: PromptRef = PromptRef("refusal")
    """Judge prompt for refusal."""
    rating: PromptRef | None = PromptRef("rating")
    """Judge prompt for helpfulness; null: helpfulness is not measured by this judge."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _served(self) -> Self:
        self.require_server([self.model])
        return self

    @property
    def calls(self) -> int:
        """Per response."""
        return 0 if self.model.scheme == "gold" else 2 + bool(self.rating)

    def refs(self) -> Iterator[Ref]:
        if not self.model:
            return
        yield self.model
        if self.calls:
            yield from (ref for ref in (self.harmless, self.refusal, self.rating) if ref)


class SafetyStandings(Figures):
    """What every judge says of every policy's responses."""

    policies: dict[str, dict[str, dict[str, Any]]]
    """Policy → judge → its standing (``metrics.safety``)."""
    reference: str
    judge: str | None
    """The headline judge."""
    prompts: dict[str, int]
    examples: list[dict[str, Any]]
    masked: dict[str, int]
    """Responses that the headline judge calls harmful, per policy."""


class SafetyFigures(Figures):
    safety: SafetyStandings
    independence: Independence | None = None
    judges: dict[str, JudgeCard]
    rows: Rows


class Safety(Step):
    """Measure how often policies are harmless, refuse and help on safe and unsafe prompts.

    The first judge named decides the headline; every judge's assessments stay in the folder.
    """

    kind: ClassVar[str] = "safety"
    Figures = SafetyFigures
    policies: dict[str, PolicyRef] = Field(min_length=1)
    """Name → model, or a file of its responses; one whose model is empty is left out."""
    reference: str = "sft"
    """What changes are measured against."""
    prompts: Ref
    """The tag ``label`` (safe, unsafe) gives the side of a prompt, as in XSTest."""
    judges: dict[str, AssessorSpec] = Field(min_length=1)
    """Name → judge, the headline judge first; one whose model is empty is left out."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    sampling: Annotated[SamplingSettings, BRIEFLY] = SamplingSettings()
    """How responses are drawn."""
    examples: int = Field(default=2, ge=0)
    """Examples to show per kind of prompt, the first in the file."""

    @field_validator("judges")
    @classmethod
    def _named(cls, judges: dict[str, AssessorSpec]) -> dict[str, AssessorSpec]:
        return {name: judge for name, judge in judges.items() if judge.model}

    @field_validator("policies")
    @classmethod
    def _nonempty(cls, policies: dict[str, PolicyRef]) -> dict[str, PolicyRef]:
        return {name: model for name, model in policies.items() if model}

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None:
            return Forecast(None)
        assessing = len(self.policies) * sum(judge.calls for judge in self.judges.values())
        return Forecast(count * (sampled(self.policies.values()) + assessing))

    def run(self, context: Context) -> SafetyFigures:
        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is not one of the policies", key="reference")
        read = data.load_prompts(self.prompts, limit=self.limit)
        by_policy = evidence.origins(self.policies, self.reference)
        held = evidence.held_out(read.rows, by_policy)
        cards = {name: assessor_card(judge, context) for name, judge in self.judges.items()}
        drawn: dict[str, list[Completion | None]] = {}
        for number, (name, policy) in enumerate(self.policies.items()):
            sampling = self.sampling.at(context.seed * 1_000 + 500 + number)
            drawn[name] = responses(name, policy, held.rows, context, sampling=sampling).completions
        return SafetyFigures(
            safety=standings(drawn, held.rows, self.judges, self.reference, context, examples=self.examples),
            independence=evidence.independence(
                policies=self.policies,
                by_policy=by_policy,
                declared=[],
                judges={},
                assessors=cards,
                trained_on=held.trained_on,
                agreement={},
            ),
            judges=cards,
            rows=Rows.of(read.report),
        )


def standings(
    drawn: Mapping[str, Sequence[Completion | None]],
    prompts: Sequence[Prompt],
    judges: Mapping[str, AssessorSpec],
    reference: str,
    context: Context,
    *,
    examples: int = 2,
) -> SafetyStandings:
    """What every judge says of every policy's responses: the figures that a report's part on harm is made of.

    The harmless rate is also read at the reference's mean length (Lee et al. 2023).
    """
    from aifeedback.metrics import length_controlled_rate
    from aifeedback.metrics.intervals import plain, shared_prompts
    from aifeedback.metrics.safety import change, standing

    sides = [is_safe(prompt) for prompt in prompts]
    by_prompt = shared_prompts([prompt.id for prompt in prompts])
    safe = [i for i, side in enumerate(sides) if side is not False]
    assessors = {name: assessor(judge, context) for name, judge in judges.items()}
    lengths = {name: [None if c is None else len(c.text) for c in row] for name, row in drawn.items()}
    usual = fmean([n for n in lengths[reference] if n is not None] or [0]) or 1.0
    assessments: dict[str, dict[str, list[Assessment | None]]] = {}
    for number, (name, row) in enumerate(drawn.items()):
        assessments[name] = {
            judge: _assessed(judge, name, one, prompts, row, context) for judge, one in assessors.items()
        }
        context.progress(number + 1, len(drawn), {})
    table: dict[str, Any] = {name: {} for name in assessments}
    for name, by_judge in assessments.items():
        for judge, rows in by_judge.items():
            harmless = [None if a is None or a.is_harmless is None else float(a.is_harmless) for a in rows]
            kinds = [None if a is None else a.response for a in rows]
            stands = standing(harmless, [_helpful(a) for a in rows], kinds, sides, judged_by=judge, prompts=by_prompt)
            before = assessments[reference][judge]
            moved = change([_helpful(rows[i]) for i in safe], [_helpful(before[i]) for i in safe])
            at_length = length_controlled_rate(harmless, lengths[name], usual)
            extra = {"helpful_change": moved, "harmless_length_controlled": at_length}
            table[name][judge] = {**plain(stands), **plain(extra)}
    first = next(iter(judges), None)
    return SafetyStandings(
        policies=table,
        reference=reference,
        judge=first,
        prompts={"safe": sides.count(True), "unsafe": sides.count(False), "not said": sides.count(None)},
        examples=_examples(prompts, sides, drawn, assessments, first, examples),
        masked=_harmful(assessments, first),
    )


def _assessed(
    judge: str,
    policy: str,
    model: Assessor,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion | None],
    context: Context,
) -> list[Assessment | None]:
    pairs = [(p, c) for p, c in zip(prompts, completions, strict=True) if c is not None]
    assessments = model.assess([p for p, _ in pairs], [c for _, c in pairs])
    data.write_rows(
        context.folder / f"assessments-{file_part(judge)}-{file_part(policy)}.jsonl", [a._asdict() for a in assessments]
    )
    by_id = {a.completion_id: a for a in assessments}
    return [None if c is None else by_id[c.id] for c in completions]


def _examples(
    prompts: Sequence[Prompt],
    sides: Sequence[bool | None],
    drawn: Mapping[str, Sequence[Completion | None]],
    assessments: Mapping[str, Mapping[str, Sequence[Assessment | None]]],
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
        answers = [_shown(name, row[i], assessments[name][judge][i]) for name, row in drawn.items()]
        rows.append({"kind": kind, "prompt": prompt.text, "unsafe": sides[i] is False, "answers": answers})
    return rows


def _shown(policy: str, answer: Completion | None, assessment: Assessment | None) -> dict[str, Any]:
    return {
        "policy": policy,
        "text": answer.text if answer else "",
        "harmful": None if assessment is None or assessment.is_harmless is None else not assessment.is_harmless,
        "response": assessment.response if assessment else None,
    }


def _harmful(assessments: Mapping[str, Mapping[str, Sequence[Assessment | None]]], judge: str | None) -> dict[str, int]:
    """Responses that the headline judge calls harmful, per policy: as many lie in the folder."""
    if judge is None:
        return {}
    return {
        name: sum(a is not None and a.is_harmless is False for a in by_judge[judge])
        for name, by_judge in assessments.items()
    }


def assessor_card(judge: AssessorSpec, context: Context) -> JudgeCard:
    """Who assessed, by which words."""
    server = {name: getattr(judge, name) for name in Served.model_fields}
    return connect.judge_card(JudgeSpec(model=judge.model, prompt=judge.harmless, **server), context)


def is_safe(prompt: Prompt) -> bool | None:
    """From the tag ``label``; None where it says neither."""
    return {SAFE: True, UNSAFE: False}.get(dict(prompt.tags or {}).get("label", ""))


def assessor(judge: AssessorSpec, context: Context) -> Assessor:
    """The lab's oracle, or a model with its three prompts."""
    if judge.model.scheme == "gold":
        from aifeedback.lab.oracles import oracle

        return oracle(judge.model.name)
    return JudgeAssessor(
        context.connect(judge.model, judge.server_options),
        harmless=judge.harmless.load(),
        refusal=judge.refusal.load(),
        rating=judge.rating.load() if judge.rating else None,
    )


def _helpful(assessment: Assessment | None) -> float | None:
    return None if assessment is None else assessment.helpful
