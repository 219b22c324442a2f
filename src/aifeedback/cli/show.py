"""What `aifeedback show RUN` prints: what was done there, its main figures, its files, and what can be done next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aifeedback.cli.commands import COMMANDS, TRAIN_COMMANDS, Verb
from aifeedback.cli.terminal import console, estimate, show_figures, show_spent, show_verdict, table
from aifeedback.errors import FileError
from aifeedback.models.journal.journal import Spent
from aifeedback.pipeline import command
from aifeedback.pipeline.command import Record
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.steps import step_class
from aifeedback.steps.grid import GridFigures
from aifeedback.steps.step import Measured
from aifeedback.steps.verdict import Verdict, percent
from aifeedback.storage import read_json, write_json

HOLDS = {
    "report.html": "the report, one file that opens offline",
    "labelled.jsonl": "every row with its label; loads in TRL",
    "preferences.jsonl": "every label with the judgements it rests on: both orders, log-probabilities, rationales",
    "completions.jsonl": "the completions, beside their prompts",
    "comparisons.jsonl": "the pairs, ready to be labelled",
    "scored.jsonl": "every score beside its prompt and completion",
    "scores.jsonl": "every score with its distribution",
    "criteria.jsonl": "the scores by each criterion",
    "best.jsonl": "the completion with the highest reward of each prompt; `train sft` takes it",
    "sft.jsonl": "what `train sft` takes",
    "revised.jsonl": "the last version of every response",
    "revisions.jsonl": "every critique and revision",
    "trl.jsonl": "the known labels in TRL's columns",
    "ratings.jsonl": "every rating, one line each",
    "ratings.sqlite": "the ratings with their history",
    "model.safetensors": "the trained weights: the folder loads in transformers",
    "README.md": "the model's card",
    "training/metrics.jsonl": "every training step",
    "training/candidates": "the checkpoints that the policy was chosen from",
    "audit.json": "every finding",
    "figures.json": "every figure",
    "summary.json": "every figure",
    "recipe.yaml": "the recipe with everything filled in",
    "manifest.json": "versions, and per stage its settings' fingerprint, seconds, calls, cost and figures",
    "command.json": "the command with its settings",
    "journal.sqlite": "every model call, hash-chained",
}
FIGURES = ("figures.json", "audit.json", "summary.json")
"""Where a command leaves them, once it has finished."""
COMPARED = "aifeedback compare before={model} after=hf:{out} --prompts HELDOUT --judge JUDGE -o comparison"
NEXT = {
    "sample": ("aifeedback pair --completions {out} -o pairs.jsonl",),
    "pair": ("aifeedback label --data {out} --judge JUDGE -o labels.jsonl",),
    "label": (
        "aifeedback evaluate --data {out}",
        "aifeedback train reward --model hf:DIR --data {out} -o reward-model",
        "aifeedback train dpo --model hf:DIR --data {out} -o policy",
    ),
    "best-of-n": ("aifeedback train sft --model hf:DIR --data {out} -o policy",),
    "revise": ("aifeedback train sft --model hf:DIR --data {out} -o policy",),
    "train sft": (COMPARED,),
    "train dpo": (COMPARED,),
    "train kto": (COMPARED,),
    "train distill": (COMPARED,),
    "train rl": (COMPARED,),
    "train reward": (
        "aifeedback train rl --policy hf:DIR --prompts PROMPTS --reward rm:{out} -o policy",
        "aifeedback label --data PAIRS --judge rm:{out} -o labels.jsonl",
    ),
    "audit": ("aifeedback audit verify {folder}",),
    "rate": ("aifeedback audit JUDGE --data {out}/labelled.jsonl",),
}


MAIN = {
    "sample": "completions.jsonl",
    "pair": "comparisons.jsonl",
    "label": "labelled.jsonl",
    "best-of-n": "best.jsonl",
    "revise": "sft.jsonl",
}
"""The file that a next command takes, where the result is a folder."""


def run_folder(place: Path) -> Path:
    """The folder behind a run, or behind a result file. Raises FileError where there is neither."""
    if place.is_file() and (beside := place.with_name(f"{place.name}.run")).is_dir():
        return beside
    if not place.is_dir():
        raise FileError(
            "no such run", file=place, fix="give a run folder or what a command left, for example runs/demo"
        )
    return place


def show_run(folder: Path) -> None:
    """Raises FileError where neither a recipe nor a command left anything."""
    manifest, record = RunFolder(folder).manifest, command.read(folder)
    if manifest:
        _show_stages(folder, manifest)
    elif record is not None:
        _show_job(folder, record)
    else:
        raise FileError("not a run", file=folder, fix="give a folder that has a manifest.json or a command.json")
    _show_files(folder)
    hints = list(_hints(folder, record))
    if hints:
        console.print("\nnext:")
    for hint in hints:
        console.print(f"  {hint}", markup=False, soft_wrap=True)


def _show_stages(folder: Path, manifest: Mapping[str, Any]) -> None:
    console.print(f"[bold]{manifest['recipe']}[/]  seed {manifest['seed']}, in {folder}")
    stages = manifest["stages"].items()
    rows = [
        (
            name,
            done["kind"],
            f"{done['seconds']:.1f}",
            f"{done['calls']:,}",
            f"{done['tokens']:,}",
            f"{done['cost_usd']:.4f}",
        )
        for name, done in stages
    ]
    table("", ("stage", "kind", "seconds", "calls", "tokens", "USD"), rows, text=("kind",))
    show_spent(Spent(manifest["calls"], manifest["tokens"], manifest["cost_usd"]))


def _show_job(folder: Path, record: Record) -> None:
    console.print(f"[bold]{record.command}[/]  seed {record.seed} → {record.result}")
    settings = [(key, command.brief(value)) for key, value in command.main_settings(record)]
    table("", ("setting", "value"), settings, text=("value",))
    figures = next((stored for name in FIGURES if (stored := read_json(folder / name)) is not None), None)
    if figures is None:
        console.print("[yellow]![/] not finished: rerun the same command to resume")
    else:
        show_figures_of(record.command, figures)
        verdict = _verdict(record.command, figures)
        if verdict is not None:
            show_verdict(verdict)


def _verdict(name: str, figures: Mapping[str, Any]) -> Verdict | None:
    """What the command's last line said; None for a command that is not a step, or figures of another version."""
    verb = COMMANDS.get(name) or TRAIN_COMMANDS.get(name.removeprefix("train "))
    try:
        return step_class(verb.kind).Figures.model_validate(figures).verdict() if isinstance(verb, Verb) else None
    except ValidationError:
        return None


def _show_files(folder: Path) -> None:
    there = [(name, what) for name, what in HOLDS.items() if (folder / name).exists()]
    stages = sorted(path.name for path in folder.glob("stages/*"))
    there += [("stages/", f"what each stage left: {', '.join(stages)}")] if stages else []
    table("", ("file", "what it holds"), there, text=("what it holds",))


def _hints(folder: Path, record: Record | None) -> Iterator[str]:
    if record is not None and _is_finished(folder):
        main = folder / MAIN.get(record.command, "")
        out = main if record.command in MAIN and not Path(record.result).is_file() else record.result
        known = {"out": out, "folder": folder, "model": record.settings.get("model", "hf:DIR")}
        yield from (line.format(**known) for line in NEXT.get(record.command, ()))
    item = _an_item(folder)
    if item:
        yield f"aifeedback show {folder} {item}   (any id in its .jsonl files)"


def _is_finished(folder: Path) -> bool:
    return any((folder / name).exists() for name in FIGURES)


def _an_item(folder: Path) -> str | None:
    """The first id that `show RUN ITEM` would find."""
    from aifeedback.pipeline.provenance import IDS, record_files

    for path in record_files(folder):
        with path.open(encoding="utf-8") as lines:
            row = json.loads(next(lines, "null"))
        ids: Sequence[Any] = [row[key] for key in IDS if key in row] if isinstance(row, dict) else ()
        if ids:
            return str(ids[0])
    return None


def _show_grid(figures: GridFigures) -> None:
    rows = [
        (
            cell.name,
            _with_ends(cell.alignment),
            _percent_of(cell.alignment_single),
            _percent_of(cell.position_bias),
            "" if cell.label_mass is None else percent(cell.label_mass),
            f"{cell.unknown:,}",
            "" if cell.difference is None or cell.difference.value is None else f"{100 * cell.difference.value:+.1f}",
            "" if cell.p_value is None else f"{cell.p_value:.2g}",
        )
        for cell in figures.cells
    ]
    heads = ("cell", "agreement", "one order", "same position", "label mass", "unknown", "points", "p (Holm)")
    table("", heads, rows, text=("cell",))


def _show_best(figures: Mapping[str, Any], json_file: Path | None) -> None:
    apart = ("curve", "selected_by", "unrecorded")
    show_figures({key: value for key, value in figures.items() if key not in apart})
    rows = [(f"{p['n']}", estimate(p["reward"]), estimate(p["gain"]), f"{p['kl']:.3g}") for p in figures["curve"]]
    table("", ("best of", "expected reward", "gain", "KL at most"), rows)
    if json_file:
        write_json(json_file, figures)
        console.print(f"[dim]metrics → {json_file}[/]")


def _with_ends(share: Measured | None) -> str:
    """60 % (47–71)"""
    shown = _percent_of(share)
    if share is None or share.low is None or share.high is None:
        return shown
    return f"{shown} ({100 * share.low:.0f}–{100 * share.high:.0f})"


def _percent_of(share: Measured | None) -> str:
    return "" if share is None or share.value is None else percent(share.value)


def show_figures_of(kind: str, figures: Any, json_file: Path | None = None) -> None:
    """A step's figures as a person reads them: tables of their own for compare, audit and probe, else name and value."""
    if kind == "compare":
        from aifeedback.cli.comparing import show_comparison
        from aifeedback.steps.compare import CompareFigures

        show_comparison(figures if isinstance(figures, CompareFigures) else CompareFigures.model_validate(figures))
    elif kind == "rejudge":
        from aifeedback.cli.comparing import show_rejudged
        from aifeedback.steps.rejudge import RejudgeFigures

        show_rejudged(figures if isinstance(figures, RejudgeFigures) else RejudgeFigures.model_validate(figures))
    elif kind == "grid":
        _show_grid(figures if isinstance(figures, GridFigures) else GridFigures.model_validate(figures))
    elif kind in ("best-of-n", "best_of_n"):
        _show_best(figures if isinstance(figures, Mapping) else figures.as_json(), json_file)
    elif kind == "audit":
        from aifeedback.cli.audit import show_findings

        for judge in figures["judges"] if isinstance(figures, Mapping) else figures.judges:
            show_findings(judge)
    elif kind == "evaluate":
        from aifeedback.cli.people import show_people
        from aifeedback.steps.by_people import ByPeople

        plain = figures if isinstance(figures, Mapping) else figures.as_json()
        show_figures({key: value for key, value in plain.items() if key != "people"})
        if plain.get("people"):
            show_people(ByPeople.model_validate(plain["people"]))
        if json_file:
            write_json(json_file, plain)
            console.print(f"[dim]metrics → {json_file}[/]")
    elif kind == "probe":
        from aifeedback.cli.audit import show_probes
        from aifeedback.steps.probe import ProbeFigures

        show_probes(figures if isinstance(figures, ProbeFigures) else ProbeFigures.model_validate(figures))
    else:
        show_figures(figures if isinstance(figures, Mapping) else figures.as_json(), json_file)
