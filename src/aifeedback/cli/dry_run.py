"""--dry-run: one rendered prompt and what the whole job would ask of the judge; no model is called."""

from __future__ import annotations

from typing import Any

from aifeedback.cli.single import require
from aifeedback.cli.terminal import console, table


def show_label_forecast(stage: Any, seed: int) -> None:
    """Prints the first prompt as the judge would read it, then calls and rough tokens (four characters each)."""
    from aifeedback import files
    from aifeedback.feedback.judge import JudgeLabeler
    from aifeedback.models.fake import FakeModel
    from aifeedback.stages.resolve import NO_PROMPT, judge_prompt

    require(name for name in stage.inputs() if name != stage.judge.model)
    if stage.judge.model.partition(":")[0] in NO_PROMPT:
        console.print(f"{stage.judge.model} is asked nothing in words")
        return
    read = files.read_comparisons(stage.comparisons, seed, columns=stage.columns, limit=stage.limit)
    console.print(f"[dim]{read.report.sentence()}[/]")
    prompt = judge_prompt(stage.judge.prompt, stage.judge.shots)
    if prompt.task != "pairwise":
        console.print(f"prompt '{prompt.name}' rates one response at a time; --dry-run shows pairwise prompts")
        return
    judge = JudgeLabeler(FakeModel("longer"), prompt, stage.judge.settings(seed))
    texts = [_text(judge.example(comparison)) for comparison in read.rows[:50]]
    console.rule("the first prompt")
    console.print(texts[0], markup=False, highlight=False)
    calls = len(read.rows) * stage.judge.calls_per_pair
    tokens = sum(map(len, texts)) / len(texts) / 4
    table(
        "forecast",
        ("comparisons", "calls", "prompt tokens per call, roughly", "prompt tokens"),
        [(f"{len(read.rows):,}", f"{calls:,}", f"{tokens:,.0f}", f"{calls * tokens:,.0f}")],
    )


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(f"[{m.role}]\n{m.content}" for m in prompt)
