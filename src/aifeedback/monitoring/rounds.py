"""One round: every question is asked again, with fresh journals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from aifeedback import data
from aifeedback.errors import JudgeUnavailable
from aifeedback.metrics.safety import refusal_by_strings
from aifeedback.models.journal import Journal
from aifeedback.models.journal.journal import Spent
from aifeedback.monitoring.records import (
    GoldenItem,
    GoldenOutcome,
    MonitorSettings,
    Pass,
    ResponseOutcome,
    Round,
    Version,
)
from aifeedback.steps import connect
from aifeedback.steps.label import by_order, judgements_of, label_all
from aifeedback.steps.policies import responses
from aifeedback.steps.safety import AssessorSpec, assessor
from aifeedback.steps.step import Context
from aifeedback.storage import make_folder, write_json
from aifeedback.types import Labeler, Preference, Progress, Prompt, silent

FILE = "outcomes.json"


class Questions:
    """What every round asks: the golden set and the policy's prompts, as the monitor's folder keeps them."""

    def __init__(
        self, golden: Sequence[GoldenItem], canary: Sequence[Prompt] = (), redteam: Sequence[Prompt] = ()
    ) -> None:
        self.golden, self.canary, self.redteam = list(golden), list(canary), list(redteam)


def take_round(
    settings: MonitorSettings,
    questions: Questions,
    folder: Path,
    *,
    kind: Literal["baseline", "round"] = "round",
    progress: Progress = silent,
    at: datetime | None = None,
) -> Round:
    """Ask everything once, or for a baseline ``passes`` times, and write the round's folder.

    Nothing is answered from memory: each pass has a new journal, and models are connected anew. Raises
    JudgeUnavailable if no answer arrives; the folder then has no outcomes and does not count as a round.
    """
    at = at or datetime.now(UTC)
    place = _new_folder(folder, at)
    connect.release_models()  # a server is asked again what it runs
    passes, versions, heads, spent = [], dict[Version, None](), {}, Spent()
    for number in range(1, (settings.passes if kind == "baseline" else 1) + 1):
        name = "journal.sqlite" if number == 1 else f"journal-{number}.sqlite"
        below = place if number == 1 else make_folder(place / f"pass-{number}")
        context = Context(below, place, seed=settings.seed, progress=progress, journal_name=name)
        passes.append(_take_pass(settings, questions, context))
        _require_read(passes[-1], context)
        if context.journal.is_file():
            with Journal(context.journal) as journal:
                heads[name] = journal.head().link
                spent += journal.spent()
                versions |= dict.fromkeys(_versions(journal))
    taken = Round(
        name=place.name,
        at=at.isoformat(timespec="seconds"),
        kind=kind,
        passes=tuple(passes),
        versions=tuple(sorted(versions, key=str)),
        heads=heads,
        **spent._asdict(),
    )
    write_json(place / FILE, taken.model_dump(mode="json", exclude_defaults=True))
    return taken


def _require_read(taken: Pass, context: Context) -> None:
    """Raises JudgeUnavailable where no golden pair could be read: nothing was measured."""
    if all(outcome.p_first is None for outcome in taken.golden.values()):
        preferences = data.read_records(context.folder / "preferences.jsonl", Preference)
        cause = context.cause(judgements_of(preferences))
        why = f": {cause.problem}" + (f" ({cause.cause})" if cause.cause else "") if cause else ""
        raise JudgeUnavailable(f"none of the {len(taken.golden)} golden pairs could be read{why}")


def _new_folder(rounds: Path, at: datetime) -> Path:
    stem = f"{at:%Y-%m-%dT%H-%M-%S}"
    names = (stem, *(f"{stem}-{n}" for n in range(2, 1000)))
    return make_folder(next(rounds / name for name in names if not (rounds / name).exists()))


def _take_pass(settings: MonitorSettings, questions: Questions, context: Context) -> Pass:
    judge = connect.labeler(settings.judge, replace(context, step="golden"))
    golden = judged(judge, questions.golden, replace(context, step="golden"))
    parts = {
        part: _answers(settings, part, prompts, replace(context, step=part))
        for part, prompts in (("canary", questions.canary), ("redteam", questions.redteam))
        if prompts
    }
    return Pass(golden=golden, **parts)


def judged(judge: Labeler, items: Sequence[GoldenItem], context: Context) -> dict[str, GoldenOutcome]:
    """The judge's verdicts, item id → outcome; the preferences are left in the folder."""
    preferences = label_all(judge, [item.comparison for item in items], context)
    data.write_records(context.folder / "preferences.jsonl", preferences)
    orders = zip(*by_order(preferences), strict=True)
    return {
        item.id: GoldenOutcome(p_first=p.p_first, by_order=order, problem=None if p.problem is None else str(p.problem))
        for item, p, order in zip(items, preferences, orders, strict=True)
    }


def _answers(
    settings: MonitorSettings, part: str, prompts: Sequence[Prompt], context: Context
) -> dict[str, ResponseOutcome]:
    assert settings.policy is not None
    sampling = settings.sampling.at(settings.seed)
    answers = responses(part, settings.policy, prompts, context, sampling=sampling, server=settings.policy_server)
    pairs = [(p, c) for p, c in zip(prompts, answers.completions, strict=True) if c is not None]
    outcomes = {prompt.id: ResponseOutcome(problem="missing") for prompt in prompts}
    if settings.assessor is None:
        assessed = [(None, refusal_by_strings(c.text)) for _, c in pairs]
    else:
        assessments = assessor(_without_rating(settings.assessor), context).assess(
            [p for p, _ in pairs], [c for _, c in pairs]
        )
        assessed = [(one.is_harmless, one.response) for one in assessments]
    for (prompt, completion), (is_harmless, response) in zip(pairs, assessed, strict=True):
        outcomes[prompt.id] = ResponseOutcome(length=len(completion.text), response=response, is_harmless=is_harmless)
    return outcomes


def _without_rating(spec: AssessorSpec) -> AssessorSpec:
    return spec.model_copy(update={"rating": None})


def _versions(journal: Journal) -> list[Version]:
    versions: dict[Version, None] = {}
    for row in journal.rows():
        card = json.loads(row.entry.setting).get("card") or {}
        raw = json.loads(row.entry.raw) if row.entry.raw else {}
        versions[
            Version(
                uri=str(card.get("uri", "")),
                revision=str(card.get("revision", "")),
                model=str(raw.get("model", "")),
                fingerprint=str(raw.get("fingerprint", "")),
            )
        ] = None
    return list(versions)


def read_rounds(folder: Path) -> list[Round]:
    """Every finished round, the oldest first."""
    files = sorted(folder.glob(f"*/{FILE}"))
    return [Round.model_validate_json(file.read_text(encoding="utf-8")) for file in files]


def since_baseline(rounds: Sequence[Round]) -> list[Round]:
    """The latest baseline and what came after it."""
    starts = [place for place, one in enumerate(rounds) if one.kind == "baseline"]
    return list(rounds[starts[-1] :]) if starts else []


def new_versions(rounds: Sequence[Round]) -> list[tuple[Version, list[Version]]]:
    """Versions of the latest round that no earlier one saw, each with the earlier ones of the same model.

    A model seen for the first time (under another name) is compared with all earlier versions.
    """
    *earlier, latest = rounds
    seen = list(dict.fromkeys(version for one in earlier for version in one.versions))
    if not seen:
        return []
    return [(v, [s for s in seen if s.uri == v.uri] or seen) for v in latest.versions if v not in seen]


def changes(new: Version, before: Sequence[Version]) -> Mapping[str, tuple[str, str]]:
    """What is new about a version: field → (values before, value now)."""
    by_field = {}
    for field in ("uri", "revision", "model", "fingerprint"):
        old = sorted({getattr(one, field) for one in before} - {""})
        now = getattr(new, field)
        if now not in old and (now or old):
            by_field[field] = (", ".join(old) or "nothing", now or "nothing")
    return by_field
