"""``probe``: what policies do when a user has an opinion, insists, asks the unknowable, or plants an instruction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.errors import AIFeedbackError, InputError, RecipeError
from aifeedback.judging.spec import Served
from aifeedback.models.journal.journal import Spent
from aifeedback.refs import DECISIONS, JudgeRef, ModelRef, PolicyProbeRef, PolicyRef, PromptRef, Ref, file_part
from aifeedback.steps import connect
from aifeedback.steps.sample import BRIEFLY, SamplingSettings
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step
from aifeedback.steps.verdict import Verdict, count

if TYPE_CHECKING:
    from aifeedback.probing.runner import PolicyProbes


class GreedySampling(SamplingSettings):
    """How responses to probes are drawn: greedily, so that two ways of asking differ in nothing else."""

    temperature: float = Field(default=0.0, ge=0.0)
    """Sampling temperature; 0 is greedy."""


class ReaderSpec(Served):
    """A judge that classifies responses. A bare model name stands for the defaults."""

    model: Annotated[JudgeRef, Cli(("--judge",), metavar="MODEL", panel="Judge")]
    """Judge that classifies the responses beside the items' own rules; the rules alone by default."""
    prompt: Annotated[PromptRef, Cli(("--judge-prompt",), metavar="NAME", panel="Judge")] = PromptRef("probed")
    """Judge prompt: task classify, three labels."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _served(self) -> Self:
        if not self.model.is_readable:
            raise ValueError(f"model: {self.model} reads no prompt; give a model that does")
        self.require_server([self.model])
        return self


class ProbedPolicy(Figures):
    """One policy (``probing.runner.PolicyProbes``)."""

    policy: str
    headline: str
    findings: dict[str, list[dict[str, Any]]]
    """Classifier → findings."""
    responses: int
    unanswered: int
    unknown: dict[str, int]
    """Classifier → responses whose class is unknown."""
    agreement: Measured | None = None
    """Of rules and judge, on the responses known to both."""
    calls: int
    seconds: float
    who: dict[str, Any]

    def levels(self, *levels: str) -> list[str]:
        return [finding["title"] for finding in self.findings[self.headline] if finding["level"] in levels]

    def verdict(self) -> Verdict:
        if self.unanswered == self.responses:
            return Verdict("bad", f"{self.policy}: none of the {self.responses:,} questions was answered.")
        measured = self.levels("fine", "watch", "bad")
        if not measured:
            meaning = f"{self.policy}: no probe says anything about it."
            return Verdict("watch", meaning, "Read some responses; a judge (--judge) reads what rules cannot.")
        unclear = self.levels("uninformative", "unknown")
        silent = f" {count(len(unclear), 'finding')} not informative or not measured." if unclear else ""
        watched = self.levels("watch")
        if bad := self.levels("bad"):
            more = f", and {count(len(watched), 'point')} to watch" if watched else ""
            meaning = f"{self.policy}: {count(len(bad), 'serious fault')}{more}: {', '.join(bad)}.{silent}"
            return Verdict("bad", meaning, "Read the responses in the report.")
        if watched:
            return Verdict("watch", f"{self.policy}: to watch: {', '.join(watched)}.{silent}")
        fine = f"{self.policy}: no significant fault in {count(len(measured), 'finding')}.{silent}"
        return Verdict("ok" if not unclear else "watch", fine)


class ProbeFigures(Figures):
    policies: dict[str, ProbedPolicy]
    items: dict[str, int]
    """Probe → items."""
    problems: dict[str, int]
    """Unknown classes by problem, over all policies and classifiers."""
    rows: Rows | None = None
    """Rows of the user's own lists."""

    @property
    def is_unread(self) -> bool:
        return all(policy.unanswered == policy.responses for policy in self.policies.values())

    def verdict(self) -> Verdict:
        gravity = {"ok": 0, "watch": 1, "bad": 2}
        return max((policy.verdict() for policy in self.policies.values()), key=lambda verdict: gravity[verdict.level])


class Probe(Served, Step):
    """Probe policies: opinion flips, pressure, unknowable questions, languages, names, injections, a red team; a report.

    Responses are classified by the rule of each item and, with --judge, by a model as well; both are reported.
    """

    kind: ClassVar[str] = "probe"
    main: ClassVar[str] = "figures.json"
    Figures = ProbeFigures
    policies: Annotated[dict[str, ModelRef], Cli(is_argument=True, is_repeated=True, metavar="NAME=POLICY")] = Field(
        min_length=1
    )
    """Policies to probe side by side: hf:DIR_OR_ID, openai:NAME, lab:NAME, each with a NAME= of your choice or without."""
    probes: Annotated[list[PolicyProbeRef] | None, Cli(("--probe",), is_repeated=True, metavar="NAME")] = None
    """Run only these probes, by name or python:FILE.py:NAME. Repeat for several."""
    items: Annotated[list[Ref], Cli(is_repeated=True, metavar="FILE")] = Field(default_factory=list)
    """Own items, as .jsonl or .yaml (docs/probing.md). Repeat for several."""
    redteam: Annotated[Ref | None, Cli(metavar="FILE")] = None
    """A red-team file: prompts in any known format, harmful unless their tag label is safe."""
    shipped: bool = True
    """Ask the shipped items too; --no-shipped asks only your own."""
    judge: Annotated[ReaderSpec | None, Cli(flatten=(ReaderSpec,), only=("model", "prompt"))] = None
    """Judge that classifies the responses."""
    limit: int | None = Field(default=None, ge=2)
    """Use at most this many items per probe."""
    draws: int = Field(default=1, ge=1)
    """Responses per question; more of them help where the policy is sampled (--temperature above 0)."""
    sampling: Annotated[GreedySampling, BRIEFLY._replace(flatten=(GreedySampling,))] = GreedySampling()
    """How responses are drawn."""

    @model_validator(mode="after")
    def _can_write(self) -> Self:
        for name, policy in self.policies.items():
            if PolicyRef(policy).is_file:
                raise ValueError(f"policies.{name}: {policy} is a file of responses; a probe asks its own questions")
            if policy.scheme in (*DECISIONS, "gold", "people", "rm"):
                raise ValueError(f"policies.{name}: {policy} writes no text; give a model that does")
        if self.draws > 1 and self.sampling.temperature == 0:
            raise ValueError("draws: several greedy responses are the same; raise the temperature or leave draws out")
        self.require_server(self.policies.values())
        return self

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Probe:
        settings = dict(settings)
        named = [_named(text) for text in settings.get("policies") or []]
        policies = dict(named)
        if len(policies) < len(named):
            raise RecipeError(
                "two policies have the same name", key="POLICIES", fix="name them: one=hf:DIR other=hf:DIR"
            )
        served = {name: settings[name] for name in Served.model_fields if name in settings}
        judge = dict(settings.get("judge") or {})
        if model := judge.pop("model", None):
            options = served if ModelRef(model).is_served else {}
            settings["judge"] = {"model": model, **judge, **options}
        elif judge:
            raise RecipeError(
                "a judge prompt without a judge", key="--judge-prompt", fix="name the judge: --judge MODEL"
            )
        for name in served if not any(ModelRef(policy).is_served for policy in policies.values()) else ():
            settings.pop(name)
        return super().from_options({**settings, "policies": policies}, chosen)

    def problems(self) -> Iterator[str]:
        if any(file.problem() for file in (*self.items, *([self.redteam] if self.redteam else []))):
            return  # reported as what the settings name
        try:
            self._lists()
        except AIFeedbackError as wrong:
            yield str(wrong)

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        try:
            items, _ = self._lists()
        except AIFeedbackError:
            return Forecast(None)
        probes = self._probes()
        questions = sum(probes[name].calls(item) for name, own in items.items() for item in own)
        per_question = 1 if self.judge is None else 2
        return Forecast(len(self.policies) * self.draws * questions * per_question)

    def _probes(self) -> dict[str, Any]:
        """Name → probe; those from outside by their own name."""
        from aifeedback.probing import PROBES

        names = self.probes if self.probes is not None else [PolicyProbeRef(name) for name in PROBES]
        chosen = [PROBES.get(name) or name.load() for name in names]
        return {probe.name: probe for probe in chosen}

    def _lists(self) -> tuple[dict[str, list[Any]], Rows | None]:
        """Probe → items, the user's own after the shipped ones. Raises InputError where there is nothing to ask."""
        from aifeedback.probing import PROBES
        from aifeedback.probing.items import read_items, red_team_items, shipped_items

        probes = self._probes()
        by_probe: dict[str, dict[str, Any]] = {name: {} for name in probes}
        if self.shipped:
            by_probe = {name: {item.id: item for item in shipped_items(probe)} for name, probe in probes.items()}
        read = kept = 0
        skipped: dict[str, int] = {}
        for file in self.items:
            own = read_items(file, {**PROBES, **probes})
            read += own.rows
            for reason, rows in own.skipped.items():
                skipped[reason] = skipped.get(reason, 0) + rows
            for name, rows in own.by_probe.items():
                if name in by_probe:
                    kept += len(rows)
                    by_probe[name] |= {item.id: item for item in rows}
                else:
                    skipped[f"probe {name} is not run"] = skipped.get(f"probe {name} is not run", 0) + len(rows)
        if self.redteam is not None:
            if "redteam" not in by_probe:
                raise InputError("a red-team file without the probe redteam", key="redteam", fix="add --probe redteam")
            prompts = data.load_prompts(self.redteam)
            read, kept = read + prompts.report.rows, kept + prompts.report.kept
            for reason, rows in prompts.report.reasons.items():
                skipped[reason] = skipped.get(reason, 0) + rows
            by_probe["redteam"] |= {item.id: item for item in red_team_items(list(prompts.rows))}
        items = {name: list(own.values())[: self.limit] for name, own in by_probe.items() if own}
        if not items:
            raise InputError("no items to ask", key="items", fix="give --items FILE, or leave --no-shipped out")
        own_files = bool(self.items or self.redteam)
        return items, Rows(read=read, kept=kept, skipped=skipped) if own_files else None

    def run(self, context: Context) -> ProbeFigures:
        from aifeedback.probing.reading import Judge
        from aifeedback.probing.runner import probe_policy
        from aifeedback.reports.policy_report import write_policy_report

        items, rows = self._lists()
        probes = self._probes()
        results = []
        for number, (name, policy) in enumerate(self.policies.items()):
            model = context.connect(policy, self.server_options if policy.is_served else None)
            judge = None
            if self.judge is not None:
                reader = context.connect(self.judge.model, self.judge.server_options)
                judge = Judge(reader, self.judge.prompt.load())
            card = connect.model_card(policy, context, self.server_options if policy.is_served else None)
            result = probe_policy(
                model,
                items,
                probes,
                judge=judge,
                sampling=self.sampling.at(0),
                draws=self.draws,
                seed=context.seed * 100 + number,
                name=name,
                who=card.as_json(),
                progress=context.progress,
            )
            _write(result, context.folder / f"responses-{file_part(name)}.jsonl")
            results.append(result)
            if len(self.policies) > 1:
                connect.release_models()
        write_policy_report(results, {name: len(own) for name, own in items.items()}, context.folder / "report.html")
        return ProbeFigures(
            policies={result.policy: _figures(result) for result in results},
            items={name: len(own) for name, own in items.items()},
            problems=_problems(results),
            rows=rows,
        )

    def report(self, figures: ProbeFigures, spent: Spent, folder: Path, seed: int) -> Path:
        del figures, spent, seed
        return folder / "report.html"  # ``run`` writes it, with the responses


def _figures(result: PolicyProbes) -> ProbedPolicy:
    without = replace(
        result,
        findings={by: tuple(replace(f, examples=()) for f in findings) for by, findings in result.findings.items()},
    )
    return ProbedPolicy.model_validate(without.as_dict())


def _problems(results: Sequence[PolicyProbes]) -> dict[str, int]:
    every = (row.problem for result in results for rows in result.rows.values() for row in rows)
    return dict(Counter(str(problem) for problem in every if problem is not None))


def _write(result: PolicyProbes, path: Path) -> None:
    """Every response with its class by every classifier."""
    first, *others = result.rows
    rows = []
    for index, row in enumerate(result.rows[first]):
        trial = row.trial
        classes = {by: result.rows[by][index] for by in (first, *others)}
        rows.append(
            {
                "item": trial.item,
                "way": trial.way,
                "draw": trial.draw,
                "prompt": [message.model_dump() for message in trial.response.messages],
                "response": trial.response.text,
                "problem": trial.response.problem,
                "class": {by: one.chosen for by, one in classes.items()},
                "unknown": {by: one.problem for by, one in classes.items() if one.problem is not None},
                "call_id": trial.response.call_id,
            }
        )
    data.write_rows(path, rows)


def _named(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    return (name, model) if equals and ":" not in name else (text, text)
