"""A dossier: its folder, its requirements against its evidence, its signatures."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, date, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aifeedback.config import parse
from aifeedback.dossier import claim as claims
from aifeedback.dossier import evidence as sources
from aifeedback.dossier.needs import need_of
from aifeedback.dossier.outcome import NOT_ADDED, State
from aifeedback.dossier.records import (
    GRAVITY,
    Added,
    Answer,
    Checked,
    Decision,
    DossierSettings,
    Level,
    Requirement,
    Signature,
    now,
)
from aifeedback.errors import FileError, RecipeError
from aifeedback.models.journal import Entry, Journal, canonical, content_key, setting_digest
from aifeedback.models.journal.digests import seal, sha256
from aifeedback.pipeline.run_folder import RunFolder
from aifeedback.refs import ModelRef, digest_ref
from aifeedback.storage import make_folder, read_json, read_yaml_mapping, write_json

SETTINGS, EVIDENCE, CLAIM, PAGE, MANIFEST = (
    "dossier.yaml",
    "evidence.json",
    "claim.yaml",
    "dossier.html",
    "manifest.json",
)
KIND = "signature"
_SETTING = canonical({"log": "dossier"})
PASS, OPEN, BROKEN = 0, 1, 2
"""Exit codes of ``dossier check``."""


def templates() -> list[str]:
    """Names of the shipped templates."""
    folder = files("aifeedback.dossier") / "templates"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def template(name: str) -> list[Requirement]:
    """The requirements of a shipped template, or of a YAML file. Raises RecipeError for an unknown name."""
    path = Path(name)
    if not path.is_file():
        if name not in templates():
            raise RecipeError(
                f"no template '{name}'", key="--template", fix=f"one of {', '.join(templates())}, or a file"
            )
        path = Path(str(files("aifeedback.dossier") / "templates" / f"{name}.yaml"))
    fix = "a template is `requirements:` and a list"
    values = read_yaml_mapping(path, empty="holds no requirements", fix=fix)
    if not isinstance(values.get("requirements"), list):
        raise RecipeError("holds no requirements", file=path, fix=fix)
    return [parse(Requirement, one, file=path) for one in values["requirements"]]


class Results(NamedTuple):
    """The requirements against the evidence, at one moment."""

    rows: list[Checked]
    claim: list[claims.Row]
    not_measured: list[str]
    """What no file says, beyond the open requirements."""
    state: str
    """Digest of everything that a signature is about."""

    @property
    def code(self) -> int:
        levels = {row.level for row in self.rows}
        return BROKEN if "broken" in levels else OPEN if "open" in levels else PASS

    def of(self, question: int) -> list[Checked]:
        return [row for row in self.rows if row.question == question]


def gravest(rows: Sequence[Checked]) -> Level:
    """The gravest level of some rows; open where there are none."""
    return max(rows, key=lambda row: GRAVITY[row.level]).level if rows else "open"


class Dossier:
    """One decision. Raises FileError where the folder holds no dossier, RecipeError for a mistake in dossier.yaml."""

    def __init__(self, folder: Path) -> None:
        file = folder / SETTINGS
        if not file.is_file():
            raise FileError("no dossier here", file=file, fix=f"aifeedback dossier init {folder} --policy … --for …")
        self.folder, self.journal = folder, folder / "journal.sqlite"
        values = read_yaml_mapping(file, empty="holds no settings", fix="correct it, or start anew with dossier init")
        self.settings = parse(DossierSettings, values, file=file)

    @classmethod
    def create(
        cls, folder: Path, *, policy: str, use: str, owner: str, names: Sequence[str], claim: Path | None = None
    ) -> Dossier:
        """Write the folder. Raises RecipeError where there is a dossier already, or a template is unknown."""
        if (folder / SETTINGS).exists():
            raise RecipeError("already contains a dossier", file=folder, fix="give another folder")
        if claim is not None:
            claims.load(claim)
        requirements = {one.id: one for name in names for one in template(name)}
        ref = ModelRef(policy)
        if problem := ref.problem() if ref.scheme else None:
            raise RecipeError(problem, key="--policy", fix="name the policy as the commands do: hf:DIR, openai:NAME")
        settings = DossierSettings(
            policy=policy,
            policy_digest=digest_ref(ref) if ref.path else None,
            use=use,
            owner=owner,
            templates=list(names),
            requirements=list(requirements.values()),
        )
        make_folder(folder)
        _write_yaml(folder / SETTINGS, settings.model_dump(mode="json"))
        write_json(folder / EVIDENCE, [])
        if claim is not None:
            (folder / CLAIM).write_text(claim.read_text(encoding="utf-8"), encoding="utf-8")
        return cls(folder)

    # ---------------------------------------------------------------- evidence and answers

    @property
    def added(self) -> list[Added]:
        return [Added.model_validate(one) for one in read_json(self.folder / EVIDENCE) or []]

    @property
    def claim(self) -> claims.Claim | None:
        return claims.load(self.folder / CLAIM) if (self.folder / CLAIM).is_file() else None

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        with RunFolder(self.folder).locked():
            yield

    def add(self, paths: Sequence[Path]) -> list[Added]:
        """Add files and folders as evidence; existing evidence is read again."""
        with self.locked():
            new = [sources.add(path) for path in paths]
            kept = {one.path: one for one in self.added} | {one.path: one for one in new}
            write_json(self.folder / EVIDENCE, [one.model_dump(mode="json") for one in kept.values()])
            return new

    def answer(self, id_: str, text: str, by: str) -> None:
        """Write what a person answered into dossier.yaml. Raises RecipeError for an unknown requirement."""
        known = [one.id for one in self.settings.requirements]
        if id_ not in known:
            raise RecipeError(f"unknown requirement '{id_}'", key="--answer", fix=f"known: {', '.join(known)}")
        with self.locked():
            answer = Answer(text=text, by=by, at=now()[:10])
            self.settings = self.settings.model_copy(update={"answers": {**self.settings.answers, id_: answer}})
            _write_yaml(self.folder / SETTINGS, self.settings.model_dump(mode="json"))

    # ---------------------------------------------------------------- checking

    def check(self, at: datetime | None = None) -> Results:
        """Every requirement against the evidence as it is now."""
        moment = at or datetime.now(UTC)
        evidence, claim = sources.load(self.added), self.claim
        if fault := self._policy_fault():
            evidence = evidence._replace(faults=[fault, *evidence.faults])
        rows = [self._checked(one, State(evidence, moment, self.settings.answers.get(one.id), claim)) for one in
                self.settings.requirements]  # fmt: skip
        claimed = claims.rows(claim, evidence) if claim is not None else []
        return Results(rows, claimed, _not_measured(evidence), self._state(rows))

    def _policy_fault(self) -> str:
        """What is wrong with the policy since the dossier was made."""
        ref = ModelRef(self.settings.policy)
        if self.settings.policy_digest is None:
            return ""
        if ref.path is None or not ref.path.exists():
            return f"{self.settings.policy} is missing"
        is_same = digest_ref(ref) == self.settings.policy_digest
        return "" if is_same else f"{self.settings.policy} is another model than the one the dossier was made for"

    def _checked(self, one: Requirement, state: State) -> Checked:
        outcome = need_of(one.needs).check(state)
        if outcome.level == "open" and state.answer is not None and outcome.sentence != "Nobody has answered.":
            outcome = outcome._replace(sentence=f"{outcome.sentence} {state.answer.by}: {state.answer.text}")
        level, waiver = outcome.level, ""
        for exemption in self.settings.waivers:
            if exemption.id != one.id or outcome.level in ("met", "unchecked"):
                continue
            if exemption.holds(state.now.date()):
                level, waiver = "waived", f"waived by {exemption.by} until {exemption.until}: {exemption.reason}"
            elif not waiver:
                waiver = f"the waiver by {exemption.by} expired on {exemption.until}"
        return Checked(id=one.id, question=one.question, asks=one.asks, level=level, sentence=outcome.sentence,
                       file=outcome.file, waiver=waiver)  # fmt: skip

    def _state(self, rows: Sequence[Checked]) -> str:
        """Monitors keep changing, so their digests are excluded; their findings are included."""
        evidence = [one.model_dump(exclude={"at"}) for one in self.added if sources.LIVE not in one.kind.split(", ")]
        settings = self.settings.model_dump(mode="json")
        claim = (self.folder / CLAIM).read_text(encoding="utf-8") if (self.folder / CLAIM).is_file() else ""
        levels = [(row.id, row.level) for row in rows]
        return hashlib.sha256(canonical([settings, evidence, claim, levels]).encode()).hexdigest()

    # ---------------------------------------------------------------- signing

    def signatures(self) -> list[Signature]:
        """The oldest first. Raises JournalError where one was changed or removed."""
        if not self.journal.is_file():
            return []
        with Journal(self.journal) as journal:
            return [Signature.model_validate_json(row.entry.answer) for row in journal.rows(KIND)]

    def sign(
        self, results: Results, *, by: str, role: str, decision: Decision, until: str | None = None, note: str = ""
    ) -> Signature:
        """Sign the dossier as it is. Raises RecipeError for a decision that the requirements do not allow."""
        if until is not None:
            _require_future(until)
        missing = [row.id for row in results.rows if row.level in ("broken", "open")]
        broken = [row.id for row in results.rows if row.level == "broken"]
        if decision == "ship" and missing:
            raise RecipeError(
                f"not met: {', '.join(missing)}", key="--decision", fix="meet or waive them, or ship-with-conditions"
            )
        if decision == "ship-with-conditions" and broken:
            raise RecipeError(f"broken: {', '.join(broken)}", key="--decision", fix="mend or waive them, or reject")
        if decision == "ship-with-conditions" and not (until and note.strip()):
            raise RecipeError("conditions need words and an end", key="--note", fix="give --note and --until")
        signature = Signature(
            at=now(), by=by, role=role, decision=decision, until=until, note=note, state=results.state
        )
        answer = signature.model_dump_json(exclude_none=True)
        hashed = hashlib.sha256(answer.encode()).digest()
        with self.locked(), Journal(self.journal, step="sign") as journal:
            entry = Entry(kind=KIND, key=content_key(setting_digest(_SETTING), hashed), setting=_SETTING,
                          prompt_hash=hashed, outcome="ok", answer=answer)  # fmt: skip
            journal.append([entry])
        return signature

    # ---------------------------------------------------------------- the page

    def build(self, results: Results) -> Path:
        """Write the page and the manifest, and seal both into the journal."""
        from aifeedback.dossier.page import write_page

        with self.locked():
            head = None
            if self.journal.is_file():
                with Journal(self.journal) as journal:
                    head = journal.head().link if journal.head().rows else None
            page = write_page(self, results, head)
            write_json(self.folder / MANIFEST, {
                "policy": self.settings.policy, "policy_digest": self.settings.policy_digest, "use": self.settings.use,
                "owner": self.settings.owner, "at": now(), "state": results.state,
                "signatures": [one.model_dump(mode="json") for one in self.signatures()],
                "requirements": [row.model_dump(mode="json") for row in results.rows],
                "claim": [row._asdict() for row in results.claim],
                "not_measured": results.not_measured,
                "evidence": [one.model_dump(mode="json") for one in self.added],
            })  # fmt: skip
            seal(self.folder, self.journal)
            return page


def _require_future(until: str) -> None:
    try:
        end = date.fromisoformat(until)
    except ValueError:
        raise RecipeError(f"'{until}' is not a date", key="--until", fix="YYYY-MM-DD") from None
    if end < datetime.now(UTC).date():
        raise RecipeError(f"{until} is over", key="--until", fix="give a date to come")


def _not_measured(evidence: sources.Evidence) -> list[str]:
    """Missing kinds of evidence, probes that could not be measured, and policies without an assessment."""
    sentences = [sentence for kind, sentence in NOT_ADDED.items() if not evidence.of(kind)]
    for piece in evidence.of("audit"):
        missing = [one for one in piece.data["findings"] if one["level"] in ("unknown", "uninformative")]
        sentences += [f"{piece.data['judge']}: {one['title']}: {one['sentence']}" for one in missing]
    for piece in evidence.of("compare"):
        if not piece.data.get("safety"):
            sentences.append(f"{piece.path.parent.name}: harm and refusal of the policies were not assessed.")
    return sentences


def _write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=110), encoding="utf-8")
    partial.replace(path)


def digest_of(file: Path) -> str:
    """SHA-256 of a file; '' if it is missing."""
    return sha256(file) if file.is_file() else ""
