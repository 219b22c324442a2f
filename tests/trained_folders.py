"""Made-up results: trained folders whose weights nothing loads, label files and a run, with the records that steps leave."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aifeedback import data
from aifeedback.models import lineage
from aifeedback.models.journal import Entry, Journal
from aifeedback.models.journal.digests import seal
from aifeedback.models.lineage import Origin, Trainer
from aifeedback.refs import PolicyRef
from aifeedback.steps import evidence
from aifeedback.steps.connect import JudgeCard
from aifeedback.types import Comparison, Completion, Prompt

JUDGE = JudgeCard(model="openai:judge-1", uri="openai:judge-1", family="alpha", revision="r1")
RELATIVE = JudgeCard(model="openai:judge-2", uri="openai:judge-2", family="alpha", revision="r2")
OTHER = JudgeCard(model="openai:other", uri="openai:other", family="beta", revision="r9")
PEOPLE = JudgeCard(model="people:lab", uri="people:lab", family="people")
GOLD = JudgeCard(model="gold:lab", uri="gold:lab", family="oracle")
FAKE = JudgeCard(model="fake:noisy", uri="fake:noisy", family="fake")
TRAIN = [Prompt.of(f"Training question {n}?") for n in range(8)]
TEST = [Prompt.of(f"Test question {n}?") for n in range(6)]


def weights(folder: Path, content: str, family: str = "llama") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(content.encode())
    (folder / "config.json").write_text(json.dumps({"model_type": family, "aifeedback_family": family}))
    return folder


def fed_by(*cards: JudgeCard, role: Any = "labels") -> Origin:
    by_policy = [Trainer(uri=c.uri, family=c.family, revision=c.revision, role=role, rows=10) for c in cards]
    return Origin(tuple(by_policy))


def trained(
    folder: Path,
    *cards: JudgeCard,
    base: Path | None = None,
    prompts: Sequence[Prompt] = TRAIN,
    origin: Origin | None = None,
) -> Path:
    """A folder as a trainer leaves it, trained on feedback of ``cards`` (or ``origin``)."""
    start = base or weights(folder.parent / "pretrained", "pretrained")
    weights(folder, f"weights of {folder.name}")
    (folder / "README.md").write_text("tags: [aifeedback]")
    lineage.write(
        folder, base=(str(start), f"hf:{start}"), data=origin if origin is not None else fed_by(*cards), prompts=prompts
    )
    return folder


def judged(
    policies: dict[str, str | Path],
    *judges: JudgeCard,
    declared: Sequence[JudgeCard] = (),
    prompts: Sequence[Prompt] = TEST,
    assessors: Sequence[JudgeCard] = (),
) -> evidence.Independence:
    """What ``compare`` says about evidence; a policy is a folder, or a reference as it is given. The first is the
    reference."""
    refs = {name: PolicyRef(f"hf:{p}" if isinstance(p, Path) else p) for name, p in policies.items()}
    by_policy = evidence.origins(refs, next(iter(refs)))
    held = evidence.held_out(prompts, by_policy)
    return evidence.independence(
        policies=refs,
        by_policy=by_policy,
        declared=[evidence.source_of(card.model, card) for card in declared],
        judges={card.model: card for card in judges},
        assessors={card.model: card for card in assessors},
        trained_on=held.trained_on,
        agreement={},
    )


def pairs(count: int = 8) -> list[Comparison]:
    made = []
    for prompt in TRAIN[:count]:
        sides = [Completion.of(prompt, text, source="policy") for text in ("a long answer", "an answer")]
        made.append(Comparison.of(prompt, *sides))
    return made


def labelled(folder: Path, judge: JudgeCard, *, names: str | None = None) -> Path:
    """A labelled file as ``label`` leaves it, with the judge's card beside it, sealed."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [data.LabelledRow(comparison=pair, p_first=0.8, judge=names or f"{judge.uri} helpful") for pair in pairs()]
    data.write_labelled(folder / "labelled.jsonl", rows)
    (folder / "figures.json").write_text(json.dumps({"judge": judge.as_json()}))
    seal(folder, folder / "journal.sqlite")
    return folder / "labelled.jsonl"


def call(n: int) -> Entry:
    return Entry("labels", bytes([n]) * 32, "{}", b"p" * 32, "ok", "{}", prompt_tokens=5, completion_tokens=1)


def finished_run(folder: Path) -> Path:
    """A recipe's run in small: two stages, a summary, and a page that prints the journal's head."""
    journal = folder / "journal.sqlite"
    labels = labelled(folder / "stages/labels", JUDGE)
    (labels.parent / "journal.sqlite").unlink()
    with Journal(journal, step="labels") as opened:
        opened.append([call(n) for n in range(5)])
    seal(labels.parent, journal)
    compared = folder / "stages/compare"
    compared.mkdir()
    (compared / "preferences-judge.jsonl").write_text('{"p_first": 0.7}\n')
    seal(compared, journal)
    (folder / "summary.json").write_text('{"win_rate": 0.6}')
    with Journal(journal) as opened:
        head = opened.head().link
    (folder / "report.html").write_text(f"<html><p>win rate 60 %</p><p>journal.sqlite: 5 calls, head {head}</p></html>")
    seal(folder, journal)
    return folder
