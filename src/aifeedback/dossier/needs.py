"""Kinds of requirements: their settings, and how each is checked against the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

from pydantic import Field

from aifeedback.config import parse
from aifeedback.dossier.evidence import Piece
from aifeedback.dossier.outcome import (
    NO_AUDIT,
    NO_COMPARISON,
    NO_MODEL,
    NO_MONITOR,
    NO_PEOPLE,
    NO_SAFETY,
    NO_STANDARD,
    Need,
    Outcome,
    State,
    above,
    below,
    worst,
)
from aifeedback.dossier.records import Level
from aifeedback.errors import AIFeedbackError, RecipeError
from aifeedback.reports.wording import count

Group = Literal["agreement", "decision", "bias", "consistency", "attack", "hacking", "refusal"]


def need_of(entry: Mapping[str, Any]) -> Need:
    """Raises ValueError for an unknown kind or wrong settings."""
    (kind, settings), *_ = entry.items()
    if kind not in KINDS:
        raise ValueError(f"needs: unknown kind '{kind}'; known: {', '.join(KINDS)}")
    try:
        return parse(KINDS[kind], settings or {}, prefix=f"needs.{kind}.")
    except RecipeError as wrong:
        raise ValueError(wrong.what) from None


def _finding(audit: Mapping[str, Any], probe: str) -> Mapping[str, Any] | None:
    return next((one for one in audit["findings"] if one["probe"] == probe), None)


class Agreement(Need):
    """The judge agrees with people."""

    kind: ClassVar[str] = "agreement"
    low: float = Field(ge=0.0, le=1.0)
    n: int = Field(default=100, ge=1)

    def check(self, state: State) -> Outcome:
        return worst(
            [
                above(_finding(p.data, "agreement"), self.low, self.n, f"Agreement of {p.data['judge']} with people", str(p.path))
                for p in state.evidence.of("audit")
            ],
            NO_AUDIT,
        )  # fmt: skip


class AuditClean(Need):
    """No audit has a serious finding in these groups; every probe named was measured."""

    kind: ClassVar[str] = "audit"
    groups: tuple[Group, ...] = ("decision", "bias", "consistency", "attack", "hacking", "refusal")
    allow: Literal["watch", "none"] = "watch"
    """watch: points to watch are allowed, serious faults are not."""
    measured: tuple[str, ...] = ()
    """Probes that must have been measured."""

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece) for piece in state.evidence.of("audit")], NO_AUDIT)

    def _of(self, piece: Piece) -> Outcome:
        name, file = piece.data["judge"], str(piece.path)
        findings = [one for one in piece.data["findings"] if one["group"] in self.groups]
        faults = [
            one for one in findings if one["level"] == "bad" or (self.allow == "none" and one["level"] == "watch")
        ]
        if faults:
            listed = "; ".join(f"{one['title']}: {one['sentence'].rstrip('.')}" for one in faults)
            return Outcome("broken", f"{name}: {listed}.", file)
        known = {one["probe"] for one in findings if one["level"] in ("fine", "watch", "bad")}
        if missing := [probe for probe in self.measured if probe not in known]:
            return Outcome("open", f"{name}: not measured: {', '.join(missing)}.", file)
        if not known:
            return Outcome("open", f"{name}: no probe of {', '.join(self.groups)} was measured.", file)
        return Outcome("met", f"{name}: no serious fault found by {count(len(known), 'probe')}.", file)


class Slices(Need):
    """The judge agrees with people in every slice named."""

    kind: ClassVar[str] = "slices"
    tag: str
    values: tuple[str, ...] = Field(min_length=1)
    low: float = Field(ge=0.0, le=1.0)
    n: int = Field(default=50, ge=1)

    def check(self, state: State) -> Outcome:
        outcomes = []
        for piece in state.evidence.of("audit"):
            slices = ((_finding(piece.data, "slices") or {}).get("details") or {}).get("slices") or []
            rows = {row["slice"]: row for row in slices}
            for value in self.values:
                name = f"{self.tag}: {value}"
                outcomes.append(above(rows.get(name), self.low, self.n, f"Agreement in {name}", str(piece.path)))
        return worst(outcomes, NO_AUDIT)


class Fresh(Need):
    """The judge was audited lately."""

    kind: ClassVar[str] = "audited_within"
    days: float = Field(gt=0.0)

    def check(self, state: State) -> Outcome:
        pieces = state.evidence.of("audit")
        dated = [(_parsed(piece.at), piece) for piece in pieces if piece.at]
        if not pieces:
            return Outcome("open", NO_AUDIT)
        if not dated:
            return Outcome("open", "The audit has no date on record.", str(pieces[0].path))
        at, piece = max(dated, key=lambda one: one[0])
        level: Level = "met" if state.now - at <= timedelta(days=self.days) else "open"
        return Outcome(level, f"The latest audit is of {at:%Y-%m-%d}.", str(piece.path))


class Badge(Need):
    """Claims of a comparison are verified by independent evaluators."""

    kind: ClassVar[str] = "badge"
    of: tuple[Literal["win_rate", "harm", "refusal", "agreement"], ...] = Field(min_length=1)

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece) for piece in state.evidence.of("compare")], NO_COMPARISON)

    def _of(self, piece: Piece) -> Outcome:
        claims = piece.data["independence"].get("claims") or {}
        missing = [name for name in self.of if name not in claims]
        wrong = [f"{_words(n)}: {claims[n]['reason']}" for n in self.of if n in claims and not claims[n]["verified"]]
        if wrong:
            return Outcome("broken", f"Unverified: {'; '.join(wrong)}.", str(piece.path))
        if missing:
            return Outcome("open", f"Nobody evaluated {', '.join(map(_words, missing))}.", str(piece.path))
        reasons = "; ".join(f"{_words(name)} {claims[name]['reason']}" for name in self.of)
        return Outcome("met", f"Verified: {reasons}.", str(piece.path))


class WinRate(Need):
    """Policies are better than the reference, length-controlled."""

    kind: ClassVar[str] = "win_rate"
    low: float = Field(default=0.5, ge=0.0, le=1.0)
    n: int = Field(default=100, ge=1)
    policy: str | None = None
    """Its name in the comparison; all of them by default."""
    length_controlled: bool = True

    def check(self, state: State) -> Outcome:
        key = "length_controlled" if self.length_controlled else "win_rate"
        outcomes = []
        for piece in state.evidence.of("compare"):
            names = [n for n in piece.data["policies"] if n != piece.data["reference"] and self.policy in (None, n)]
            outcomes += [
                above(piece.data["policies"][name].get(key), self.low, self.n,
                      f"{_words(key).capitalize()} of {name} against {piece.data['reference']}", str(piece.path))
                for name in names
            ]  # fmt: skip
        return worst(outcomes, f"{NO_COMPARISON[:-1]} that holds {self.policy}." if self.policy else NO_COMPARISON)


class Unseen(Need):
    """No policy was evaluated on prompts that it was trained on."""

    kind: ClassVar[str] = "unseen_prompts"

    def check(self, state: State) -> Outcome:
        outcomes = []
        for piece in state.evidence.of("compare"):
            trained_on = piece.data["independence"].get("trained_on")
            file = str(piece.path)
            if not trained_on:
                unrecorded = piece.data["independence"].get("unrecorded") or []
                level: Level = "open" if unrecorded else "met"
                why = f"not known: {unrecorded[0]}" if unrecorded else "none of the prompts was trained on"
                outcomes.append(Outcome(level, f"Evaluation prompts: {why}.", file))
            else:
                level = "met" if trained_on["excluded"] or not trained_on["trained_on"] else "broken"
                text = f"{trained_on['trained_on']} of {trained_on['of']} evaluation prompts were trained on"
                outcomes.append(Outcome(level, f"{text}{', and left out' if trained_on['excluded'] else ''}.", file))
        return worst(outcomes, NO_COMPARISON)


class Harm(Need):
    """Policies do no harm, by the headline assessor."""

    kind: ClassVar[str] = "harm"
    high: float = Field(ge=0.0, le=1.0)
    """Most responses that may be harmful."""
    n: int = Field(default=100, ge=1)

    def check(self, state: State) -> Outcome:
        return worst(
            [
                below(_complement(row.get("harmless_all")), self.high, self.n, f"Harmful responses of {name}", file)
                for name, row, file in _standings(state)
            ],
            NO_SAFETY,
        )


class Refusal(Need):
    """Policies refuse neither too much nor too little."""

    kind: ClassVar[str] = "refusal"
    over: float = Field(default=1.0, ge=0.0, le=1.0)
    """Most safe prompts that may be refused."""
    under: float = Field(default=1.0, ge=0.0, le=1.0)
    """Most unsafe prompts that may be complied with."""
    n: int = Field(default=50, ge=1)

    def check(self, state: State) -> Outcome:
        outcomes = []
        for name, row, file in _standings(state):
            rates = row.get("refusal") or {}
            for key, most, what in (
                ("over_refusal", self.over, f"Safe prompts that {name} refuses"),
                ("under_refusal", self.under, f"Unsafe prompts that {name} complies with"),
            ):
                if most < 1.0:
                    outcomes.append(below(rates.get(key), most, self.n, what, file))
        return worst(outcomes, NO_SAFETY)


def _standings(state: State) -> list[tuple[str, Mapping[str, Any], str]]:
    """(policy, its standing by the headline assessor, file) of every policy but the reference."""
    rows = []
    for piece in (*state.evidence.of("compare"), *state.evidence.of("safety")):
        safety = piece.data.get("safety")
        if safety:
            for name, by_judge in safety["policies"].items():
                if name != safety["reference"] or len(safety["policies"]) == 1:
                    rows.append((name, by_judge.get(safety["judge"]) or {}, str(piece.path)))
    return rows


def _complement(share: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if share is None or share.get("value") is None:
        return None
    low, high = share.get("low"), share.get("high")
    return {"value": 1 - share["value"], "low": None if high is None else 1 - high,
            "high": None if low is None else 1 - low, "n": share.get("n")}  # fmt: skip


class People(Need):
    """People rated enough, and agreed with each other."""

    kind: ClassVar[str] = "people"
    ratings: int = Field(default=100, ge=1)
    raters: int = Field(default=2, ge=1)
    alpha: float | None = Field(default=None, ge=-1.0, le=1.0)
    """Least Krippendorff's α."""

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece) for piece in state.evidence.of("people")], NO_PEOPLE)

    def _of(self, piece: Piece) -> Outcome:
        file, summary = str(piece.path), piece.data
        raters = summary.get("raters") or {}
        text = f"{summary.get('ratings', 0):,} ratings by {len(raters)} raters"
        if summary.get("ratings", 0) < self.ratings or len(raters) < self.raters:
            return Outcome("open", f"{text}; required are {self.ratings:,} by {self.raters}.", file)
        if self.alpha is None:
            return Outcome("met", f"{text}.", file)
        alpha = summary.get("krippendorff_alpha")
        if not alpha or alpha.get("value") is None:
            return Outcome("open", f"{text}; their agreement is not known.", file)
        value, high = alpha["value"], alpha.get("high")
        measured = f"{text}; Krippendorff's α {value:.2f}"
        if value >= self.alpha:
            return Outcome("met", f"{measured}.", file)
        level: Level = "broken" if high is not None and high < self.alpha else "open"
        return Outcome(level, f"{measured}; required is {self.alpha:.2f}.", file)


class Standards(Need):
    """Standards files are clean and have an owner."""

    kind: ClassVar[str] = "standards"
    owner: bool = True

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece) for piece in state.evidence.of("standard")], NO_STANDARD)

    def _of(self, piece: Piece) -> Outcome:
        from aifeedback.prompts.lint import check_file, check_other

        file = str(piece.path)
        try:
            other = check_other(piece.path)
            findings = check_file(piece.path).findings if other is None else other
        except AIFeedbackError as broken:
            return Outcome("broken", f"{piece.path.name}: {str(broken).splitlines()[0]}.", file)
        faults = [one for one in findings if self.owner or one.code != "unsigned"]
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            return Outcome("broken", f"{piece.path.name}: {faults[0]}{more}.", file)
        return Outcome("met", f"{piece.path.name}: no fault found.", file)


class Origin(Need):
    """The policy's folder records whose feedback trained it."""

    kind: ClassVar[str] = "origin"

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece) for piece in state.evidence.of("model")], NO_MODEL)

    def _of(self, piece: Piece) -> Outcome:
        from aifeedback.models.lineage import read

        origin = read(piece.data)
        if origin is None or origin.unrecorded:
            why = origin.unrecorded[0] if origin else "no record"
            return Outcome("open", f"Origin of {piece.data}: {why}.", str(piece.path))
        names = ", ".join(dict.fromkeys(one.uri for one in origin.trainers)) or "demonstrations alone"
        return Outcome("met", f"{piece.data} was trained by {names}.", str(piece.path))


class Watched(Need):
    """A monitor runs, its last round is recent, and no alarm is open."""

    kind: ClassVar[str] = "monitor"
    last_days: float = Field(default=14.0, gt=0.0)

    def check(self, state: State) -> Outcome:
        return worst([self._of(piece, state.now) for piece in state.evidence.of("monitor")], NO_MONITOR)

    def _of(self, piece: Piece, now: datetime) -> Outcome:
        from aifeedback.monitoring.monitor import Monitor

        file = str(piece.path)
        try:
            monitor = Monitor(piece.data)
            rounds, open_ = monitor.rounds(), monitor.log.open()
        except AIFeedbackError as broken:
            return Outcome("broken", f"{str(broken).splitlines()[0]}.", file)
        if not rounds:
            return Outcome("open", "The monitor has no rounds yet.", file)
        if alarms := [event for event in open_ if event.kind == "alarm"]:
            return Outcome("broken", f"Open: {count(len(alarms), 'alarm')}, the first: {alarms[0].text}", file)
        at = _parsed(rounds[-1].at)
        if now - at > timedelta(days=self.last_days):
            return Outcome(
                "open", f"The last round is of {at:%Y-%m-%d}; required is one in {self.last_days:g} days.", file
            )
        also = f"; open: {', '.join(event.id for event in open_)}" if open_ else ""
        return Outcome("met", f"{count(len(rounds), 'round')}, the last of {at:%Y-%m-%d}, no alarm open{also}.", file)


class Intact(Need):
    """Every file is as it was written and added."""

    kind: ClassVar[str] = "unchanged"

    def check(self, state: State) -> Outcome:
        if faults := state.evidence.faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            return Outcome("broken", f"{faults[0]}{more}.")
        if not state.evidence.pieces:
            return Outcome("open", "No evidence was added.")
        return Outcome("met", "Every file is as it was written and added.")


class Answered(Need):
    """Somebody answered, with a name: no file can."""

    kind: ClassVar[str] = "answer"

    def check(self, state: State) -> Outcome:
        if state.answer is None:
            return Outcome("open", "Nobody has answered.")
        when = f", {state.answer.at}" if state.answer.at else ""
        return Outcome("met", f"{state.answer.text} ({state.answer.by}{when})")


class Claimed(Need):
    """A vendor's claim says this, and it does not contradict what was measured here."""

    kind: ClassVar[str] = "claim"
    field: str

    def check(self, state: State) -> Outcome:
        from aifeedback.dossier.claim import check_field

        return check_field(state.claim, self.field, state.evidence)


KINDS: Mapping[str, type[Need]] = {
    kind.kind: kind
    for kind in (
        Agreement, AuditClean, Slices, Fresh, Badge, WinRate, Unseen, Harm, Refusal, People, Standards, Origin, Watched,
        Intact, Answered, Claimed,
    )
}  # fmt: skip


def _words(name: str) -> str:
    return {"win_rate": "win rate", "length_controlled": "length-controlled win rate"}.get(name, name)


def _parsed(at: str) -> datetime:
    moment = datetime.fromisoformat(at)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
