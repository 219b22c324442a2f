"""What a judge's labels are worth: why judgements are unknown, and one line of verdict (✓ ! ✗) with what to do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from aifeedback.models.journal import Journal
from aifeedback.types import Problem

ADVICE: dict[Problem, str] = {
    Problem.TRUNCATED: "raise answer_tokens",
    Problem.LABEL_HIDDEN: "raise top, check that the judge prompt suits the model, or set readout to 'votes'",
    Problem.NO_LOGPROBS: "set readout to 'votes' or 'parsed' for this server",
    Problem.BAD_LOGPROBS: "set readout to 'votes' or 'parsed': this server's log-probabilities cannot be used",
    Problem.TOO_LONG: "use a model with a longer context, or shorter inputs",
    Problem.SERVER_ERROR: "check base_url and the model's name",
    Problem.TIMEOUT: "raise attempt_timeout_s, or lower concurrency",
    Problem.OVER_BUDGET: "raise the spend cap",
    Problem.UNREADABLE: "look at what the judge wrote (show), and try another judge prompt",
}
"""What to do about a problem that most of the judgements share."""


class Outcome(Protocol):
    """A record that may be unknown: a Judgement, a Score, a Reading or a Reply."""

    @property
    def problem(self) -> Problem | None: ...

    @property
    def call_id(self) -> str | None: ...


class Cause(BaseModel):
    """The most frequent reason why something is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problem: Problem
    count: int
    of: int
    """Unknown records in all."""
    cause: str | None = None
    """In the server's own words, where the journal has them."""
    advice: str | None = None

    def __str__(self) -> str:
        message = f": {self.cause}" if self.cause else ""
        advice = f"\n  → {self.advice}" if self.advice else ""
        return f"{self.count} of {self.of} unknown are {self.problem}{message}{advice}"


def most_frequent_cause(records: Iterable[Outcome], journal: Journal | None = None) -> Cause | None:
    """The problem that most of the unknown records have, with its most frequent message; None if all are
    known."""
    unknown = [record for record in records if record.problem is not None]
    if not unknown:
        return None
    problem, count = Counter(record.problem for record in unknown if record.problem).most_common(1)[0]
    messages: Counter[str] = Counter()
    ids = {r.call_id for r in unknown if r.problem is problem and r.call_id}
    for call_id in sorted(ids) if journal is not None else ():
        messages.update(_raw(journal, call_id).get("causes", ())[-1:])
    cause = messages.most_common(1)[0][0] if messages else None
    return Cause(problem=problem, count=count, of=len(unknown), cause=cause, advice=ADVICE.get(problem))


def written_verdicts(journal: Journal, call_id: str) -> list[str]:
    """What a judge with the readout ``votes`` or ``parsed`` wrote, in the last call that ``call_id`` names."""
    return [text for text in _raw(journal, call_id).get("said", ()) if isinstance(text, str)]


def _raw(journal: Journal | None, call_id: str) -> dict[str, Any]:
    rows = journal.by_call_id(call_id) if journal is not None else []
    raw = json.loads(rows[-1].entry.raw) if rows and rows[-1].entry.raw else {}
    return raw if isinstance(raw, dict) else {}
