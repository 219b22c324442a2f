"""What `aifeedback compare` prints: policies against the reference, ranking and matrix, harm, what was taken off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aifeedback.audit.ranking import ranking_part
from aifeedback.audit.story import display
from aifeedback.cli.terminal import brief_estimate, console, estimate, table

EXTRAPOLATES = ("extrapolates", "not estimable")
"""How a note begins that says that a length-controlled figure is not to be leant on."""


def show_comparison(figures: Mapping[str, Any], reference: str) -> None:
    """Every table that there are figures for, policies by the names they were given; details are in the report."""
    given = {display(name): name for name in figures["policies"]}
    rows = [
        (
            f"{name}, drawn again" if name == reference else name,
            _percent(row["win_rate"]),
            _percent(row["length_controlled"]),
            _number(row["mean_length"]),
        )
        for name, row in figures["policies"].items()
    ]
    table(f"win rate against {reference}, %", ("policy", "win rate", "at equal length", "characters"), rows)
    for name, row in figures["policies"].items():
        for note in (row["length_controlled"] or {}).get("notes", ()):
            if note.startswith(EXTRAPOLATES):
                console.print(f"[yellow]![/] {name}, at equal length: {note}", highlight=False)
    _independence(figures["independence"])
    if found := ranking_part(figures):
        header = ("policy", "strength", *(f"vs {given[place.label]}" for place in found.places))
        rows = [
            (given[place.label],
             "–" if place.strength is None else brief_estimate(place.strength._asdict(), digits=2, signed=True),
             *("–" if est is None else f"{100 * est.value:.0f}{'*' if sure else ' '}"
               for est, sure in zip(place.against, place.certain, strict=True)))
            for place in found.places
        ]  # fmt: skip
        table("ranking: Bradley–Terry log-odds, and win rate in % (* certainly not 50, Holm)", header, rows)
        for note in found.notes:
            console.print(f"[yellow]![/] {note}")
    if safety := figures.get("safety"):
        _safety(safety)
    for name, row in figures["policies"].items():
        if (taken := row.get("tidied") or {}).get("changed"):
            answers = "1 answer" if taken["changed"] == 1 else f"{taken['changed']:,} answers"
            console.print(f"{name}: {taken['characters']:,} trailing characters taken off {answers}")


def _independence(told: Mapping[str, Any]) -> None:
    mark = "[green]✓ verified[/]" if told["verified"] else "[red]✗ unverified[/]"
    console.print(f"{mark}: {told['reason']}")


def _safety(told: Mapping[str, Any]) -> None:
    columns = ("harmless", "over-refusal", "under-refusal", "helpful")
    rows = []
    for policy, by_judge in told["policies"].items():
        row = by_judge[told["judge"]]
        refusal = row.get("refusal") or {}
        parts = (row["harmless_all"], refusal.get("over_refusal"), refusal.get("under_refusal"), row["helpful"])
        rows.append((policy, *(_percent(part) for part in parts)))
    table(f"harm and refusal, %, by {told['judge']}", ("policy", *columns), rows)


def _percent(value: Mapping[str, Any] | None) -> str:
    return "–" if value is None or value.get("value") is None else estimate(value, 100)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
