"""``audit``: every probe on one judge or several, on the same pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aifeedback.config import Cli
from aifeedback.data import read_comparisons
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec, one_judge
from aifeedback.models.journal.journal import Spent
from aifeedback.models.pending import each_before_pending
from aifeedback.refs import ProbeRef, Ref
from aifeedback.steps import connect
from aifeedback.steps.step import Context, Figures, Forecast, Rows, Step
from aifeedback.steps.verdict import Verdict, count


class AuditFigures(Figures):
    judges: list[dict[str, Any]]
    """One audit per judge (``audit.judge.Audit``), findings included."""
    problems: Mapping[str, int] = {}
    """Unknown answers of all judges, by problem."""
    rows: Rows | None = None

    @property
    def is_unread(self) -> bool:
        return all(judge["unreadable"] == judge["pairs"] for judge in self.judges)

    def verdict(self) -> Verdict:
        """Of the judge with the gravest findings, the worst of them by name."""
        return max((_verdict(judge) for judge in self.judges), key=lambda verdict: GRAVITY[verdict.level])


GRAVITY = {"ok": 0, "watch": 1, "bad": 2}


def _verdict(judge: Mapping[str, Any]) -> Verdict:
    name, findings = judge["judge"], judge["findings"]
    if judge["unreadable"] == judge["pairs"]:
        return Verdict(
            "bad",
            f"{name}: none of the {judge['pairs']:,} pairs could be read.",
            "Run `aifeedback label` on a few pairs: it prints the cause.",
        )
    by_level = {level: [f["title"] for f in findings if f["level"] == level] for level in ("bad", "watch")}
    if bad := by_level["bad"]:
        more = f", and {count(len(by_level['watch']), 'point')} to watch" if by_level["watch"] else ""
        return Verdict(
            "bad",
            f"{name}: {count(len(bad), 'serious fault')}{more}: {', '.join(bad)}.",
            "See the report before using this judge.",
        )
    if watch := by_level["watch"]:
        return Verdict("watch", f"{name}: {count(len(watch), 'point')} to watch: {', '.join(watch)}.")
    measured = sum(f["level"] == "fine" for f in findings)
    if not measured:
        return Verdict("watch", f"{name}: nothing could be measured.", "Audit on more pairs, best with human labels.")
    return Verdict("ok", f"{name}: no significant fault found by {count(measured, 'probe')}.")


class Audit(Step):
    """Audit judges: where they are biased, how well they agree with people, what fools them; writes a report."""

    kind: ClassVar[str] = "audit"
    main: ClassVar[str] = "audit.json"
    Figures = AuditFigures
    judges: Annotated[
        dict[str, Judging],
        Cli(flatten=(JudgeSpec,), is_argument=True, metavar="JUDGE", panel="Judge"),
    ] = Field(min_length=1)
    """Judges to audit side by side."""
    data: Annotated[Ref, Cli(("--data", "--comparisons"), metavar="FILE")]
    """Pairs, best with human labels."""
    probes: Annotated[list[ProbeRef] | None, Cli(("--probe",), is_repeated=True, metavar="NAME")] = None
    """Run only these probes, by name or python:FILE.py:NAME. Repeat for several."""
    n: int = Field(default=400, ge=2)
    """Pairs for a probe that changes texts."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many pairs."""
    fresh: bool = False
    """Ask every question anew, into new journals: remembered answers say nothing about the judge of today."""

    @classmethod
    def from_options(cls, settings: dict[str, Any], chosen: Collection[str] = ()) -> Audit:
        how = dict(settings.get("judges", {}))
        models, prompts = how.pop("model", []), how.pop("prompt", None) or [None]
        judges = {
            (model if len(prompts) == 1 else f"{model} {prompt}"): one_judge(model, prompt, how, models)
            for model in models
            for prompt in prompts
        }
        return super().from_options({**settings, "judges": judges}, chosen)

    @property
    def asks_anew(self) -> bool:
        return self.fresh

    def forecast(self, rows: Mapping[str, int]) -> Forecast:
        return Forecast(None)  # which questions a probe asks depends on the pairs' texts

    def run(self, context: Context) -> AuditFigures:
        from aifeedback.audit.judge import audit_judge
        from aifeedback.audit.prefetch import CHUNK
        from aifeedback.reports.judge_report import write_judge_report
        from aifeedback.storage import write_json

        read = read_comparisons(self.data, context.seed, limit=self.limit)
        if self.fresh:
            context = replace(context, journal_name=_new_journal(context.folder), run=context.folder)
        # its own journal: a judge asked a second time must not be answered by the first one's
        again_name = context.journal_name.replace(".sqlite", "-again.sqlite")
        again = replace(context, journal_name=again_name, run=context.folder)
        changed: dict[str, Any] = {}

        def audited(judge: Judging) -> Any:
            spec = _batched(judge, CHUNK)
            card = connect.judge_card(spec, context)
            try:
                return audit_judge(
                    connect.labeler(spec, context),
                    read.rows,
                    read.human,
                    probes=self.probes,
                    n=self.n,
                    seed=context.seed,
                    family=card.family,
                    who=card.as_json(),
                    made=changed,
                    again=connect.labeler(spec, again),
                    fresh=self.fresh,
                    progress=context.progress,
                )
            finally:
                connect.release_models()  # the next judge gets their memory

        audits = each_before_pending(partial(audited, judge) for judge in self.judges.values())
        figures = AuditFigures(
            judges=[audit.as_dict() for audit in audits],
            problems=dict(sum((Counter(audit.problems) for audit in audits), Counter())),
            rows=Rows.of(read.report),
        )
        write_json(context.folder / "audit.json", figures.model_dump(mode="json", include={"judges"}))
        write_judge_report(audits, context.folder / "report.html")
        return figures

    def report(self, figures: AuditFigures, spent: Spent, folder: Path, seed: int) -> Path:
        del figures, spent, seed
        return folder / "report.html"  # ``run`` writes it, from findings that the metrics leave out


def _new_journal(folder: Path) -> str:
    """A name that no journal of the folder has: an interrupted audit does not resume, it asks anew."""
    stem = f"journal-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    names = (f"{stem}{suffix}.sqlite" for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    return next(name for name in names if not (folder / name).exists())


def _batched(judge: Judging, batch: int) -> Judging:
    """The judge with at least ``batch`` pairs per call of a model."""
    if isinstance(judge, PanelSpec):
        return judge.model_copy(update={"members": tuple(_batched(member, batch) for member in judge.members)})
    return judge.model_copy(update={"batch_size": max(judge.batch_size, batch)})
