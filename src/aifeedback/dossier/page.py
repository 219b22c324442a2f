"""The dossier's page: results as what ``reports.dossier_report`` shows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from aifeedback.dossier.dossier import PAGE, Dossier, Results, gravest
from aifeedback.dossier.records import GRAVITY, MARKS, QUESTIONS, Checked, Level, Signature
from aifeedback.reports.dossier_report import DossierView, FileRow, Question, Row, write_dossier_report
from aifeedback.reports.provenance import Fact
from aifeedback.reports.wording import count

WORDS = {"ship": "Ship", "ship-with-conditions": "Ship with conditions", "reject": "Do not ship"}


def write_page(dossier: Dossier, results: Results, head: str | None) -> Path:
    """Write ``dossier.html`` and return its path."""
    return write_dossier_report(view(dossier, results, head), dossier.folder / PAGE)


def view(dossier: Dossier, results: Results, head: str | None) -> DossierView:
    """Everything that the page shows."""
    settings, signatures = dossier.settings, dossier.signatures()
    today = datetime.now(UTC)
    decision, note, level = decision_line(signatures, results, today)
    return DossierView(
        title=dossier.folder.resolve().name,
        decision=decision,
        note=note,
        level=level,
        summary=summary(results),
        facts=[
            Fact("policy", [settings.policy, f"digest {settings.policy_digest or 'not known: it is served'}"]),
            Fact("use", [settings.use]),
            Fact("owner", [settings.owner]),
            Fact("requirements", [f"{len(settings.requirements)}, from {', '.join(settings.templates) or 'no template'}"]),
            Fact("page of", [f"{today:%Y-%m-%d %H:%M} UTC"]),
            Fact("signatures", [f"head {head}" if head else "none"]),
        ],
        questions=[_question(number, title, results.of(number)) for number, title in QUESTIONS.items()],
        waived=[_row(row) for row in results.rows if row.waiver],
        not_measured=_not_measured(results),
        claim=[(row.field.replace("_", " "), row.state, row.given, row.checked) for row in results.claim],
        questions_back=[row.question for row in results.claim if row.question],
        signatures=[(one.at[:16].replace("T", " "), one.by, one.role, WORDS[one.decision], one.until or "–", one.note)
                    for one in reversed(signatures)],
        files=[FileRow(f"{one.path}/{name}" if len(one.files) > 1 or name != Path(one.path).name else one.path, digest)
               for one in dossier.added for name, digest in one.files.items()],
        heads=[(f"{one.path}/{name}", link) for one in dossier.added for name, link in one.heads.items()],
    )  # fmt: skip


def _not_measured(results: Results) -> list[str]:
    """Every open requirement, and what no file says beyond them."""
    rows = [row for row in results.rows if row.level == "open"]
    sentences = {row.sentence for row in rows}
    return [
        *(f"{row.asks} {row.sentence}" for row in rows),
        *(line for line in results.not_measured if line not in sentences),
    ]


def decision_line(signatures: Sequence[Signature], results: Results, now: datetime) -> tuple[str, str, str]:
    """The decision in force, what limits it, and its level; none is in force where the state is another one."""
    if not signatures:
        return "Not decided: nobody has signed.", "", "unknown"
    last = signatures[-1]
    on = last.at[:10].replace("-", "\u2011")  # a date does not break over two lines
    text = f"{WORDS[last.decision]}: decided by {last.by}, {last.role}, on {on}"
    if last.state != results.state:
        return "Not decided in this state.", f"{text}; requirements, files or results have changed since.", "unknown"
    if last.until is not None and now.date().isoformat() > last.until:
        return "No decision is in force.", f"{text}; it expired on {last.until}.", "unknown"
    until = f", until {last.until}" if last.until else ""
    level = {"ship": "fine", "ship-with-conditions": "watch", "reject": "bad"}[last.decision]
    return f"{text}{until}.", last.note, level


def summary(results: Results) -> str:
    """How many requirements are met, and which are not."""
    counted = {level: [row.id for row in results.rows if row.level == level] for level in MARKS}
    parts = [f"{len(counted['met'])} of {count(len(results.rows), 'requirement')} met"]
    for level in ("broken", "open", "waived", "unchecked"):
        if counted[level]:
            parts.append(f"{len(counted[level])} {level} ({', '.join(counted[level])})")
    return f"{'; '.join(parts)}."


def _question(number: int, title: str, rows: Sequence[Checked]) -> Question:
    ordered = sorted(rows, key=lambda row: -GRAVITY[row.level])
    answer = ordered[0].sentence if ordered else "No requirement asks this."
    level = gravest(rows)
    return Question(number, title, MARKS[level], _style(level), answer, [_row(row) for row in ordered])


def _row(row: Checked) -> Row:
    return Row(row.id, row.asks, MARKS[row.level], _style(row.level), row.sentence, row.waiver, row.file)


def _style(level: Level) -> str:
    return {"met": "fine", "unchecked": "watch", "waived": "watch", "broken": "bad", "open": "unknown"}[level]
