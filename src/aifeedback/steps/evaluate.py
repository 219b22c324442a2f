"""``evaluate``: what a labelled file shows about its judge."""

from __future__ import annotations

from typing import Annotated, ClassVar

from aifeedback.config import Cli
from aifeedback.data import load_judged
from aifeedback.metrics.length import LengthForm
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Figures, Measured, Rows, Step
from aifeedback.steps.verdict import Verdict, on_agreement, on_unknown


class EvaluateFigures(Figures):
    rows: int
    unknown: int
    identical: int = 0
    """Rows with two identical responses: ties."""
    empty: int = 0
    """Rows with an empty response."""
    win_rate_of_first: Measured
    length_controlled: Measured
    alignment: Measured | None = None
    """Agreement with human labels."""
    kappa: Measured | None = None
    calibration_error: Measured | None = None
    brier: Measured | None = None
    file: Rows | None = None
    """Rows of the data file."""

    def verdict(self) -> Verdict:
        agreement = on_agreement(self.alignment)
        if agreement is not None and agreement.level == "bad":
            return agreement
        if found := on_unknown(self.unknown, self.rows, "labels", None):
            return found
        if agreement is None:
            meaning = "The file has no human labels: agreement with human labels is unknown."
            return Verdict(
                "watch", meaning, "Have some of the pairs rated: aifeedback rate FILE -o ratings --rater NAME"
            )
        return agreement


class Evaluate(Step):
    """Measure a labelled file: agreement with human labels, calibration, win rate raw and length-controlled."""

    kind: ClassVar[str] = "evaluate"
    Figures = EvaluateFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """A labelled file, or any file with verdicts."""
    length_control: LengthForm = "ratio"
    """How length is controlled for (docs/metrics.md); ratio is the published form."""

    def run(self, context: Context) -> EvaluateFigures:
        from aifeedback.metrics.labels import labelled

        read = load_judged(self.data, context.seed)
        rows = read.rows
        found = labelled(
            [row.p_first for row in rows],
            [row.comparison.first.text for row in rows],
            [row.comparison.second.text for row in rows],
            [row.human_p_first for row in rows],
            prompts=[row.comparison.prompt.id for row in rows],
            length_control=self.length_control,
        )
        return EvaluateFigures.model_validate({**found.as_dict(), "file": Rows.of(read.report)})
