"""The report's part on harm: every policy's harmless and helpful rates, their trade-off as a plot, masked examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.reports import figures
from aifeedback.reports.run_results import Est, display, estimate
from aifeedback.reports.wording import percent, signed

RESPONSES = {
    "full_compliance": "complies",
    "full_refusal": "refuses",
    "partial_refusal": "refuses in part",
}


class Row(NamedTuple):
    """One policy by one judge; shares and means are fractions."""

    label: str
    colour: str
    is_reference: bool
    harmless: Est | None
    harmless_all: Est | None
    harmless_at_length: Est | None
    """Over all prompts, length-controlled: at the reference's mean length."""
    helpful: Est | None
    helpful_change: Est | None
    over_refusal: Est | None
    under_refusal: Est | None
    by_class: Mapping[str, Mapping[str, float]]


class SafetyPart(NamedTuple):
    """Everything that the page shows of it."""

    judge: str
    rows: Sequence[Row]
    others: Mapping[str, Sequence[Row]]
    """The same by every further judge."""
    prompts: Mapping[str, int]
    figure: str | None
    headline: str
    examples: Sequence[Mapping[str, Any]]
    masked: Mapping[str, int]
    """Responses that the headline judge calls harmful, per policy."""
    shown_masked: int
    """Of the examples: texts that ask for harm or were judged harmful; they stay blurred until clicked."""


def safety_part(summary: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> SafetyPart | None:
    """From the summary's ``safety``, else from a stage's figures; None where nothing of the kind was measured.

    ``names``: key of an evaluator → its name on the page.
    """
    record = summary.get("safety") or next(
        (f["safety"] for s in (summary.get("stages") or {}).values() if (f := s.get("figures") or {}).get("safety")),
        None,
    )
    if not record or not record.get("policies") or not record.get("judge"):
        return None
    reference, judge = record["reference"], record["judge"]
    named = names or {}
    # the colours of the run's policies, which may be more than were assessed
    colours = figures.policy_colours(
        list(dict.fromkeys([*(summary.get("policies") or ()), *record["policies"]])), reference
    )
    judges = list(dict.fromkeys(name for row in record["policies"].values() for name in row))
    tables = {
        name: [_row(p, row[name], reference, colours[p]) for p, row in record["policies"].items() if name in row]
        for name in judges
    }
    rows = tables.pop(judge)
    others = {str(named.get(name, name)): table for name, table in tables.items()}
    shown_as = str(named.get(judge, judge))
    shown: list[Any] = list(record.get("examples") or [])
    return SafetyPart(
        judge=shown_as,
        rows=rows,
        others=others,
        prompts=record.get("prompts") or {},
        figure=trade_off(rows),
        headline=_headline(rows, shown_as),
        examples=[_example(e) for e in shown],
        masked={display(name): count for name, count in (record.get("masked") or {}).items()},
        shown_masked=sum(e["unsafe"] + sum(a["harmful"] is True for a in e["answers"]) for e in shown),
    )


def trade_off(rows: Sequence[Row]) -> str | None:
    """Harmless on unsafe prompts against helpful on safe ones, both with 95 % intervals, one mark per policy."""
    known = [(r, r.helpful, r.harmless) for r in rows if r.helpful and r.harmless]
    if not known:
        return None

    def draw(figure: Any, is_narrow: bool) -> None:
        axes = figure.add_subplot()
        for row, helpful, harmless in known:
            x, y = 100 * helpful.value, 100 * harmless.value
            if helpful.low is not None and helpful.high is not None:
                axes.plot([100 * helpful.low, 100 * helpful.high], [y, y], color=row.colour, lw=1.8)
            if harmless.low is not None and harmless.high is not None:
                axes.plot([x, x], [100 * harmless.low, 100 * harmless.high], color=row.colour, lw=1.8)
            axes.plot([x], [y], "o", ms=7, color=row.colour, label=figures.shortened(row.label))
        axes.set_xlabel("helpful on safe prompts, %")
        axes.set_ylabel("harmless on unsafe prompts, %")
        axes.set_ylim(top=102)
        axes.margins(x=0.12)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), labelcolor=figures.INK, borderpad=0,
                    ncols=1 if is_narrow else figures.columns_of(row.label for row, _, _ in known))  # fmt: skip

    record = "; ".join(
        f"{row.label}: helpful {100 * helpful.value:.0f} %, harmless {100 * harmless.value:.0f} %"
        for row, helpful, harmless in known
    )
    return figures.responsive(draw, 3.9, 3.2 + 0.22 * len(known), alt=f"Helpful against harmless. {record}")


def _row(policy: str, record: Mapping[str, Any], reference: str, colour: str) -> Row:
    refusal = record.get("refusal") or {}
    return Row(
        display(policy),
        colour,
        policy == reference,
        estimate(record.get("harmless")),
        estimate(record.get("harmless_all")),
        estimate(record.get("harmless_length_controlled")),
        estimate(record.get("helpful")),
        None if policy == reference else estimate(record.get("helpful_change")),
        estimate(refusal.get("over_refusal")),
        estimate(refusal.get("under_refusal")),
        refusal.get("by_class") or {},
    )


def _headline(rows: Sequence[Row], judge: str) -> str:
    """Which policies are harmless more often than the reference, intervals apart, and what that cost."""
    before = next((r for r in rows if r.is_reference), None)
    if before is None or before.harmless is None:
        return "Harm and helpfulness of every policy were measured."
    parts = [f"{before.label} is harmless on {percent(before.harmless.value)} of unsafe prompts (by {judge})"]
    for row in rows:
        if row.is_reference or row.harmless is None:
            continue
        text = f"{row.label} on {percent(row.harmless.value)}{_moved(row.harmless, before.harmless)}"
        if row.helpful_change is not None:
            text += f" at {signed(row.helpful_change.value)} points of helpfulness"
        parts.append(text)
    return "; ".join(parts) + "."


def _moved(now: Est, before: Est) -> str:
    """Whether a policy is harmless more or less often than the reference, where that is not plain to see."""
    return ", less often" if _apart(before, now) else "" if _apart(now, before) else ", not clearly more"


def _apart(one: Est, other: Est) -> bool:
    """Whether the 95 % intervals do not touch, the first above."""
    return one.low is not None and other.high is not None and one.low > other.high


def _example(record: Mapping[str, Any]) -> dict[str, Any]:
    answers = [
        {**a, "policy": display(a["policy"]), "response": RESPONSES.get(a.get("response") or "")}
        for a in record["answers"]
    ]
    return {**record, "answers": answers}
