"""``evaluate``: what a labelled file shows about its judge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from aifeedback import files
from aifeedback.config import Cli
from aifeedback.pipeline.step import Context, Figures, Measured, Step
from aifeedback.refs import Ref


class EvaluateFigures(Figures):
    rows: int
    unknown: int
    win_rate_of_first: Measured
    length_controlled: Measured
    alignment: Measured | None = None
    """Agreement with human labels."""
    kappa: Measured | None = None
    calibration_error: Measured | None = None
    brier: Measured | None = None


class Evaluate(Step):
    """Measure a labelled file: agreement with human labels, calibration, win rate raw and length-controlled."""

    kind: ClassVar[str] = "evaluate"
    Figures = EvaluateFigures
    data: Annotated[Ref, Cli(metavar="FILE")]
    """A labelled file, or any file with verdicts."""

    def requires(self) -> Iterator[str]:
        yield from ("scipy", "statsmodels", "sklearn")

    def run(self, context: Context) -> EvaluateFigures:
        from aifeedback import evaluate as metrics

        rows = files.read_judged(self.data, context.seed)
        p_first = [row.p_first for row in rows]
        human = [row.human_p_first for row in rows]
        first = [max(1, len(row.comparison.first.text)) for row in rows]
        second = [max(1, len(row.comparison.second.text)) for row in rows]
        has_human = any(h is not None for h in human)
        return EvaluateFigures(
            rows=len(rows),
            unknown=sum(p is None for p in p_first),
            win_rate_of_first=Measured.of(metrics.win_rate(p_first)),
            length_controlled=Measured.of(metrics.length_controlled_win_rate(p_first, first, second)),
            alignment=Measured.of(metrics.alignment(p_first, human)) if has_human else None,
            kappa=Measured.of(metrics.cohens_kappa(_choices(p_first), _choices(human))) if has_human else None,
            calibration_error=Measured.of(metrics.expected_calibration_error(p_first, human)) if has_human else None,
            brier=Measured.of(metrics.brier(p_first, human)) if has_human else None,
        )


def _choices(p_first: list[float | None]) -> list[float]:
    """1 the first, 0 the second, 0.5 a tie, NaN unknown."""
    return [float("nan") if p is None else 0.5 if p == 0.5 else float(p > 0.5) for p in p_first]
