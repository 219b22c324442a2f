"""From summary.json and the run folder to what the report shows. Every part may be missing; nothing is made up.

Where the summary lacks a part, the figures of the run's stages are searched for it: who judged (``judge``, ``judges``),
agreement, position bias, independence, examples; training curves come from each stage's ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aifeedback.audit.story import Policy, Story, Training, Voice, display, estimate, is_number, mapping, number
from aifeedback.evaluate.independence import Independence, Source, verify_independence


def gather(summary: Mapping[str, Any], folder: Path | None = None) -> Story:
    """Reads what there is; ``folder`` is the run folder, for training curves and examples."""
    stages = mapping(summary.get("stages"))
    seconds = {k: float(v) for k, v in mapping(summary.get("seconds")).items() if is_number(v)}
    total = seconds.pop("total", None)
    story = Story(
        title=str(summary.get("recipe") or summary.get("title") or "a run"),
        description=str(summary.get("description") or ""),
        seed=summary.get("seed"),
        versions=mapping(summary.get("versions")),
        seconds=sorted(seconds.items(), key=lambda item: -item[1]),
        total_seconds=total if total is not None else (sum(seconds.values()) or None),
        cost_usd=summary.get("cost_usd"),
        calls=int(sum(mapping(s).get("calls") or 0 for s in stages.values())),
        tokens=int(sum(mapping(s).get("tokens") or 0 for s in stages.values())),
        principles=[_principle(p) for p in summary.get("principles") or ()],
    )
    _policies(story, summary)
    _voices(story, summary, stages)
    _judge_figures(story, summary, stages)
    story.why_no_position = _why_no_position(stages)
    story.trainings = list(_trainings(stages, folder))
    story.examples = _examples(summary, stages)
    story.rows = [(n, f["rows"]) for n, f in _figures(stages) if isinstance(f.get("rows"), Mapping)]
    names = [v.model for v in story.voices] + [str(mapping(s).get("kind")) for s in stages.values()]
    story.is_lab = any(name.startswith(("gold:", "lab:", "lab_world")) for name in names)
    return story


def _policies(story: Story, summary: Mapping[str, Any]) -> None:
    policies = mapping(summary.get("policies"))
    story.reference = str(summary.get("reference") or ("sft" if "sft" in policies else next(iter(policies), "sft")))
    for name, row in policies.items():
        judged = {
            str(judge): est
            for judge, part in mapping(row.get("by_judge")).items()
            if (est := estimate(mapping(part).get("win_rate"))) is not None
        }
        unknown = sum(
            sum(v for v in mapping(mapping(part).get("unknown")).values() if is_number(v))
            for part in mapping(row.get("by_judge")).values()
        )
        story.policies.append(
            Policy(
                name=name,
                win_rate=estimate(row.get("win_rate")),
                length_controlled=estimate(row.get("length_controlled")),
                independent=estimate(row.get("win_rate_independent")),
                by_judge=judged,
                unknown=int(unknown),
                length=number(row.get("mean_length")),
                words=number(row.get("mean_words")),
                tidied=mapping(row.get("tidied")),
                kl=number(row.get("kl")),
                is_reference=name == story.reference,
                not_at_length=_not_estimable(mapping(row.get("length_controlled"))),
            )
        )
    for name, value in mapping(summary.get("head_to_head")).items():
        one, _, other = str(name).partition("_vs_")
        figure = estimate(value if not isinstance(value, Mapping) or "value" in value else value.get("win_rate"))
        if figure is not None:
            story.head_to_head.append((display(one), display(other), figure))


def _not_estimable(told: Mapping[str, Any]) -> str:
    notes = map(str, told.get("notes") or ())
    return next((note for note in notes if note.startswith("not estimable")), "") if told.get("value") is None else ""


def _voices(story: Story, summary: Mapping[str, Any], stages: Mapping[str, Any]) -> None:
    """Trainers are who the comparing stage names as such; where it names none, every judge of another stage whose
    files a later stage used."""
    seen: set[tuple[Any, ...]] = set()
    for _, figures in _figures(stages):
        for trainer in mapping(figures.get("independence")).get("trained_by") or ():
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
        compares = mapping(stages[stage]).get("kind") in ("compare", "safety")
        for name, judge in mapping(figures.get("judges")).items():
            _add_voice(story, seen, f"evaluation ({name})" if compares else "training feedback", judge, stage)
            (story.evaluators if compares else story.trainers).append(_source(str(name), judge))
        for name, judge in mapping(figures.get("assessors")).items():
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
    denied = {name for name, judge in mapping(told.get("judges")).items() if mapping(judge).get("independent") is False}
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
            parameters=int(told["parameters"]) if is_number(told.get("parameters")) else None,
            prompt=prompt,
            settings=mapping(told.get("settings")),
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
    judge = mapping(summary.get("judge"))
    bounds = mapping(judge.get("intervals"))
    for key, label in NAMED.items():
        if (figure := estimate(bounds.get(key)) or estimate(judge.get(key))) is not None:
            (story.fact_pairs if key.startswith("fact_pairs") else story.agreement).append((label, figure))
    reward_models = mapping(summary.get("reward_model"))
    for key, value in reward_models.items():
        if (figure := estimate(mapping(reward_models.get("intervals")).get(key)) or estimate(value)) is not None:
            story.agreement.append((f"reward model, {display(key)}", figure))
    story.same_position = estimate(bounds.get("same_position")) or estimate(judge.get("same_position"))
    for stage, figures in _figures(stages):
        if not judge and (figure := estimate(figures.get("alignment"))) is not None:
            story.agreement.append((f"labels of '{stage}'", figure))
        if isinstance(figures.get("position_bias"), Mapping):
            story.position.append((stage, figures["position_bias"]))
        for name, bias in mapping(figures.get("position_by_judge")).items():
            story.position.append((str(name), mapping(bias)))
        for problem, count in mapping(figures.get("problems")).items():
            story.problems[problem] = story.problems.get(problem, 0) + int(count)
        if is_number(figures.get("labels")) and is_number(figures.get("unknown")):
            story.labels += int(figures["labels"]) + int(figures["unknown"])
            story.unread += int(figures["unknown"])
        for name, table in mapping(figures.get("reliability")).items():
            story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]
    for name, table in mapping(judge.get("reliability")).items():
        story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]


def _why_no_position(stages: Mapping[str, Any]) -> str:
    """Why nothing is said of position, told by who judged and how."""
    judges = [
        mapping(judge)
        for _, figures in _figures(stages)
        for judge in (figures.get("judge"), *mapping(figures.get("judges")).values())
        if isinstance(judge, Mapping)
    ]
    if not judges:
        return "Not measured in this run: no judge is recorded."
    # gold measures and reward models have no prompt: they score one answer at a time, as ratings do
    in_pairs = [judge for judge in judges if judge.get("prompt") and judge.get("by") != "ratings"]
    if not in_pairs:
        return "Does not apply: each answer is rated alone, so no position can matter."
    if all(mapping(judge.get("settings")).get("orders") == "one" for judge in in_pairs):
        return "Not measured in this run: each pair was shown in one order only."
    return "Not measured in this run: no pair was read in both orders."


def _trainings(stages: Mapping[str, Any], folder: Path | None) -> Iterator[Training]:
    for stage, figures in _figures(stages):
        kind = str(mapping(stages[stage]).get("kind"))
        lines: Sequence[Mapping[str, Any]] = figures.get("curve") or ()
        if not lines and folder is not None:
            lines = _metric_lines(folder / "stages" / stage)
        keys = sorted({key for line in lines for key in line})
        columns = {key: [number(line.get(key), math.nan) for line in lines] for key in keys}
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
    return ((name, mapping(mapping(stage).get("figures"))) for name, stage in stages.items())
