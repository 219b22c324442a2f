"""lab list | build | sample | pairs: the built-in offline world."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aifeedback.cli.terminal import console, table

app = typer.Typer()


MAIN_METRICS = (
    "alignment", "alignment_cot", "detailed_0", "detailed_0_cot", "fact_pairs", "fact_pairs_cot",
    "gold", "facts_right",
    "complies", "refuses", "details_right",
    "harmless_thought", "helpful_thought", "classes",
)  # fmt: skip
"""Of the benchmarks of judges, policies, dialogue policies and dialogue judges; the card has all."""


@app.command("list")
def list_models() -> None:
    """List the shipped models with their benchmark results."""
    from aifeedback.lab import zoo

    rows = []
    for name in zoo.names():
        card = zoo.card(name)
        exam = card.get("exam", {})
        results = ", ".join(f"{key} {exam[key]:.1f}" for key in MAIN_METRICS if key in exam)
        rows.append((f"lab:{name}", f"{card['parameters'] / 1e6:.2f} M", results or "not measured"))
    measured = "measured: shares in %, gold from 1 to 10"
    table("", ("model", "parameters", measured), rows, text=(measured,))


@app.command()
def sample(
    count: Annotated[int, typer.Argument()] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Print posts, candidate summaries and their gold scores (the lab's oracle)."""
    from aifeedback.lab import gold, samples

    for comparison in samples.comparisons(count, split="test", seed=seed):
        console.print(f"[bold]{comparison.prompt.text}[/]", highlight=False)
        facts = gold.facts_of(comparison.prompt)
        for completion in (comparison.first, comparison.second):
            console.print(f"  {gold.score(facts, completion.text):4.1f}  {completion.text}", markup=False)
        console.print()


@app.command()
def pairs(
    out: Annotated[Path, typer.Option("-o", "--out", help="A .jsonl or .parquet file.")],
    count: Annotated[int, typer.Argument(help="Pairs of candidates.")] = 1000,
    task: Annotated[str, typer.Option(help="summaries, or talk: requests, some of them harmful.")] = "summaries",
    triples: Annotated[
        int, typer.Option(help="Further prompts with three candidates, as all their pairs: to measure transitivity.")
    ] = 0,
    refusals: Annotated[
        int, typer.Option(help="talk: further pairs of a helpful response and a refusal: to measure over-refusal.")
    ] = 0,
    raters: Annotated[
        int, typer.Option(help="Simulated raters per pair; human_p_first is the mean of their votes.")
    ] = 3,
    split: Annotated[str, typer.Option(help="test: held out from every model. train: for training.")] = "test",
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Write pairs with simulated human labels, right on about 75 % of them: to audit a judge, or to rate."""
    from aifeedback import data
    from aifeedback.errors import InputError
    from aifeedback.lab import samples, simulated_raters
    from aifeedback.lab.talk import samples as talk
    from aifeedback.pipeline.command import require_same_content
    from aifeedback.storage import make_folder

    if task not in ("summaries", "talk") or (refusals and task != "talk"):
        raise InputError(f"no such pairs for '{task}'", key="--task", fix="summaries or talk; refusals are in talk")
    if split not in ("test", "train"):
        raise InputError(f"the lab has no split '{split}'", key="--split", fix="test or train")
    if count < 1 or raters < 1:
        raise InputError("nothing to make", key="count" if count < 1 else "--raters", fix="give at least 1")
    make_folder(out.parent)
    drawn = talk if task == "talk" else samples
    made = drawn.comparisons(count, split=split, seed=seed)  # type: ignore[arg-type]
    made += drawn.triples(triples, split=split, seed=seed)  # type: ignore[arg-type]
    made += talk.refusal_pairs(refusals, split=split, seed=seed)  # type: ignore[arg-type]
    measure = "talk" if task == "talk" else ""
    labels = simulated_raters.SimulatedPeople(seed, raters=raters, measure=measure).label(made)
    rows = [row.model_copy(update={"human_p_first": row.p_first}) for row in data.labelled(made, labels)]
    made = out.with_name(f".new-{out.name}")
    kept = data.write_labelled(made, rows)
    require_same_content(out, made)
    made.replace(out)
    console.print(f"{kept:,} pairs → [bold]{out}[/]")


@app.command()
def raters(
    data: Annotated[Path, typer.Argument(metavar="FILE", help="A folder of `compare`, or a file: lab summaries.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the ratings and their exports.")],
    count: Annotated[int, typer.Option(min=1, help="Raters; each rates everything.")] = 3,
    temperature: Annotated[
        float, typer.Option(min=0.01, help="Noise: 0.5 is careful, 2.5 agrees with gold on about 75 % of pairs.")
    ] = 0.5,
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most N items, drawn at random by --seed.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Let simulated raters rate through the rating page on loopback, and export their ratings."""
    import time

    from aifeedback.annotation import RatingStore, export, read_task
    from aifeedback.annotation.app import running
    from aifeedback.annotation.assignment import Assignment, sampled
    from aifeedback.lab.page_raters import PageRater

    task = read_task(data)
    store, names = RatingStore(out / "ratings.sqlite"), [f"rater-{i + 1}" for i in range(count)]
    read_s = 0.0

    def wait(seconds: float) -> None:
        nonlocal read_s
        read_s += seconds

    try:
        assignment = Assignment(
            store, sampled(task.items, limit, seed), names, seed=seed, now=lambda: time.time() + read_s
        )
        with running(assignment) as page:
            for name in names:
                done = PageRater(name, seed, temperature).rate_all(page.links[name], wait)
                console.print(f"{name}: {done:,} items rated")
        exported = export(task, store.ratings(), out)
    finally:
        store.close()
    console.print(f"→ [bold]{exported.file}[/]; compare with --judge people:{out}", soft_wrap=True)


@app.command()
def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Models to build; the shipped ones by default, which takes about an hour."),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the model folders go.")] = Path("runs/lab"),
) -> None:
    """Train the lab's models from scratch, exactly as the shipped ones were trained."""
    from aifeedback.cli.terminal import progress_line
    from aifeedback.pipeline.checks import require_modules

    require_modules(("torch", "transformers", "tokenizers"))
    from aifeedback.lab import zoo
    from aifeedback.lab.build import build as build_models
    from aifeedback.storage import make_folder

    make_folder(out)
    with progress_line("lab build") as progress:
        build_models(names or zoo.names(), out, progress=progress)
    console.print(f"→ [bold]{out}[/]")
