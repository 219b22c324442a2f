"""Exchange of items and ratings with other tools: Argilla's records, Label Studio's tasks, and CSV.

Written from the public descriptions of these formats; ``docs/rating.md`` has the fields. Items are matched by the id that
``export_ratings`` wrote, else by prompt and texts. A row that cannot be used is skipped with its reason, fields that nothing
reads are named, and what another tool has no place for (order shown, revision) travels in a field of its own, so that
an export that comes back gives the same ratings. Sources are never exported: raters must not see them.
"""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from pydantic import ValidationError

from aifeedback.annotation.items import MOST_ANSWERS, Item
from aifeedback.errors import FileError, InputError
from aifeedback.storage import make_folder
from aifeedback.types import Rating

Format: TypeAlias = Literal["csv", "argilla", "label-studio"]
FORMATS: tuple[str, ...] = get_args(Format)
RESPONSES = tuple(f"response_{number}" for number in range(1, MOST_ANSWERS + 1))
DETAILS = "aifeedback"
"""Field for what the other tool has no place for."""
KEPT = ("order_shown", "seconds", "at", "revision", "purpose", "standard")
COLUMNS = ("item_id", "prompt", *RESPONSES, "rater", "verdict", "comment", *KEPT)
TIE = frozenset(("tie", "equal", "equally good", "both", "same"))
CANNOT_TELL = frozenset(("cannot_tell", "cannot tell", "unsure", "i cannot tell", "skip"))
LETTERS = "abcdefgh"


class Imported(NamedTuple):
    ratings: list[Rating]
    rows: int
    """Verdicts in the file, usable or not."""
    skipped: dict[str, int]
    """Reason → number of verdicts."""
    unknown: tuple[str, ...]
    """Columns, fields or questions that nothing reads."""


class _Row(NamedTuple):
    """One verdict of any format."""

    number: int
    texts: Mapping[str, Any]
    """``item_id``, ``prompt``, ``response_1`` …"""
    rater: str
    verdict: Any
    comment: str | None
    details: Mapping[str, Any]


class _Unusable(ValueError):
    """Why a verdict is skipped."""


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def export_ratings(path: str | Path, items: Sequence[Item], ratings: Sequence[Rating], form: str) -> int:
    """Write the items with what raters said of them; return the number of verdicts. Raises InputError for another format."""
    _require(form)
    by_item: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_item[rating.item_id].append(rating)
    write = {"csv": _csv, "argilla": _argilla, "label-studio": _label_studio}[form]
    text = write(items, by_item)
    target = Path(path)
    make_folder(target.parent)
    target.write_text(text, encoding="utf-8", newline="")
    return sum(len(by_item[item.id]) for item in items)


def _require(form: str) -> None:
    if form not in FORMATS:
        raise InputError(f"no format '{form}'", key="--format", fix=f"one of {', '.join(FORMATS)}")


def _shown(item: Item) -> dict[str, str]:
    return {
        "item_id": item.id,
        "prompt": _prompt(item),
        **{name: answer.text for name, answer in zip(RESPONSES, item.answers, strict=False)},
    }


def _prompt(item: Item) -> str:
    messages = item.prompt.messages
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def _in_words(rating: Rating) -> str:
    """A verdict in words: response_1, tie, cannot_tell, a value, or the ranks of all responses."""
    if rating.ranking is not None:
        return " ".join(map(str, rating.ranking))
    if rating.value is not None:
        return f"{rating.value:g}"
    return {"first": RESPONSES[0], "second": RESPONSES[1]}.get(rating.choice or "", rating.choice or "cannot_tell")


def _kept(rating: Rating) -> dict[str, Any]:
    kept = {key: getattr(rating, key) for key in KEPT if getattr(rating, key) is not None}
    return {**kept, "order_shown": list(rating.order_shown)}


def _csv(items: Sequence[Item], by_item: Mapping[str, Sequence[Rating]]) -> str:
    most = max((len(item.answers) for item in items), default=0)
    columns = [name for name in COLUMNS if name not in RESPONSES[most:]]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    for item in items:
        for rating in by_item[item.id]:
            kept = {**_kept(rating), "order_shown": " ".join(map(str, rating.order_shown))}
            row = {"rater": rating.rater, "verdict": _in_words(rating), "comment": rating.comment or "", **kept}
            writer.writerow({**_shown(item), **row})
        if not by_item[item.id]:
            writer.writerow(_shown(item))
    return out.getvalue()


def _argilla(items: Sequence[Item], by_item: Mapping[str, Sequence[Rating]]) -> str:
    """Records as ``dataset.records.to_json`` has them; user ids are UUIDs made of the raters' names."""
    records = []
    for item in items:
        fields = _shown(item)
        question, responses = _question(item), defaultdict(list)
        details: dict[str, Any] = {}
        for rating in by_item[item.id]:
            user = str(uuid.uuid5(uuid.NAMESPACE_OID, rating.rater))
            responses[question].append({"value": _argilla_value(rating, item), "user_id": user})
            if rating.comment:
                responses["comment"].append({"value": rating.comment, "user_id": user})
            details.setdefault(user, []).append({"rater": rating.rater, "comment": rating.comment, **_kept(rating)})
        records.append(
            {
                "id": fields.pop("item_id"),
                "status": "completed" if responses else "pending",
                "fields": fields,
                "metadata": {DETAILS: json.dumps(details)} if details else {},
                "suggestions": {},
                "responses": dict(responses),
                "vectors": {},
            }
        )
    return json.dumps(records, indent=1, ensure_ascii=False)


def _question(item: Item) -> str:
    if item.scale is not None:
        return item.scale.asks
    return "preference" if item.is_pair else "ranking"


def _argilla_value(rating: Rating, item: Item) -> Any:
    if rating.ranking is not None:
        return [{"value": name, "rank": rank} for name, rank in zip(RESPONSES, rating.ranking, strict=False)]
    if rating.value is not None and item.scale is not None and not item.scale.is_yes_no:
        return int(rating.value)
    return ("no", "yes")[int(rating.value)] if rating.value is not None else _in_words(rating)


def _label_studio(items: Sequence[Item], by_item: Mapping[str, Sequence[Rating]]) -> str:
    """Tasks with annotations, as Label Studio imports and exports them."""
    tasks = []
    for item in items:
        data: dict[str, Any] = dict(_shown(item))
        if len(item.answers) > 2:
            data["items"] = [{"id": name, "body": data[name]} for name in RESPONSES[: len(item.answers)]]
        notes = [
            {
                "completed_by": {"email": rating.rater},
                "lead_time": rating.seconds,
                "created_at": rating.at,
                "was_cancelled": False,
                "result": _results(rating, item),
            }
            for rating in by_item[item.id]
        ]
        tasks.append({"data": data, "annotations": notes})
    return json.dumps(tasks, indent=1, ensure_ascii=False)


def _results(rating: Rating, item: Item) -> list[dict[str, Any]]:
    name, to = _question(item), RESPONSES[0]
    value: dict[str, Any]
    if rating.ranking is not None:
        buckets: dict[str, list[str]] = defaultdict(list)
        for response, rank in zip(RESPONSES, rating.ranking, strict=False):
            buckets[f"rank_{rank}"].append(response)
        kind, to, value = "ranker", "items", {"ranker": dict(sorted(buckets.items()))}
    elif rating.value is not None and item.scale is not None and not item.scale.is_yes_no:
        kind, value = "rating", {"rating": int(rating.value)}
    else:
        word = ("no", "yes")[int(rating.value)] if rating.value is not None else _in_words(rating)
        kind, value = "choices", {"choices": [word]}
    results = [{"from_name": name, "to_name": to, "type": kind, "value": value}]
    if rating.comment:
        results.append({"from_name": "comment", "to_name": to, "type": "textarea", "value": {"text": [rating.comment]}})
    kept = json.dumps(_kept(rating))
    results.append({"from_name": DETAILS, "to_name": to, "type": "textarea", "value": {"text": [kept]}})
    return results


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def import_ratings(
    path: str | Path, items: Sequence[Item], *, form: str | None = None, columns: Mapping[str, str] | None = None
) -> Imported:
    """Ratings of these items in a file of another tool. The format is detected by default.

    ``columns`` maps our names (prompt, response_1 …, rater, verdict, comment) to the file's columns, fields or questions.
    Raises FileError where the file as a whole cannot be read.
    """
    where, names = Path(path), dict(columns or {})
    if form is not None:
        _require(form)
    if unknown := sorted(set(names) - {*COLUMNS}):
        raise InputError(f"no column '{unknown[0]}' in our format", key="--column", fix=f"one of {', '.join(COLUMNS)}")
    try:
        text = where.read_text(encoding="utf-8-sig")
    except OSError as cause:
        raise FileError(f"cannot be read: {cause.strerror}", file=where) from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", file=where, fix="save it as UTF-8") from None
    unread: set[str] = set()
    if form == "csv" or (form is None and where.suffix.lower() in (".csv", ".tsv")):
        rows = list(_from_csv(where, text, names, unread))
    else:
        records = _records(where, text)
        format_name = form or ("label-studio" if any("annotations" in record for record in records) else "argilla")
        read = _from_label_studio if format_name == "label-studio" else _from_argilla
        rows = list(read(records, names, unread))
    return _matched(rows, items, tuple(sorted(unread)))


def _records(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        content = (
            json.loads(text)
            if text.lstrip().startswith("[")
            else [json.loads(t) for t in text.splitlines() if t.strip()]
        )
    except ValueError as cause:
        raise FileError(
            f"is not JSON: {cause}", file=path, fix="export records or tasks as JSON, or give a .csv"
        ) from None
    if not content or not all(isinstance(record, dict) for record in content):
        raise FileError("is not a list of records", file=path, fix="export records (Argilla) or tasks (Label Studio)")
    return content


def _from_csv(path: Path, text: str, names: Mapping[str, str], unread: set[str]) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header = [name for name in reader.fieldnames or () if name]
    theirs = {ours: names.get(ours, ours) for ours in COLUMNS}
    for ours in ("rater", "verdict"):
        if theirs[ours] not in header:
            raise FileError(
                f"has no column '{theirs[ours]}'", file=path, key=ours,
                fix=f"--column {ours}=NAME; the file has {', '.join(header) or 'no header'}",
            )  # fmt: skip
    unread |= set(header) - set(theirs.values())
    for number, cells in enumerate(reader, 1):
        row = {ours: (cells.get(name) or "") for ours, name in theirs.items()}
        if not row["rater"] and not row["verdict"]:
            continue  # an item that nobody rated
        details: dict[str, Any] = {key: row[key] for key in KEPT if row[key]}
        if "order_shown" in details:
            details["order_shown"] = details["order_shown"].split()
        yield _Row(number, row, row["rater"], row["verdict"], row["comment"] or None, details)


def _from_argilla(records: Sequence[Mapping[str, Any]], names: Mapping[str, str], unread: set[str]) -> Iterator[_Row]:
    """One row per user and record. Ranks are a list of names, best first, or of {value, rank}."""
    for number, record in enumerate(records, 1):
        fields, metadata = _mapping(record.get("fields")), _mapping(record.get("metadata"))
        texts = _texts({**fields, "item_id": record.get("id")}, names, unread)
        unread |= {f"metadata.{key}" for key in metadata if key != DETAILS}
        responses = _responses(record.get("responses"))
        verdicts = [name for name in responses if name != names.get("comment", "comment")]
        chosen = names.get("verdict") or next(
            (name for name in verdicts if name in ("preference", "ranking", "harmful", "refused", "score")),
            verdicts[0] if len(verdicts) == 1 else "",
        )
        unread |= {f"responses.{name}" for name in verdicts if name != chosen}
        details = _json(metadata.get(DETAILS))
        comments = {str(r.get("user_id")): r.get("value") for r in responses.get(names.get("comment", "comment"), ())}
        seen: Counter[str] = Counter()
        for response in responses.get(chosen, ()):
            user = str(response.get("user_id"))
            own = details.get(user) or []
            kept = own[seen[user]] if seen[user] < len(own) else {}
            seen[user] += 1
            comment = kept.get("comment") if kept else comments.get(user)
            yield _Row(number, texts, str(kept.get("rater") or user), response.get("value"), comment, kept)


def _responses(record: Any) -> dict[str, list[Mapping[str, Any]]]:
    """Question → responses, also of the older form: a list of users with all their values."""
    if isinstance(record, Mapping):
        return {str(name): [_mapping(r) for r in responses or ()] for name, responses in record.items()}
    responses: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for user in record or ():
        if _mapping(user).get("status", "submitted") == "submitted":
            for name, value in _mapping(_mapping(user).get("values")).items():
                responses[str(name)].append(
                    {"value": _mapping(value).get("value"), "user_id": _mapping(user).get("user_id")}
                )
    return responses


def _from_label_studio(
    tasks: Sequence[Mapping[str, Any]], names: Mapping[str, str], unread: set[str]
) -> Iterator[_Row]:
    """One row per annotation. Verdicts are choices, pairwise, ranker or rating; texts are comments."""
    for number, task in enumerate(tasks, 1):
        data = {key: value for key, value in _mapping(task.get("data")).items() if key != "items"}
        texts = _texts(data, names, unread)
        for note in task.get("annotations") or ():
            by = note.get("completed_by")
            rater = str(by.get("email") or by.get("id")) if isinstance(by, Mapping) else str(by)
            verdict, comment, kept = None, None, {}
            for result in note.get("result") or ():
                value, name = _mapping(result.get("value")), str(result.get("from_name"))
                if name == DETAILS:
                    kept = _json(next(iter(value.get("text") or ()), ""))
                elif result.get("type") == "textarea" and name == names.get("comment", "comment"):
                    comment = "\n".join(value.get("text") or ())
                elif verdict is None and name in (names.get("verdict", name),):
                    verdict = _label_studio_value(value)
                else:
                    unread.add(f"result.{name}")
            details = {"seconds": note.get("lead_time"), "at": note.get("created_at"), **kept}
            if note.get("was_cancelled"):
                verdict = _Unusable("was cancelled")
            yield _Row(number, texts, rater, verdict, comment, {k: v for k, v in details.items() if v is not None})


def _label_studio_value(value: Mapping[str, Any]) -> Any:
    if "ranker" in value:
        ranker = value["ranker"]
        if isinstance(ranker, Mapping):
            left = list(ranker.get("_") or ())
            ordered = sorted((name for name in ranker if name != "_"), key=_place_in_name)
            is_numbered = all(name.startswith("rank_") for name in ordered)
            ranks = [
                {"value": one, "rank": _place_in_name(name)[0] if is_numbered else place}
                for place, name in enumerate(ordered, 1)
                for one in ranker[name]
            ]
            return _Unusable("some responses were left unranked") if left else ranks
        return list(ranker)
    if "choices" in value:
        return next(iter(value["choices"]), None)
    return value.get("selected", value.get("rating", value.get("number")))


def _place_in_name(name: str) -> tuple[int, str]:
    digits = "".join(c for c in name if c.isdigit())
    return (int(digits) if digits else 0, name)


def _texts(fields: Mapping[str, Any], names: Mapping[str, str], unread: set[str]) -> dict[str, Any]:
    theirs = {ours: names.get(ours, ours) for ours in ("item_id", "prompt", *RESPONSES)}
    unread |= set(map(str, fields)) - set(theirs.values())
    return {ours: fields.get(name) for ours, name in theirs.items()}


def _matched(rows: Iterable[_Row], items: Sequence[Item], unknown: tuple[str, ...]) -> Imported:
    by_id = {item.id: item for item in items}
    by_texts = {(_prompt(item), frozenset(answer.text for answer in item.answers)): item for item in items}
    ratings: list[Rating] = []
    skipped: Counter[str] = Counter()
    count = 0
    for row in rows:
        count += 1
        try:
            ratings.append(_rating(row, by_id, by_texts))
        except _Unusable as cause:
            skipped[str(cause)] += 1
    return Imported(ratings, count, dict(skipped.most_common()), unknown)


def _rating(row: _Row, by_id: Mapping[str, Item], by_texts: Mapping[tuple[str, frozenset[str]], Item]) -> Rating:
    if isinstance(row.verdict, _Unusable):
        raise row.verdict
    texts = [str(text) for name in RESPONSES if (text := row.texts.get(name)) not in (None, "")]
    item = by_texts.get((str(row.texts.get("prompt") or ""), frozenset(texts)))
    if item is None and (known := by_id.get(str(row.texts.get("item_id")))) is not None:
        if texts and set(texts) != {answer.text for answer in known.answers}:
            raise _Unusable("its responses were edited")
        item = known
    if item is None:
        raise _Unusable("belongs to no item of the data file")
    if not row.rater.strip() or row.rater == "None":
        raise _Unusable("names no rater")
    own = [answer.text for answer in item.answers]
    stored = [own.index(text) for text in texts] if len(texts) == len(own) else list(range(len(own)))
    details = row.details
    try:
        return Rating(
            item_id=item.id,
            rater=row.rater,
            **_verdict(row.verdict, item, stored),
            asks=item.scale.asks if item.scale else None,
            order_shown=tuple(int(i) for i in details.get("order_shown") or stored),
            seconds=_number(details.get("seconds")),
            at=str(details.get("at") or datetime.now(UTC).isoformat(timespec="seconds")),
            comment=row.comment or None,
            revision=int(details.get("revision") or 0),
            purpose=details.get("purpose") or "rating",
            standard=details.get("standard"),
            prompt_id=item.prompt.id,
            answers=item.texts,
        )
    except (ValidationError, TypeError) as cause:
        raise _Unusable(f"cannot be read: {str(cause).splitlines()[0]}") from None


def _verdict(verdict: Any, item: Item, stored: Sequence[int]) -> dict[str, Any]:
    """The fields of a rating; ``stored`` is the storage index of response_1, response_2 …"""
    if verdict is None or verdict in ("", []):
        raise _Unusable("has no verdict")
    word = "" if isinstance(verdict, list) else " ".join(str(verdict).casefold().split())
    if word in CANNOT_TELL:
        return {"choice": "cannot_tell"}
    if item.scale is not None:
        value = {"yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}.get(word, _number(verdict))
        if value is None or not item.scale.low <= value <= item.scale.high:
            raise _Unusable(f"value {verdict!r} is not on the scale")
        return {"value": value}
    if item.is_pair and not isinstance(verdict, list):
        if word in TIE:
            return {"choice": "tie"}
        return {"choice": ("first", "second")[stored[_place(word, 2)]]}
    ranks = _ranks(verdict, len(stored))
    ranking = [0] * len(stored)
    for place, rank in enumerate(ranks):
        ranking[stored[place]] = rank
    if item.is_pair:
        return {"choice": "tie" if ranking[0] == ranking[1] else ("first", "second")[int(ranking[1] < ranking[0])]}
    return {"ranking": tuple(ranking)}


def _ranks(ranking: Any, count: int) -> list[int]:
    """Rank of response_1, response_2 …: from "2 1 3", from names best first, or from {value, rank}."""
    if isinstance(ranking, str):
        parts = ranking.replace(",", " ").replace(";", " ").split()
        if len(parts) == count and all(part.isdigit() and 1 <= int(part) <= count for part in parts):
            return [int(part) for part in parts]
        raise _Unusable(f"{ranking!r} is not a rank for each of {count} responses")
    if not isinstance(ranking, list) or len(ranking) != count:
        raise _Unusable(f"does not rank all {count} responses")
    ranks = [0] * count
    for place, entry in enumerate(ranking):
        name, rank = (entry.get("value"), entry.get("rank")) if isinstance(entry, Mapping) else (entry, place + 1)
        if not isinstance(rank, int) or not 1 <= rank <= count:
            raise _Unusable("leaves a response without a rank")
        ranks[_place(" ".join(str(name).casefold().split()), count)] = rank
    if 0 in ranks:
        raise _Unusable("ranks one response more than once")
    return ranks


def _place(text: str, count: int) -> int:
    """Which response a name means: response_1, A, first, left, 1, or its number at the end of another name."""
    named = {"first": 0, "second": 1, "left": 0, "right": 1, **{letter: k for k, letter in enumerate(LETTERS)}}
    place = named.get(text)
    if place is None:
        digits = text[len(text.rstrip("0123456789")) :]
        place = int(digits) - 1 if digits else -1
    if not 0 <= place < count:
        raise _Unusable(f"verdict {text!r} names no response")
    return place


def _number(value: Any) -> float | None:
    try:
        return None if value in (None, "") or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _json(text: Any) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except (TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
