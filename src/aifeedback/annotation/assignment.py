"""Read a file as a rating task with its guidelines, and decide which item each rater gets next. No web in here.

A task is pairs of any known format, several responses per prompt to be ranked, or single responses. ``Guidelines`` are
a Markdown or text file, a constitution, or a rubric, with their version.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from aifeedback import data
from aifeedback.annotation.items import (
    Catalogue,
    Expected,
    Item,
    Route,
    Scale,
    current,
    items_of_comparisons,
    items_of_completions,
    repeats,
    shares,
    single_items,
    turn,
)
from aifeedback.annotation.labeler import policy_pairs
from aifeedback.annotation.store import RatingStore
from aifeedback.data.formats import shape_of
from aifeedback.data.pairs import map_columns
from aifeedback.data.tables import RowFault
from aifeedback.errors import FileError
from aifeedback.types import Comparison, Completion, Rating, content_id


class Guidelines(NamedTuple):
    title: str
    version: str
    """Of a constitution or rubric its own; of a text the first hex digits of its digest."""
    text: str
    """Markdown."""

    @property
    def name(self) -> str:
        """As each rating keeps it."""
        return f"{self.title} {self.version}"


def read_guidelines(name: str | Path) -> Guidelines:
    """Read a ``.md`` or ``.txt`` file; anything else is a constitution or a rubric, by shipped name or YAML file.

    Raises FileError for a file that cannot be read or holds nothing, StandardsError for an unknown or invalid standard.
    """
    path = Path(name)
    if path.suffix.lower() in (".md", ".txt", ".markdown"):
        return _of_text(path)
    from aifeedback.prompts import registry
    from aifeedback.prompts.constitution import Constitution
    from aifeedback.prompts.rubric import Rubric

    if str(name) not in registry.shipped("constitutions") and _is_rubric(str(name)):
        rubric = Rubric.load(name)
        return _of_parts(rubric.name, rubric.version, rubric.about, [(c.title, c.text) for c in rubric.criteria])
    constitution = Constitution.load(name)
    parts = [(principle.title, principle.text) for principle in constitution.principles]
    return _of_parts(constitution.name, constitution.version, constitution.about, parts)


def _is_rubric(name: str) -> bool:
    from aifeedback.prompts import registry

    if name in registry.shipped("rubrics"):
        return True
    return (
        Path(name).is_file()
        and "criteria" in (content := registry.read_mapping(Path(name)))
        and ("principles" not in content)
    )


def _of_text(path: Path) -> Guidelines:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as cause:
        raise FileError(f"cannot be read: {cause.strerror}", file=path, key="--guidelines") from None
    except UnicodeDecodeError:
        raise FileError("is not UTF-8 text", file=path, key="--guidelines", fix="save it as UTF-8") from None
    if not text:
        raise FileError("is empty", file=path, key="--guidelines", fix="write down what raters shall go by")
    return Guidelines(path.stem, content_id("guidelines", text)[:8], text)


def _of_parts(name: str, version: str, about: str, parts: list[tuple[str, str]]) -> Guidelines:
    lines = [about, *(f"- **{title}**: {text}" for title, text in parts)]
    return Guidelines(name, version, "\n\n".join(line for line in lines if line.strip()))


ANSWER_COLUMNS = ("completion", "response", "output", "answer")
PAIR_COLUMNS = ("first", "second", "chosen", "rejected", "response_a", "response_b")
WEIGHT, STRATUM = "sampling_weight", "sampling_stratum"
STORAGE_SEED = 0
"""Draws the storage order of pairs whose file puts the better response first. It is the same for every run: ratings
must not depend on the seed of one sitting."""


Weight: TypeAlias = tuple[float, str]


class Task(NamedTuple):
    items: list[Item]
    pairs: data.Comparisons | None
    """The pairs as they were read, with the verdicts in the file; None for responses to be ranked or rated singly."""
    sentence: str
    """What was read."""
    policy_pairs: list[Comparison]
    """Every two responses by different sources, those with the same text included: what win rates are about."""
    completions: data.Completions | None = None
    """Single responses as they were read."""
    weights: list[Weight] | None = None
    """Sampling weight and stratum of each of the ``policy_pairs``, where the file is a sample of ``draw``."""


def read_task(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    harmful: bool = False,
    scale: Scale | None = None,
) -> Task:
    """Raises FileError if the file is unusable or has nothing to rate.

    The folder of a comparison gives the responses of all its policies, to be ranked. ``harmful`` says that all items
    are, whatever their tags. ``scale`` asks about every response by itself.
    """
    if Path(path).is_dir():
        if scale is not None:
            raise FileError(
                "a folder of a comparison is ranked",
                file=path,
                key="--ask",
                fix="give one of its completions-NAME.jsonl",
            )
        return _compared(Path(path), harmful=harmful)
    if scale is not None or _holds_answers(path, columns):
        answers = data.read_completions(path, columns=columns)
        if scale is not None:
            items = single_items(answers.prompts, answers.rows, scale, harmful=harmful)
            return Task(items, None, answers.report.sentence(), [], answers)
        items = items_of_completions(answers.prompts, answers.rows, harmful=harmful)
        task = Task(items, None, answers.report.sentence(), policy_pairs(answers.prompts, answers.rows))
    else:
        pairs = data.read_comparisons(path, STORAGE_SEED, columns=columns)
        items = items_of_comparisons(pairs.rows, harmful=harmful)
        met = list(_policy_pairs(path, columns))
        weights = [weight for _, weight in met if weight is not None]
        task = Task(
            items,
            pairs,
            pairs.report.sentence(),
            [comparison for comparison, _ in met],
            weights=weights if met and len(weights) == len(met) else None,
        )
    if not task.items:
        raise FileError(
            "no prompt has two different responses",
            file=path,
            fix="give pairs, or several responses per prompt; --ask harmful, refused or score rates each by itself",
        )
    return task


def _compared(folder: Path, *, harmful: bool) -> Task:
    """The responses that ``compare`` left in its folder, as they were judged, without the reference's second draw."""
    from aifeedback.types import Prompt

    prompts: list[Prompt] = []
    completions: list[Completion] = []
    seen: set[tuple[str, str]] = set()
    for file in sorted(folder.glob("comparisons-*.jsonl")):
        for pair in data.read_records(file, Comparison):
            if pair.second.source == f"{pair.first.source} again":
                continue
            for completion in (pair.first, pair.second):
                if (pair.prompt.id, completion.source) not in seen:
                    seen.add((pair.prompt.id, completion.source))
                    prompts.append(pair.prompt)
                    completions.append(completion)
    items = items_of_completions(prompts, completions, harmful=harmful)
    if not items:
        raise FileError(
            "holds no comparison of policies", file=folder, fix="give the -o folder of `aifeedback compare`, or a file"
        )
    names = sorted({source for _, source in seen})
    sentence = f"{len({prompt for prompt, _ in seen}):,} prompts with responses of {', '.join(names)}"
    return Task(items, None, sentence, policy_pairs(prompts, completions))


def sampled(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """At most ``limit`` items, drawn at random by ``seed``; a larger limit keeps those of a smaller one."""
    if limit is None or limit >= len(items):
        return list(items)
    drawn = {item.id for item in sorted(items, key=lambda item: content_id("sample", seed, item.id))[:limit]}
    return [item for item in items if item.id in drawn]


def _policy_pairs(path: str | Path, columns: Mapping[str, str] | None) -> Iterator[tuple[Comparison, Weight | None]]:
    """Pairs of every row whose responses have different sources, each with its sampling weight: repeated and identical
    ones too, which ``read_comparisons`` leaves out because no judge needs to see them."""
    for row in map_columns(path, data.read_rows(path), columns):
        shape = None if row.fault else shape_of(row.values)
        if shape is None:
            continue
        try:
            pairs = list(shape.read(row.values, None))
        except (RowFault, KeyError, TypeError, AttributeError, ValueError):
            continue  # reported by read_comparisons
        for pair in pairs:
            if pair.sources[0] != pair.sources[1]:
                prompt = pair.prompt.record()
                first = Completion.of(prompt, pair.first, source=pair.sources[0])
                second = Completion.of(prompt, pair.second, source=pair.sources[1])
                yield Comparison.of(prompt, first, second), weight_of(row.values)


def weight_of(row: Mapping[str, Any]) -> Weight | None:
    """The sampling weight of a row of ``draw``, and its stratum."""
    weight = row.get(WEIGHT)
    return (float(weight), str(row.get(STRATUM))) if isinstance(weight, int | float) and weight >= 1 else None


def _holds_answers(path: str | Path, columns: Mapping[str, str] | None) -> bool:
    """Whether the first row has one answer rather than two; a column map that names an answer decides."""
    if columns:
        return "completion" in columns
    first: Any = next(iter(data.read_rows(path)), None)
    names = set(first.values) if first is not None else set()
    return bool(names & set(ANSWER_COLUMNS)) and not names & set(PAIR_COLUMNS)


def agreed_items(path: str | Path, purpose: Literal["gold", "calibration"]) -> list[Item]:
    """Pairs whose verdict in the file is the agreed one, for the calibration round or to be mixed in.

    A column ``reason`` is shown as the explanation. Raises FileError where a pair has no verdict of people.
    """
    pairs = data.read_comparisons(path, STORAGE_SEED)
    items = []
    for comparison, p_first, cells in zip(pairs.rows, pairs.human, pairs.inputs, strict=True):
        if p_first is None:
            raise FileError(
                f"{comparison.prompt.text[:60]!r} has no agreed verdict",
                file=path,
                key="human_p_first",
                fix="give chosen and rejected, or human_p_first, in every row",
            )
        (item,) = items_of_comparisons([comparison], purpose=purpose)
        items.append(item._replace(expected=Expected(p_first, str(cells.get("reason") or ""))))
    return items


LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
LONGEST_COMMENT = 2000
FORM_LASTS_S = 24 * 3600.0
NOT_READ = "(not read)"
"""Comment of a harmful item that was left unread."""
ENTERED = ("choice", "value", "comment")
"""Fields of a form that a rater fills in, besides ``rank-…``."""


@dataclass(frozen=True)
class Assignment:
    """Everything the page needs to know."""

    store: RatingStore
    items: Sequence[Item]
    raters: Sequence[str]
    question: str = "Which response is better?"
    guidelines: Guidelines | None = None
    most_harmful: int | None = None
    """Harmful items that one rater may see, over all sittings; no limit when not given."""
    volunteers: Sequence[str] | None = None
    """Raters who alone get harmful items; everyone when not given."""
    roles: Mapping[str, frozenset[str]] = field(default_factory=dict)
    routes: Sequence[Route] = ()
    per_item: int | None = None
    """Raters per item; everyone rates everything when not given."""
    calibration: Sequence[Item] = ()
    """Items with an agreed verdict that every rater sees first, with the verdict shown afterwards."""
    gold: Sequence[Item] = ()
    """Items with an agreed verdict, mixed in without saying so."""
    repeat_share: float = 0.0
    """Share of a rater's items that come a second time."""
    seed: int = 0
    hosts: Sequence[str] = LOOPBACK
    """Host names that requests may carry."""
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    saved: Callable[[int, int], None] = lambda done, total: None
    """Called after each new rating with the number of ratings there are, and of those that are wanted."""
    queues: Mapping[str, list[Item]] = field(init=False)
    catalogue: Catalogue = field(init=False)
    _known: dict[str, dict[str, Item]] = field(init=False)
    _done: dict[str, set[str]] = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        extra = [*self.calibration, *self.gold]
        plain = {item.id: item for item in self.items if item.id not in {other.id for other in extra}}
        catalogue = Catalogue([*plain.values(), *extra])
        rated: dict[str, set[str]] = {}
        for stored_id, names in self.store.raters_of().items():
            rated.setdefault(catalogue.id_of(stored_id) or stored_id, set()).update(names)
        by_rater = shares(
            list(plain.values()),
            self.raters,
            per_item=self.per_item,
            seed=self.seed,
            volunteers=self.volunteers or None,
            roles=self.roles,
            routes=self.routes,
            rated=rated,
        )
        queues = {rater: self._queue(rater, own) for rater, own in by_rater.items()}
        catalogue = Catalogue([*catalogue.items.values(), *(i for own in queues.values() for i in own)])
        done = {rater: {i.id for i in own if rater in rated.get(i.id, ())} for rater, own in queues.items()}
        object.__setattr__(self, "queues", queues)
        object.__setattr__(self, "catalogue", catalogue)
        object.__setattr__(self, "_known", {rater: {i.id: i for i in own} for rater, own in queues.items()})
        object.__setattr__(self, "_done", done)

    def _queue(self, rater: str, own: Sequence[Item]) -> list[Item]:
        mixed = [*own, *self.gold, *repeats(own, rater, share=self.repeat_share, seed=self.seed)]
        mixed.sort(key=lambda item: turn(item, rater, self.seed))
        return [*self.calibration, *mixed]

    def next_for(self, rater: str) -> Item | None:
        """The first item of this rater's queue that is not rated yet and may be shown."""
        return next(iter(self.waiting(rater)), None)

    def waiting(self, rater: str) -> list[Item]:
        """Items to be rated, in order: those never skipped first, then the skipped ones, longest ago first."""
        done, held = self.done(rater), {item.id for item in self.held_back(rater)}
        skipped = self.store.skipped_by(rater)
        left = [item for item in self.queues.get(rater, ()) if item.id not in done and item.id not in held]
        return sorted(left, key=lambda item: skipped.get(item.id, 0))

    def done(self, rater: str) -> set[str]:
        """Ids of this rater's items that are rated."""
        return {identity for stored in self.store.rated_by(rater) if (identity := self.catalogue.id_of(stored))}

    def held_back(self, rater: str) -> list[Item]:
        """Harmful items that this rater is spared because enough others were seen."""
        seen = self.store.exposed_to(rater)
        if self.most_harmful is None or len(seen) < self.most_harmful:
            return []
        done = self.done(rater)
        return [i for i in self.queues.get(rater, ()) if i.is_harmful and i.id not in seen and i.id not in done]

    def item(self, rater: str, item_id: str) -> Item | None:
        return self._known.get(rater, {}).get(item_id)

    def is_hidden(self, rater: str, item: Item) -> bool:
        return item.is_harmful and item.id not in self.store.exposed_to(rater)

    def rated(self, rater: str) -> list[tuple[Item, Rating]]:
        """This rater's own ratings, the latest first, each as it stands after corrections."""
        matched, _ = self.catalogue.matched(self.store.ratings_of(rater))
        return [(self.catalogue.items[rating.item_id], rating) for rating in reversed(current(matched))]

    def latest(self, rater: str, item: Item) -> Rating | None:
        """What this rater says of the item now; None where they have not rated it."""
        return next((rating for known, rating in self.rated(rater) if known.id == item.id), None)

    def question_for(self, item: Item) -> str:
        return self.question if item.scale is None else item.scale.question

    def save(self, rating: Rating) -> bool:
        """Store a rating; False where there is one already that this form did not know of."""
        if rating.revision == 0 and rating.item_id in self.done(rating.rater):
            return False
        if not self.store.add(rating):
            return False
        with self._lock:
            self._done.setdefault(rating.rater, set()).add(rating.item_id)
            progress = self.progress()
        self.saved(*progress)
        return True

    def progress(self) -> tuple[int, int]:
        """Ratings that there are and that are wanted, over all raters."""
        return sum(map(len, self._done.values())), sum(len(own) for own in self.queues.values())

    def short(self) -> int:
        """Items that fewer raters may rate than are wanted."""
        wanted = self.per_item or 0
        counts: dict[str, int] = {}
        for own in self.queues.values():
            for item in own:
                counts[item.id] = counts.get(item.id, 0) + 1
        former = self.store.raters_of()
        return sum(
            counts.get(i.id, 0) + len(former.get(i.id, set()) - set(self.raters)) < wanted
            for i in self.catalogue.items.values()
            if i.purpose == "rating"
        )


class Form(NamedTuple):
    """What came back: a rating, or what is wrong; the item it is about, where the form names one of the rater's."""

    rating: Rating | None
    problem: str
    item: Item | None


def read_form(assignment: Assignment, rater: str, form: Mapping[str, str]) -> Form:
    """The rating in a form, or None and what is wrong with it."""
    item, problem = signed_item(assignment, rater, form)
    if problem or item is None:
        return Form(None, problem, item)
    order, hidden = order_of(assignment, rater, item, form), assignment.is_hidden(rater, item)
    comment = form.get("comment", "").replace("\r\n", "\n").strip()
    verdict, problem = _verdict(item, form, order)
    if not problem and hidden and verdict.get("choice") != "cannot_tell":
        problem = "Please have the texts shown first, or choose not to read them."
    if not problem and len(comment) > LONGEST_COMMENT:
        problem = f"The comment has {len(comment):,} characters; at most {LONGEST_COMMENT:,} can be saved."
    if problem:
        return Form(None, problem, item)
    rating = Rating(
        item_id=item.id,
        rater=rater,
        **verdict,
        asks=item.scale.asks if item.scale else None,
        order_shown=order,
        seconds=round(assignment.now() - float(form["shown_at"]), 1),
        at=stamp(assignment),
        comment=NOT_READ if hidden else comment or None,
        revision=_revision(form),
        purpose=item.purpose,
        standard=assignment.guidelines.name if assignment.guidelines else None,
        prompt_id=item.prompt.id,
        answers=item.texts,
    )
    return Form(rating, "", item)


def signed_item(assignment: Assignment, rater: str, form: Mapping[str, str]) -> tuple[Item | None, str]:
    """The item that a form is about, and what is wrong where this page did not make the form for this rater lately."""
    item = assignment.item(rater, form.get("item", ""))
    if item is None:
        return None, "This item is not one of yours, or no longer."
    shown_at = form.get("shown_at", "")
    parts = signed_parts(rater, item, order_of(assignment, rater, item, form), shown_at, _revision(form))
    if not assignment.store.is_signed(form.get("signature", ""), *parts):
        return item, "This form was not made for you, or it was changed. Please check your answer and save again."
    if not 0 <= assignment.now() - float(shown_at) <= FORM_LASTS_S:
        return item, "This form is more than a day old. Please check your answer and save again."
    return item, ""


def signed_parts(rater: str, item: Item, order: Sequence[int], shown_at: str, revision: int = 0) -> tuple[object, ...]:
    """What a form's signature is about; a correction also says which rating it replaces."""
    parts = rater, item.id, tuple(order), shown_at
    return (*parts, revision) if revision else parts


def order_of(assignment: Assignment, rater: str, item: Item, form: Mapping[str, str]) -> tuple[int, ...]:
    """The order in which the form showed the responses: another one than today's where the seed has changed."""
    return item.order_of(form.get("order", "")) or item.order_for(rater, assignment.seed)


def _revision(form: Mapping[str, str]) -> int:
    text = form.get("revision", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else 0


def entered(form: Mapping[str, str]) -> dict[str, str]:
    """What a rater entered in a form, to be shown again or kept as a draft."""
    return {
        key: value.replace("\r\n", "\n")
        for key, value in form.items()
        if value and (key in ENTERED or (key.startswith("rank-") and len(key) < 8))
    }


def entry_of(rating: Rating) -> dict[str, str]:
    """A stored rating as the form that would give it."""
    entry = {"comment": rating.comment or ""} if rating.comment != NOT_READ else {}
    if rating.value is not None:
        entry["value"] = f"{rating.value:g}"
    if rating.choice in ("tie", "cannot_tell"):
        entry["choice"] = rating.choice
    elif rating.choice is not None:
        entry["choice"] = str(rating.order_shown.index(("first", "second").index(rating.choice)))
    if rating.ranking is not None:
        entry |= {f"rank-{place}": str(rating.ranking[i]) for place, i in enumerate(rating.order_shown)}
    return {key: value for key, value in entry.items() if value}


def same_verdict(one: Rating, other: Rating) -> bool:
    """Whether both say the same, comment included."""
    return all(getattr(one, key) == getattr(other, key) for key in ("choice", "ranking", "value", "comment"))


def stamp(assignment: Assignment) -> str:
    return datetime.fromtimestamp(assignment.now(), UTC).isoformat(timespec="seconds")


def _verdict(item: Item, form: Mapping[str, str], order: Sequence[int]) -> tuple[dict[str, Any], str]:
    """The fields of a Rating that hold the verdict, or none and what is wrong."""
    if "\n" in form.get("choice", "") or "\n" in form.get("value", ""):
        return {}, "The form holds two answers that contradict each other. Please keep one."
    if item.scale is not None:
        return _value(item.scale.low, item.scale.high, form)
    return _pair_choice(form, order) if item.is_pair else _ranking(form, order)


def _pair_choice(form: Mapping[str, str], order: Sequence[int]) -> tuple[dict[str, Any], str]:
    """Storage side of the chosen position, tie or cannot_tell."""
    chosen = form.get("choice", "")
    if chosen in ("tie", "cannot_tell"):
        return {"choice": chosen}, ""
    if chosen in ("0", "1"):
        return {"choice": ("first", "second")[order[int(chosen)]]}, ""
    return {}, "Please choose an answer first."


def _ranking(form: Mapping[str, str], order: Sequence[int]) -> tuple[dict[str, Any], str]:
    """Rank of each response in storage order; ties allowed; all are ranked, or none with 'cannot tell'."""
    ranks = [form.get(f"rank-{place}", "") for place in range(len(order))]
    if form.get("choice") == "cannot_tell":
        if any(ranks):
            return {}, "You ranked responses and also chose “I cannot tell”. Please keep one of the two."
        return {"choice": "cannot_tell"}, ""
    missing = [rank for rank in ranks if rank not in {str(r) for r in range(1, len(order) + 1)}]
    if missing:
        left = f" {len(missing)} of {len(order)} are missing." if len(missing) < len(order) else ""
        return {}, f"Please give every response a rank first.{left}"
    stored = [0] * len(order)
    for place, rank in enumerate(ranks):
        stored[order[place]] = int(rank)
    return {"ranking": tuple(stored)}, ""


def _value(low: int, high: int, form: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    value = form.get("value", "")
    if form.get("choice") == "cannot_tell":
        if value:
            return {}, "You answered and also chose “I cannot tell”. Please keep one of the two."
        return {"choice": "cannot_tell"}, ""
    if value not in {str(v) for v in range(low, high + 1)}:
        return {}, "Please choose an answer first."
    return {"value": float(value)}, ""


def feedback(item: Item, rating: Rating) -> tuple[Literal["right", "wrong", "open"], str] | None:
    """After a calibration item: whether the rater decided as agreed, and the reason; None for other items."""
    if item.purpose != "calibration" or item.expected is None:
        return None
    agreed = item.expected.p_first
    letters = {index: "AB"[place] for place, index in enumerate(rating.order_shown)} if item.is_pair else {}
    if item.is_pair:
        verdict = "equally good" if agreed == 0.5 else f"{letters[0 if agreed > 0.5 else 1]} is better"
        own = {"first": 1.0, "second": 0.0, "tie": 0.5}.get(rating.choice or "")
    else:
        verdict = ("no", "yes")[int(agreed)] if item.scale and item.scale.is_yes_no else f"{agreed:g}"
        own = rating.value
    outcome = "open" if own is None else "right" if own == _side(agreed, item) else "wrong"
    return outcome, f"Agreed verdict: {verdict}. {item.expected.reason}".strip()


def _side(agreed: float, item: Item) -> float:
    return agreed if not item.is_pair or agreed == 0.5 else float(agreed > 0.5)
