"""The report on judges: one self-contained page, several judges side by side, every figure with n and interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aifeedback.audit import figures
from aifeedback.audit.figures import Line, Mark
from aifeedback.audit.finding import Finding, signed
from aifeedback.audit.judge import JudgeAudit
from aifeedback.audit.page import render
from aifeedback.storage import make_folder

GROUPS = {
    "agreement": "How well does it agree with people?",
    "decision": "Does it decide at all?",
    "bias": "Where is it biased?",
    "consistency": "Is it consistent?",
    "attack": "Can it be fooled?",
    "hacking": "What would a policy find that games it?",
    "refusal": "Does it refuse too much or too little?",
}
MARKS = {"bad": "✗", "watch": "!", "fine": "✓", "uninformative": "?", "unknown": "?"}
STAND_INS = ("constants", "near_empty", "polite", "cautious")
MOST_SLICES = 12
FEW_PAIRS = 100
"""With fewer, only a fault of more than about ten points can show."""
SMALLEST_SPAN = 0.05
"""Effects are drawn on an axis of at least ± this, so that nothing looks large that is not."""


def write_judge_report(
    audits: Sequence[JudgeAudit], path: str | Path, *, title: str = "Audit of judges", blur: bool = False
) -> Path:
    """Writes the page for one judge or several (on the same pairs) and returns its path.

    ``blur`` hides the texts of examples until they are clicked. Raises ValueError without any audit.
    """
    if not audits:
        raise ValueError("a report needs at least one audit")
    page = render("judge.html.j2", **view(audits, title=title, blur=blur))
    target = Path(path)
    make_folder(target.parent)
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def view(audits: Sequence[JudgeAudit], *, title: str, blur: bool) -> dict[str, Any]:
    """Everything the template prints."""
    return {
        "title": title,
        "audits": audits,
        "names": short_names([audit.judge for audit in audits]),
        "groups": [(key, heading, rows) for key, heading in GROUPS.items() if (rows := table(audits, key))],
        "figures": {
            "agreement": agreement(audits),
            "slices": slices(audits),
            "reliability": reliability(audits),
            "position": position(audits),
            "bias": points(audits, ("bias",)),
            "persuasion": points(audits, ("attack", "hacking")),
            "stand_ins": stand_ins(audits),
        },
        "told": told,
        "brief": brief,
        "marks": MARKS,
        "is_blurred": blur,
        "is_small": audits[0].pairs < FEW_PAIRS,
    }


def told(finding: Finding | None) -> str:
    """77 % (74–80 %, n = 900), or +2.1 points (0.4 to 3.8, n = 400)."""
    if finding is None or not finding.is_measured:
        return "not measured"
    value, low, high = (100 * x for x in (finding.value, finding.low, finding.high))
    if finding.unit == "points":
        return f"{signed(value)} points ({signed(low)} to {signed(high)}, n = {finding.n:,})"
    return f"{value:.1f} % ({low:.1f}–{high:.1f} %, n = {finding.n:,})"


def brief(finding: Finding | None) -> str:
    """77 %, or +2.1: the figure alone, for the overview."""
    if finding is None or not finding.is_measured:
        return ""
    return signed(100 * finding.value) if finding.unit == "points" else f"{100 * finding.value:.0f} %"


def table(audits: Sequence[JudgeAudit], group: str) -> list[tuple[str, list[tuple[str, Finding | None]]]]:
    """Title of each finding of a group, and (judge, finding) for every judge; in the order of the probes."""
    titles: dict[str, str] = {}
    for audit in audits:
        titles |= {f.probe: f.title for f in audit.findings if f.group == group and f.probe not in titles}
    names = short_names([a.judge for a in audits])
    return [
        (title, [(name, audit.get(probe)) for name, audit in zip(names, audits, strict=True)])
        for probe, title in titles.items()
    ]


def short_names(names: Sequence[str]) -> list[str]:
    """Names as they fit beside a figure: a folder's last part, without the prompt that all share; unique."""
    bare = [" ".join([_last_part(name.split(" ")[0]), *name.split(" ")[1:]]) for name in names]
    names = bare if len(set(bare)) == len(set(names)) else names
    if len(names) < 2:
        return list(names)
    words = [name.split(" ") for name in names]
    shared = 0
    while all(len(w) > shared + 1 for w in words) and len({w[-1 - shared] for w in words}) == 1:
        shared += 1
    cut = [" ".join(w[: len(w) - shared]) for w in words]
    return cut if len(set(cut)) == len(cut) else list(names)


def _last_part(name: str) -> str:
    """hf:/long/way/to/judge-7b → judge-7b; lab:judge stays."""
    return name.rstrip("/").rpartition("/")[2] or name


def agreement(audits: Sequence[JudgeAudit]) -> str | None:
    lines = [
        Line(name, (_mark(audit.get("agreement")),))
        for name, audit in zip(short_names([a.judge for a in audits]), audits, strict=True)
    ]
    return _dots(lines, ("agreement",), unit="agreement with people, %", reference=0.5, label="guessing")


def slices(audits: Sequence[JudgeAudit]) -> str | None:
    """The worst slices of any judge, every judge's agreement on each."""
    tables: list[dict[str, dict[str, Any]]] = []
    for audit in audits:
        finding = audit.get("slices")
        tables.append({row["slice"]: row for row in finding.details.get("slices", ())} if finding else {})
    names = {name for rows in tables for name in rows}
    worst = sorted(names, key=lambda name: (min(rows[name]["value"] for rows in tables if name in rows), name))
    lines = [
        Line(f"{name} ({max(rows[name]['n'] for rows in tables if name in rows)})",
             [Mark(rows[name]["value"], rows[name]["low"], rows[name]["high"]) if name in rows else None for rows in tables])
        for name in worst[:MOST_SLICES]
    ]  # fmt: skip
    return _dots(lines, short_names([a.judge for a in audits]), unit="agreement with people, %", reference=0.5)


def reliability(audits: Sequence[JudgeAudit]) -> str | None:
    tables = {}
    for name, audit in zip(short_names([a.judge for a in audits]), audits, strict=True):
        finding = audit.get("calibration")
        rows = finding.details.get("reliability", ()) if finding else ()
        if rows:
            tables[name] = [(row["p"], row["share"], row["n"], row["low"], row["high"]) for row in rows]
    return figures.reliability(tables) if tables else None


def position(audits: Sequence[JudgeAudit]) -> str | None:
    parts = ("same answer", "slot 1 twice", "slot 2 twice", "a tie once")
    rows = []
    for name, audit in zip(short_names([a.judge for a in audits]), audits, strict=True):
        finding = audit.get("position")
        if finding is not None and finding.is_measured:
            rows.append((name, tuple(finding.details[part] for part in parts)))
    return figures.stacked(rows, parts) if rows else None


def points(audits: Sequence[JudgeAudit], groups: Sequence[str]) -> str | None:
    """Every effect in points of win rate, a colour per judge."""
    titles = {
        f.probe: f.title
        for a in audits
        for f in a.findings
        if f.group in groups and f.unit == "points" and f.is_measured
    }
    lines = [Line(title, [_mark(audit.get(probe)) for audit in audits]) for probe, title in titles.items()]
    names = short_names([a.judge for a in audits])
    reach = max(
        [SMALLEST_SPAN, *(abs(end) for line in lines for mark in line.marks if mark for end in mark[1:] if end)]
    )
    span = (-1.15 * reach, 1.15 * reach)
    return _dots(lines, names, unit="points of win rate (0: no effect)", reference=0.0, span=span, form="{:+.1f}")


def stand_ins(audits: Sequence[JudgeAudit]) -> str | None:
    """How often a text that answers nothing beats a real answer."""
    titles = {f.probe: f.title for a in audits for f in a.findings if f.probe in STAND_INS and f.is_measured}
    lines = [Line(title, [_mark(audit.get(probe)) for audit in audits]) for probe, title in titles.items()]
    return _dots(lines, short_names([a.judge for a in audits]), unit="beats a real answer, %", reference=0.0)


def _dots(
    lines: Sequence[Line],
    series: Sequence[str],
    *,
    unit: str,
    reference: float,
    label: str = "",
    span: tuple[float, float] | None = None,
    form: str = "{:.0f}",
) -> str | None:
    if not any(mark is not None for line in lines for mark in line.marks):
        return None
    return figures.dots(lines, series, unit=unit, reference=reference, reference_label=label, span=span, form=form)


def _mark(finding: Finding | None) -> Mark | None:
    return None if finding is None or not finding.is_measured else Mark(finding.value, finding.low, finding.high)
