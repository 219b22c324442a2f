"""Lineage of a model: whose feedback trained it, on which prompts, from which base. Nobody can declare independence.

Every training step writes ``training/feedback.json`` into the model folder and carries on what the folders that it
starts from say: the base, and a reward model whose labels reach the policy. ``compare`` reads it. What no record says
is an entry of ``unrecorded``, and whoever rests on it is unverified.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from aifeedback.metrics.independence import Source
from aifeedback.models.folders import RECORDS, family_of_folder, identity_digest, weights_digest
from aifeedback.models.journal import digests
from aifeedback.models.openai.settings import family_of
from aifeedback.refs import SCHEMES, JudgeRef, ModelRef, Ref
from aifeedback.storage import read_json, write_json
from aifeedback.types import Prompt, content_id

FILE = Path("training") / "feedback.json"
IDS = Path("training") / "prompt_ids.txt.gz"
FAMILIES = {"gold": "oracle", "people": "people", "rm": "reward model", "fake": "fake"}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trainer(_Record):
    """One source of feedback."""

    uri: str
    family: str = ""
    revision: str = ""
    weights: str = ""
    """Digest of a local model's weights alone: a copy under another name has the same."""
    prompt: str | None = None
    """Name and digest of the judge prompt."""
    constitution: str | None = None
    role: Literal["labels", "reward", "selection", "responses"] = "labels"
    """labels: of pairs. reward: a live score. selection: chose the checkpoint. responses: wrote the texts."""
    rows: int = 0
    human_rows: int = 0
    labels: str | None = None
    """Digest of the file of labels."""

    @property
    def source(self) -> Source:
        return Source(self.uri, self.uri, self.family, self.revision, self.weights)


class TrainedPrompts(_Record):
    file: str = ""
    digest: str = ""
    ids: str = IDS.name
    """File beside this one: a key per prompt that the model, or a model it rests on, was trained on."""
    count: int = 0
    ids_digest: str = ""


class Base(_Record):
    path: str
    digest: str
    """Of its weights."""


class Feedback(_Record):
    """``training/feedback.json``."""

    trained_by: tuple[Trainer, ...] = ()
    unrecorded: tuple[str, ...] = ()
    """What is not known of the origin, a phrase each."""
    prompts: TrainedPrompts = TrainedPrompts()
    base: Base
    weights: str
    """Digest of the weights that this is about."""
    at: str = ""
    digest: str = ""
    """Of everything above."""


class Origin(NamedTuple):
    """What a model's folder records of its training."""

    trainers: tuple[Trainer, ...] = ()
    unrecorded: tuple[str, ...] = ()
    prompts: frozenset[str] = frozenset()
    """Keys of the prompts that it was trained on."""
    base: Base | None = None

    def __add__(self, other: Any) -> Origin:  # type: ignore[override]
        return Origin(
            merged([*self.trainers, *other.trainers]),
            tuple(dict.fromkeys([*self.unrecorded, *other.unrecorded])),
            self.prompts | other.prompts,
            self.base or other.base,
        )


def prompt_key(prompt: Prompt) -> str:
    """The same for prompts that differ by spaces, capitals, tags or a system message only."""
    turns = [(m.role, " ".join(m.content.split()).casefold()) for m in prompt.messages if m.role != "system"]
    return content_id("trained on", turns)


# ------------------------------------------------------------------ reading


def origin_of(ref: Ref) -> Origin:
    """The origin of a policy: a model's from its folder; a file of responses or a served model has none on record."""
    folder = _folder(ModelRef(ref))
    origin = read(folder) if folder is not None else None
    return origin if origin is not None else Origin(unrecorded=(f"{ref} has no record of its training",))


def read(folder: Path) -> Origin | None:
    """What the folder records; None where it has no record. A record that does not fit its folder counts as none."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        record = Feedback.model_validate_json(file.read_text(encoding="utf-8"))
        ids = (folder / IDS).read_bytes()
        prompts = frozenset(gzip.decompress(ids).decode().split())
    except (ValidationError, OSError, EOFError, ValueError) as broken:
        return Origin(unrecorded=(f"{folder}: the record of its origin cannot be read ({type(broken).__name__})",))
    if _digest(record) != record.digest or content_id(sorted(prompts)) != record.prompts.ids_digest:
        return Origin(unrecorded=(f"{folder}: the record of its origin was edited",))
    if record.weights != weights_digest(folder):
        return Origin(unrecorded=(f"{folder}: the record of its origin is about other weights",))
    if why := digests.changed(file):
        return Origin(unrecorded=(why,))
    return Origin(record.trained_by, record.unrecorded, prompts, record.base)


def of_base(folder: Path, name: str) -> Origin:
    """What a model trained from ``folder`` takes over. A pretrained model has no feedback behind it; one that was
    trained here and lost its record has an unknown one."""
    origin = read(folder)
    if origin is not None:
        return origin
    card = folder / "README.md"
    is_ours = card.is_file() and "aifeedback" in card.read_text(encoding="utf-8", errors="replace").lower()
    if is_ours or (folder / "training").is_dir() or any((folder / file).is_file() for file in RECORDS):
        return Origin(unrecorded=(f"{name}: it was trained, and the record of its feedback is missing",))
    return Origin()


# ------------------------------------------------------------------ writing


def write(
    folder: Path,
    *,
    base: tuple[str, str],
    data: Origin,
    prompts: Iterable[Prompt],
    file: str = "",
) -> None:
    """Leave the record in a trained folder. ``base``: folder and name of the model that it started from; ``data``: where
    its labels, rewards or texts came from; ``prompts``: what it was trained on, of ``file``."""
    start, name = Path(base[0]), base[1]
    whole = data + (of_base(start, name) if start.is_dir() else Origin())
    keys = sorted(whole.prompts | {prompt_key(prompt) for prompt in prompts})
    (folder / IDS).parent.mkdir(parents=True, exist_ok=True)
    (folder / IDS).write_bytes(gzip.compress("".join(f"{key}\n" for key in keys).encode(), mtime=0))
    path = Ref(file).path if file else None
    record = Feedback(
        trained_by=whole.trainers,
        unrecorded=whole.unrecorded,
        prompts=TrainedPrompts(
            file=file,
            digest=digests.sha256(path) if path is not None and path.is_file() else "",
            count=len(keys),
            ids_digest=content_id(keys),
        ),
        base=Base(path=name, digest=weights_digest(start) if start.is_dir() else ""),
        weights=weights_digest(folder),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / FILE, record.model_copy(update={"digest": _digest(record)}).model_dump(mode="json"))


def _digest(record: Feedback) -> str:
    return content_id("feedback", record.model_dump(mode="json", exclude={"digest"}))


def merged(trainers: Iterable[Trainer]) -> tuple[Trainer, ...]:
    """Each source once; equal ones add their rows up."""
    by_source: dict[str, Trainer] = {}
    for one in trainers:
        key = one.model_dump_json(exclude={"rows", "human_rows"})
        before = by_source.get(key)
        if before is None:
            by_source[key] = one
        elif before != one:
            rows = {name: max(getattr(before, name), getattr(one, name)) for name in ("rows", "human_rows")}
            by_source[key] = before.model_copy(update=rows)
    return tuple(by_source.values())


# ------------------------------------------------------------------ who gave labels, texts, rewards


def trainer(uri: str, card: Mapping[str, Any] | None = None, **more: Any) -> Trainer:
    """A model as a source of feedback: by its card where one is recorded, else by what its name and folder tell."""
    card = card or {}
    ref = JudgeRef(uri)
    folder = _folder(ref)
    family = str(card.get("family") or "")
    if not family:
        family = FAMILIES.get(ref.scheme, "") or (family_of_folder(folder) if folder else "")
        family = family or (family_of(ref.name) if ref.scheme == "openai" else "unknown")
    prompt = card.get("prompt")
    constitution = card.get("constitution")
    return Trainer(
        uri=uri,
        family=family,
        revision=str(card.get("revision") or (identity_digest(folder) if folder else "")),
        weights=weights_digest(folder) if folder else "",
        prompt=f"{prompt['name']} {prompt['digest']}" if isinstance(prompt, Mapping) else None,
        constitution=str(constitution) if constitution else None,
        **more,
    )


def behind(uri: str, trainers: Sequence[Trainer]) -> Origin:
    """``trainers``, and where ``uri`` is a reward model the feedback that it carries on."""
    ref = JudgeRef(uri)
    if ref.scheme != "rm":
        return Origin(tuple(trainers))
    origin = read(Path(ref.name))
    if origin is None:
        origin = Origin(unrecorded=(f"{uri}: who labelled for this reward model is not recorded",))
    return Origin(tuple(trainers)) + origin._replace(base=None)


def of_labels(path: Ref, judges: Sequence[str]) -> Origin:
    """Who gave the labels of a file; ``judges``: the name beside each known label."""
    file = path.path
    digest = f"sha256:{digests.sha256(file)}" if file is not None and file.is_file() else None
    if file is not None and file.is_file() and (why := digests.changed(file)):
        return Origin(unrecorded=(why,))
    cards = _cards(file) if file is not None else {}
    whole = Origin()
    for name in dict.fromkeys(judges):
        rows = sum(judge == name for judge in judges)
        if name == "human" or name.startswith("people"):
            uri = next((model for model, card in cards.items() if card.get("family") == "people"), "")
            uri = uri or ("people" if name == "human" else name)
            people = Trainer(uri=uri, family="people", rows=rows, human_rows=rows, labels=digest)
            whole += Origin((people,))
            continue
        own = _of_name(name, cards)
        if not own:
            whole += Origin(unrecorded=(f"{path}: who gave {rows:,} labels ('{name}') is not recorded",))
        for uri, card in own.items():
            whole += behind(uri, [trainer(uri, card, rows=rows, labels=digest)])
    return whole


def of_texts(path: Ref, sources: Sequence[str], base: Path | None) -> Origin:
    """Models that wrote, or revised, the texts to imitate; the base's own samples and the lab's world are none."""
    file = path.path
    if file is not None and file.is_file() and (why := digests.changed(file)):
        return Origin(unrecorded=(why,))
    cards = _cards(file) if file is not None else {}
    whole = Origin()
    for name in dict.fromkeys(sources):
        ref, _, rest = name.partition(" ")
        if JudgeRef(ref).scheme not in SCHEMES:
            continue
        folder = _folder(JudgeRef(ref))
        if JudgeRef(ref).scheme == "lab" and folder is None:
            continue  # texts of the lab's world, which no model wrote
        is_own = base is not None and folder is not None and weights_digest(folder) == weights_digest(base)
        if is_own and not rest:
            continue
        card = {**_card_of(ref, cards), "constitution": rest.removeprefix("revised by ") or None}
        whole += Origin((trainer(ref, card, role="responses", rows=sum(s == name for s in sources)),))
    return whole


def of_selection(path: Ref) -> Origin:
    """Whose scores chose the rows of a file, as the step that left it recorded (``selected_by``, ``unrecorded``)."""
    file = path.path
    whole = Origin()
    for figures in _figures_beside(file) if file is not None else ():
        chosen = figures.get("selected_by") or ()
        whole += Origin(tuple(Trainer.model_validate(one) for one in chosen), tuple(figures.get("unrecorded") or ()))
    return whole


def _of_name(name: str, cards: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Model → card behind the name that a label carries: one judge, or every member of a panel."""
    if name.startswith("panel"):
        return {str(card.get("model")): card for card in cards.values()}
    if name.startswith("gold"):
        known = next((model for model, card in cards.items() if card.get("family") == "oracle"), "gold:lab")
        return {name if ":" in name else known: {}}
    uri = name.split(" ")[0]
    if JudgeRef(uri).scheme in SCHEMES or uri in cards:
        return {uri: _card_of(uri, cards)}
    return {}


def _card_of(uri: str, cards: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return cards.get(uri) or next((c for c in cards.values() if uri in (c.get("uri"), c.get("model"))), {})


def _cards(file: Path) -> dict[str, Mapping[str, Any]]:
    """Cards of judges and revisers that the step which left the file recorded, by model."""
    for figures in _figures_beside(file):
        cards = list(_described(figures))
        if cards:
            return {str(card.get("model") or card.get("uri")): card for card in cards}
    return {}


def _figures_beside(file: Path) -> Iterator[Mapping[str, Any]]:
    """Figures of the step that left the file, as far as they are unchanged."""
    for folder in (file.parent, file.with_name(f"{file.name}.run")):
        for name in ("done.json", "figures.json"):
            stored = read_json(folder / name) if (folder / name).is_file() else None
            figures = (stored or {}).get("figures", stored)
            if isinstance(figures, Mapping) and not digests.changed(folder / name):
                yield figures


def _described(figures: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    named = figures.get("judges")
    cards = [figures.get("judge"), figures.get("reviser"), *(named.values() if isinstance(named, Mapping) else ())]
    for card in cards:
        if isinstance(card, Mapping):
            members = card.get("members")
            yield from members.values() if isinstance(members, Mapping) else (card,)


def _folder(ref: ModelRef) -> Path | None:
    if ref.scheme not in ("hf", "lab", "rm"):
        return None
    try:
        path = ref.path
    except Exception:  # a lab model that is not there
        return None
    return path if path is not None and path.is_dir() else None


def weights_of(ref: ModelRef) -> str:
    """Digest of a local model's weights; empty for others."""
    folder = _folder(ref)
    return weights_digest(folder) if folder else ""


def as_json(origin: Origin) -> list[dict[str, Any]]:
    return [json.loads(one.model_dump_json(exclude_none=True)) for one in origin.trainers]
