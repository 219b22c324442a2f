"""What a folder records about its own making: date, inputs with digests, journal, and how each policy was trained.

Only recorded facts count. A name says nothing about a policy, and a digest computed today nothing about the file that
was read then: whatever no file of the folder says is printed as "not recorded".
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback.storage import versions

NOT_RECORDED = "not recorded"
INPUTS = ("data", "comparisons", "prompts", "completions", "heldout", "demonstrations")
"""Settings of a step that name a file of rows."""
LAB = "the built-in lab, generated from the seed"
JOURNALS = "journal*.sqlite"


class Fact(NamedTuple):
    """One line of the block at the head of a page; ``values`` is empty where nothing is recorded."""

    name: str
    values: Sequence[str]


class JournalState(NamedTuple):
    name: str
    calls: int
    head: str
    """Link of the last call: what a later check of the journal is compared with."""
    last: float | None
    """When the last call was made, in seconds since 1970."""


@dataclass(frozen=True)
class Origin:
    """The records of one folder; every part may be missing."""

    folder: Path | None = None
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Id → settings, as the folder's recipe.yaml has them."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Key of the summary → the metric of a step that it shows."""
    command: Mapping[str, Any] = field(default_factory=dict)
    """command.json of a single command: settings, seed, inputs with their digests."""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    journals: Sequence[JournalState] = ()

    @property
    def inputs(self) -> Mapping[str, str]:
        """File, folder or model → digest when it was read."""
        return {**_mapping(self.manifest.get("inputs")), **_mapping(self.command.get("inputs"))}

    @property
    def settings(self) -> Mapping[str, Any]:
        return _mapping(self.command.get("settings"))

    @property
    def comparing(self) -> Mapping[str, Any]:
        """Settings of what compared the policies: the step that the summary's ``policies`` come from, or the command."""
        step = self.sources.get("policies", self.sources.get("safety", "")).partition(".")[0]
        settings = self.steps.get(step) or next((s for s in self.steps.values() if "policies" in s), None)
        return settings or self.settings

    def policy(self, name: str) -> str:
        """The model or file that a policy's name stands for; empty where that is not recorded."""
        return str(_mapping(self.comparing.get("policies")).get(name) or "")

    def step_of(self, reference: str) -> str:
        """``hf:@rlaif/policy`` → rlaif; empty for what no step of this run made."""
        step = reference.partition("@")[2].partition("/")[0] if "@" in reference else ""
        return step if step in self.steps else ""

    def made(self, reference: str) -> str:
        """Digest of what a step of this run left, as the step itself recorded it; empty where it did not."""
        step, file = self.step_of(reference), reference.partition("@")[2].partition("/")[2]
        place = self.folder / "stages" / step if self.folder and step else None
        if place is None:
            return ""
        weights = _mapping(_json(place / file / "training" / "feedback.json")).get("weights")
        listed = _mapping(_json(place / "files.json")).get(file)
        return f"weights {weights}" if weights else f"sha256 {str(listed)[:16]}" if listed else ""

    def described(self, name: str) -> str:
        """``file.jsonl (sha256 1f…)``, or without its digest where that is not recorded."""
        digest = self.inputs.get(name)
        if digest is None or digest == name:
            return f"{name} (digest {NOT_RECORDED})"
        return f"{name} ({digest})"


def read_origin(folder: Path | None) -> Origin:
    """Whatever the folder holds; damaged records count as missing ones."""
    if folder is None:
        return Origin()
    recipe = _mapping(_yaml(folder / "recipe.yaml"))
    steps = {str(step.get("id")): step for step in recipe.get("stages") or () if isinstance(step, Mapping)}
    return Origin(
        folder,
        steps,
        {str(key): str(where) for key, where in _mapping(recipe.get("summary")).items()},
        _mapping(_json(folder / "command.json")),
        _mapping(_json(folder / "manifest.json")),
        [state for path in sorted(folder.glob(JOURNALS)) if (state := _journal(path)) is not None],
    )


def facts(
    origin: Origin,
    *,
    seed: Any,
    version: str,
    judges: Sequence[tuple[str, Mapping[str, Any]]],
    trainers: Sequence[str] | None = None,
    named: Callable[[str], str] = str,
) -> list[Fact]:
    """The block at the head of a page. ``judges``: name on the page, and the judge as the metrics describe it; ``trainers``:
    who gave the training feedback, None where nothing was trained; ``named``: what a policy is called on the page.
    """
    reads = list(dict.fromkeys(_data(origin)))
    prompts = str(origin.comparing.get("prompts") or "")
    policies = _mapping(origin.comparing.get("policies"))
    data = [name if name == LAB else origin.described(name) for name in reads if name != prompts]
    rows = [Fact("date", _date(origin))]
    if data or not prompts:
        rows.append(Fact("data", data))
    if policies:
        rows.append(Fact("evaluation prompts", [_prompt_set(origin, prompts)] if prompts else []))
        rows.append(
            Fact("policies", [f"{named(str(name))}: {_policy(origin, str(uri))}" for name, uri in policies.items()])
        )
    if trainers is not None:
        rows.append(Fact("training feedback", trainers))
    rows += [
        Fact("judges", list(dict.fromkeys(_judge(label, described) for label, described in judges))),
        Fact("seed", [] if seed is None else [str(seed)]),
        Fact("aifeedback", [version] if version else []),
        Fact("journal", [f"{j.name}: {j.calls:,} calls, head {j.head}" for j in origin.journals]),
    ]
    return rows


def installed_version() -> str:
    return versions().get("aifeedback", "")


def training(origin: Origin, name: str) -> str:
    """How a policy was trained, from the recipe of its run or the record in its folder; empty where neither says."""
    uri = origin.policy(name)
    step = origin.step_of(uri)
    return _trained(origin, step) if step else _feedback(uri)


def _trained(origin: Origin, step: str) -> str:
    settings = origin.steps[step]
    kind, start = str(settings.get("stage") or ""), _model(origin, str(settings.get("model") or ""))
    if kind == "sft":
        return f"supervised fine-tuning of {start}"
    if kind in ("dpo", "kto"):
        return f"{kind.upper()} from {start} on {_labels(origin, settings.get('data'))}"
    if kind == "distill":
        teacher = _model(origin, str(settings.get("teacher") or ""))
        return f"distillation of {teacher} into {start}, on its own samples"
    if kind == "rl":
        return f"reinforcement learning from {start}; reward: {_reward(origin, _mapping(settings.get('reward')))}"
    return f"made by step {step} ({kind})"


def _model(origin: Origin, uri: str) -> str:
    step = origin.step_of(uri)
    return f"the model of step {step}" if step else uri or NOT_RECORDED


def _reward(origin: Origin, reward: Mapping[str, Any]) -> str:
    parts = [reward, *(part for part in reward.get("mix") or () if isinstance(part, Mapping))]
    return " and ".join(described for part in parts if (described := _one_reward(origin, part))) or NOT_RECORDED


def _one_reward(origin: Origin, reward: Mapping[str, Any]) -> str:
    judge, source = _mapping(reward.get("judge")).get("model"), str(reward.get("source") or "")
    if judge:
        return f"the score that {judge} gives"
    step = origin.step_of(source)
    return f"a reward model on {_labels(origin, origin.steps[step].get('data'))}" if step else source


def _labels(origin: Origin, data: Any) -> str:
    step = origin.step_of(str(data or ""))
    if not step:
        return f"the labels in {data}" if data else f"labels whose origin is {NOT_RECORDED}"
    judge = _mapping(origin.steps[step].get("judge")).get("model")
    return f"labels by {judge}" if judge else f"the labels of step {step}"


def _feedback(uri: str) -> str:
    """From ``training/feedback.json``, which a trainer leaves in the folder of its model."""
    record = _mapping(_json(Path(uri.partition(":")[2]) / "training" / "feedback.json")) if uri else {}
    givers = [g for g in record.get("trained_by") or () if isinstance(g, Mapping) and g.get("uri")]
    if not givers:
        return ""
    described = " and ".join(f"{g['uri']}" + (f" ({g['rows']:,} rows)" if isinstance(g.get("rows"), int) else "")
                        for g in givers)  # fmt: skip
    base = _mapping(record.get("base")).get("path")
    return f"trained on feedback from {described}" + (f", starting from {base}" if base else "")


def _date(origin: Origin) -> list[str]:
    at = origin.manifest.get("at") or origin.command.get("at")
    if at:
        return [str(at)]
    times = [journal.last for journal in origin.journals if journal.last]
    return [f"{datetime.fromtimestamp(max(times), UTC):%Y-%m-%d %H:%M} UTC (last model call)"] if times else []


def _data(origin: Origin) -> Iterator[str]:
    """Files of rows that came from outside; a world that was generated by its step."""
    for step in [*origin.steps.values(), origin.settings]:
        if step.get("stage") == "lab_world":
            yield LAB
        for key in INPUTS:
            value = step.get(key)
            if isinstance(value, str) and value and not value.startswith("@"):
                yield value


def _prompt_set(origin: Origin, prompts: str) -> str:
    step = origin.step_of(prompts)
    return (
        f"{prompts.rpartition('/')[2]} of step {step}{_digest(origin, prompts)}" if step else origin.described(prompts)
    )


def _policy(origin: Origin, uri: str) -> str:
    step = origin.step_of(uri)
    what = f"{uri.rpartition('/')[2]} of step {step}" if uri.endswith(".jsonl") else f"model of step {step}"
    return f"{what}{_digest(origin, uri)}" if step else origin.described(uri)


def _digest(origin: Origin, reference: str) -> str:
    return f" ({origin.made(reference) or f'digest {NOT_RECORDED}'})"


def _judge(label: str, described: Mapping[str, Any]) -> str:
    model = str(described.get("model") or described.get("uri") or "")
    prompt = _mapping(described.get("prompt"))
    parts = [label if not model or model in label else f"{label}, {model}"]
    if described.get("family") not in ("oracle", "people"):
        parts.append(f"revision {described.get('revision') or NOT_RECORDED}")
        if "prompt" in described and prompt:
            parts.append(f"prompt {prompt.get('name')} {prompt.get('digest') or NOT_RECORDED}{_owner(prompt)}")
        parts += [f"{one.get('kind')} {one.get('name')}@{one.get('version')} {one.get('digest')}{_owner(one)}"
                  for one in described.get("standards") or () if isinstance(one, Mapping)]  # fmt: skip
    return ", ".join(parts)


def _owner(standard: Mapping[str, Any]) -> str:
    return f" (owner: {standard['owner']})" if standard.get("owner") else ""


def _journal(path: Path) -> JournalState | None:
    """The state of a journal by its last row, without checking the chain; None if none can be read."""
    import sqlite3

    if not path.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT seq, at, link FROM calls ORDER BY seq DESC LIMIT 1").fetchone()
            count = database.execute("SELECT count(*) FROM calls WHERE kind <> 'files'").fetchone()[0]
    except sqlite3.Error:
        return None
    return JournalState(path.name, count, row[2].hex(), float(row[1])) if row else JournalState(path.name, 0, "–", None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
