"""``label``: judge pairs in both orders.

The label is read from log-probabilities and averaged over both orders (Lee et al. 2023); ``judging`` has the method,
this module reads pairs, asks the judge and writes what it said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aifeedback import data
from aifeedback.config import Cli
from aifeedback.judging.diagnosis import Cause
from aifeedback.judging.panel import disagreement
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec, judge_from_options
from aifeedback.refs import ConstitutionRef, Ref
from aifeedback.steps import connect
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.step import Context, Figures, Forecast, Measured, Rows, Step, at_most
from aifeedback.steps.verdict import (
    NARROW,
    SEE_JUDGE,
    Verdict,
    on_agreement,
    on_label_mass,
    on_unknown,
    percent,
    with_interval,
)
from aifeedback.types import Comparison, Judgement, Labeler, Preference


class Disagreement(Figures):
    """Of a panel's members, averaged over the pairs."""

    n: int
    mean_spread: float
    mean_minority: float


class LabelFigures(Figures):
    labels: int
    """Pairs with a known preference."""
    unknown: int
    problems: dict[str, int]
    """Unknown labels, by problem."""
    alignment: Measured | None = None
    """Agreement with human labels, both orders averaged."""
    alignment_single: Measured | None = None
    """The same with one order alone."""
    position_bias: Measured | None = None
    """How often the same position won in both orders."""
    label_mass: float | None = None
    """Mean probability of the labels together: near 0 the judge wanted to say something else."""
    disagreement: Disagreement | None = None
    judge: JudgeCard | None = None
    judges: dict[str, JudgeCard] | None = None
    """A panel's members."""
    panel: dict[str, Any] | None = None
    """How they are combined."""
    principles: list[str] | None = None
    rows: Rows | None = None
    undecided: float | None = None
    """Share of the known labels that are within 0.01 of one half."""
    cause: Cause | None = None
    """The most frequent reason for unknown labels."""

    @property
    def is_unread(self) -> bool:
        return not self.labels and self.unknown > 0

    def verdict(self) -> Verdict:
        total = self.labels + self.unknown
        if not total:
            return Verdict("watch", "There was nothing to label.", "Look at the rows that were skipped.")
        unknown = on_unknown(self.unknown, total, "pairs", self.cause)
        if self.is_unread and unknown is not None:
            return unknown
        mass, agreement = on_label_mass(self.label_mass), on_agreement(self.alignment)
        verdicts = [verdict for verdict in (mass, self._decides(), agreement, unknown) if verdict is not None]
        for level in ("bad", "watch"):
            if worst := next((verdict for verdict in verdicts if verdict.level == level), None):
                return worst
        seen = "" if self.label_mass is None else f", label mass {percent(self.label_mass)}"
        meaning = f"{self.labels:,} of {total:,} pairs labelled{seen}."
        return Verdict("ok", f"{meaning} {agreement.meaning}" if agreement else meaning)

    def _decides(self) -> Verdict | None:
        """Whether the labels depend on the responses."""
        if self.undecided is not None and self.undecided >= ALMOST_ALL:
            meaning = f"{percent(self.undecided)} of the labels are within 0.01 of one half: the judge does not decide."
            return Verdict("bad", meaning, SEE_JUDGE)
        bias = self.position_bias
        if bias is not None and bias.value is not None and bias.value >= ALMOST_ALL and (bias.low or 0.0) > 0.5:
            shown = with_interval(bias)
            meaning = (
                f"The same position wins in both orders on {shown} of the pairs: the judge sees only the position."
            )
            return Verdict("bad", meaning, SEE_JUDGE)
        if self.undecided is not None and self.undecided > 0.5:
            meaning = f"{percent(self.undecided)} of the labels are within 0.01 of one half."
            return Verdict("watch", meaning, "Another --prompt or another judge may decide more often.")
        return None


ALMOST_ALL = 0.95
"""Share of the labels from which on a fault is a judge's only behaviour."""


class Label(Step):
    """Label pairs with a judge model; writes preferences.jsonl (every judgement) and labelled.jsonl (loads in TRL)."""

    kind: ClassVar[str] = "label"
    main: ClassVar[str] = "labelled.jsonl"
    Figures = LabelFigures
    comparisons: Annotated[Ref, Cli(("--data", "--comparisons"), metavar="FILE")]
    """Pairs in any known format."""
    judge: Annotated[Judging, Cli(flatten=(JudgeSpec, PanelSpec), panel="Judge")]
    """Who judges."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many pairs."""
    columns: Annotated[dict[str, str] | None, Cli(("--column",), metavar="OURS=THEIRS")] = None
    """Column names of an unusual file, ours=theirs. Repeat for several."""
    criterion: str | None = None
    """Which human verdict to use, where a file has several."""
    batch: Annotated[int, Cli(is_hidden=True)] = Field(default=256, ge=1)
    """Comparisons that are judged, and journalled, together."""
    engine: Literal["local", "ray"] = "local"
    """local: this process. ray: the workers of a Ray cluster (docs/scaling.md)."""
    gpus_each: Annotated[float | None, Cli(is_hidden=True)] = Field(default=None, ge=0.0)
    """ray: GPUs of a worker; 1 for a local model on a cluster with GPUs, else 0, by default."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Label:
        return super().from_options({**settings, "judge": judge_from_options(settings.get("judge", {}))}, chosen)

    @model_validator(mode="after")
    def _waits_here(self) -> Self:
        members = self.judge.members if isinstance(self.judge, PanelSpec) else (self.judge,)
        if self.engine == "ray" and any(member.answers_later for member in members):
            raise ValueError("batch_api: workers of Ray cannot wait for a batch; use the local engine")
        return self

    def requires(self) -> Iterator[str]:
        yield from ("ray", "pyarrow") if self.engine == "ray" else ()

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        count = at_most(rows.get(self.comparisons), self.limit)
        if count is None:
            return Forecast(None)
        return Forecast(count * self.judge.calls_per_pair, {"labelled.jsonl": count, "preferences.jsonl": count})

    def run(self, context: Context) -> LabelFigures:
        read = data.read_comparisons(
            self.comparisons, context.seed, columns=self.columns, criterion=self.criterion, limit=self.limit
        )
        preferences = self.labels(read.rows, context)
        data.write_records(context.folder / "preferences.jsonl", preferences)
        data.write_labelled(context.folder / "labelled.jsonl", data.labelled(read, preferences))
        prompts = [comparison.prompt.id for comparison in read.rows]
        return label_figures(preferences, read.human, prompts).model_copy(
            update={
                "cause": context.cause(judgements_of(preferences)),
                **judged_by(self.judge, context),
                "principles": _principles(self.judge),
                "rows": Rows.of(read.report),
            }
        )

    def labels(self, comparisons: Sequence[Comparison], context: Context) -> list[Preference]:
        """The labels, in order."""
        if self.engine == "ray":
            from aifeedback.integrations.ray import label_on_ray

            return label_on_ray(self.judge, comparisons, context, batch=self.batch, gpus_each=self.gpus_each)
        batch = connect.batch_for(self.judge, context, self.batch)
        return label_all(connect.labeler(self.judge, context), comparisons, context, batch)


def label_all(
    labeler: Labeler, comparisons: Sequence[Comparison], context: Context, batch: int = 256
) -> list[Preference]:
    """Labels in batches, so that progress shows and a stopped run finds its answers in the journal."""
    preferences: list[Preference] = []
    context.progress(0, len(comparisons), {})
    for start in range(0, len(comparisons), batch):
        preferences += labeler.label(comparisons[start : start + batch])
        unknown = sum(p.p_first is None for p in preferences)
        context.progress(len(preferences), len(comparisons), {"unknown": unknown})
    return preferences


def label_figures(
    preferences: Sequence[Preference], human: Sequence[float | None], prompts: Sequence[str] | None = None
) -> LabelFigures:
    """How many labels are known, why the others are not, position bias, agreement with human labels, label mass."""
    from aifeedback.metrics import alignment, position_bias
    from aifeedback.metrics.intervals import shared_prompts

    by_prompt = None if prompts is None else shared_prompts(prompts)
    p_first = [p.p_first for p in preferences]
    known = [p for p in p_first if p is not None]
    problems = Counter(str(p.problem) for p in preferences if p.problem is not None)
    has_human = any(h is not None for h in human)
    original, swapped = by_order(preferences)
    has_both = any(s is not None for s in swapped)
    coverage = [j.coverage for p in preferences for j in p.judgements if j.coverage is not None]
    apart = [gap for preference in preferences if (gap := disagreement(preference))]
    return LabelFigures(
        labels=len(known),
        unknown=sum(problems.values()),
        problems=dict(problems),
        alignment=Measured.of(alignment(p_first, human, prompts=by_prompt)) if has_human else None,
        alignment_single=Measured.of(alignment(original, human, prompts=by_prompt)) if has_human and has_both else None,
        position_bias=Measured.of(position_bias(original, swapped, prompts=by_prompt)) if has_both else None,
        label_mass=sum(coverage) / len(coverage) if coverage else None,
        undecided=sum(round(abs(p - 0.5), 9) <= NARROW for p in known) / len(known) if known else None,
        disagreement=Disagreement(
            n=len(apart),
            mean_spread=sum(d.spread for d in apart) / len(apart),
            mean_minority=sum(d.minority for d in apart) / len(apart),
        )
        if apart
        else None,
    )


def judgements_of(preferences: Sequence[Preference]) -> list[Judgement]:
    """Every judgement beneath the preferences that are unknown."""
    return [judgement for p in preferences if p.p_first is None for judgement in p.judgements]


def by_order(preferences: Sequence[Preference]) -> tuple[list[float | None], list[float | None]]:
    """P(first stored) as read with the storage order shown, and with the swapped order shown; None where unknown."""
    columns: tuple[list[float | None], list[float | None]] = ([], [])
    for preference in preferences:
        for shown_swapped, column in zip((False, True), columns, strict=True):
            read = [j.p_first for j in preference.judgements if j.shown_swapped == shown_swapped]
            known = [p for p in read if p is not None]
            column.append(sum(known) / len(known) if known and len(known) == len(read) else None)
    return columns


def judged_by(judge: JudgeSpec | PanelSpec, context: Context) -> dict[str, Any]:
    """Figures that name who judged: ``judge``, or for a panel ``judges`` (each member) and ``panel``."""
    if isinstance(judge, JudgeSpec):
        return {"judge": connect.judge_card(judge, context)}
    members = {f"{m.model} {m.prompt}": connect.judge_card(m, context) for m in judge.members}
    return {"judges": members, "panel": judge.model_dump(mode="json", exclude={"members"})}


def _principles(judge: JudgeSpec | PanelSpec) -> list[str] | None:
    """The principles judged by, as a report prints them: id, text, and the question put to the judge."""
    members = judge.members if isinstance(judge, PanelSpec) else [judge]
    used: dict[ConstitutionRef, None] = {m.constitution: None for m in members if m.constitution}
    lines = []
    for ref in used:
        constitution = ref.load()
        lines += [
            f"{constitution.full_id(p)}: {p.text} Asked as: “{p.worded('compare')}”" for p in constitution.principles
        ]
    return lines or None
