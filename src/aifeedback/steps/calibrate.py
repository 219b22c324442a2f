"""``calibrate``: fit a map from a judge's confidence to its agreement with people, or a panel's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from aifeedback.config import Cli
from aifeedback.data import read_judged, read_records, read_rows
from aifeedback.errors import FileError
from aifeedback.refs import Ref
from aifeedback.steps.step import Context, Figures, Step
from aifeedback.steps.verdict import Verdict
from aifeedback.types import Preference


class CalibrateFigures(Figures):
    kind: str
    fit: dict[str, Any]
    """What the fit reports: its parameters, its cross-validated error before and after."""
    worse: tuple[str, ...] = ()
    """Measures by which held-out pairs fare worse with the fit than without."""

    def verdict(self) -> Verdict:
        what = "these weights" if self.kind == "weights" else "this map"
        n = self.fit["n"]
        if self.worse:
            meaning = f"Held-out pairs fare worse with {what} than without: {', '.join(self.worse)} (n = {n:,})."
            return Verdict("bad", meaning, f"Do not use {what}: fit on more pairs, or use another --kind.")
        if self.kind == "weights":
            before, after = self.fit["log_loss_equal"], self.fit["log_loss_learned"]
            return Verdict("ok", f"Log loss on held-out pairs {before:.3f} → {after:.3f} (n = {n:,}).")
        before, after = self.fit["ece_before"], self.fit["ece_after"]
        return Verdict("ok", f"Calibration error on held-out pairs {before:.3f} → {after:.3f} (n = {n:,}).")


class Calibrate(Step):
    """Fit a calibration map, or a panel's weights, on labels that people gave too; writes calibration.json."""

    kind: ClassVar[str] = "calibrate"
    main: ClassVar[str] = "calibration.json"
    Figures = CalibrateFigures
    data: Annotated[Ref, Cli(("--data", "--labelled"), metavar="FILE")]
    """A labelled file with human labels."""
    map: Annotated[Literal["temperature", "platt", "isotonic", "weights"], Cli(("--kind",))] = "temperature"
    """What to fit: a calibration map, or a panel's weights."""
    figure: Annotated[str | None, Cli(metavar="FILE")] = None
    """Also draw the reliability diagram here (.svg)."""

    def run(self, context: Context) -> CalibrateFigures:
        target = context.result("calibration.json")
        if self.map == "weights":
            return self._weights(target, context.seed)
        from aifeedback.judging.calibration import fit_calibration

        rows = read_judged(self.data, context.seed)
        judge = judge_of(rows, self.data)
        fitted = fit_calibration(
            [row.p_first for row in rows],
            [row.human_p_first for row in rows],
            name=target.stem,
            judge=judge,
            kind=self.map,  # type: ignore[arg-type]
            seed=context.seed,
        )
        if self.figure is not None:
            draw_reliability(fitted.fit, judge, Path(self.figure))
        fitted.save(target.parent)
        fit = fitted.fit.model_dump(exclude={"reliability_before", "reliability_after"})
        return CalibrateFigures(kind=self.map, fit=json.loads(json.dumps(fit, default=str)), worse=fitted.fit.worse)

    def _weights(self, target: Path, seed: int) -> CalibrateFigures:
        """The weights of the panel whose labels these are, from every member's judgements in its run folder."""
        from aifeedback.judging.panel import fit_weights

        labelled = Path(self.data)
        folder = labelled if labelled.is_dir() else labelled.with_name(f"{labelled.name}.run")
        folder = folder if folder.is_dir() else labelled.parent
        path = folder / "preferences.jsonl"
        if not path.is_file():
            raise FileError(
                "the members' judgements are missing", file=path, fix="give the output of `aifeedback label`"
            )
        preferences = read_records(path, Preference)
        rows = [row.values for row in read_rows(folder / "labelled.jsonl")]
        human = {row["comparison_id"]: row["human_p_first"] for row in rows}
        learned = fit_weights(preferences, [human.get(p.comparison_id) for p in preferences], seed=seed)
        learned.save(target)
        equal, own = learned.log_loss_equal, learned.log_loss_learned
        worse = (f"log loss {equal:.3g} → {own:.3g}",) if own > equal else ()
        return CalibrateFigures(kind="weights", fit=learned.model_dump(mode="json"), worse=worse)


def judge_of(rows: Any, file: str) -> str:
    """The one judge of labelled rows. Raises FileError for none or several."""
    judges = {row.judge for row in rows if row.p_first is not None}
    if len(judges) != 1:
        raise FileError(f"holds labels of {len(judges)} judges", file=file, fix="give labels of exactly one judge")
    return str(judges.pop())


def draw_reliability(fit: Any, judge: str, path: Path) -> None:
    """Stated confidence against agreement with people, before and after; a point's area is its number of pairs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1.0], [0.5, 1.0], color="0.6", linewidth=1)
    for label, bins, ece in (
        ("as stated", fit.reliability_before, fit.ece_before),
        ("calibrated (held out)", fit.reliability_after, fit.ece_after),
    ):
        x, y = [b.mean_confidence for b in bins], [b.accuracy for b in bins]
        axes.scatter(x, y, s=[8 + 300 * b.n / fit.n for b in bins], alpha=0.7, label=f"{label}: ECE {ece:.3f}")
    axes.set(
        xlabel="stated confidence", ylabel="agreement with people", title=f"{judge}, n = {fit.n}", xlim=(0.5, 1.01)
    )
    axes.legend(loc="upper left")
    figure.savefig(path)
