"""report.html: one self-contained page that opens with its finding and answers an auditor's questions in order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aifeedback.reports import figures, wording
from aifeedback.reports.coverage import coverage_part
from aifeedback.reports.figures import Curve, Line, Mark, Panel
from aifeedback.reports.judge_report import ranking_of_run
from aifeedback.reports.page import render
from aifeedback.reports.people import people_part
from aifeedback.reports.run_results import Est, Story, Training, display, gather
from aifeedback.reports.safety import safety_part
from aifeedback.storage import make_folder

POSITIONS = ("same response", "position 1 twice", "position 2 twice", "a tie once")


def write_report(
    summary: Mapping[str, Any],
    folder: str | Path,
    *,
    name: str = "report.html",
    blur: bool | None = None,
) -> Path:
    """Write ``folder/report.html`` from a run's summary and return its path; parts that are missing are left out.

    ``folder`` is the run folder: training curves are read from its stages. ``blur`` hides example texts until they are
    clicked; by default those that are tagged unsafe or were judged harmful.
    """
    folder = Path(folder)
    story = gather(summary, folder)
    page = render("report.html.j2", **view(story, summary, blur=blur))
    target = make_folder(folder) / name
    partial = target.with_name(f".{name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def report_run(folder: str | Path) -> Path:
    """Write the report of a finished run folder from its summary.json."""
    from aifeedback.errors import FileError

    file = Path(folder) / "summary.json"
    if not file.is_file():
        raise FileError(
            "no summary.json: this run has not finished", file=folder, fix="run the recipe again to continue it"
        )
    return write_report(json.loads(file.read_text(encoding="utf-8")), folder)


def view(story: Story, summary: Mapping[str, Any], *, blur: bool | None = None) -> dict[str, Any]:
    """Everything the template prints."""
    safety = safety_part(summary, names=story.names)
    warnings = wording.watch(story)
    has_verdict = any(p.win_rate for p in story.contenders)
    return {
        "story": story,
        "safety": safety,
        "people": people_part(summary, names=story.names),
        "coverage": coverage_part(summary),
        "ranking": ranking_of_run(summary),
        "headline": safety.headline if safety and not has_verdict else wording.headline(story),
        "verdicts": {
            p.name: wording.card_line(verdict)
            for p in story.contenders
            if (verdict := wording.verdict(p, story)) is not None
        },
        "warnings": warnings,
        "claims": [claim._replace(reason=wording.renamed(claim.reason, story.names)) for claim in story.claims],
        "independence_reason": wording.independence_reason(story),
        "answers": {
            "who": wording.who_answer(story),
            "standards": wording.standards_answer(story),
            "agreement": wording.agreement_answer(story),
            "bias": wording.bias_answer(story),
            "gamed": wording.gamed_answer(story),
            "watch": wording.watch_answer(warnings),
        },
        "metric": wording.metric,
        "short": wording.short,
        "percent": wording.percent,
        "signed": wording.signed,
        "count": wording.count,
        "display": display,
        "reference": display(story.reference),
        "has_intervals": has_intervals(story),
        "plots": {
            "win_rates": win_rates(story),
            "evaluators": by_evaluator(story),
            "head_to_head": head_to_head(story),
            "agreement": agreement(story),
            "reliability": figures.reliability(story.reliability) if story.reliability else None,
            "position": position(story),
            "trainings": training_curves(story),
        },
        "gamed": [(display(t.name), step) for t in story.trainings if (step := wording.over_optimised(t)) is not None],
        "examples": examples(story),
        "is_blurred": bool(blur),
        "summary_json": json.dumps(_slim(summary), indent=1, ensure_ascii=False, default=str),
    }


def has_intervals(story: Story) -> dict[str, bool]:
    """Whether every value of a plot has one; a caption promises intervals only then."""
    win_rates = [figure for p in story.policies for figure in (p.win_rate, p.length_controlled) if figure]
    shown = {
        "win_rates": win_rates,
        "evaluators": [figure for p in story.policies for figure in p.by_judge.values()],
        "head_to_head": [figure for _, _, figure in story.head_to_head],
        "agreement": [figure for _, figure in (*story.agreement, *story.fact_pairs)],
    }
    return {name: all(figure.low is not None for figure in row) for name, row in shown.items()}


def mark(figure: Est | None) -> Mark | None:
    return None if figure is None else Mark(figure.value, figure.low, figure.high)


def win_rates(story: Story) -> str | None:
    """Raw and length-controlled win rate of every policy against the reference."""
    rows = [p for p in story.policies if p.win_rate]
    if not rows:
        return None
    lines = [Line(p.label, (mark(p.win_rate), mark(p.length_controlled)), p.colour) for p in rows]
    marks = [m for line in lines for m in line.marks if m is not None]
    lowest = min(m.low if m.low is not None else m.value or 0 for m in marks)
    highest = max(m.high if m.high is not None else m.value or 0 for m in marks)
    return figures.dots(
        lines,
        ("raw", "length-controlled"),
        unit=f"win rate against {display(story.reference)}, %",
        reference=0.5,
        span=(min(0.3, lowest - 0.03), max(0.7, highest + 0.07)),
    )


def by_evaluator(story: Story) -> str | None:
    """The same win rates by every evaluator; only where there are several."""
    judges = list(dict.fromkeys(judge for p in story.policies for judge in p.by_judge))
    if len(judges) < 2:
        return None
    lines = [Line(p.label, [mark(p.by_judge.get(judge)) for judge in judges]) for p in story.policies]
    return figures.dots(
        lines,
        [story.named(judge) for judge in judges],
        unit=f"win rate against {display(story.reference)}, %",
        reference=0.5,
        colours=figures.evaluator_colours(len(judges)),
    )


def head_to_head(story: Story) -> str | None:
    if not story.head_to_head:
        return None
    colours = {p.label: p.colour for p in story.policies}
    lines = [
        Line(f"{one} over {other}", (mark(figure),), colours.get(one, figures.GREY))
        for one, other, figure in story.head_to_head
    ]
    return figures.dots(lines, ("win rate",), unit="win rate of the first named, %", reference=0.5)


def agreement(story: Story) -> str | None:
    """The judge's rows in its colour; reward models in grey, since they are not evaluators."""
    rows = [*story.agreement, *story.fact_pairs]
    if not rows:
        return None
    evaluators = list(dict.fromkeys(story.named(judge) for p in story.policies for judge in p.by_judge))
    palette = figures.evaluator_colours(len(evaluators) + 1)
    whose = evaluators.index(story.judge_name) if story.judge_name in evaluators else len(evaluators)
    colours = [figures.GREY if label.startswith("reward model") else palette[whose] for label, _ in rows]
    lines = [Line(label, (mark(figure),), colour) for (label, figure), colour in zip(rows, colours, strict=True)]
    return figures.dots(lines, ("agreement",), unit="agreement, %", reference=0.5, reference_label="guessing")


def position(story: Story) -> str | None:
    """How often the verdict stays with the response, and how often with the position, when the two are exchanged."""
    rows = []
    for name, figure in story.position:
        n = figure.get("n") or 0
        if n and all(key in figure for key in ("slot_first", "slot_second", "consistency")):
            mixed = (figure.get("mixed") or 0) / n
            rows.append((name, (figure["consistency"], figure["slot_first"] / n, figure["slot_second"] / n, mixed)))
    return figures.stacked(rows, POSITIONS) if rows else None


def training_curves(story: Story) -> str | None:
    """Reward, independent measure, KL and length of every policy while it learned, one panel each."""
    colours = {p.name: p.colour for p in story.policies}
    spare = [colour for colour in figures.POLICIES if colour not in colours.values()] or list(figures.POLICIES)
    shown = [training for training in story.trainings if _is_rl(training)]
    panels: dict[str, list[Curve]] = {}
    for index, training in enumerate(shown):
        colour = colours.get(story.policy_of.get(training.name, training.name)) or spare[index % len(spare)]
        for unit, curve in _courses(training, display(story.policy_of.get(training.name, training.name)), colour):
            panels.setdefault(unit, []).append(curve)
    order = {"reward": 0, "KL, nats": 2, "length, tokens": 3}
    sorted_panels = sorted(panels.items(), key=lambda item: order.get(item[0], 1))
    return figures.curves([Panel(*item) for item in sorted_panels], x_label="step") if panels else None


def _is_rl(training: Training) -> bool:
    has_reward = any(name in training.columns for name in wording.REWARD)
    return training.kind in ("rl", "reinforce", "") and has_reward


def _courses(training: Training, name: str, colour: str) -> Iterator[tuple[str, Curve]]:
    """(Unit, course) of one training; the reward on training prompts is drawn thin beside the held-out one."""
    label = f"{name}: ended by its guard" if training.was_stopped else name
    known = training.columns
    for column in ("heldout_reward", "reward"):
        if column in known:
            yield "reward", _course(training, column, label, colour, is_thin="heldout" not in column)
    by = f"independent measure: {training.watched_by}" if training.watched_by else "independent measure"
    for unit, names in ((by, wording.MEASURE), ("KL, nats", wording.KL), ("length, tokens", wording.LENGTH)):
        column = next((n for n in names if n in known), None)
        if column is not None:
            yield unit, _course(training, column, label, colour)


def _course(training: Training, name: str, label: str, colour: str, *, is_thin: bool = False) -> Curve:
    """Known points, thinned to at most 100 means so that noise does not hide the course; ± 1.96 standard errors."""
    errors = training.columns.get(f"{name}_se") or [math.nan] * len(training.columns[name])
    rows = zip(training.columns["step"], training.columns[name], errors, strict=True)
    known = [row for row in rows if not math.isnan(row[1])]
    size = max(1, math.ceil(len(known) / 100))
    blocks = [known[i : i + size] for i in range(0, len(known), size)]
    x, y = [block[-1][0] for block in blocks], [sum(row[1] for row in block) / len(block) for block in blocks]
    if is_thin or size > 1 or any(math.isnan(row[2]) for row in known):
        return Curve(label, x, y, colour=colour, is_thin=is_thin)
    reach = [1.96 * row[2] for row in known]
    low, high = ([v + sign * r for v, r in zip(y, reach, strict=True)] for sign in (-1, 1))
    return Curve(label, x, y, low, high, colour)


def examples(story: Story) -> list[dict[str, Any]]:
    """Side by side: why this one was chosen, the prompt, each policy's response and its score where known."""
    shown = []
    for example in story.examples:
        scores = example.get("scores") or {}
        answers = [{"name": display(n), "text": text, "score": scores.get(n)} for n, text in example["answers"].items()]
        rule = str(example.get("rule") or "one of the first prompts that every policy answered")
        rule = wording.renamed(rule, {name: display(name) for name in example["answers"]})
        shown.append(
            {
                "rule": rule,
                "prompt": str(example.get("prompt") or ""),
                "answers": answers,
                "is_sensitive": bool(example.get("sensitive")),
            }
        )
    return shown


def _slim(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without what the page shows elsewhere in full."""
    slim = {key: value for key, value in summary.items() if key not in ("stages", "examples")}
    return {key: value for key, value in slim.items() if value not in (None, {}, [])}
