"""The report's part on human raters: win rates by people beside the judge's, and how far the raters can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.reports import figures
from aifeedback.reports.run_results import Est, display, estimate, mapping
from aifeedback.reports.wording import count, listed, percent

MARKS = {"✗": "bad", "!": "watch", "✓": "fine"}


class Match(NamedTuple):
    """The first policy against the second."""

    one: str
    other: str
    pairs: int
    rated: int
    identical: int
    people: Est | None
    length_controlled: Est | None
    judge: Est | None
    powered: Est | None
    is_against_reference: bool

    @property
    def label(self) -> str:
        return f"{self.one} over {self.other}"


class SliceRow(NamedTuple):
    match: str
    value: str
    pairs: int
    rated: int
    people: Est | None
    judge: Est | None
    powered: Est | None


class Rater(NamedTuple):
    name: str
    ratings: int
    mark: str
    level: str
    reasons: str


class PeoplePart(NamedTuple):
    source: str
    judge: str
    """The judge beside people, by its name on the page; empty where there is none."""
    headline: str
    matches: Sequence[Match]
    figure: str | None
    slices: Sequence[SliceRow]
    raters: Sequence[Rater]
    ratings: int
    agreement: Sequence[tuple[str, Est]]
    has_powered: bool


def people_part(summary: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> PeoplePart | None:
    """From the first stage that measured by people; None where none did. ``names``: key of an evaluator → its name."""
    stages = mapping(summary.get("stages")).values()
    record = next((p for s in stages if (p := mapping(mapping(mapping(s).get("figures")).get("people")))), {})
    reference = next((str(r) for s in stages if (r := mapping(mapping(s).get("figures")).get("reference"))), "")
    if not record.get("matches"):
        return None
    all_matches = [_match(str(name), mapping(row), reference) for name, row in record["matches"].items()]
    matches = [match for match in all_matches if match.people is not None]
    judge = str((names or {}).get(record.get("judge", ""), record.get("judge", "")))
    raters = [_rater(str(name), mapping(row)) for name, row in mapping(record.get("raters")).items()]
    agreement = [
        (label, figure)
        for key, label in (
            ("kendalls_w", "Kendall's W"),
            ("krippendorff_alpha", "Krippendorff's α"),
            ("same_verdict", "same verdict"),
        )
        if (figure := estimate(record.get(key))) is not None
    ]
    return PeoplePart(
        source=str(record.get("source", "")),
        judge=judge,
        headline=_headline(matches, raters),
        matches=matches,
        figure=_plot(matches, judge),
        slices=[_slice(mapping(row)) for row in record.get("slices") or ()],
        raters=raters,
        ratings=int(record.get("ratings") or 0),
        agreement=agreement,
        has_powered=any(match.powered for match in matches),
    )


def _match(name: str, row: Mapping[str, Any], reference: str) -> Match:
    one, _, other = name.partition("_vs_")
    return Match(
        display(one),
        display(other),
        int(row.get("pairs") or 0),
        int(row.get("rated") or 0),
        int(row.get("identical") or 0),
        estimate(row.get("win_rate")),
        estimate(row.get("length_controlled")),
        estimate(row.get("judge")),
        estimate(row.get("prediction_powered")),
        other == reference,
    )


def _slice(row: Mapping[str, Any]) -> SliceRow:
    one, _, other = str(row.get("match")).partition("_vs_")
    return SliceRow(
        f"{display(one)} over {display(other)}",
        f"{row.get('tag')}: {row.get('value')}",
        int(row.get("pairs") or 0),
        int(row.get("rated") or 0),
        estimate(row.get("people")),
        estimate(row.get("judge")),
        estimate(row.get("prediction_powered")),
    )


def _rater(name: str, row: Mapping[str, Any]) -> Rater:
    mark = str(row.get("mark") or "")
    return Rater(
        name, int(row.get("ratings") or 0), mark, MARKS.get(mark, "unknown"), "; ".join(row.get("reasons") or ())
    )


def _headline(matches: Sequence[Match], raters: Sequence[Rater]) -> str:
    """Which policies people prefer to the reference for certain, which not, and whether a rater is unsound."""
    against = [match for match in matches if match.is_against_reference] or list(matches)
    if not against:
        return "People decided none of these pairs."
    clauses = []
    for word, chosen in (
        ("People prefer {} to {}", [m for m in against if m.people and m.people.beats_half]),
        ("people prefer {1} to {0}", [m for m in against if m.people and m.people.loses_to_half]),
        ("people do not clearly tell {} from {}", [m for m in against if m.people and not _is_clear(m.people)]),
    ):
        by_other: dict[str, list[str]] = {}
        for match in chosen:
            rate = f" ({percent(match.people.value)})" if match.people and _is_clear(match.people) else ""
            by_other.setdefault(match.other, []).append(f"{match.one}{rate}")
        clauses += [word.format(listed(names), other) for other, names in by_other.items()]
    bad = sum(rater.mark == "✗" for rater in raters)
    text = "; ".join(clauses)
    return f"{text[:1].upper()}{text[1:]}." + (f" {count(bad, 'rater')} marked ✗ below." if bad else "")


def _is_clear(rate: Est) -> bool:
    return rate.beats_half or rate.loses_to_half


def _plot(matches: Sequence[Match], judge: str) -> str | None:
    """Win rates by people and by the judge, one row per two policies (Lee et al. 2023, figure 1)."""
    if not matches:
        return None
    series = [
        ("people", [match.people for match in matches]),
        ("people, length-controlled", [match.length_controlled for match in matches]),
        ("people, prediction-powered", [match.powered for match in matches]),
        (judge, [match.judge for match in matches]),
    ]
    shown = [(name, row) for name, row in series if any(row)]
    lines = [figures.Line(match.label, [_mark(row[place]) for _, row in shown]) for place, match in enumerate(matches)]
    return figures.dots(
        lines,
        [name for name, _ in shown],
        unit="win rate of the first named, %",
        reference=0.5,
        colours=figures.evaluator_colours(len(shown)),
    )


def _mark(figure: Est | None) -> figures.Mark | None:
    return None if figure is None else figures.Mark(figure.value, figure.low, figure.high)
