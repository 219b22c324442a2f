"""From summary.json and the run folder to what the report shows. Every part may be missing; nothing is made up.

Where the summary lacks a part, the figures of the run's stages are searched for it: who judged (``judge``, ``judges``),
agreement, position bias, independence, examples; training curves come from each stage's ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from aifeedback.evaluate.independence import Independence, Source, verify_independence

DISPLAY = {"sft": "SFT", "rlaif": "RLAIF", "rlhf": "RLHF", "d_rlaif": "d-RLAIF", "dpo": "DPO", "base": "base model"}

ABOUT = {
    "rlaif": "learned from a reward model of the judge's labels",
    "rlhf": "learned from a reward model of people's labels",
    "d_rlaif": "learned from the judge's own score, no reward model",
    "dpo": "learned from the labels directly, no reward model",
}


class Est(NamedTuple):
    """A figure as the summary carries it; ends and n may be unknown."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def beats_half(self) -> bool:
        return self.low is not None and self.low > 0.5

    @property
    def loses_to_half(self) -> bool:
        return self.high is not None and self.high < 0.5


@dataclass(frozen=True)
class Policy:
    name: str
    win_rate: Est | None
    length_controlled: Est | None
    independent: Est | None
    by_judge: Mapping[str, Est]
    unknown: int
    length: float | None
    words: float | None
    tidied: Mapping[str, Any]
    """What was taken off the ends of its answers before judging; empty where nothing was to be."""
    kl: float | None
    is_reference: bool

    @property
    def label(self) -> str:
        return display(self.name)

    @property
    def about(self) -> str:
        return ABOUT.get(self.name, "")


@dataclass(frozen=True)
class Voice:
    """A model, an oracle or people who judged somewhere in the run, and the words they judged by."""

    role: str
    model: str
    family: str
    revision: str
    parameters: int | None
    prompt: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    stage: str


class Training(NamedTuple):
    """What one training stage logged, column by column."""

    name: str
    kind: str
    columns: Mapping[str, list[float]]
    watched_by: str = ""
    """Who took the independent measure."""
    was_stopped: bool = False
    """Whether its guard ended it early."""


@dataclass
class Story:
    """Everything that the page shows."""

    title: str = ""
    description: str = ""
    seed: Any = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    seconds: list[tuple[str, float]] = field(default_factory=list)
    total_seconds: float | None = None
    cost_usd: float | None = None
    calls: int = 0
    tokens: int = 0
    policies: list[Policy] = field(default_factory=list)
    head_to_head: list[tuple[str, str, Est]] = field(default_factory=list)
    voices: list[Voice] = field(default_factory=list)
    evaluators: list[Source] = field(default_factory=list)
    trainers: list[Source] = field(default_factory=list)
    independence: Independence = field(default_factory=lambda: verify_independence([], []))
    agreement: list[tuple[str, Est]] = field(default_factory=list)
    position: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    same_position: Est | None = None
    fact_pairs: list[tuple[str, Est]] = field(default_factory=list)
    problems: dict[str, int] = field(default_factory=dict)
    labels: int = 0
    unread: int = 0
    reliability: dict[str, list[tuple[float, float, int]]] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    examples: list[Mapping[str, Any]] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)
    rows: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    is_lab: bool = False
    reference: str = "sft"

    @property
    def contenders(self) -> list[Policy]:
        return [policy for policy in self.policies if not policy.is_reference]

    @property
    def judge_of_record(self) -> str:
        """Who decided the headline win rates."""
        return next((e.name for e in self.evaluators), "an evaluator that is not recorded")


def gather(summary: Mapping[str, Any], folder: Path | None = None) -> Story:
    """Reads what there is; ``folder`` is the run folder, for training curves and examples."""
    stages = _mapping(summary.get("stages"))
    seconds = {k: float(v) for k, v in _mapping(summary.get("seconds")).items() if _is_number(v)}
    total = seconds.pop("total", None)
    story = Story(
        title=str(summary.get("recipe") or summary.get("title") or "a run"),
        description=str(summary.get("description") or ""),
        seed=summary.get("seed"),
        versions=_mapping(summary.get("versions")),
        seconds=sorted(seconds.items(), key=lambda item: -item[1]),
        total_seconds=total if total is not None else (sum(seconds.values()) or None),
        cost_usd=summary.get("cost_usd"),
        calls=int(sum(_mapping(s).get("calls") or 0 for s in stages.values())),
        tokens=int(sum(_mapping(s).get("tokens") or 0 for s in stages.values())),
        principles=[_principle(p) for p in summary.get("principles") or ()],
    )
    _policies(story, summary)
    _voices(story, summary, stages)
    _judge_figures(story, summary, stages)
    story.trainings = list(_trainings(stages, folder))
    story.examples = _examples(summary, stages)
    story.rows = [(n, f["rows"]) for n, f in _figures(stages) if isinstance(f.get("rows"), Mapping)]
    names = [v.model for v in story.voices] + [str(_mapping(s).get("kind")) for s in stages.values()]
    story.is_lab = any(name.startswith(("gold:", "lab:", "lab_world")) for name in names)
    return story


def estimate(value: Any) -> Est | None:
    """A figure from JSON: an estimate's mapping or a bare number; None where it is not known."""
    if isinstance(value, Mapping):
        if not _is_number(value.get("value")):
            return None
        low, high = (float(value[k]) if _is_number(value.get(k)) else None for k in ("low", "high"))
        n = int(value["n"]) if _is_number(value.get("n")) else None
        return Est(float(value["value"]), low, high, n, tuple(map(str, value.get("notes") or ())))
    return Est(float(value)) if _is_number(value) else None


def display(name: str) -> str:
    return DISPLAY.get(name, name)


def _policies(story: Story, summary: Mapping[str, Any]) -> None:
    policies = _mapping(summary.get("policies"))
    story.reference = str(summary.get("reference") or ("sft" if "sft" in policies else next(iter(policies), "sft")))
    for name, row in policies.items():
        judged = {
            str(judge): est
            for judge, part in _mapping(row.get("by_judge")).items()
            if (est := estimate(_mapping(part).get("win_rate"))) is not None
        }
        unknown = sum(
            sum(v for v in _mapping(_mapping(part).get("unknown")).values() if _is_number(v))
            for part in _mapping(row.get("by_judge")).values()
        )
        story.policies.append(
            Policy(
                name=name,
                win_rate=estimate(row.get("win_rate")),
                length_controlled=estimate(row.get("length_controlled")),
                independent=estimate(row.get("win_rate_independent")),
                by_judge=judged,
                unknown=int(unknown),
                length=_number(row.get("mean_length")),
                words=_number(row.get("mean_words")),
                tidied=_mapping(row.get("tidied")),
                kl=_number(row.get("kl")),
                is_reference=name == story.reference,
            )
        )
    for name, value in _mapping(summary.get("head_to_head")).items():
        one, _, other = str(name).partition("_vs_")
        figure = estimate(value if not isinstance(value, Mapping) or "value" in value else value.get("win_rate"))
        if figure is not None:
            story.head_to_head.append((display(one), display(other), figure))


def _voices(story: Story, summary: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    """Trainers are who the comparing stage names as such; where it names none, every judge of another stage whose
    files a later stage used."""
    seen: set[tuple[Any, ...]] = set()
    for _, figures in _figures(stages):
        for trainer in _mapping(figures.get("independence")).get("trained_by") or ():
            if isinstance(trainer, Mapping):
                story.trainers.append(_source(str(trainer.get("name") or trainer.get("model")), trainer))
    named = bool(story.trainers)
    labelled = [stages[stage] for stage, figures in _figures(stages) if isinstance(figures.get("judge"), Mapping)]
    some_used = any(stage.get("used_by") for stage in labelled)
    for stage, figures in _figures(stages):
        if isinstance(figures.get("judge"), Mapping):
            source = _source(str(figures["judge"].get("model")), figures["judge"])
            is_used = not some_used or stages[stage].get("used_by") != []
            is_trainer = is_used and (not named or any(source.model == trainer.model for trainer in story.trainers))
            _add_voice(story, seen, "training feedback" if is_trainer else "measured only", figures["judge"], stage)
            story.trainers += [source] if is_trainer else []
        compares = _mapping(stages[stage]).get("kind") in ("compare", "safety")
        for name, judge in _mapping(figures.get("judges")).items():
            _add_voice(story, seen, f"evaluation ({name})" if compares else "training feedback", judge, stage)
            (story.evaluators if compares else story.trainers).append(_source(str(name), judge))
        for name, judge in _mapping(figures.get("assessors")).items():
            _add_voice(story, seen, f"harm and refusal ({name})", judge, stage)
    for voice in summary.get("feedback") or ():
        role, source = str(voice.get("role") or "training feedback"), _source(str(voice.get("name") or ""), voice)
        _add_voice(story, seen, role, voice, "")
        (story.evaluators if "evaluation" in role else story.trainers).append(source)
    trained = {_who(v) for v in story.voices if v.role == "training feedback"}
    story.voices = [v for v in story.voices if v.role != "measured only" or _who(v) not in trained]
    order = {"training feedback": 0, "measured only": 2}
    story.voices.sort(key=lambda v: order.get(v.role, 1))
    story.independence = _verdict(story, summary, stages)


def _who(voice: Voice) -> tuple[str, Any]:
    return voice.model, (voice.prompt or {}).get("digest")


def _verdict(story: Story, summary: Mapping[str, Any], stages: Mapping[str, Any]) -> Independence:
    """Judged here from who is who; a stage's own word counts only where it says that an evaluator is dependent."""
    found = verify_independence(story.trainers, story.evaluators)
    told = summary.get("independence") or next(
        (f["independence"] for _, f in _figures(stages) if isinstance(f.get("independence"), Mapping)), {}
    )
    denied = {
        name for name, judge in _mapping(told.get("judges")).items() if _mapping(judge).get("independent") is False
    }
    kept = [e for e in story.evaluators if e.name not in denied]
    if len(kept) < len(story.evaluators) and any(name in denied for name in found.independent):
        return verify_independence(story.trainers, kept)._replace(dependent=tuple(sorted(denied)))
    return found


def _add_voice(story: Story, seen: set[tuple[Any, ...]], role: str, told: Mapping[str, Any], stage: str) -> None:
    prompt = told.get("prompt") if isinstance(told.get("prompt"), Mapping) else None
    key = (role, told.get("model") or told.get("uri"), (prompt or {}).get("digest"))
    if key in seen:
        return
    seen.add(key)
    story.voices.append(
        Voice(
            role=role,
            model=str(told.get("model") or told.get("uri") or "not recorded"),
            family=str(told.get("family") or ""),
            revision=str(told.get("revision") or ""),
            parameters=int(told["parameters"]) if _is_number(told.get("parameters")) else None,
            prompt=prompt,
            settings=_mapping(told.get("settings")),
            stage=stage,
        )
    )


def _source(name: str, told: Mapping[str, Any]) -> Source:
    model = str(told.get("model") or told.get("uri") or "")
    return Source(name, model, str(told.get("family") or ""), str(told.get("revision") or ""))


NAMED = {
    "alignment_single": "judge, one order",
    "alignment": "judge, both orders averaged",
    "alignment_cot": "judge, evidence written first",
    "fact_pairs": "pairs that differ in one wrong fact",
    "fact_pairs_cot": "pairs that differ in one wrong fact, evidence written first",
}


def _judge_figures(story: Story, summary: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    judge = _mapping(summary.get("judge"))
    bounds = _mapping(judge.get("intervals"))
    for key, label in NAMED.items():
        if (figure := estimate(bounds.get(key)) or estimate(judge.get(key))) is not None:
            (story.fact_pairs if key.startswith("fact_pairs") else story.agreement).append((label, figure))
    reward_models = _mapping(summary.get("reward_model"))
    for key, value in reward_models.items():
        if (figure := estimate(_mapping(reward_models.get("intervals")).get(key)) or estimate(value)) is not None:
            story.agreement.append((f"reward model, {display(key)}", figure))
    story.same_position = estimate(bounds.get("same_position")) or estimate(judge.get("same_position"))
    for stage, figures in _figures(stages):
        if not judge and (figure := estimate(figures.get("alignment"))) is not None:
            story.agreement.append((f"labels of '{stage}'", figure))
        if isinstance(figures.get("position_bias"), Mapping):
            story.position.append((stage, figures["position_bias"]))
        for problem, count in _mapping(figures.get("problems")).items():
            story.problems[problem] = story.problems.get(problem, 0) + int(count)
        if _is_number(figures.get("labels")) and _is_number(figures.get("unknown")):
            story.labels += int(figures["labels"]) + int(figures["unknown"])
            story.unread += int(figures["unknown"])
        for name, table in _mapping(figures.get("reliability")).items():
            story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]
    for name, table in _mapping(judge.get("reliability")).items():
        story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]


def _trainings(stages: Mapping[str, Any], folder: Path | None) -> Iterator[Training]:
    for stage, figures in _figures(stages):
        kind = str(_mapping(stages[stage]).get("kind"))
        lines: Sequence[Mapping[str, Any]] = figures.get("curve") or ()
        if not lines and folder is not None:
            lines = _metric_lines(folder / "stages" / stage)
        keys = sorted({key for line in lines for key in line})
        columns = {key: [_number(line.get(key), math.nan) for line in lines] for key in keys}
        if columns.get("step"):
            watched_by = str(figures.get("watched_by") or "")
            yield Training(stage, kind, columns, watched_by, was_stopped=bool(figures.get("stopped")))


def _metric_lines(folder: Path) -> list[Mapping[str, Any]]:
    files = sorted(folder.rglob("metrics.jsonl")) if folder.is_dir() else []
    lines = []
    for text in files[0].read_text(encoding="utf-8").splitlines() if files else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the torn last line of a stopped run
            continue
    return lines


def _examples(summary: Mapping[str, Any], stages: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the summary gives, else what a stage chose by rule."""
    given = summary.get("examples") or next((f["examples"] for _, f in _figures(stages) if f.get("examples")), [])
    return [e for e in given if isinstance(e, Mapping) and isinstance(e.get("answers"), Mapping)]


def _principle(told: Any) -> str:
    """The wording of a principle, whatever it is for; a constitution's entry or plain text."""
    if not isinstance(told, Mapping):
        return str(told)
    return "; ".join(str(told[key]) for key in ("text", "compare", "critique", "revise") if told.get(key)) or str(
        dict(told)
    )


def _figures(stages: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, _mapping(_mapping(stage).get("figures"))) for name, stage in stages.items())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@overload
def _number(value: Any) -> float | None: ...
@overload
def _number(value: Any, otherwise: float) -> float: ...
def _number(value: Any, otherwise: float | None = None) -> float | None:
    return float(value) if _is_number(value) else otherwise
