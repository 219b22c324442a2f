"""report.html: one self-contained page in the order an auditor asks, with a verdict that takes a minute to read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.audit import figures, wording
from aifeedback.audit.figures import Curve, Line, Mark, Panel
from aifeedback.audit.gather import gather
from aifeedback.audit.page import render
from aifeedback.audit.ranking import ranking_of_run
from aifeedback.audit.safety import safety_part
from aifeedback.audit.story import Est, Story, Training, display, estimate
from aifeedback.storage import make_folder

HARMFUL_WORDS = ("harm", "offensive", "toxic", "unsafe", "danger", "abus", "hate")


def write_report(
    summary: Mapping[str, Any],
    folder: str | Path,
    *,
    name: str = "report.html",
    blur: bool | None = None,
) -> Path:
    """Writes ``folder/report.html`` from a run's summary and returns its path; parts that are missing are left out.

    ``folder`` is the run folder: training curves are read from its stages. ``blur`` hides example texts until they are
    clicked; by default it is on where an example is marked sensitive or the judging standards speak of harm.
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
    """Writes the report of a finished run folder from its summary.json."""
    from aifeedback.errors import FileError

    file = Path(folder) / "summary.json"
    if not file.is_file():
        raise FileError(
            "no summary.json: this run has not finished", file=folder, fix="run the recipe again to continue it"
        )
    return write_report(json.loads(file.read_text(encoding="utf-8")), folder)


def view(story: Story, summary: Mapping[str, Any], *, blur: bool | None = None) -> dict[str, Any]:
    """Everything the template prints."""
    safety = safety_part(summary)
    return {
        "story": story,
        "safety": safety,
        "ranking": ranking_of_run(summary),
        "headline": safety.headline if safety and not story.contenders else wording.headline(story),
        "sentences": [(p, wording.policy_sentence(p, display(story.reference))) for p in story.policies],
        "warnings": wording.watch(story),
        "told": wording.told,
        "percent": wording.percent,
        "display": display,
        "reference": display(story.reference),
        "figures": {
            "win_rates": win_rates(story),
            "evaluators": by_evaluator(story),
            "head_to_head": head_to_head(story),
            "agreement": agreement(story),
            "reliability": figures.reliability(story.reliability) if story.reliability else None,
            "position": position(story),
            "trainings": training_curves(story.trainings),
        },
        "gamed": [(display(t.name), step) for t in story.trainings if (step := wording.over_optimised(t)) is not None],
        "examples": examples(story),
        "is_blurred": _is_harmful(story) if blur is None else blur,
        "summary_json": json.dumps(_slim(summary), indent=1, ensure_ascii=False, default=str),
    }


def mark(figure: Est | None) -> Mark | None:
    return None if figure is None else Mark(figure.value, figure.low, figure.high)


def win_rates(story: Story) -> str | None:
    """Raw and length-controlled win rate of every policy against the reference."""
    rows = [p for p in story.policies if p.win_rate]
    if not rows:
        return None
    lines = [Line(p.label, (mark(p.win_rate), mark(p.length_controlled))) for p in rows]
    marks = [m for line in lines for m in line.marks if m is not None]
    lowest = min(m.low if m.low is not None else m.value or 0 for m in marks)
    highest = max(m.high if m.high is not None else m.value or 0 for m in marks)
    return figures.dots(
        lines,
        ("as they are", "at equal length"),
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
    return figures.dots(lines, judges, unit=f"win rate against {display(story.reference)}, %", reference=0.5)


def head_to_head(story: Story) -> str | None:
    if not story.head_to_head:
        return None
    lines = [Line(f"{one} over {other}", (mark(figure),)) for one, other, figure in story.head_to_head]
    return figures.dots(lines, ("win rate",), unit="win rate of the first named, %", reference=0.5)


def agreement(story: Story) -> str | None:
    rows = [*story.agreement, *story.fact_pairs]
    if not rows:
        return None
    lines = [Line(label, (mark(figure),)) for label, figure in rows]
    return figures.dots(lines, ("agreement",), unit="agreement, %", reference=0.5, reference_label="guessing")


def position(story: Story) -> str | None:
    """How often the verdict stays with the answer, and how often with the slot, when the answers change places."""
    rows = []
    for stage, figure in story.position:
        n = figure.get("n") or 0
        if n and all(key in figure for key in ("slot_first", "slot_second", "consistency")):
            mixed = (figure.get("mixed") or 0) / n
            rows.append((stage, (figure["consistency"], figure["slot_first"] / n, figure["slot_second"] / n, mixed)))
    if not rows:
        return None
    return figures.stacked(rows, ("same answer", "slot 1 twice", "slot 2 twice", "a tie once"))


def training_curves(trainings: Sequence[Training]) -> str | None:
    """Reward, independent measure, KL and length of every policy while it learned, side by side."""
    columns = [(_course_title(t), panels) for t in trainings if (panels := _panels(t))]
    return figures.curves(columns, x_label="step") if columns else None


def _course_title(training: Training) -> str:
    name = display(training.name)
    return f"{name}: ended by its guard" if training.was_stopped else name


def _panels(training: Training) -> list[Panel]:
    if training.kind not in ("rl", "reinforce", ""):
        return []
    told = training.columns
    found = []
    rewards = [
        (name, label) for name, label in (("heldout_reward", "held out"), ("reward", "training")) if name in told
    ]
    if rewards:
        found.append(Panel("reward", [_course(training, name, label) for name, label in rewards]))
    for unit, names in (
        (f"measured by\n{training.watched_by}" if training.watched_by else "independent\nmeasure", wording.MEASURE),
        ("KL, nats", wording.KL),
        ("length, tokens", wording.LENGTH),
    ):
        name = next((n for n in names if n in told), None)
        if name is not None:
            found.append(Panel(unit, [_course(training, name, unit)]))
    return found if rewards else []


def _course(training: Training, name: str, label: str) -> Curve:
    """Known points, thinned to at most 100 means so that noise does not hide the course; ± 1.96 standard errors."""
    errors = training.columns.get(f"{name}_se") or [math.nan] * len(training.columns[name])
    rows = zip(training.columns["step"], training.columns[name], errors, strict=True)
    known = [row for row in rows if not math.isnan(row[1])]
    size = max(1, math.ceil(len(known) / 100))
    blocks = [known[i : i + size] for i in range(0, len(known), size)]
    x, y = [block[-1][0] for block in blocks], [sum(row[1] for row in block) / len(block) for block in blocks]
    if size > 1 or any(math.isnan(row[2]) for row in known):
        return Curve(label, x, y)
    reach = [1.96 * row[2] for row in known]
    return Curve(
        label, x, y, [v - r for v, r in zip(y, reach, strict=True)], [v + r for v, r in zip(y, reach, strict=True)]
    )


def examples(story: Story) -> list[dict[str, Any]]:
    """Side by side: why this one was chosen, the prompt, each policy's answer and its score where known."""
    shown = []
    for example in story.examples:
        answers = [
            {"name": display(name), "text": text, "score": (example.get("scores") or {}).get(name)}
            for name, text in example["answers"].items()
        ]
        rule = str(example.get("rule") or "one of the first prompts that every policy answered")
        shown.append(
            {
                "rule": rule,
                "prompt": str(example.get("prompt") or ""),
                "answers": answers,
                "is_sensitive": bool(example.get("sensitive")),
            }
        )
    return shown


def _is_harmful(story: Story) -> bool:
    """Whether the standards of any judge speak of harm: then the texts it was shown may be harmful."""
    words = json.dumps([[dict(v.prompt or {}) for v in story.voices], story.principles], default=str).lower()
    return any(word in words for word in HARMFUL_WORDS)


def _slim(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary without what the page shows elsewhere in full."""
    slim = {key: value for key, value in summary.items() if key not in ("stages", "examples")}
    return {key: value for key, value in slim.items() if value not in (None, {}, [])}


__all__ = ["estimate", "report_run", "view", "write_report"]
