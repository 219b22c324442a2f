"""The log: alarms, incidents, appeals and changes, append-only, each a row of a hash-chained journal."""

from __future__ import annotations

import getpass
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aifeedback.errors import RecipeError
from aifeedback.models.journal import Entry, Journal, canonical, content_key, setting_digest
from aifeedback.monitoring.records import Event, EventKind

KIND = "event"
_SETTING = canonical({"log": "monitor"})


class Log:
    """The events of one monitor. Reading checks the chain: JournalError where a row was changed or removed."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.exported = folder / "journal.sqlite", folder / "events.jsonl"

    def events(self) -> list[Event]:
        if not self.journal.is_file():
            return []
        with Journal(self.journal) as journal:
            return [Event.model_validate_json(row.entry.answer) for row in journal.rows(KIND)]

    def add(self, kind: EventKind, text: str, *, by: str = "", **fields: Any) -> Event:
        """Append an event and return it."""
        count = sum(one.kind == kind for one in self.events())
        event = Event(
            id=f"{kind}-{count + 1}",
            kind=kind,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
            by=by or getpass.getuser(),
            text=text,
            **fields,
        )
        answer = event.model_dump_json(exclude_none=True)
        hashed = hashlib.sha256(answer.encode()).digest()
        key = content_key(setting_digest(_SETTING), hashlib.sha256(event.id.encode()).digest())
        entry = Entry(kind=KIND, key=key, setting=_SETTING, prompt_hash=hashed, outcome="ok", answer=answer)
        with Journal(self.journal, step="log") as journal:
            journal.append([entry])
        return event

    def export(self) -> None:
        """Write ``events.jsonl``, the log to be read without a tool."""
        from aifeedback.data import write_records

        write_records(self.exported, self.events())

    def open(self) -> list[Event]:
        """Alarms, incidents and appeals that no event has closed, the oldest first; a change closes open alarms."""
        by_id: dict[str, Event] = {}
        for event in self.events():
            if event.kind in ("alarm", "incident", "appeal"):
                by_id[event.id] = event
            elif event.kind == "close" and event.closes is not None:
                by_id.pop(event.closes, None)
            elif event.kind == "change":
                by_id = {id_: one for id_, one in by_id.items() if one.kind != "alarm"}
        return list(by_id.values())

    def named(self, id_: str) -> Event:
        """The open event of this id. Raises RecipeError that lists those that are open."""
        open_ = {event.id: event for event in self.open()}
        if id_ not in open_:
            known = ", ".join(open_) or "nothing is open"
            raise RecipeError(f"'{id_}' is not open", key="--close", fix=f"open: {known}")
        return open_[id_]
