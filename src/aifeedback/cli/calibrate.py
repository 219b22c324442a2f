"""calibrate: fit a calibration map, or a panel's weights, and keep it where judges look for it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from aifeedback.cli.options import Json, Seed

app = typer.Typer()


@app.command()
def calibrate(
    data: Annotated[
        Path, typer.Option("--data", "--labelled", help="A labelled file with human labels.", metavar="FILE")
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="NAME, saved with the judge, or NAME.json.", metavar="NAME")],
    kind: Annotated[
        Literal["temperature", "platt", "isotonic", "weights"],
        typer.Option(help="A calibration map, or the weights of a panel."),
    ] = "temperature",
    figure: Annotated[Path | None, typer.Option(help="Also draw the reliability diagram here (.svg).")] = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Fit a map from a judge's confidence to its agreement with people; cross-validated error before and after."""
    from aifeedback.cli.terminal import console, show_figures, show_verdict
    from aifeedback.data import read_judged
    from aifeedback.pipeline.checks import require
    from aifeedback.pipeline.command import require_same_content
    from aifeedback.steps.calibrate import Calibrate, judge_of
    from aifeedback.steps.step import Context
    from aifeedback.storage import make_folder

    step = Calibrate.from_options({"data": str(data), "map": kind, "figure": str(figure) if figure else None})
    require(step)
    judge = None if kind == "weights" else judge_of(read_judged(data, seed), str(data))
    target = _target(out, judge)
    for path in (target, figure):
        if path is not None:
            make_folder(path.parent)
    # saved below a folder of its own first: an existing file is replaced by an equal one only
    with TemporaryDirectory(dir=target.parent) as folder:
        context = Context(Path(folder), Path(folder), seed=seed, out=Path(folder) / target.name)
        figures = step.run(context)
        require_same_content(target, context.result(target.name))
        context.result(target.name).replace(target)
    show_figures(figures.fit, json_file)
    console.print(f"→ [bold]{target}[/]", soft_wrap=True)
    show_verdict(figures.verdict())


def _target(out: str, judge: str | None) -> Path:
    """A path as it is; a bare name goes to ``calibrations/`` of the judge's own folder, or of this one."""
    if out.endswith(".json") or "/" in out or judge is None:
        return Path(out if out.endswith(".json") else f"{out}.json")
    model = judge.partition(" ")[0]
    folder = Path(model.partition(":")[2]) if model.startswith("hf:") else None
    return (folder if folder and folder.is_dir() else Path()) / "calibrations" / f"{out}.json"
