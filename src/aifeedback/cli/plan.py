"""plan: whose feedback, how many labels for a wanted precision, and what they cost; before any is bought."""

from __future__ import annotations

from typing import Annotated

import typer

from aifeedback.cli.options import Json

app = typer.Typer()


@app.command()
def plan(
    half_width: Annotated[float, typer.Option(help="Wanted precision of a win rate among people, ± this much.")] = 0.05,
    labels: Annotated[int, typer.Option(help="Preference labels to train on.")] = 20_000,
    share: Annotated[float, typer.Option(help="Expected win rate; 0.5 needs the most labels.")] = 0.5,
    judge_agreement: Annotated[
        float | None, typer.Option(help="How often the judge agrees with human labels, as `audit` measured it.")
    ] = None,
    people_agreement: Annotated[
        float, typer.Option(help="How often two human raters agree, as `rate` measured it.")
    ] = 0.75,
    budget_usd: Annotated[float | None, typer.Option(help="Limit on the cost of all labels together.")] = None,
    high_stakes: Annotated[bool, typer.Option("--high-stakes", help="Errors can hurt people.")] = False,
    taste: Annotated[
        bool, typer.Option("--taste", help="What is better is a matter of taste, humour or culture.")
    ] = False,
    locales: Annotated[int, typer.Option(help="Languages or groups of users, each with evidence of its own.")] = 1,
    pairs: Annotated[int, typer.Option(help="Pairs with human labels that exist already.")] = 0,
    can_sample: Annotated[
        bool, typer.Option("--sample/--no-sample", help="Whether the policy can write new texts while it trains.")
    ] = True,
    words: Annotated[float, typer.Option(help="Words that a rater reads per label.")] = 304.0,
    usd_per_50_words: Annotated[float, typer.Option(help="Pay of human raters.")] = 0.11,
    words_per_minute: Annotated[float, typer.Option(help="Reading speed of raters.")] = 238.0,
    raters: Annotated[int, typer.Option(help="Human raters per label.")] = 1,
    tokens: Annotated[
        float, typer.Option("--tokens", "--input-tokens", help="Tokens that the judge reads per call.")
    ] = 830.0,
    usd_per_1k: Annotated[
        float,
        typer.Option(
            "--usd-per-1k", "--usd-per-1k-input", help="Price of 1,000 tokens read by the judge; 0 for a local one."
        ),
    ] = 0.03,
    usd_per_1k_output: Annotated[float, typer.Option(help="Price of 1,000 tokens that it writes.")] = 0.06,
    json_file: Json = None,
) -> None:
    """Plan whose feedback to use: RLHF, RLAIF or a hybrid, the human labels needed as evidence, the cost of each."""
    from aifeedback.cli.terminal import console, table
    from aifeedback.config import parse
    from aifeedback.metrics import Constraints
    from aifeedback.metrics import plan as make_plan
    from aifeedback.storage import write_json

    values = {
        "labels": labels,
        "half_width": half_width,
        "share": share,
        "judge_agreement": judge_agreement,
        "people_agreement": people_agreement,
        "budget_usd": budget_usd,
        "high_stakes": high_stakes,
        "is_taste": taste,
        "locales": locales,
        "pairs": pairs,
        "can_sample": can_sample,
        "ai": {"input_tokens": tokens, "usd_per_1k_input": usd_per_1k, "usd_per_1k_output": usd_per_1k_output},
        "human": {
            "words": words,
            "usd_per_50_words": usd_per_50_words,
            "words_per_minute": words_per_minute,
            "raters": raters,
        },
    }
    result = make_plan(parse(Constraints, values, prefix="--"))
    with_ai = f"{result.human_with_ai:,}" if result.human_with_ai is not None else "give --judge-agreement"
    precision = f"± {100 * half_width:g} points"
    each = ", in each locale" if locales > 1 else ""
    table(
        "human labels",
        ("for", "needed"),
        [
            (f"a win rate among people within {precision}{each}", f"{result.human_alone:,}"),
            (f"the same, with {labels:,} AI labels beside them", with_ai),
            (f"the judge's agreement within {precision}", f"{result.to_measure_judge:,}"),
        ],
    )
    ways = [
        (
            w.name,
            f"{w.human_labels:,}",
            f"{w.ai_labels:,}",
            f"${w.usd:,.0f}",
            f"{w.hours:,.0f}",
            "" if w.is_affordable else "over budget",
            w.about,
        )
        for w in result.ways
    ]
    table("ways, evidence included", ("way", "human labels", "AI labels", "cost", "hours", "", ""), ways, text=("",))
    seconds = 3600 * result.hours_per_human_label
    console.print(
        f"a label costs ${result.usd_per_ai_label:.3f} by the judge, ${result.usd_per_human_label:.2f} by people"
        f" ({seconds:.0f} s of reading)"
    )
    console.print(f"[bold]{result.advice}[/]")
    for reason in result.reasons:
        console.print(f"  · {reason}", markup=False)
    if json_file:
        record = result._asdict() | {"ways": [way._asdict() for way in result.ways]}
        write_json(json_file, record)
