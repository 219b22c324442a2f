"""compare, evaluate, audit, report: measurement and evidence from files and runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.options import Json, Seed, Workers
from aifeedback.cli.steps import BaseUrl, Prices, Sets, SpendCap
from aifeedback.cli.terminal import console


def add_to(app: typer.Typer) -> None:
    for command in (compare, evaluate, audit, report):
        app.command()(command)


def compare(
    policies: Annotated[
        list[str],
        typer.Argument(help="Two or more: NAME=hf:DIR, or NAME=FILE of completions; the first is the reference."),
    ],
    prompts: Annotated[Path, typer.Option(help="Held-out prompts.")],
    judge: Annotated[list[str], typer.Option(help="Judge model, several times for several; the first decides.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for answers, preferences, figures and report.")],
    prompt: Annotated[str | None, typer.Option(help="Judge prompt: a shipped name, lab:NAME, or a YAML file.")] = None,
    by: Annotated[str, typer.Option(help="pairs, or ratings of each response alone.")] = "pairs",
    rationale: Annotated[
        bool, typer.Option("--rationale", "--cot", help="Chain of thought before the verdict.")
    ] = False,
    safety: Annotated[
        list[str] | None, typer.Option(help="Model that says whether answers do harm, refuse, help; or gold:talk.")
    ] = None,
    trained_by: Annotated[list[str] | None, typer.Option(help="Models whose feedback trained a policy.")] = None,
    tidy: Annotated[bool, typer.Option(help="Take trailing periods and spaces off before judging.")] = True,
    sets: Sets = None,
    base_url: BaseUrl = None,
    prices: Prices = None,
    spend_cap_usd: SpendCap = None,
    temperature: float = 0.9,
    max_new_tokens: int = 128,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many prompts.")] = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Policies against the first one and each other: win rates with intervals, raw and at equal length; a ranking."""
    from aifeedback.audit.report import write_report
    from aifeedback.cli.comparing import show_comparison
    from aifeedback.cli.judges import assessor_spec, judge_spec
    from aifeedback.cli.single import Destination, run_stage
    from aifeedback.config import parse
    from aifeedback.evaluate.length import ExtrapolationWarning
    from aifeedback.stages.evidence import Compare

    named = _policies(policies)
    how = {"by": by, "rationale": {} if rationale else None, "base_url": base_url, "spend_cap_usd": spend_cap_usd}
    served = [*judge, *(safety or [])]
    given = {
        "policies": named,
        "reference": next(iter(named)),
        "prompts": str(prompts),
        "judges": {name: judge_spec(name, prompt, how, sets=sets, prices=prices, among=served) for name in judge},
        "safety": {name: assessor_spec(name, base_url, served) for name in safety or []},
        "trained_by": trained_by or [],
        "limit": limit,
        "sampling": {"temperature": temperature, "max_new_tokens": max_new_tokens},
        "tidy": tidy,
    }
    stage = parse(Compare, given, prefix="--")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # told below, with the policy's name
        outcome = run_stage(stage, Destination(out, "figures.json"), seed=seed, json_file=json_file, show=False)
    figures = outcome.figures
    show_comparison(figures, stage.reference)
    told = {"title": "Comparison of policies", "seed": seed, "reference": stage.reference}
    kept = {key: figures[key] for key in ("policies", "head_to_head")}
    stages = {"compare": {"kind": "compare", "calls": outcome.calls, "figures": figures}}
    report = write_report({**told, **kept, "stages": stages}, out)
    console.print(f"report: [bold]{report}[/]")


def _policies(given: list[str]) -> dict[str, str]:
    """Name → model or file. Raises RecipeError where there are not two, or two share a name."""
    from aifeedback.errors import RecipeError

    named = dict(_named(text) for text in given)
    if len(named) < len(given):
        raise RecipeError("two policies have the same name", key="POLICIES", fix="name them: one=hf:DIR other=hf:DIR")
    if len(named) < 2:
        raise RecipeError("a comparison needs two policies", key="POLICIES", fix="give NAME=hf:DIR twice or more")
    return named


def evaluate(
    labelled: Annotated[Path, typer.Option("--data", help="A labelled file, or any file with verdicts.")],
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """What a labelled file shows: agreement with people, calibration, win rate raw and at equal length."""
    from aifeedback import evaluate as measure
    from aifeedback import files
    from aifeedback.cli.terminal import show_figures

    rows = files.read_judged(labelled, seed)
    p_first = [row.p_first for row in rows]
    human = [row.human_p_first for row in rows]
    lengths = [(max(1, len(r.comparison.first.text)), max(1, len(r.comparison.second.text))) for r in rows]
    first, second = [a for a, _ in lengths], [b for _, b in lengths]
    figures = {
        "rows": len(rows),
        "not_known": sum(p is None for p in p_first),
        "win_rate_of_first": measure.win_rate(p_first).as_dict(),
        "length_controlled": measure.length_controlled_win_rate(p_first, first, second).as_dict(),
    }
    if any(h is not None for h in human):
        figures |= {
            "alignment": measure.alignment(p_first, human).as_dict(),
            "kappa": measure.cohens_kappa(_choices(p_first), _choices(human)).as_dict(),
            "calibration_error": measure.expected_calibration_error(p_first, human).as_dict(),
            "brier": measure.brier(p_first, human).as_dict(),
        }
    show_figures(figures, json_file)


def _choices(p_first: list[float | None]) -> list[float]:
    """1 the first, 0 the second, 0.5 a tie, NaN not known."""
    return [float("nan") if p is None else 0.5 if p == 0.5 else float(p > 0.5) for p in p_first]


def audit(
    judge: Annotated[list[str], typer.Argument(help="Judges to audit side by side; or: verify RUN.")],
    data: Annotated[Path | None, typer.Option(help="Pairs, best with people's verdicts.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Judge prompt: a shipped name, lab:NAME, or a YAML file.")] = None,
    by: Annotated[str, typer.Option(help="pairs, or ratings of each response alone.")] = "pairs",
    rationale: Annotated[
        bool, typer.Option("--rationale", "--cot", help="Chain of thought before the verdict.")
    ] = False,
    constitution: Annotated[str | None, typer.Option(help="Principles to judge by: a name or a YAML file.")] = None,
    sets: Sets = None,
    base_url: BaseUrl = None,
    prices: Prices = None,
    spend_cap_usd: SpendCap = None,
    probe: Annotated[list[str] | None, typer.Option(help="Only these probes.")] = None,
    n: Annotated[int, typer.Option(min=2, help="Pairs that a probe which changes texts may use.")] = 400,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many pairs.")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="A folder for findings, report and journal.")] = Path(
        "runs/audit"
    ),
    workers: Workers = None,
    seed: Seed = 0,
    json_file: Json = None,
) -> None:
    """Where a judge is biased, how well it agrees with people, what fools it; `audit verify RUN` checks a journal."""
    if judge[0] == "verify":
        _verify(judge[1:])
        return
    from aifeedback.cli.auditing import audit_judges
    from aifeedback.cli.judges import judge_spec

    thought = {} if rationale else None
    how = {
        "by": by, "rationale": thought, "constitution": constitution, "base_url": base_url,
        "spend_cap_usd": spend_cap_usd,
    }  # fmt: skip
    specs = {name: judge_spec(name, prompt, how, sets=sets, prices=prices, among=judge) for name in judge}
    audit_judges(specs, data, probes=probe, n=n, limit=limit, out=out, seed=seed, json_file=json_file,
                 workers=workers)  # fmt: skip


def _verify(runs: list[str]) -> None:
    from aifeedback.errors import FileError
    from aifeedback.store import Journal

    if not runs:
        raise FileError("no run is named to verify", fix="aifeedback audit verify RUN, for example runs/demo")
    for run in runs:
        path = Path(run) / "journal.sqlite" if Path(run).is_dir() else Path(run)
        if not path.is_file():
            raise FileError("no journal here", file=path, fix="give a run folder or a journal file")
        with Journal(path) as journal:
            head = journal.verify()
        console.print(
            f"[green]✓[/] {path}: {head.rows:,} calls, unchanged since they were written; head {head.link[:16]}"
        )


def _named(text: str) -> tuple[str, str]:
    name, equals, model = text.partition("=")
    return (name, model) if equals else (Path(text.partition(":")[2] or text).name.partition(".")[0], text)


def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN")],
) -> None:
    """Writes summary.json and report.html of a run again."""
    from aifeedback.audit.report import write_report
    from aifeedback.summary import summarise

    path = write_report(summarise(folder), folder)
    console.print(f"report: [bold]{path}[/]")
