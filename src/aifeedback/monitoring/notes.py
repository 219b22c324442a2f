"""What people add to the log: incidents, changes, appeals and how each was closed.

An appeal asks the judge again, puts the pair in front of people (``appeals.jsonl`` is a file for ``aifeedback rate``),
is closed as upheld or rejected by what they say, and then belongs to the golden set with their verdict.
"""

from __future__ import annotations

from pathlib import Path

from aifeedback import data
from aifeedback.annotation.labeler import PeopleLabeler
from aifeedback.errors import RecipeError
from aifeedback.monitoring.monitor import GOLDEN, SETTINGS, Monitor
from aifeedback.monitoring.records import Event, GoldenItem, Severity
from aifeedback.monitoring.rounds import judged
from aifeedback.steps import connect
from aifeedback.steps.step import Context
from aifeedback.storage import make_folder
from aifeedback.types import Comparison, Preference, Problem

APPEALS, PEOPLE = "appeals.jsonl", "people"
UPHELD, REJECTED = "upheld", "rejected"
SIDES = {"first": 1.0, "second": 0.0, "tie": 0.5}


def incident(monitor: Monitor, text: str, *, severity: Severity, by: str = "", item: str | None = None) -> Event:
    """Note that something went wrong."""
    with monitor.locked():
        return monitor.log.add("incident", text, by=by, severity=severity, item=item)


def change(monitor: Monitor, text: str, *, by: str = "") -> Event:
    """Note a change that was meant, of the settings too: it closes open alarms, and the next round is a new baseline."""
    with monitor.locked(changes=[SETTINGS]):
        rounds = monitor.rounds()
        return monitor.log.add("change", text, by=by, round=rounds[-1].name if rounds else None)


def appeal(
    monitor: Monitor, item: str, text: str, *, by: str = "", severity: Severity | None = None, file: str | None = None
) -> Event:
    """Appeal against the verdict on a pair of the golden set, or of ``file``: asks the judge again.

    Raises RecipeError where no pair has this id, or where it is under appeal already.
    """
    with monitor.locked() as written:
        pair, before = _find(monitor, item, file)
        if any(event.kind == "appeal" and event.item == item for event in monitor.log.open()):
            raise RecipeError(f"{item} is under appeal already", key="--item", fix="close that appeal first")
        count = sum(event.kind == "appeal" for event in monitor.log.events())
        place = make_folder(monitor.folder / "appeals" / f"appeal-{count + 1}")
        again = _ask_again(monitor, pair, place)
        event = monitor.log.add(
            "appeal", text, by=by, severity=severity, item=item, p_first=before, p_again=again.p_first
        )
        data.write_records(place / "pair.jsonl", [pair])
        written += [place / "pair.jsonl", place / "preferences.jsonl", _write_open(monitor)]
        return event


def _ask_again(monitor: Monitor, pair: Comparison, place: Path) -> Preference:
    """Uses a fresh journal; one left by an interrupted appeal is restarted."""
    for left in place.glob("journal.sqlite*"):
        left.unlink()
    connect.release_models()
    context = Context(place, place, step="appeal", seed=monitor.settings.seed)
    outcome = judged(connect.labeler(monitor.settings.judge, context), [GoldenItem(comparison=pair)], context)[pair.id]
    problem = None if outcome.p_first is not None else Problem(outcome.problem or Problem.UNREADABLE)
    return Preference(comparison_id=pair.id, source="judge", p_first=outcome.p_first, problem=problem)


def close(
    monitor: Monitor, id_: str, outcome: str | None, text: str = "", *, by: str = "", verdict: str | None = None
) -> Event:
    """Close an alarm or incident with an outcome in words, an appeal as upheld or rejected.

    What people said on the rating page decides an appeal; ``verdict`` (first, second, tie) is theirs where they said it
    elsewhere. With either, the pair joins the golden set. Raises RecipeError where the outcome contradicts them.
    """
    with monitor.locked() as written:
        event = monitor.log.named(id_)
        if event.kind != "appeal":
            if not outcome:
                raise RecipeError(f"{id_} needs an outcome", key="--outcome", fix="say what was done about it")
            if verdict is not None:
                raise RecipeError("only an appeal has a verdict", key="--verdict", fix="leave it out")
            return monitor.log.add("close", text or outcome, by=by, closes=id_, outcome=outcome)
        pair = _pair_of(monitor, event)
        human = _people(monitor, pair) if verdict is None else _side(verdict)
        decided = _decided(event, human, outcome)
        if human is not None:
            written.append(_join_golden(monitor, GoldenItem(comparison=pair, human_p_first=human, origin=id_)))
        closed = monitor.log.add(
            "close", text or decided, by=by, closes=id_, outcome=decided, item=event.item, human_p_first=human
        )
        written.append(_write_open(monitor))
        return closed


def _decided(event: Event, human: float | None, outcome: str | None) -> str:
    """``upheld`` where people's verdict is another one than the verdict appealed against."""
    appealed = event.p_first if event.p_first is not None else event.p_again
    by_people = None
    if human is not None and appealed is not None:
        by_people = REJECTED if _sign(human) == _sign(appealed) else UPHELD
    if outcome not in (None, UPHELD, REJECTED):
        raise RecipeError(f"'{outcome}' is not an outcome of an appeal", key="--outcome", fix="upheld or rejected")
    if outcome is not None and by_people is not None and outcome != by_people:
        raise RecipeError(
            f"people's verdict says {by_people}, not {outcome}", key="--outcome", fix="leave --outcome out"
        )
    if (decision := outcome or by_people) is None:
        raise RecipeError(
            f"nobody has decided {event.id} yet",
            key="--close",
            fix=f"aifeedback rate {APPEALS} …, then close it; or give --outcome, and --verdict where there is one",
        )
    return decision


def _side(verdict: str) -> float:
    if verdict not in SIDES:
        raise RecipeError(f"'{verdict}' is not a verdict", key="--verdict", fix=f"one of {', '.join(SIDES)}")
    return SIDES[verdict]


def _sign(p_first: float) -> int:
    return (p_first > 0.5) - (p_first < 0.5)


def _people(monitor: Monitor, pair: Comparison) -> float | None:
    """The majority's verdict on the rating page; None where nobody rated the pair."""
    folder = monitor.folder / PEOPLE
    if not any((folder / name).is_file() for name in ("ratings.sqlite", "ratings.jsonl")):
        return None
    from aifeedback.annotation.labeler import read_ratings
    from aifeedback.errors import FileError

    try:
        ratings = read_ratings(folder)
    except FileError:  # the page was opened and nobody has rated yet
        return None
    return PeopleLabeler(ratings, combine="majority").label([pair])[0].p_first


def _join_golden(monitor: Monitor, item: GoldenItem) -> Path:
    kept = {one.id: one for one in monitor.golden} | {item.id: item}
    data.write_records(monitor.folder / GOLDEN, kept.values())
    return monitor.folder / GOLDEN


def _find(monitor: Monitor, item: str, file: str | None) -> tuple[Comparison, float | None]:
    """The pair, and the verdict on record: the file's label, or that of the latest round."""
    if file is not None:
        for row in data.read_labelled(file, monitor.settings.seed):
            if row.comparison.id == item:
                is_judged = row.judge not in ("human", "unknown")
                return row.comparison, row.p_first if is_judged else None
        raise RecipeError(f"no pair '{item}' in {file}", key="--item", fix="give the comparison_id of a row")
    for one in monitor.golden:
        if one.id == item:
            rounds = monitor.rounds()
            outcome = rounds[-1].passes[-1].golden.get(item) if rounds else None
            return one.comparison, outcome.p_first if outcome else None
    raise RecipeError(
        f"no pair '{item}' in the golden set", key="--item", fix="give --data FILE, the labelled file that holds it"
    )


def _pair_of(monitor: Monitor, event: Event) -> Comparison:
    return data.read_records(monitor.folder / "appeals" / event.id / "pair.jsonl", Comparison)[0]


def _write_open(monitor: Monitor) -> Path:
    """``appeals.jsonl``: the pairs under appeal, without any verdict, as the rating page takes them."""
    pairs = [_pair_of(monitor, event) for event in monitor.log.open() if event.kind == "appeal"]
    rows = [
        {
            "prompt": [m.model_dump() for m in p.prompt.messages] if p.prompt.is_dialogue else p.prompt.text,
            "first": p.first.text,
            "second": p.second.text,
        }
        for p in pairs
    ]
    data.write_rows(monitor.folder / APPEALS, rows)
    return monitor.folder / APPEALS
