"""The report on probes of policies: one self-contained page, several policies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.audit.finding import Finding
from aifeedback.probing.runner import PolicyProbes
from aifeedback.reports import figures
from aifeedback.reports.figures import Line, Mark
from aifeedback.reports.judge_report import MARKS, SMALLEST_SPAN, brief, detectable, mark, metric
from aifeedback.reports.page import render
from aifeedback.reports.provenance import Fact, facts, installed_version, read_origin
from aifeedback.reports.wording import count, listed
from aifeedback.storage import make_folder

GROUPS = {
    "opinion": "Does it say what the user wants to hear?",
    "pressure": "Does it give up right answers under pressure?",
    "knowledge": "Does it admit what it cannot know?",
    "fairness": "Does it treat languages and names alike?",
    "injection": "Does it follow instructions planted in a document?",
    "harm": "Can it be talked into harm, and does it refuse what is harmless?",
}
MOST = 3
"""Faults that the headline names."""


def write_policy_report(
    results: Sequence[PolicyProbes], items: Mapping[str, int], path: str | Path, *, title: str = "Probes of policies"
) -> Path:
    """Write the page and return its path; ``items``: probe → items. Raises ValueError without any result."""
    if not results:
        raise ValueError("a report needs at least one policy")
    target = Path(path)
    page = render("policy.html.j2", **view(results, items, title=title, folder=target.parent))
    make_folder(target.parent)
    partial = target.with_name(f".{target.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def view(
    results: Sequence[PolicyProbes], items: Mapping[str, int], *, title: str, folder: Path | None = None
) -> dict[str, Any]:
    """Everything the template prints."""
    has_judge = results[0].headline != "rules"
    groups = [(key, heading, rows) for key, heading in _headings(results).items() if (rows := table(results, key))]
    return {
        "title": title,
        "results": results,
        "names": [result.policy for result in results],
        "colours": _colours(results),
        "headline": headline(results),
        "lead": lead(results, items),
        "facts": record(results, folder),
        "groups": groups,
        "answers": {key: answer(results, key) for key, *_ in groups},
        "plots": {key: (_points(results, key), _shares(results, key)) for key, *_ in groups},
        "has_judge": has_judge,
        "agreement": [_agreement(result) for result in results],
        "metric": metric,
        "brief": brief,
        "mark": mark,
        "marks": MARKS,
        "detectable": detectable,
        "tolerated": tolerated,
        "items": items,
    }


def _headings(results: Sequence[PolicyProbes]) -> dict[str, str]:
    """The shipped groups, and groups of findings from outside under their own names."""
    others = {f.group: str(f.group).capitalize() for result in results for f in result.main if f.group not in GROUPS}
    return {**GROUPS, **others}


def headline(results: Sequence[PolicyProbes]) -> str:
    """The finding in one sentence per policy: the gravest faults, or how much was looked at without any."""
    return "; ".join(_finding(result) for result in results) + "."


def _finding(result: PolicyProbes) -> str:
    if result.unanswered == result.responses:
        return f"{result.policy} answered none of {result.responses:,} questions"
    serious = [finding for finding in result.alarms() if finding.level == "bad"]
    watched = [finding for finding in result.alarms() if finding.level == "watch"]
    measured = [finding for finding in result.main if finding.level in ("fine", "watch", "bad")]
    if serious:
        worst = listed([_titled(finding) for finding in serious[:MOST]])
        if len(serious) > MOST:
            return f"{result.policy} has {count(len(serious), 'serious fault')}, first of all {worst}"
        return f"{result.policy} has {count(len(serious), 'serious fault')}: {worst}"
    if not measured:
        return f"no probe says anything about {result.policy}"
    points = f", {count(len(watched), 'point')} to watch" if watched else ""
    return f"{result.policy} shows no serious fault in {count(len(measured), 'finding')}{points}"


def _titled(finding: Finding) -> str:
    return f"{finding.title[0].lower()}{finding.title[1:]} ({brief(finding)})"


def lead(results: Sequence[PolicyProbes], items: Mapping[str, int]) -> str:
    responses = sum(result.responses for result in results)
    unknown = sum(result.unknown[result.headline] for result in results)
    silent = sum(f.level in ("uninformative", "unknown") for result in results for f in result.main)
    total = sum(len(result.main) for result in results)
    by = "a judge" if results[0].headline != "rules" else "the rules of the items"
    return (
        f"{count(sum(items.values()), 'item')} in {count(len(items), 'probe')}; {responses:,} responses classified by {by}, "
        f"{unknown:,} of them unknown; {silent:,} of {count(total, 'finding')} not measured or not informative."
    )


def answer(results: Sequence[PolicyProbes], group: str) -> str:
    """The first sentence of a section."""
    parts = []
    for result in results:
        findings = [finding for finding in result.main if finding.group == group]
        raised = [finding for finding in result.alarms() if finding in findings]
        silent = [finding for finding in findings if finding.level in ("uninformative", "unknown")]
        if raised:
            text = listed([f"{_titled(finding)} {MARKS[finding.level]}" for finding in raised])
        elif len(silent) == len(findings):
            text = "not known" if findings else "not measured"
        else:
            text = f"no significant fault in {count(len(findings) - len(silent), 'finding')}"
        if silent and len(silent) < len(findings):
            text += f"; {count(len(silent), 'finding')} not informative"
        parts.append(f"{result.policy}: {text}")
    return ". ".join(parts) + "."


def table(
    results: Sequence[PolicyProbes], group: str
) -> list[tuple[str, list[tuple[str, Finding | None, Finding | None]]]]:
    """Title of each finding, and (policy, finding, the rules' finding where a judge decides) for every policy."""
    titles = {f.probe: f.title for result in reversed(results) for f in result.main if f.group == group}
    order = [f.probe for result in results for f in result.main if f.group == group]
    return [
        (
            titles[probe],
            [
                (result.policy, result.get(probe), result.get(probe, "rules") if result.headline != "rules" else None)
                for result in results
            ],
        )
        for probe in dict.fromkeys(order)
    ]


def tolerated(rows: Sequence[tuple[str, Finding | None, Finding | None]]) -> str:
    """What a share is tested against; zero for effects."""
    first = next((finding for _, finding, _ in rows if finding is not None and finding.is_measured), None)
    if first is None:
        return "–"
    share = first.details.get("tolerated")
    return "no effect" if share is None else f"≤ {100 * share:g} %"


def record(results: Sequence[PolicyProbes], folder: Path | None) -> list[Fact]:
    """Date, data, policies, seed, version, journal: from command.json and the journals beside the page."""
    origin = read_origin(folder)
    version = installed_version() if origin.command else ""
    made = facts(origin, seed=origin.command.get("seed"), version=version, judges=[])
    own = [*(origin.settings.get("items") or ()), origin.settings.get("redteam")]
    lists = ["shipped lists"] if origin.settings.get("shipped", True) else []
    lists += [origin.described(str(file)) for file in own if file]
    by = ["the rules of the items", *([results[0].headline] if results[0].headline != "rules" else [])]
    of_pages = {"data": None, "evaluation prompts": Fact("items", lists), "judges": Fact("classified by", by)}
    return [shown for fact in made if (shown := of_pages.get(fact.name, fact)) is not None]


def _agreement(result: PolicyProbes) -> str:
    share = result.agreement
    if share is None:
        return ""
    if share.get("value") is None:
        return "no response was classified by both"
    ends = f"{100 * share['low']:.0f}–{100 * share['high']:.0f} %"
    return (
        f"{100 * share['value']:.0f} % (95 % CI {ends}, n = {share['n']:,}); "
        f"{share['only_one']:,} responses were classified by one of them only"
    )


def _points(results: Sequence[PolicyProbes], group: str) -> str | None:
    lines = _lines(results, group, "points")
    reach = max([SMALLEST_SPAN, *(abs(end) for line in lines for m in line.marks if m for end in m[1:] if end)])
    return _dots(results, lines, "points (0: no effect)", (-1.15 * reach, 1.15 * reach), "{:+.0f}")


def _shares(results: Sequence[PolicyProbes], group: str) -> str | None:
    return _dots(results, _lines(results, group, "share"), "share, %", None, "{:.0f}")


def _lines(results: Sequence[PolicyProbes], group: str, unit: str) -> list[Line]:
    titles = {
        f.probe: f.title for r in results for f in r.main if f.group == group and f.unit == unit and f.is_measured
    }
    return [Line(title, [_mark(result.get(probe)) for result in results]) for probe, title in titles.items()]


def _mark(finding: Finding | None) -> Mark | None:
    return None if finding is None or not finding.is_measured else Mark(finding.value, finding.low, finding.high)


def _dots(
    results: Sequence[PolicyProbes],
    lines: Sequence[Line],
    unit: str,
    span: tuple[float, float] | None,
    form: str,
) -> str | None:
    if not any(m is not None for line in lines for m in line.marks):
        return None
    names = [result.policy for result in results]
    return figures.dots(lines, names, unit=unit, reference=0.0, span=span, form=form, colours=_colours(results))


def _colours(results: Sequence[PolicyProbes]) -> list[str]:
    return [figures.POLICIES[i % len(figures.POLICIES)] for i in range(len(results))]
