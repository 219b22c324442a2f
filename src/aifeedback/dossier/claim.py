"""A vendor's claim: what is given, what is missing, what was checked here, and the questions to send back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import field_validator

from aifeedback.config import Config, parse
from aifeedback.errors import FileError
from aifeedback.storage import read_yaml_mapping

if TYPE_CHECKING:
    from aifeedback.dossier.evidence import Evidence
    from aifeedback.dossier.outcome import Outcome


class Share(Config):
    """A share as the vendor states it."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None


class Judged(Config):
    """Who judged, as the vendor states it."""

    model: str | None = None
    version: str | None = None
    prompt: str | None = None

    @field_validator("version", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return None if value is None else str(value)


class Claim(Config):
    """``claim.yaml``. What is left out counts as missing."""

    vendor: str = ""
    statement: str | None = None
    """What is claimed, in the vendor's words."""
    judged_by: Judged | None = None
    standards: str | None = None
    """The standards that the judge went by: a file, or where they can be read."""
    agreement: Share | None = None
    """Of the judge with people."""
    win_rate: Share | None = None
    """Against what it was compared with."""
    harmless: Share | None = None
    """Share of harmless responses."""
    independence: str | None = None
    """Who evaluated, and what part they had in training."""
    languages: list[str] | None = None
    dates: str | None = None
    """When it was measured."""
    raw_files: str | None = None
    """Where prompts, responses and verdicts can be had."""

    @field_validator("dates", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return None if value is None else str(value)


QUESTIONS = {
    "statement": "What exactly do you claim, of which version of the model, against what?",
    "judged_by": "Which model judged, in which version, with which prompt? Please send the prompt.",
    "standards": "By which written standards did the judge decide? Please send the file.",
    "agreement": "How often does your judge decide as people do: on how many pairs, with which interval, who were they?",
    "win_rate": "What is the win rate with its interval and number of prompts, and what is it at equal length?",
    "harmless": "How many responses were harmful, of how many, by whose verdict, on which prompts?",
    "independence": "Did whoever evaluated have a part in training, as a judge, by its family, or by its labels?",
    "languages": "On which languages, topics and groups was it measured, and how much of each?",
    "dates": "When was it measured, and has the model behind the address changed since?",
    "raw_files": "May we have the prompts, responses and verdicts, so that we can count again?",
}
"""Field → question to send back if it is missing."""


class Row(NamedTuple):
    """One field of a claim."""

    field: str
    state: Literal["given", "missing", "checked by us", "contradicted"]
    given: str
    checked: str
    question: str


def load(path: Path) -> Claim:
    """Raises FileError if the file is missing or not a mapping, RecipeError for an unknown field."""
    if not path.is_file():
        raise FileError(
            "no such file", file=path, fix="write what the vendor claims into it; docs/dossier.md has an example"
        )
    values = read_yaml_mapping(path, empty="holds no fields", fix=f"known fields: {', '.join(Claim.model_fields)}")
    return parse(Claim, values, file=path)


def rows(claim: Claim, evidence: Evidence) -> list[Row]:
    """Every field, in order."""
    return [row(claim, field, evidence) for field in QUESTIONS]


def row(claim: Claim, field: str, evidence: Evidence) -> Row:
    """A claimed metric is "checked by us" if our own runs measured it, and contradicted if our interval excludes it."""
    value = getattr(claim, field)
    missing = _missing(field, value)
    ours, file = _measured(field, evidence)
    stated = "" if value is None else _shown(value)
    if ours is None:
        if missing:
            return Row(field, "missing", stated, "", f"{QUESTIONS[field]}{f' ({missing})' if stated else ''}")
        return Row(field, "given", stated, "", "")
    checked = f"{_shown_share(ours)} ({file})"
    if isinstance(value, Share) and value.value is not None and _excludes(ours, value):
        question = (
            f"You state {_shown_share(value.model_dump())}; we measured {_shown_share(ours)}. What explains this?"
        )
        return Row(field, "contradicted", stated, checked, question)
    return Row(field, "checked by us", stated, checked, "" if not missing else QUESTIONS[field])


def _missing(field: str, value: Any) -> str:
    """What is missing of a field; '' where nothing is."""
    if value is None or value in ("", []):
        return "missing"
    if isinstance(value, Share):
        lacks = [name for name in ("value", "n") if getattr(value, name) is None]
        lacks += ["interval"] if value.low is None or value.high is None else []
        return f"missing: {', '.join(lacks)}" if lacks else ""
    if isinstance(value, Judged):
        lacks = [name for name in ("model", "version", "prompt") if not getattr(value, name)]
        return f"missing: {', '.join(lacks)}" if lacks else ""
    return ""


def _measured(field: str, evidence: Evidence) -> tuple[dict[str, Any] | None, str]:
    """Our own measurement for a field, and its file."""
    if field == "agreement":
        for piece in evidence.of("audit"):
            estimate = next((one for one in piece.data["findings"] if one["probe"] == "agreement"), None)
            if estimate and estimate["value"] is not None:
                return dict(estimate), str(piece.path)
    for piece in evidence.of("compare"):
        others = {name: row for name, row in piece.data["policies"].items() if name != piece.data["reference"]}
        if field == "win_rate" and len(others) == 1:
            estimate = next(iter(others.values())).get("win_rate")
            if estimate and estimate.get("value") is not None:
                return dict(estimate), str(piece.path)
    if field == "harmless":
        for piece in (*evidence.of("compare"), *evidence.of("safety")):
            safety = piece.data.get("safety") or {"policies": {}}
            others = {name: of for name, of in safety["policies"].items() if name != safety.get("reference")}
            if len(others) == 1:
                estimate = (next(iter(others.values())).get(safety["judge"]) or {}).get("harmless_all")
                if estimate and estimate.get("value") is not None:
                    return dict(estimate), str(piece.path)
    return None, ""


def _excludes(ours: dict[str, Any], theirs: Share) -> bool:
    """Whether our interval and theirs, or their value where they state none, have nothing in common."""
    if ours.get("low") is None or ours.get("high") is None or theirs.value is None:
        return False
    low = theirs.value if theirs.low is None else theirs.low
    high = theirs.value if theirs.high is None else theirs.high
    return high < ours["low"] or low > ours["high"]


def _shown(value: Any) -> str:
    if isinstance(value, Share):
        return _shown_share(value.model_dump())
    if isinstance(value, Judged):
        return ", ".join(part for part in (value.model, value.version, value.prompt) if part)
    return ", ".join(value) if isinstance(value, list) else str(value)


def _shown_share(estimate: dict[str, Any]) -> str:
    if estimate.get("value") is None:
        return ""
    low, high, n = estimate.get("low"), estimate.get("high"), estimate.get("n")
    ends = "" if low is None or high is None else f", 95 % CI {100 * low:.0f}–{100 * high:.0f} %"
    return f"{100 * estimate['value']:.0f} %{ends}{'' if n is None else f', n = {n:,}'}"


def check_field(claim: Claim | None, field: str, evidence: Evidence) -> Outcome:
    """One field as a requirement."""
    from aifeedback.dossier.outcome import Outcome

    if field not in QUESTIONS:
        return Outcome("open", f"a claim has no field '{field}'; known: {', '.join(QUESTIONS)}.")
    entry = row(claim or Claim(), field, evidence)
    if entry.state == "contradicted":
        return Outcome("broken", f"Claimed: {entry.given}; measured by us: {entry.checked}.", "claim.yaml")
    if entry.state == "checked by us":
        return Outcome("met", f"Measured by us: {entry.checked}{f'; claimed: {entry.given}' if entry.given else ''}.")
    if entry.state == "given":
        return Outcome("unchecked", f"Given, not checked by us: {entry.given.rstrip('.')}.", "claim.yaml")
    return Outcome("open", f"Not given{f' in full: {entry.given}' if entry.given else ''}.", "claim.yaml")
