"""What `compare` and `evaluate` print of people's verdicts."""

from __future__ import annotations

from aifeedback.cli.terminal import console, estimate, table
from aifeedback.steps.by_people import ByPeople
from aifeedback.steps.step import Measured


def show_people(people: ByPeople) -> None:
    """Win rates by people and by the judge, per two policies and per slice; agreement among raters."""
    columns = ["people", "length-controlled"]
    columns += [people.judge] if people.judge else []
    has_powered = any(match.prediction_powered for match in people.matches.values())
    columns += ["prediction-powered"] if has_powered else []
    rows = []
    for name, match in people.matches.items():
        cells = [match.win_rate, match.length_controlled]
        cells += [match.judge] if people.judge else []
        cells += [match.prediction_powered] if has_powered else []
        rows.append(
            (
                name.replace("_vs_", " over "),
                *map(_percent, cells),
                f"{match.rated:,} of {match.pairs - match.identical:,}",
            )
        )
    table(f"win rate by people ({people.source}), %", ("first over second", *columns, "rated"), rows)
    if has_powered:
        note = (
            "prediction-powered: what people would say of all pairs; it holds where the rated ones are a random sample"
        )
        console.print(note, style="dim")
    if people.slices:
        columns = ["people", *([people.judge] if people.judge else []), "prediction-powered"]
        rows = [
            (
                f"{row.tag}={row.value}",
                row.match.replace("_vs_", " over "),
                *map(_percent, [row.people, *([row.judge] if people.judge else []), row.prediction_powered]),
                f"{row.rated:,} of {row.pairs:,}",
            )
            for row in people.slices
        ]
        table("by slice, %", ("slice", "first over second", *columns, "rated"), rows, text=("first over second",))
    for name, figure in (("Kendall's W", people.kendalls_w), ("Krippendorff's α", people.krippendorff_alpha)):
        if figure is not None:
            console.print(f"{name} among raters: {estimate(figure.model_dump())}", markup=False)
    for rater, one in people.raters.items():
        if one.mark != "✓":
            console.print(f"{one.mark} {rater}: {'; '.join(one.reasons)}", markup=False)


def _percent(figure: Measured | None) -> str:
    return "–" if figure is None or figure.value is None else estimate(figure.model_dump(), 100)
