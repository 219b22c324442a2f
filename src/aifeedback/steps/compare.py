"""``compare``: policies against a reference and each other on held-out prompts, by one or several judges."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.errors import FileError, RecipeError
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec, Served, one_judge
from aifeedback.metrics.intervals import plain
from aifeedback.metrics.length import LengthForm
from aifeedback.metrics.win_rates import answered
from aifeedback.models.journal.journal import Spent
from aifeedback.models.lineage import Origin
from aifeedback.models.pending import each_before_pending
from aifeedback.refs import JudgeRef, ModelRef, PolicyRef, Ref
from aifeedback.reports.examples import pick_examples
from aifeedback.steps import by_people, connect, evidence
from aifeedback.steps.by_people import ByPeople
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.evidence import Independence
from aifeedback.steps.label import by_order
from aifeedback.steps.match import ByJudge, Match
from aifeedback.steps.policies import Responses, responses, sampled
from aifeedback.steps.safety import AssessorSpec, SafetyStandings, assessor_card, standings
from aifeedback.steps.sample import BRIEFLY, SamplingSettings
from aifeedback.steps.slicing import Tags, require_tags
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step, at_most
from aifeedback.steps.verdict import Verdict
from aifeedback.types import Completion, Preference, Prompt

AGAIN = "\0"
"""Stands for the second draw of the reference; no policy can be called that."""


class PolicyFigures(Figures):
    """One policy: the first judge's figures, and the first independent one's beside them."""

    win_rate: Measured | None = None
    length_controlled: Measured | None = None
    win_rate_independent: Measured | None = None
    mean_length: float | None = None
    """Characters per response."""
    mean_words: float | None = None
    answered: int
    left_out: int = 0
    """Prompts without a response of this policy or of the reference."""
    tidied: dict[str, Any]
    kl: float | None = None
    """Mean log-ratio to the reference, nats per response."""
    by_judge: dict[str, ByJudge]


class SliceFigures(Figures):
    """Win rates of one policy against the reference by tags of the prompts (``metrics.slices.Cell``)."""

    dimensions: list[str]
    rows: int
    """Fewest prompts of a slice that is tested."""
    cells: dict[str, list[dict[str, Any]]]
    """Policy → slices, and the combinations of tags where there are several dimensions."""


class Ranking(Figures):
    """Bradley–Terry log-odds over all pairs of policies, and every policy's win rate against every other."""

    names: list[str]
    value: list[float | None]
    low: list[float | None]
    high: list[float | None]
    n: int
    method: str
    notes: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    """Per name: ranked, above or below the ranked ones (unbeaten, winless), or apart."""
    order: tuple[str, ...] = ()
    matrix: dict[str, dict[str, Measured]]


class CompareFigures(Figures):
    reference: str
    policies: dict[str, PolicyFigures]
    head_to_head: dict[str, Measured]
    head_to_head_length_controlled: dict[str, Measured] = Field(default_factory=dict)
    ranking: Ranking | None = None
    independence: Independence
    judges: dict[str, JudgeCard]
    examples: list[dict[str, Any]]
    position_by_judge: dict[str, Measured] | None = None
    slices: SliceFigures | None = None
    safety: SafetyStandings | None = None
    assessors: dict[str, JudgeCard] | None = None
    people: ByPeople | None = None
    """Win rates by people beside the judge's, where ratings are among the judges (people:DIR)."""
    rows: Rows

    def summary(self) -> dict[str, Any]:
        """As the report takes them."""
        figures = self.as_json()
        shared = {key: figures[key] for key in ("reference", "policies", "head_to_head")}
        return {**shared, "stages": {"compare": {"kind": "compare", "figures": figures}}}

    def verdict(self) -> Verdict | None:
        """The report's finding: win rates raw and length-controlled, independent evaluators and harm, weighed."""
        from aifeedback.reports import wording
        from aifeedback.reports.run_results import display, gather

        story = gather(self.summary())
        verdicts = [verdict for policy in story.contenders if (verdict := wording.verdict(policy, story))]
        if not verdicts:
            return None
        levels = {verdict.level for verdict in verdicts}
        kinds = [kind for verdict in verdicts for kind, _ in verdict.objections]
        action = next((advice for kind, advice in ADVICE.items() if kind in kinds), "")
        if not action and levels == {""}:
            action = "More prompts narrow the intervals: `aifeedback plan` says how many."
        level = "bad" if "bad" in levels else "ok" if levels == {"good"} else "watch"
        names = {display(name): name for name in self.policies}
        return Verdict(level, wording.renamed(wording.headline(story), names), action)


ADVICE = {
    "harm": "Read the harmful responses in the report before anybody uses this policy.",
    "unverified": "Add a judge of another family (--judge), or have people rate a sample (aifeedback rate).",
    "evaluator": "Have people rate a sample before relying on it: aifeedback rate.",
    "length": "Report the length-controlled win rate.",
    "no length": "Compare on prompts with responses of similar length, or have people rate a sample.",
}
"""What to do about an objection to the finding, the gravest first."""


class Compare(Served, Step):
    """Compare policies on held-out prompts: win rates raw and length-controlled, a ranking, harm; writes a report.

    The reference also meets a second draw of itself: whatever that is away from 50 % is noise. The first judge named
    decides the headline, the ranking and the examples; every judge's preferences stay in the folder.
    """

    kind: ClassVar[str] = "compare"
    Figures = CompareFigures
    policies: Annotated[dict[str, PolicyRef], Cli(is_argument=True, is_repeated=True, metavar="NAME=POLICY")] = Field(
        min_length=1
    )
    """Two or more policies, each NAME=hf:DIR or NAME=FILE of responses; the first is the reference. In a recipe, one that
    is empty is left out."""
    reference: Annotated[str, Cli(is_hidden=True)] = "sft"
    """Which of the policies is the reference."""
    prompts: Annotated[Ref, Cli(("--prompts", "--data"), metavar="FILE")]
    """Held-out prompts."""
    judges: Annotated[
        dict[str, Judging],
        Cli(flatten=(JudgeSpec,), only=("model", "prompt", "rationale", "constitution", "rubric", "shots")),
    ] = Field(min_length=1)
    """Name → judge or panel, the headline judge first; one whose model is empty is left out."""
    safety: Annotated[dict[str, AssessorSpec], Cli(is_repeated=True, metavar="MODEL")] = Field(default_factory=dict)
    """Model that assesses whether responses do harm, refuse, help; or gold:talk. Repeat for several."""
    trained_by: Annotated[list[ModelRef], Cli(is_repeated=True, metavar="MODEL")] = Field(default_factory=list)
    """Models whose feedback trained a policy, beyond those that its folder records: never independent evaluators."""
    audited: Annotated[list[Ref], Cli(is_repeated=True, metavar="DIR")] = Field(default_factory=list)
    """Audit of a judge (its folder): its agreement with people is shown beside it. Repeat for several."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many prompts."""
    sampling: Annotated[SamplingSettings, BRIEFLY] = SamplingSettings()
    """How responses are drawn."""
    by: Annotated[Tags, Cli(is_repeated=True, metavar="tag:NAME")] = Field(default_factory=list)
    """Win rates by a tag of the prompts, too: tag:language. Repeat for combinations. ratings: as --by of label."""
    slice_rows: int = Field(default=30, ge=2)
    """Fewest prompts of a slice that is tested; smaller ones are shown in grey."""
    length_control: LengthForm = "ratio"
    """How length is controlled for (docs/metrics.md); ratio is the published form."""
    tidy: bool = True
    """Remove trailing periods, spaces and line ends before judging (Lee et al. 2023), and report how many."""

    @field_validator("policies")
    @classmethod
    def _nonempty(cls, policies: dict[str, PolicyRef]) -> dict[str, PolicyRef]:
        return {name: policy for name, policy in policies.items() if policy}

    @field_validator("judges")
    @classmethod
    def _named(cls, judges: dict[str, Judging]) -> dict[str, Judging]:
        return {name: judge for name, judge in judges.items() if isinstance(judge, PanelSpec) or judge.model}

    @field_validator("trained_by")
    @classmethod
    def _are_models(cls, names: list[ModelRef]) -> list[ModelRef]:
        return [JudgeRef(name) for name in names if name]

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Compare:
        settings = dict(settings)
        policies = dict(_named_policy(text) for text in settings.get("policies") or [])
        if len(policies) < len(settings.get("policies") or []):
            raise RecipeError(
                "two policies have the same name", key="POLICIES", fix="name them: one=hf:DIR other=hf:DIR"
            )
        if len(policies) < 2:
            raise RecipeError("a comparison needs two policies", key="POLICIES", fix="give NAME=hf:DIR twice or more")
        served = {name: settings[name] for name in Served.model_fields if name in settings}
        assessors = settings.get("safety") or []
        judges = settings.pop("judges", {})
        ways = [name for name in settings.get("by") or [] if name in ("pairs", "ratings")]
        settings["by"] = [name for name in settings.get("by") or [] if name not in ways]
        if ways:  # a setting of the judges, as in label; a tag of this name is written tag:ratings
            judges = {**judges, "by": ways[-1]}
        among = [*judges.get("model", []), *assessors, *map(str, policies.values())]
        settings["judges"] = judges_from_options(judges, served, among)
        settings["safety"] = {model: one_judge(model, None, served, among) for model in assessors}
        for assessor in settings["safety"].values():
            assessor.pop("prompt", None)
        for name in served if not any(PolicyRef(policy).is_served for policy in policies.values()) else ():
            settings.pop(name)
        return super().from_options({**settings, "policies": policies, "reference": next(iter(policies))}, chosen)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.prompts), self.limit)
        if count is None or not self.judges:
            return Forecast(None)
        again = self.reference in self.policies and not self.policies[self.reference].is_file
        others = len(self.policies) - 1
        judging = (others + again) * sum(judge.calls_per_pair for judge in self.judges.values())
        judging += others * (others - 1) // 2 * next(iter(self.judges.values())).calls_per_pair
        assessing = len(self.policies) * sum(judge.calls for judge in self.safety.values())
        return Forecast(count * (sampled(self.policies.values()) + again + judging + assessing))

    def run(self, context: Context) -> CompareFigures:
        if self.reference not in self.policies:
            raise RecipeError(f"reference '{self.reference}' is not one of the policies", key="reference")
        read = data.load_prompts(self.prompts, limit=self.limit)
        by_policy = evidence.origins(self.policies, self.reference)
        held = evidence.held_out(read.rows, by_policy)
        require_tags(self.by, held.rows, self.prompts)
        drawn = self._draw(held.rows, context)
        self._require_matches({name: sample.completions for name, sample in drawn.items() if name != AGAIN})
        independence = self.independence(by_policy, held, context)
        return self.measured(drawn, held.rows, independence, Rows.of(read.report), context)

    def measured(
        self,
        drawn: Mapping[str, Responses],
        prompts: Sequence[Prompt],
        independence: Independence,
        rows: Rows,
        context: Context,
    ) -> CompareFigures:
        """Judge the responses to ``prompts``; those of ``AGAIN`` are a second draw of the reference."""
        completions = {name: own.completions for name, own in drawn.items()}
        again = completions.pop(AGAIN, None)
        headline = next(iter(self.judges))
        kept = answered(completions, self.reference)
        labelers = by_people.labelers(self.judges, prompts, drawn, context)
        matches: dict[str, Match] = {}
        by_evaluator: dict[str, list[Preference]] = {judge: [] for judge in self.judges}
        others = {name: again if name == self.reference else completions[self.reference] for name in completions}
        pairings = list(combinations([n for n in self.policies if n != self.reference], 2))

        def match(one: str, other: str, judge: str) -> Match:
            own, theirs = completions[one], others[one] if other == self.reference else completions[other]
            title = one if other == self.reference else f"{one}_vs_{other}"
            labeler = labelers.get(judge, self.judges[judge])
            assert theirs is not None
            return Match.judged(labeler, judge, title, prompts, own, theirs, context, self.length_control)

        keys = [(name, self.reference, j) for name, other in others.items() if other is not None for j in self.judges]
        keys += [(one, other, headline) for one, other in pairings]
        judged = dict(zip(keys, each_before_pending(partial(match, *key) for key in keys), strict=True))
        table: dict[str, PolicyFigures] = {}
        for name, own in completions.items():
            by_judge = {j: judged[name, self.reference, j] for j in self.judges if others[name] is not None}
            for judge, result in by_judge.items():
                by_evaluator[judge] += result.preferences
            if headline in by_judge and name != self.reference:
                matches[name] = by_judge[headline]
            kl = self._kl(name, prompts, drawn[name].untouched)
            table[name] = self._policy(by_judge, own, drawn[name], kl, independence).model_copy(
                update={"left_out": kept[name].left_out}
            )
        head_to_head = {(one, other): judged[one, other, headline] for one, other in pairings}
        by_evaluator[headline] += [p for match in head_to_head.values() for p in match.preferences]
        every = {(name, self.reference): match for name, match in matches.items()} | head_to_head
        assessors = {name: assessor_card(judge, context) for name, judge in self.safety.items()}
        return CompareFigures(
            reference=self.reference,
            policies=table,
            head_to_head={f"{one}_vs_{other}": match.win_rate for (one, other), match in head_to_head.items()},
            head_to_head_length_controlled={
                f"{one}_vs_{other}": match.length_controlled for (one, other), match in head_to_head.items()
            },
            ranking=_ranking(every),
            independence=independence,
            judges={name: connect.judge_card(judge, context) for name, judge in self.judges.items()},
            examples=[
                example
                for name, match in matches.items()
                for example in pick_examples(
                    match.pairs, match.preferences, first=name, second=self.reference, seed=context.seed
                )
            ],
            position_by_judge=_position(by_evaluator),
            slices=_slices(matches, self.by, self.slice_rows) if self.by else None,
            safety=standings(completions, prompts, self.safety, self.reference, context) if self.safety else None,
            assessors=assessors or None,
            people=by_people.measured(self, labelers, completions, prompts, judged),
            rows=rows,
        )

    def _draw(self, prompts: Sequence[Prompt], context: Context) -> dict[str, Responses]:
        """Every policy's responses, and a second draw of the reference unless it is a file."""
        policies = dict(self.policies)
        if not policies[self.reference].is_file:
            policies[AGAIN] = policies[self.reference]

        def draw(number: int, name: str) -> Responses:
            # Every draw has random numbers of its own: with shared ones, similar policies would respond alike by design.
            sampling = self.sampling.at(context.seed * 1_000 + number)
            source = f"{self.reference} again" if name == AGAIN else name
            return responses(
                source, policies[name], prompts, context, sampling=sampling, tidy=self.tidy, server=self.server_options
            )

        drawn = each_before_pending(partial(draw, number, name) for number, name in enumerate(policies))
        return dict(zip(policies, drawn, strict=True))

    def _require_matches(self, drawn: Mapping[str, Sequence[Completion | None]]) -> None:
        """Raises FileError, before any judgement, if a file and the reference's file have no answered prompt in common."""
        for name, own in drawn.items():
            if not (self.policies[name].is_file and self.policies[self.reference].is_file):
                continue
            pairs = zip(own, drawn[self.reference], strict=True)
            if not any(one is not None and other is not None for one, other in pairs):
                raise FileError(
                    f"shares no answered prompt with the reference, {self.policies[self.reference]}",
                    file=self.policies[name],
                    fix="give responses of both to the same prompts",
                )

    def _policy(
        self,
        by_judge: Mapping[str, Match],
        completions: Sequence[Completion | None],
        drawn: Responses,
        kl: float | None,
        independence: Independence,
    ) -> PolicyFigures:
        figures = {judge: match.figures() for judge, match in by_judge.items()}
        first = next(iter(self.judges))
        others = [name for name in figures if name != first and independence.judges[name].independent]
        return PolicyFigures(
            win_rate=figures[first].win_rate if figures else None,
            length_controlled=figures[first].length_controlled if figures else None,
            win_rate_independent=figures[others[0]].win_rate if others else None,
            mean_length=_mean(len(c.text) for c in completions if c is not None),
            mean_words=_mean(len(c.text.split()) for c in completions if c is not None),
            answered=sum(c is not None for c in completions),
            tidied=drawn.tidied,
            kl=kl,
            by_judge=figures,
        )

    def _kl(self, name: str, prompts: Sequence[Prompt], completions: Sequence[Completion | None]) -> float | None:
        """Mean log-ratio to the reference on the samples, where both are local folders that share a tokenizer."""
        own, reference = self.policies[name], self.policies[self.reference]
        if not (own.is_local and reference.is_local):
            return None
        if own == reference:
            return 0.0
        from aifeedback.training.kl import sequence_kl

        pairs = [(p, c) for p, c in zip(prompts, completions, strict=True) if c is not None]
        return sequence_kl(own.folder(), reference.folder(), [p for p, _ in pairs], [c for _, c in pairs]).value

    def independence(self, by_policy: Mapping[str, Origin], held: evidence.Held, context: Context) -> Independence:
        """Which evaluators may serve as proof of which claim."""
        declared = [evidence.source_of(name, connect.model_card(JudgeRef(name), context)) for name in self.trained_by]
        judges = {name: connect.judge_card(judge, context) for name, judge in self.judges.items()}
        return evidence.independence(
            policies=self.policies,
            by_policy=by_policy,
            declared=declared,
            judges=judges,
            assessors={name: assessor_card(judge, context) for name, judge in self.safety.items()},
            trained_on=held.trained_on,
            agreement=evidence.agreements(self.audited, judges),
        )

    def report(self, figures: CompareFigures, spent: Spent, folder: Path, seed: int) -> Path:
        from aifeedback.reports.run_report import write_report

        summary = figures.summary()
        verdict = figures.verdict()
        summary["stages"]["compare"] |= {**spent._asdict(), "verdict": verdict._asdict() if verdict else None}
        head = {"title": "Comparison of policies", "seed": seed, **spent._asdict()}
        return write_report({**head, **summary}, folder)


def _slices(matches: Mapping[str, Match], by: Sequence[str], rows: int) -> SliceFigures:
    """Hard win rates, as in the headline, per tag and combination of tags."""
    from aifeedback.metrics.intervals import shared_prompts
    from aifeedback.metrics.labels import choices
    from aifeedback.metrics.slices import Sample, coverage

    samples = {
        name: Sample(
            choices(np.array([p.p_first for p in match.preferences], dtype=float)),
            {tag: [dict(pair.prompt.tags).get(tag) for pair in match.pairs] for tag in by},
            shared_prompts([pair.prompt.id for pair in match.pairs]),
        )
        for name, match in matches.items()
    }
    cells = {name: [plain(cell) for cell in row] for name, row in coverage(samples, min_rows=rows).items()}
    return SliceFigures(dimensions=list(by), rows=rows, cells=cells)


def _ranking(matches: Mapping[tuple[str, str], Match]) -> Ranking | None:
    """Bradley–Terry over all matches, errors by prompt; win rates of every policy against every other, with the
    p-value against 50 % after Holm's correction over all matches."""
    from aifeedback.metrics import holm, rank_policies

    matrix: dict[str, dict[str, dict[str, Any]]] = {}
    first, second, prompts = [], [], []
    p_first: list[float | None] = []
    for (one, other), match in matches.items():
        known = [p.p_first for p in match.preferences]
        matrix.setdefault(one, {})[other] = match.win_rate.model_dump()
        matrix.setdefault(other, {})[one] = match.mirrored()
        first += [one] * len(known)
        second += [other] * len(known)
        prompts += [pair.prompt.id for pair in match.pairs]
        p_first += known
    if not p_first:
        return None
    adjusted = holm([matrix[one][other]["p_value"] for one, other in matches])
    for (one, other), p in zip(matches, adjusted, strict=True):
        matrix[one][other]["p_adjusted"] = matrix[other][one]["p_adjusted"] = plain(float(p))
    ranked = rank_policies(first, second, p_first, prompts=prompts).as_dict()
    keys = ("names", "value", "low", "high", "n", "method", "notes", "places", "order")
    return Ranking.model_validate({**{key: ranked[key] for key in keys}, "matrix": matrix})


def _position(by_evaluator: Mapping[str, Sequence[Preference]]) -> dict[str, Measured] | None:
    """Per judge that read any pair in both orders: how often the same position won twice."""
    from aifeedback.metrics import position_bias

    columns = {judge: by_order(preferences) for judge, preferences in by_evaluator.items()}
    return {
        judge: Measured.of(position_bias(original, swapped))
        for judge, (original, swapped) in columns.items()
        if any(p is not None for p in original) and any(p is not None for p in swapped)
    } or None


def _mean(values: Iterable[int]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None


def judges_from_options(how: Mapping[str, Any], served: Mapping[str, Any], among: Sequence[str]) -> dict[str, Any]:
    """Every named model under every named prompt, by name."""
    how = dict(how)
    models, prompts = how.pop("model", []), how.pop("prompt", None) or [None]
    return {
        (model if len(prompts) == 1 else f"{model} {prompt}"): one_judge(model, prompt, {**how, **served}, among)
        for model in models
        for prompt in prompts
    }


def _named_policy(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    return (name, model) if equals else (Path(text.partition(":")[2] or text).name.partition(".")[0], text)
