"""aifeedback calibrate: fits a map, or a panel's weights, on labels that people gave too, and says how good it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aifeedback.cli.record import require_same_content
from aifeedback.errors import FileError, RecipeError


def fit_map(labelled: Path, out: str, kind: str, seed: int, figure: Path | None) -> tuple[Path, dict[str, Any]]:
    """Fits and stores one; returns its file and its figures. Raises FileError for labels of no judge or of several."""
    from aifeedback import files
    from aifeedback.feedback.calibrate import fit_calibration
    from aifeedback.storage import make_folder

    if kind not in ("temperature", "platt", "isotonic"):
        raise RecipeError(f"there is no map '{kind}'", key="--kind", fix="temperature, platt, isotonic or weights")
    rows = files.read_judged(labelled, seed)
    judges = {row.judge for row in rows if row.p_first is not None}
    if len(judges) != 1:
        raise FileError(f"holds labels of {len(judges)} judges", file=labelled, fix="give labels of exactly one judge")
    judge = judges.pop()
    target = _target(out, judge)
    for path in (target, figure):
        if path is not None:
            make_folder(path.parent)
    fitted = fit_calibration(
        [row.p_first for row in rows],
        [row.human_p_first for row in rows],
        name=target.stem,
        judge=judge,
        kind=kind,  # type: ignore[arg-type]
        seed=seed,
    )
    if figure is not None:
        _draw(fitted.fit, judge, figure)
    return _kept(target, fitted.save), fitted.fit.model_dump(exclude={"reliability_before", "reliability_after"})


def fit_panel(labelled: Path, out: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """Learns the weights of the panel whose labels these are, from every member's judgements in its run folder."""
    from aifeedback import files
    from aifeedback.feedback.panel import fit_weights
    from aifeedback.records import Preference
    from aifeedback.storage import make_folder

    folder = labelled if labelled.is_dir() else labelled.with_name(f"{labelled.name}.run")
    folder = folder if folder.is_dir() else labelled.parent
    path = folder / "preferences.jsonl"
    if not path.is_file():
        raise FileError("the members' judgements are not there", file=path, fix="give what `aifeedback label` left")
    target = Path(out if out.endswith(".json") else f"{out}.json")
    make_folder(target.parent)
    preferences = files.read_records(path, Preference)
    rows = [row.values for row in files.read_rows(folder / "labelled.jsonl")]
    human = {row["comparison_id"]: row["human_p_first"] for row in rows}
    learned = fit_weights(preferences, [human.get(p.comparison_id) for p in preferences], seed=seed)
    return _kept(target, lambda folder: learned.save(folder / target.name)), learned.model_dump()


def _kept(target: Path, save: Callable[[Path], Path]) -> Path:
    """Saves below a folder of its own first: what is there already is replaced by its like alone."""
    with TemporaryDirectory(dir=target.parent) as folder:
        made = save(Path(folder))
        require_same_content(target, made)
        return made.replace(target)


def _target(out: str, judge: str) -> Path:
    """A path as it is; a bare name lies in ``calibrations/`` of the judge's own folder, or of this one."""
    if out.endswith(".json") or "/" in out:
        return Path(out if out.endswith(".json") else f"{out}.json")
    model = judge.partition(" ")[0]
    folder = Path(model.partition(":")[2]) if model.startswith("hf:") else None
    return (folder if folder and folder.is_dir() else Path()) / "calibrations" / f"{out}.json"


def _draw(fit: Any, judge: str, path: Path) -> None:
    """Stated confidence against agreement with people, before and after; the area of a point is its number of pairs."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        from aifeedback.errors import MissingExtra

        raise MissingExtra("matplotlib", "stats") from None
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
