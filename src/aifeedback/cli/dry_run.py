"""--dry-run: one rendered prompt, and the calls, tokens and cost of the whole job; no model is called or loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.cli.terminal import console, table
from aifeedback.errors import RecipeError
from aifeedback.judging.spec import JudgeSpec
from aifeedback.refs import ModelRef, problems_of
from aifeedback.steps.step import Step

SAMPLE = 100
"""Prompts rendered for the estimate, spread evenly over the file."""
CHARACTERS_PER_TOKEN = 4.0
"""English prose under common tokenizers; 3 to 5 for most, fewer for other scripts and for code."""


class Estimate(NamedTuple):
    """Calls, tokens and cost of one judge in a whole job."""

    judge: str
    calls: int
    tokens_in: float
    tokens_out: float
    """The most that may be written: one token per reading, and rationales up to their limit."""
    cost_usd: float | None
    """None: the model is not in the price table."""
    cap_usd: float | None


class Job(NamedTuple):
    """What a step asks of its judges."""

    judges: Sequence[Any]
    """Those that read a prompt."""
    prompts: Callable[[Any], Iterable[str]]
    """Of a judge, for rows spread over the file."""
    calls_per_item: Callable[[Any], int]
    items: int
    what: str
    report: Any


def show_forecast_of(step: Step, seed: int) -> None:
    """Print one prompt and the forecast of a labelling or scoring step; of any other step its calls."""
    _require(step)
    job = job_of(step, seed)
    if job is not None:
        _show(job)
        return
    from aifeedback.pipeline.forecast import rows_of

    calls = step.forecast(rows_of(step)).calls
    console.print("model calls: " + ("unknown before the run" if calls is None else f"{calls:,}"))
    if (memory := step.memory()) is not None:
        from aifeedback.cli.recipes import as_memory

        console.print(f"memory: {as_memory(memory)} of weights, gradients and optimizer state, and activations")


def cost_of(step: Step, seed: int) -> float | None:
    """USD that a labelling or scoring step costs by the price table; None where that cannot be known."""
    job = job_of(step, seed)
    costs = [e.cost_usd for e in estimates(job)] if job else []
    known = [cost for cost in costs if cost is not None]
    return sum(known) if costs and len(known) == len(costs) else None


def job_of(step: Any, seed: int) -> Job | None:
    """The judging of a ``Label`` or ``Score`` step; a ranking counts every pair, the most that a design asks."""
    if step.kind == "label":
        return _label_job(step, seed)
    return _score_job(step, seed) if step.kind == "score" else None


def _label_job(step: Any, seed: int) -> Job:
    from aifeedback import data

    members = getattr(step.judge, "members", None) or [step.judge]
    read = data.read_comparisons(
        step.comparisons, seed, columns=step.columns, criterion=step.criterion, limit=step.limit
    )

    def prompts(judge: Any) -> Iterable[str]:
        show = _shower(judge, seed)
        return (show(comparison) for comparison in _spaced(read.rows))

    return Job(
        [member for member in members if _is_readable(member)],
        prompts,
        lambda judge: judge.calls_per_pair,
        len(read.rows),
        "comparisons",
        read.report,
    )


def _score_job(step: Any, seed: int) -> Job:
    from aifeedback import data
    from aifeedback.judging.sampling import by_prompt
    from aifeedback.types import Comparison

    read = data.read_completions(step.completions, limit=step.limit)
    items: list[Any] = list(zip(read.prompts, read.rows, strict=True))
    per_item = step.judge.calls_per_score
    if step.rank:
        prompts_by_id = {prompt.id: prompt for prompt in read.prompts}
        groups = by_prompt(read.prompts, read.rows)
        items = [
            Comparison.of(prompts_by_id[key], one, other)
            for key, own in groups.items()
            for place, one in enumerate(own)
            for other in own[place + 1 :]
        ]
        per_item = step.judge.calls_per_pair
    return Job(
        [step.judge] if _is_readable(step.judge) else [],
        lambda judge: map(_shower(judge, seed), _spaced(items)),
        lambda _: per_item,
        len(items),
        "items",
        read.report,
    )


def estimates(job: Job) -> list[Estimate]:
    """One per judge."""
    return [estimate(judge, list(job.prompts(judge)), job.items, job.calls_per_item(judge)) for judge in job.judges]


def estimate(judge: Any, texts: Sequence[str], items: int, calls_per_item: int) -> Estimate:
    """From sampled prompts to the whole job. With rationales half of the calls write one and half read after one."""
    from aifeedback.models.openai.budget import price_of
    from aifeedback.models.openai.wire import Usage

    calls = items * calls_per_item
    tokens_in = calls * sum(map(len, texts)) / max(len(texts), 1) / CHARACTERS_PER_TOKEN
    options = judge.server_options
    written_as = options.get("readout", "parsed" if judge.model.scheme == "anthropic" else "logprobs")
    if written_as == "votes":
        tokens_in *= options.get("votes", 8)
    each = {"votes": options.get("votes", 8), "parsed": 1}.get(written_as, 0) * options.get("answer_tokens", 256)
    tokens_out = float(calls * max(each, 1))
    if judge.rationale:
        written = judge.rationale.max_tokens or judge.prompt.load().rationale_max_tokens
        tokens_in += calls / 2 * written
        tokens_out = calls / 2 * (written + max(each, 1))
    price = None
    if judge.model.is_served:
        price = price_of(judge.model.name, options.get("prices"), in_batch=judge.answers_later)
    cost = price.of(Usage(math.ceil(tokens_in), math.ceil(tokens_out))) if price else None
    return Estimate(f"{judge.model} {judge.prompt}", calls, tokens_in, tokens_out, cost, judge.spend_cap_usd)


def _require(step: Step) -> None:
    """Everything but the models themselves must be there."""
    if faults := problems_of(ref for ref in step.inputs() if not isinstance(ref, ModelRef)):
        raise RecipeError("\n  ".join(faults), fix="nothing was run; fix this first")


def _is_readable(judge: JudgeSpec) -> bool:
    if not judge.model.is_readable:
        console.print(f"{judge.model} reads no prompt")
    return judge.model.is_readable


def _show(job: Job) -> None:
    console.print(f"[dim]{job.report.sentence()}[/]")
    if not job.judges:
        return
    first = next(iter(job.prompts(job.judges[0])), None)
    if first is not None:
        console.rule("the first prompt")
        console.print(first, markup=False, highlight=False)
    expected = estimates(job)
    rows = [
        (e.judge, f"{job.items:,}", f"{e.calls:,}", f"{e.tokens_in:,.0f}", f"{e.tokens_out:,.0f}", _money(e))
        for e in expected
    ]
    table("forecast", ("judge", job.what, "calls", "tokens in, about", "tokens out, at most", "cost"), rows)
    for e in expected:
        if e.cap_usd is not None and e.cost_usd is not None:
            console.print(_against_cap(e, job.items, job.what))


def _money(e: Estimate) -> str:
    if e.cost_usd is None:
        return "price unknown" if ModelRef(e.judge).is_served else "none: runs on this machine"
    return f"${e.cost_usd:,.2f}"


def _against_cap(e: Estimate, items: int, what: str) -> str:
    assert e.cap_usd is not None
    assert e.cost_usd is not None
    if e.cost_usd <= e.cap_usd:
        return f"The spend cap of ${e.cap_usd:,.2f} is enough."
    reached = int(items * e.cap_usd / e.cost_usd)
    return f"The spend cap of ${e.cap_usd:,.2f} is reached after about {reached:,} of {items:,} {what}."


def _spaced(items: Sequence[Any]) -> Iterator[Any]:
    """The first, and others at even distances."""
    step = max(1, len(items) // SAMPLE)
    yield from items[::step][:SAMPLE]


class _StandIn:
    """In place of a model that is not loaded: whether it would be shown messages."""

    def __init__(self, model: str) -> None:
        from aifeedback.types import ModelCard

        self.card = ModelCard(uri=model, revision="", family="")
        folder = ModelRef(model).path
        is_local = folder is not None and folder.is_dir()
        self.has_chat_template = (
            _has_template(folder) if is_local and folder else ModelRef(model).scheme in ("openai", "anthropic")
        )


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and bool(json.loads(config.read_text(encoding="utf-8")).get("chat_template"))
    )


def _shower(judge: Any, seed: int) -> Callable[[Any], str]:
    """A function from a comparison, or a (prompt, completion), to the first prompt that the judge would read."""
    from aifeedback.judging.pairwise import JudgeLabeler
    from aifeedback.judging.pointwise import JudgeScorer, ScoreSettings
    from aifeedback.steps.connect import principles

    model: Any = _StandIn(judge.model)
    prompt = judge.prompt.load(judge.shots, judge.shots_seed)
    if judge.by == "pairs":
        labeler = JudgeLabeler(model, prompt, judge.settings(seed), principles=principles(judge, seed))
        return lambda comparison: _text(labeler.example(comparison))
    wording = judge.rubric.load().rating_wordings()[0] if judge.rubric else None
    settings = ScoreSettings(rationale=judge.rationale, chat=judge.chat, seed=seed)
    scorer = JudgeScorer(model, prompt, settings, wording=wording)

    def rated(item: Any) -> str:
        prompt, answer = item if isinstance(item, tuple) else (item.prompt, item.first)
        return _text(scorer.example(prompt, answer))

    return rated


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n\n".join(f"[{m.role}]\n{m.content}" for m in prompt)
