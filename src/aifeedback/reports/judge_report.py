"""The report on judges: one self-contained page, several judges side by side, every metric with n and interval.

The table of policies by strength is Bradley–Terry over all comparisons, and each policy against every other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.audit.finding import Finding
from aifeedback.audit.judge import JudgeAudit
from aifeedback.reports import figures
from aifeedback.reports.figures import Line, Mark
from aifeedback.reports.page import render
from aifeedback.reports.provenance import Fact, facts, installed_version, read_origin
from aifeedback.reports.run_results import Est, display, estimate
from aifeedback.reports.wording import count, listed, signed
from aifeedback.storage import make_folder

GROUPS = {
    "agreement": "How well does it agree with people?",
    "decision": "Does it decide at all?",
    "bias": "Where is it biased?",
    "consistency": "Is it consistent?",
    "attack": "Can it be fooled?",
    "hacking": "Would a policy learn to game it?",
    "refusal": "Does it refuse too much or too little?",
}
MARKS = {"bad": "✗", "watch": "!", "fine": "✓", "uninformative": "?", "unknown": "?"}
CONSEQUENCE = ("decision", "attack", "hacking", "refusal", "agreement", "bias", "consistency")
"""Groups by what follows from a fault: no verdict at all, then a judge that can be gamed, then a distorted one."""
BEST = {"decision": "100 %", "label mass": "100 %", "slices": "100 %", "clusters": "0 %", "over-refusal": "0 %",
        "under-refusal": "0 %", "transitivity": "100 %", "self": "0"}  # fmt: skip
"""The best value of findings that carry no ideal of their own."""
POSITIONS = ("same response", "position 1 twice", "position 2 twice", "a tie once")
STAND_INS = ("constants", "near_empty", "polite", "cautious")
MOST_SLICES = 12
FEW_PAIRS = 100
"""With fewer, only a fault of more than about ten points can show."""
SMALLEST_SPAN = 0.05
"""Effects are drawn on an axis of at least ± this, so that nothing looks large that is not."""


def write_judge_report(
    audits: Sequence[JudgeAudit], path: str | Path, *, title: str = "Audit of judges", blur: bool = False
) -> Path:
    """Write the page for one judge or several (on the same pairs) and return its path.

    ``blur`` hides the texts of all examples until they are clicked, else those that a probe marks ``sensitive``. The
    records beside the page (command.json, the journals) fill the block at its head. Raises ValueError without any audit.
    """
    if not audits:
        raise ValueError("a report needs at least one audit")
    target = Path(path)
    page = render("judge.html.j2", **view(audits, title=title, blur=blur, folder=target.parent))
    make_folder(target.parent)
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def view(audits: Sequence[JudgeAudit], *, title: str, blur: bool, folder: Path | None = None) -> dict[str, Any]:
    """Everything the template prints."""
    return {
        "title": title,
        "audits": audits,
        "headline": headline(audits),
        "facts": record(audits, folder),
        "names": short_names([audit.judge for audit in audits]),
        "colours": figures.evaluator_colours(len(audits)),
        "alarms": [alarms(audit) for audit in audits],
        "answers": {key: answer(audits, key) for key in GROUPS},
        "unmeasured": unmeasured(audits),
        "groups": [(key, heading, rows) for key, heading in GROUPS.items() if (rows := table(audits, key))],
        "plots": {
            "agreement": agreement(audits),
            "slices": slices(audits),
            "reliability": reliability(audits),
            "position": position(audits),
            "bias": points(audits, ("bias",)),
            "persuasion": points(audits, ("attack", "hacking")),
            "stand_ins": stand_ins(audits),
        },
        "metric": metric,
        "brief": brief,
        "mark": mark,
        "detectable": detectable,
        "best": best,
        "is_blurred": blur,
        "is_small": audits[0].pairs < FEW_PAIRS,
    }


def metric(finding: Finding | None) -> str:
    """77.0 % (95 % CI 74.0–80.0 %, n = 900), or +2.1 points (95 % CI +0.4 to +3.8, n = 400)."""
    if finding is None or not finding.is_measured:
        return "not measured"
    if finding.unit == "points":
        ends = f"{signed(finding.low)} to {signed(finding.high)}"
        return f"{signed(finding.value)} points (95 % CI {ends}, n = {finding.n:,})"
    value, low, high = (100 * x for x in (finding.value, finding.low, finding.high))
    return f"{value:.1f} % (95 % CI {low:.1f}–{high:.1f} %, n = {finding.n:,})"


def brief(finding: Finding | None) -> str:
    """77 %, or +2.1: the value alone, for the overview."""
    if finding is None or not finding.is_measured:
        return ""
    return signed(finding.value) if finding.unit == "points" else f"{100 * finding.value:.0f} %"


def detectable(finding: Finding) -> str:
    """What the probe could have missed: fine means smaller than this, not absent."""
    if finding.level != "fine" or not math.isfinite(finding.detectable):
        return ""
    return f"; a shift below {100 * finding.detectable:.1f} points could go unnoticed"


def mark(level: str) -> str:
    return MARKS.get(level, "?")


def best(findings: Sequence[tuple[str, Finding | None]]) -> str:
    """What a judge without this fault has, so that a number in the table has a direction."""
    known = next((finding for _, finding in findings if finding is not None), None)
    if known is None:
        return "–"
    if known.ideal is None:
        return BEST.get(known.probe, "–")
    return f"{known.ideal:g}" if known.unit == "points" else f"{100 * known.ideal:.0f} %"


def alarms(audit: JudgeAudit) -> list[Finding]:
    """Serious findings and those to watch, each sorted by what follows from them, then by size."""
    levels = ("bad", "watch")
    raised = [finding for finding in audit.findings if finding.level in levels]
    return sorted(
        raised, key=lambda f: (levels.index(f.level), CONSEQUENCE.index(f.group), -abs(f.value - (f.ideal or 0.0)))
    )


def headline(audits: Sequence[JudgeAudit]) -> str:
    """The finding in one sentence: whether it decides, how often as people do, and the gravest faults."""
    names = short_names([audit.judge for audit in audits])
    parts = [_finding(name, audit, len(audits) == 1) for name, audit in zip(names, audits, strict=True)]
    return "; ".join(parts) + "."


def _finding(name: str, audit: JudgeAudit, is_alone: bool) -> str:
    serious = [finding for finding in alarms(audit) if finding.level == "bad"]
    hardly = [finding for finding in serious if finding.group == "decision"]
    agreement = audit.get("agreement")
    if hardly:
        first = f"{name} hardly decides ({hardly[0].title.lower()}: {brief(hardly[0])})"
    elif agreement is not None and agreement.is_measured:
        ends = f", 95 % CI {100 * agreement.low:.0f}–{100 * agreement.high:.0f} %" if is_alone else ""
        doubt = ", not distinguishable from guessing," if agreement.low <= 0.5 else ""
        first = f"{name} agrees with people on {brief(agreement)} of the pairs{ends}{doubt}"
    else:
        first = f"the agreement of {name} with people was not measured"
    if not serious:
        return f"{first} and shows no serious fault in {count(len(_measured(audit)), 'finding')}"
    most = 3 if is_alone else 1
    worst = listed([_title(finding) for finding in serious[:most]])
    if len(serious) <= most:
        return f"{first} and has {count(len(serious), 'serious fault')}: {worst}"
    return f"{first} and has {count(len(serious), 'serious fault')}, first of all {worst}"


def _title(finding: Finding) -> str:
    """Position → position; names of languages and the like stay as they are."""
    return f"{finding.title[0].lower()}{finding.title[1:]}"


def _measured(audit: JudgeAudit) -> list[Finding]:
    return [finding for finding in audit.findings if finding.is_measured and finding.level in ("fine", "watch", "bad")]


def answer(audits: Sequence[JudgeAudit], group: str) -> str:
    """The first sentence of a section: what its findings say about each judge."""
    names = short_names([audit.judge for audit in audits])
    parts = []
    for name, audit in zip(names, audits, strict=True):
        findings = [finding for finding in audit.findings if finding.group == group]
        agreement = audit.get("agreement") if group == "agreement" else None
        value = f"{metric(agreement)} of the pairs; " if agreement is not None and agreement.is_measured else ""
        parts.append(f"{name}: {value}{_answer(audit, [f for f in findings if not (value and f is agreement)])}")
    return ". ".join(parts) + "."


def _answer(audit: JudgeAudit, findings: Sequence[Finding]) -> str:
    raised = [f for f in alarms(audit) if f in findings]
    fine = sum(f.level == "fine" for f in findings)
    silent = sum(f.is_measured and f.level not in ("bad", "watch", "fine") for f in findings)
    serious, watched = ([f"{_title(f)} {brief(f)}" for f in raised if f.level == level] for level in ("bad", "watch"))
    parts = []
    if serious:
        parts.append(f"serious: {listed(serious)}")
    if watched:
        parts.append(f"to watch: {listed(watched)}")
    if fine and not raised:
        parts.append(f"no significant fault in {count(fine, 'finding')}")
    if silent:
        parts.append(f"{count(silent, 'finding')} not informative, since the judge hardly decides")
    return "; ".join(parts) or "not measured"


def unmeasured(audits: Sequence[JudgeAudit]) -> str:
    """How much of the audit could be measured: the sentence under the title."""
    findings = [finding for audit in audits for finding in audit.findings]
    known = sum(finding.is_measured for finding in findings)
    return f"{known:,} of {count(len(findings), 'finding')} could be measured."


def record(audits: Sequence[JudgeAudit], folder: Path | None) -> list[Fact]:
    """Date, data, judges, seed, version, journal: from command.json and the journals beside the page."""
    origin = read_origin(folder)
    names = short_names([audit.judge for audit in audits])
    judges = [(name, audit.who) for name, audit in zip(names, audits, strict=True) if audit.who]
    version = installed_version() if origin.command else ""
    return facts(origin, seed=origin.command.get("seed"), version=version, judges=judges)


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
    colours = figures.evaluator_colours(len(audits))
    names = short_names([a.judge for a in audits])
    lines = [
        Line(name, (_mark(audit.get("agreement")),), colour)
        for name, audit, colour in zip(names, audits, colours, strict=True)
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
    rows = []
    for name, audit in zip(short_names([a.judge for a in audits]), audits, strict=True):
        finding = audit.get("position")
        if finding is not None and finding.is_measured:
            rows.append((name, tuple(_part(finding, part) for part in POSITIONS)))
    return figures.stacked(rows, POSITIONS) if rows else None


def _part(finding: Finding, part: str) -> float:
    """A share by its name, under either of the names that findings carry."""
    older = part.replace("response", "answer").replace("position", "slot")
    return float(finding.details.get(part, finding.details.get(older, 0.0)))


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
    """How often a text that answers nothing beats a real response."""
    titles = {f.probe: f.title for a in audits for f in a.findings if f.probe in STAND_INS and f.is_measured}
    lines = [Line(title, [_mark(audit.get(probe)) for audit in audits]) for probe, title in titles.items()]
    return _dots(lines, short_names([a.judge for a in audits]), unit="beats a real response, %", reference=0.0)


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
    return figures.dots(lines, series, unit=unit, reference=reference, reference_label=label, span=span, form=form,
                        colours=figures.evaluator_colours(len(series)))  # fmt: skip


def _mark(finding: Finding | None) -> Mark | None:
    return None if finding is None or not finding.is_measured else Mark(finding.value, finding.low, finding.high)


CERTAIN = 0.05
FEWEST = 3
"""With two policies the win rate says it all."""


class Place(NamedTuple):
    label: str
    strength: Est | None
    """Log-odds, mean 0 over the policies; None where no finite strength exists."""
    against: Sequence[Est | None]
    """Win rate over each policy, in the order of the places; None against itself and where the two never met."""
    certain: Sequence[bool]
    """Whether each of them is away from 50 % after the correction over all pairs of policies."""
    standing: str = ""
    """``above`` or ``below`` the policies with a strength, for one that won or lost everything; ``apart``; else ''."""


class RankingPart(NamedTuple):
    places: Sequence[Place]
    method: str
    notes: Sequence[str]


def ranking_part(figures: Mapping[str, Any]) -> RankingPart | None:
    """From the figures of a comparing stage, strongest first; None where fewer than three policies met."""
    ranking = figures.get("ranking") or {}
    names = list(ranking.get("names") or ())
    if len(names) < FEWEST:
        return None
    matrix, n = ranking["matrix"], int(ranking["n"])
    strengths: dict[str, Est | None] = {
        name: None if value is None else Est(value, low, high, n)
        for name, value, low, high in zip(names, ranking["value"], ranking["low"], ranking["high"], strict=True)
    }
    standings = _standings(ranking, names, strengths, matrix)
    # a summary of an earlier version has no order
    order = list(
        ranking.get("order") or sorted(names, key=lambda n: _worth(standings[n], strengths[n], matrix[n]), reverse=True)
    )
    places = [
        Place(
            display(name),
            strengths[name],
            [estimate(matrix[name].get(other)) for other in order],
            [_is_certain(matrix[name].get(other)) for other in order],
            standings[name],
        )
        for name in order
    ]
    return RankingPart(places, str(ranking["method"]), list(ranking.get("notes") or ()))


def ranking_of_run(summary: Mapping[str, Any]) -> RankingPart | None:
    """Of the first stage that has one."""
    for stage in (summary.get("stages") or {}).values():
        if part := ranking_part(stage.get("figures") or {}):
            return part
    return None


def _is_certain(comparison: Mapping[str, Any] | None) -> bool:
    p = (comparison or {}).get("p_adjusted")
    return p is not None and p < CERTAIN


def _standings(
    ranking: Mapping[str, Any], names: Sequence[str], strengths: Mapping[str, Est | None], matrix: Mapping[str, Any]
) -> dict[str, str]:
    """Place of each policy beside those with a strength; '' for these, and where no policy has one."""
    if ranking.get("places"):
        return {
            name: "" if place == "ranked" else str(place) for name, place in zip(names, ranking["places"], strict=True)
        }
    if all(strength is None for strength in strengths.values()):
        return dict.fromkeys(names, "")
    return {
        name: "" if strengths[name] is not None else "above" if _mean_rate(matrix[name]) > 0.5 else "below"
        for name in names
    }


def _worth(standing: str, strength: Est | None, against: Mapping[str, Any]) -> tuple[int, float]:
    """By standing, then by strength or, without one, by mean win rate."""
    level = {"above": 1, "below": -1, "apart": -2}.get(standing, 0)
    return level, strength.value if strength is not None else _mean_rate(against)


def _mean_rate(against: Mapping[str, Any]) -> float:
    rates = [figure.value for figure in map(estimate, against.values()) if figure is not None]
    return sum(rates) / len(rates) if rates else -math.inf
