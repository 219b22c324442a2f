"""What `aifeedback compare` prints: policies against the reference, ranking and matrix, harm, what was removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from aifeedback.cli.people import show_people
from aifeedback.cli.terminal import brief_estimate, console, estimate, show_figures, table
from aifeedback.reports.judge_report import ranking_part
from aifeedback.reports.run_results import display
from aifeedback.steps.compare import CompareFigures
from aifeedback.steps.rejudge import RejudgeFigures
from aifeedback.steps.safety import SafetyStandings
from aifeedback.steps.step import Measured

EXTRAPOLATES = ("extrapolates", "not estimable")
"""How a note begins that says that a length-controlled figure is not to be leant on."""


def show_comparison(figures: CompareFigures) -> None:
    """Every table that there are figures for, policies by the names they were given; details are in the report."""
    reference = figures.reference
    shown = {display(name): name for name in figures.policies}
    rows = [
        (
            f"{name}, drawn again" if name == reference else name,
            _percent(row.win_rate),
            _percent(row.length_controlled),
            "–" if row.mean_length is None else f"{row.mean_length:.0f}",
        )
        for name, row in figures.policies.items()
    ]
    table(f"win rate against {reference}, %", ("policy", "win rate", "length-controlled", "characters"), rows)
    for name, row in figures.policies.items():
        for note in row.length_controlled.notes if row.length_controlled else ():
            if note.startswith(EXTRAPOLATES):
                console.print(f"[yellow]![/] {name}, length-controlled: {note}", highlight=False)
    if figures.independence.prompts:
        console.print(f"[yellow]![/] {escape(figures.independence.prompts.sentence)}")
    for name, claim in figures.independence.claims.items():
        badge = "[green]✓ verified[/]" if claim.verified else "[red]✗ unverified[/]"
        console.print(f"{badge} {name.replace('_', ' ')}: {escape(claim.reason)}")
    if ranking := ranking_part(figures.as_json()):
        header = ("policy", "strength", *(f"vs {shown[place.label]}" for place in ranking.places))
        rows = [
            (shown[place.label],
             "–" if place.strength is None else brief_estimate(place.strength._asdict(), digits=2, signed=True),
             *("–" if est is None else f"{100 * est.value:.0f}{'*' if sure else ' '}"
               for est, sure in zip(place.against, place.certain, strict=True)))
            for place in ranking.places
        ]  # fmt: skip
        table("ranking: Bradley–Terry log-odds, and win rate in % (* certainly not 50, Holm)", header, rows)
        for note in ranking.notes:
            console.print(f"[yellow]![/] {note}")
    if figures.people:
        show_people(figures.people)
    if figures.slices:
        show_slices(figures.slices.model_dump())
    if figures.safety:
        _safety(figures.safety)
    for name, row in figures.policies.items():
        if row.tidied.get("changed"):
            responses = "1 response" if row.tidied["changed"] == 1 else f"{row.tidied['changed']:,} responses"
            console.print(f"{name}: {row.tidied['characters']:,} trailing characters removed from {responses}")


def show_rejudged(figures: RejudgeFigures) -> None:
    """The comparison or the labels, and how often the new judges agree with the earlier ones."""
    if figures.comparison is not None:
        show_comparison(figures.comparison)
    for judge, labels in (figures.labels or {}).items():
        show_figures(labels.as_json(), None, judge)
    rows = [
        (new, earlier, _percent(share))
        for new, by_earlier in figures.agreement_with_earlier.items()
        for earlier, share in by_earlier.items()
    ]
    table(
        "same verdict on the same pairs, %", ("new judge", "earlier judge", "agreement"), rows, text=("earlier judge",)
    )


def show_slices(record: Mapping[str, Any]) -> None:
    """Win rates in % per slice and combination, with n: grey is too few to test, red is significantly worse."""
    from aifeedback.reports.coverage import part_of

    styles = {"few": "dim", "worse": "bold red", "fine": "default"}
    part = part_of(record)
    for policy in part.policies:
        for one in policy.tables:
            rows = [
                (
                    head,
                    *(
                        "–"
                        if cell is None or cell.value is None
                        else f"[{styles[cell.state]}]{100 * cell.value:.0f}{'▼' if cell.state == 'worse' else ''} ({cell.n})[/]"
                        for cell in cells
                    ),
                )
                for head, cells in one.rows
            ]
            table(f"{policy.policy} by {one.title}: win rate in % (n)", (one.title, *one.columns), rows)
        for text in policy.worse:
            console.print(f"[red]▼[/] {policy.policy}: {text}", highlight=False)
    console.print(
        f"[dim]▼ significantly worse (Holm over all slices); grey: fewer than {part.rows} prompts, not tested[/]"
    )


def _safety(safety: SafetyStandings) -> None:
    columns = ("harmless", "over-refusal", "under-refusal", "helpful")
    rows = []
    for policy, by_judge in safety.policies.items():
        row = by_judge[str(safety.judge)]
        refusal = row.get("refusal") or {}
        parts = (row["harmless_all"], refusal.get("over_refusal"), refusal.get("under_refusal"), row["helpful"])
        rows.append((policy, *(_percent(part) for part in parts)))
    table(f"harm and refusal, %, by {safety.judge}", ("policy", *columns), rows)


def _percent(value: Any) -> str:
    plain = value.model_dump() if isinstance(value, Measured) else value
    return "–" if plain is None or plain.get("value") is None else estimate(plain, 100)
