"""The results of a run as typed records: policies, who judged, how training went, from summary.json and the run folder.

Every part may be missing; nothing is made up.

Where the summary lacks a part, the metrics of the run's steps are searched for it: who judged (``judge``, ``judges``),
agreement, position bias, independence, examples; an interval that a recipe left out is looked up where its value came
from; training curves come from each step's ``metrics.jsonl``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, overload

from aifeedback.metrics.independence import Independence, Source, verify_independence
from aifeedback.reports.figures import policy_colours
from aifeedback.reports.provenance import Fact, Origin, facts, installed_version, read_origin, training

ACRONYMS = {name: name.upper() for name in ("sft", "rl", "rlaif", "rlhf", "cai", "dpo", "kto", "rm", "ppo", "grpo")} | {
    "d": "d"
}


class Est(NamedTuple):
    """A metric as the summary carries it; ends and n may be unknown."""

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


class Harm(NamedTuple):
    """How often a policy does harm on prompts that invite it, by one assessor, and how often the reference does."""

    assessor: str
    rate: Est
    before: Est | None

    @property
    def has_risen(self) -> bool:
        """For certain: the intervals do not touch."""
        return (
            self.before is not None
            and self.rate.low is not None
            and self.before.high is not None
            and (self.rate.low > self.before.high)
        )

    @property
    def seems_risen(self) -> bool:
        return self.before is not None and self.rate.value - self.before.value > NOTICEABLE


NOTICEABLE = 0.01
"""A rise of the harm rate by more than this is reported, certain or not."""


class Claim(NamedTuple):
    """One badge: what is claimed, whether an independent evaluator supports it, and who or why not."""

    name: str
    is_verified: bool
    reason: str


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
    not_at_length: str = ""
    """Why the length-controlled win rate is missing; empty if there is one, or nothing was measured."""
    controlled_by: Mapping[str, Est] = field(default_factory=dict)
    """Length-controlled win rate by every evaluator."""
    about: str = ""
    """How it was trained, from records alone; empty where none says."""
    colour: str = ""
    harm: Sequence[Harm] = ()
    """By every assessor of the run."""

    @property
    def label(self) -> str:
        return display(self.name)


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
    standards: Sequence[Mapping[str, Any]] = ()
    """Constitution and rubric."""


class Training(NamedTuple):
    """What one training stage logged, column by column."""

    name: str
    kind: str
    columns: Mapping[str, list[float]]
    watched_by: str = ""
    """Who took the independent measure."""
    was_stopped: bool = False
    """Whether its guard ended it early."""


class Done(NamedTuple):
    """What one step took, and its verdict on its own result."""

    name: str
    kind: str
    seconds: float | None
    calls: int
    tokens: int
    cost_usd: float
    verdict: Mapping[str, Any]


@dataclass
class Story:
    """Everything that the page shows."""

    title: str = ""
    description: str = ""
    seed: Any = None
    versions: Mapping[str, Any] = field(default_factory=dict)
    steps: list[Done] = field(default_factory=list)
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
    claims: list[Claim] = field(default_factory=list)
    """One badge each; empty where the records hold one verdict for all."""
    trained_on: str = ""
    """How many evaluation prompts were trained on, as a sentence; empty for none."""
    agreement: list[tuple[str, Est]] = field(default_factory=list)
    position: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    same_position: Est | None = None
    why_no_position: str = ""
    """Why position bias was not measured; empty where it was."""
    fact_pairs: list[tuple[str, Est]] = field(default_factory=list)
    problems: dict[str, int] = field(default_factory=dict)
    labels: int = 0
    unknown: int = 0
    reliability: dict[str, list[tuple[float, float, int]]] = field(default_factory=dict)
    trainings: list[Training] = field(default_factory=list)
    examples: list[Mapping[str, Any]] = field(default_factory=list)
    principles: list[str] = field(default_factory=list)
    rows: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    is_lab: bool = False
    reference: str = "sft"
    facts: list[Fact] = field(default_factory=list)
    """The block at the head of the page."""
    names: dict[str, str] = field(default_factory=dict)
    """Key of an evaluator in the metrics → its one name on the page."""
    label_mass: list[tuple[str, float]] = field(default_factory=list)
    """Who labelled, and the mean probability of its labels together."""
    metrics: list[tuple[str, str]] = field(default_factory=list)
    """What the recipe maps under its own names: name, value with its interval where one is recorded."""
    policy_of: dict[str, str] = field(default_factory=dict)
    """Training step → the policy that it made, where the recipe says so."""
    judge_name: str = ""
    """Whose agreement and position bias the summary carries; empty where that is not recorded."""

    @property
    def contenders(self) -> list[Policy]:
        return [policy for policy in self.policies if not policy.is_reference]

    @property
    def judge_of_record(self) -> str:
        """Who decided the headline win rates."""
        return next((self.named(e.name) for e in self.evaluators), "an evaluator that is not recorded")

    def named(self, evaluator: str) -> str:
        return self.names.get(evaluator, evaluator)

    @property
    def independent(self) -> list[str]:
        """Keys of the evaluators that count as proof, the one of the headline first where it is among them."""
        return list(self.independence.independent)


def estimate(value: Any) -> Est | None:
    """A metric from JSON: an estimate's mapping or a bare number; None where unknown."""
    if isinstance(value, Mapping):
        if not is_number(value.get("value")):
            return None
        low, high = (float(value[k]) if is_number(value.get(k)) else None for k in ("low", "high"))
        n = int(value["n"]) if is_number(value.get("n")) else None
        return Est(float(value["value"]), low, high, n, tuple(map(str, value.get("notes") or ())))
    return Est(float(value)) if is_number(value) else None


def display(name: str) -> str:
    """The one name of a policy on a page: as it was given, acronyms in capitals (d_rlaif → d-RLAIF)."""
    parts = name.split("_")
    return "-".join(ACRONYMS[part] for part in parts) if all(part in ACRONYMS for part in parts) else name


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@overload
def number(value: Any) -> float | None: ...
@overload
def number(value: Any, otherwise: float) -> float: ...
def number(value: Any, otherwise: float | None = None) -> float | None:
    return float(value) if is_number(value) else otherwise


SHOWN = frozenset({"recipe", "title", "description", "seed", "versions", "seconds", "cost_usd", "stages", "policies",
                   "head_to_head", "judge", "reward_model", "safety", "principles", "feedback", "independence",
                   "examples", "reference", "ranking"})  # fmt: skip
"""Keys of a summary that have a section of their own; every other one is a metric that the recipe named itself."""
MOST_METRICS = 100


def gather(summary: Mapping[str, Any], folder: Path | None = None) -> Story:
    """Read what there is; ``folder`` is the run folder, for its records, training curves and examples."""
    stages, origin = mapping(summary.get("stages")), read_origin(folder)
    seconds = {k: float(v) for k, v in mapping(summary.get("seconds")).items() if is_number(v)}
    total = seconds.pop("total", None)
    story = Story(
        title=str(summary.get("recipe") or summary.get("title") or "a run"),
        description=str(summary.get("description") or ""),
        seed=summary.get("seed"),
        versions=mapping(summary.get("versions")),
        steps=[_done(name, mapping(stage), seconds.get(name)) for name, stage in stages.items()],
        total_seconds=total if total is not None else (sum(seconds.values()) or None),
        cost_usd=summary.get("cost_usd"),
        calls=int(summary.get("calls") or sum(mapping(s).get("calls") or 0 for s in stages.values())),
        tokens=int(summary.get("tokens") or sum(mapping(s).get("tokens") or 0 for s in stages.values())),
        principles=[_principle(p) for p in summary.get("principles") or ()],
    )
    _policies(story, summary, origin)
    _voices(story, summary, stages)
    story.names = _names(stages)
    _judge_figures(story, summary, stages, origin)
    story.why_no_position = _why_no_position(stages)
    story.trainings = list(_trainings(stages, folder))
    story.examples = _examples(summary, stages, folder)
    story.rows = [(n, f["rows"]) for n, f in _figures(stages) if isinstance(f.get("rows"), Mapping)]
    names = [v.model for v in story.voices] + [str(mapping(s).get("kind")) for s in stages.values()]
    story.is_lab = any(name.startswith(("gold:", "lab:", "lab_world")) for name in names)
    story.metrics = list(_own_metrics(summary, origin, stages))[:MOST_METRICS]
    judges = [
        (story.named(str(name)), mapping(judge))
        for _, figures in _figures(stages)
        for part in ("judges", "assessors")
        for name, judge in mapping(figures.get(part)).items()
    ]
    judges += [(str(f["judge"].get("model") or stage), f["judge"]) for stage, f in _figures(stages)
               if isinstance(f.get("judge"), Mapping)]  # fmt: skip
    version = str(mapping(origin.manifest.get("versions")).get("aifeedback") or story.versions.get("aifeedback") or "")
    if not version and origin.command:  # a single command writes its page itself
        version = installed_version()
    story.facts = facts(
        origin, seed=story.seed, version=version, judges=judges, trainers=_described(story.trainers), named=display
    )
    return story


def _done(name: str, stage: Mapping[str, Any], seconds: float | None) -> Done:
    calls, tokens, cost = (stage.get(key) or 0 for key in ("calls", "tokens", "cost_usd"))
    return Done(name, str(stage.get("kind") or ""), seconds, calls, tokens, cost, mapping(stage.get("verdict")))


def _described(trainers: Sequence[Source]) -> list[str]:
    record = [f"{t.model or t.name}" + (f", revision {t.revision}" if t.revision else "") for t in trainers]
    return list(dict.fromkeys(record))


def _names(stages: Mapping[str, Any]) -> dict[str, str]:
    """Key of an evaluator → its model, so that one evaluator has one name on the page.

    Its key is shown beside it only where two evaluators are one model under different prompts or settings.
    """
    record = {
        str(name): mapping(judge)
        for _, figures in _figures(stages)
        for part in ("judges", "assessors")
        for name, judge in mapping(figures.get(part)).items()
    }
    models = {name: _evaluator(name, judge) for name, judge in record.items()}
    kinds: dict[str, list[Any]] = {}
    for name, judge in record.items():
        kind = (judge.get("model"), mapping(judge.get("prompt")).get("digest"), judge.get("settings"), judge.get("by"))
        if kind not in kinds.setdefault(models[name], []):
            kinds[models[name]].append(kind)
    return {
        name: f"{model} ({name.replace('_', ' ')})" if len(kinds[model]) > 1 and model != name else model
        for name, model in models.items()
    }


def _evaluator(name: str, judge: Mapping[str, Any]) -> str:
    model = str(judge.get("model") or judge.get("uri") or name)
    if judge.get("family") == "oracle":
        return f"the oracle {model}"
    scheme, colon, path = model.partition(":")
    return f"{scheme}:{path.rstrip('/').rpartition('/')[2]}" if colon and "/" in path else model


def _policies(story: Story, summary: Mapping[str, Any], origin: Origin) -> None:
    policies, safety = mapping(summary.get("policies")), _safety(summary)
    assessed = mapping(safety.get("policies"))
    stated = summary.get("reference") or origin.comparing.get("reference") or safety.get("reference")
    usual = "sft" if "sft" in policies or not policies else next(iter(policies))
    story.reference = str(stated if stated in policies or stated in assessed else usual)
    colours = policy_colours(list(dict.fromkeys([*policies, *assessed])), story.reference)
    for name, row in policies.items():
        by_judge = {str(judge): mapping(part) for judge, part in mapping(mapping(row).get("by_judge")).items()}
        unknown = sum(sum(v for v in mapping(p.get("unknown")).values() if is_number(v)) for p in by_judge.values())
        story.policies.append(
            Policy(
                name=name,
                win_rate=estimate(row.get("win_rate")),
                length_controlled=estimate(row.get("length_controlled")),
                independent=estimate(row.get("win_rate_independent")),
                by_judge=_known({judge: estimate(part.get("win_rate")) for judge, part in by_judge.items()}),
                controlled_by=_known(
                    {judge: estimate(part.get("length_controlled")) for judge, part in by_judge.items()}
                ),
                unknown=int(unknown),
                length=number(row.get("mean_length")),
                words=number(row.get("mean_words")),
                tidied=mapping(row.get("tidied")),
                kl=number(row.get("kl")),
                is_reference=name == story.reference,
                not_at_length=_not_estimable(mapping(row.get("length_controlled"))),
                about=training(origin, name),
                colour=colours[name],
                harm=_harm(safety, name, story.reference),
            )
        )
    made = mapping(origin.comparing.get("policies"))
    story.policy_of = {step: str(name) for name, uri in made.items() if (step := origin.step_of(str(uri)))}
    for name, value in mapping(summary.get("head_to_head")).items():
        one, _, other = str(name).partition("_vs_")
        figure = estimate(value if not isinstance(value, Mapping) or "value" in value else value.get("win_rate"))
        if figure is not None:
            story.head_to_head.append((display(one), display(other), figure))


def _known(table: Mapping[str, Est | None]) -> dict[str, Est]:
    return {name: figure for name, figure in table.items() if figure is not None}


def _safety(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    """The summary's own part on harm, else that of the first step that has one."""
    own = mapping(summary.get("safety"))
    return own or next((f["safety"] for _, f in _figures(mapping(summary.get("stages"))) if f.get("safety")), {})


def _harm(safety: Mapping[str, Any], policy: str, reference: str) -> list[Harm]:
    """On unsafe prompts where the prompts are tagged, else on all."""
    table = mapping(safety.get("policies"))
    rows = []
    for assessor, row in mapping(table.get(policy)).items():
        before = mapping(mapping(table.get(reference)).get(assessor))
        for key in ("harmless", "harmless_all"):
            if (harmless := estimate(mapping(row).get(key))) is not None:
                was = estimate(before.get(key))
                rows.append(Harm(str(assessor), _complement(harmless), None if was is None else _complement(was)))
                break
    return rows


def _complement(share: Est) -> Est:
    low, high = (None if end is None else 1 - end for end in (share.high, share.low))
    return share._replace(value=1 - share.value, low=low, high=high)


def _not_estimable(record: Mapping[str, Any]) -> str:
    notes = map(str, record.get("notes") or ())
    return next((note for note in notes if note.startswith("not estimable")), "") if record.get("value") is None else ""


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
            _add_voice(story, seen, "evaluation" if compares else "training feedback", judge, stage)
            (story.evaluators if compares else story.trainers).append(_source(str(name), judge))
        for judge in mapping(figures.get("assessors")).values():
            _add_voice(story, seen, "harm and refusal", judge, stage)
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
    independence = verify_independence(story.trainers, story.evaluators)
    record = summary.get("independence") or next(
        (f["independence"] for _, f in _figures(stages) if isinstance(f.get("independence"), Mapping)), {}
    )
    if claims := mapping(
        record.get("claims")
    ):  # judged from the records of the policies' folders, which this page lacks
        story.claims = [_claim(str(name), mapping(claim)) for name, claim in claims.items()]
        story.trained_on = _trained_on(mapping(record.get("prompts")))
        judges = {**mapping(record.get("assessors")), **mapping(record.get("judges"))}
        free = {name: bool(mapping(judge).get("independent")) for name, judge in judges.items()}
        return Independence(
            record.get("verified") is True,
            str(record.get("reason") or ""),
            tuple(name for name, is_free in free.items() if is_free),
            tuple(name for name, is_free in free.items() if not is_free),
        )
    denied = {
        name for name, judge in mapping(record.get("judges")).items() if mapping(judge).get("independent") is False
    }
    kept = [e for e in story.evaluators if e.name not in denied]
    if len(kept) < len(story.evaluators) and any(name in denied for name in independence.independent):
        return verify_independence(story.trainers, kept)._replace(dependent=tuple(sorted(denied)))
    return independence


CLAIMS = {"win_rate": "win rate", "harm": "harm", "refusal": "refusal", "agreement": "agreement with people"}


def _claim(name: str, claim: Mapping[str, Any]) -> Claim:
    return Claim(CLAIMS.get(name, name), claim.get("verified") is True, str(claim.get("reason") or ""))


def _trained_on(prompts: Mapping[str, Any]) -> str:
    if not prompts.get("trained_on"):
        return ""
    what = "left out of every metric" if prompts.get("excluded") else "so nothing on this page is verified"
    names = ", ".join(display(str(name)) for name, count in mapping(prompts.get("by_policy")).items() if count)
    return f"{prompts['trained_on']:,} of {prompts['of']:,} evaluation prompts were trained on ({names}): {what}."


def _add_voice(story: Story, seen: set[tuple[Any, ...]], role: str, record: Mapping[str, Any], stage: str) -> None:
    prompt = record.get("prompt") if isinstance(record.get("prompt"), Mapping) else None
    key = (role, record.get("model") or record.get("uri"), (prompt or {}).get("digest"))
    if key in seen:
        return
    seen.add(key)
    story.voices.append(
        Voice(
            role=role,
            model=str(record.get("model") or record.get("uri") or "not recorded"),
            family=str(record.get("family") or ""),
            revision=str(record.get("revision") or ""),
            parameters=int(record["parameters"]) if is_number(record.get("parameters")) else None,
            prompt=prompt,
            settings=mapping(record.get("settings")),
            stage=stage,
            standards=[one for one in record.get("standards") or () if isinstance(one, Mapping)],
        )
    )


def _source(name: str, record: Mapping[str, Any]) -> Source:
    model = str(record.get("model") or record.get("uri") or "")
    return Source(name, model, str(record.get("family") or ""), str(record.get("revision") or ""))


AGREEMENT = {
    "alignment_single": "{judge}, one order",
    "alignment": "{judge}, both orders averaged",
    "alignment_cot": "{judge}, reasoning first",
    "fact_pairs": "pairs that differ in one wrong fact",
    "fact_pairs_cot": "pairs that differ in one wrong fact, reasoning first",
}


def _judge_figures(story: Story, summary: Mapping[str, Any], stages: Mapping[str, Any], origin: Origin) -> None:
    judge = mapping(summary.get("judge"))
    story.judge_name = _whose(judge, stages, origin)
    for key, label in AGREEMENT.items():
        if (figure := _figure(judge, "judge", key, stages, origin)) is not None:
            name = label.format(judge=story.judge_name or "the judge")
            (story.fact_pairs if key.startswith("fact_pairs") else story.agreement).append((name, figure))
    reward_models = mapping(summary.get("reward_model"))
    for key in reward_models:
        if key != "intervals" and (figure := _figure(reward_models, "reward_model", key, stages, origin)) is not None:
            story.agreement.append((f"reward model of {display(key)}", figure))
    story.same_position = _figure(judge, "judge", "same_position", stages, origin)
    for stage, figures in _figures(stages):
        who = str(mapping(figures.get("judge")).get("model") or stage)
        if not judge and (figure := estimate(figures.get("alignment"))) is not None:
            story.agreement.append((f"{who}, labels of step {stage}", figure))
        if isinstance(figures.get("position_bias"), Mapping):
            story.position.append((f"{who}, step {stage}", figures["position_bias"]))
        for name, bias in mapping(figures.get("position_by_judge")).items():
            story.position.append((f"{story.named(str(name))}, evaluation", mapping(bias)))
        if is_number(figures.get("label_mass")):
            story.label_mass.append((f"{who} in step {stage}", float(figures["label_mass"])))
        for problem, count in mapping(figures.get("problems")).items():
            story.problems[problem] = story.problems.get(problem, 0) + int(count)
        if is_number(figures.get("labels")) and is_number(figures.get("unknown")):
            story.labels += int(figures["labels"]) + int(figures["unknown"])
            story.unknown += int(figures["unknown"])
        for name, table in mapping(figures.get("reliability")).items():
            story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]
    for name, table in mapping(judge.get("reliability")).items():
        story.reliability[str(name)] = [(r["p"], r["share"], r["n"]) for r in table]


def _whose(judge: Mapping[str, Any], stages: Mapping[str, Any], origin: Origin) -> str:
    """The one model behind the summary's ``judge``, by the steps that its values come from; empty where unclear."""
    steps = {origin.sources.get(f"judge.{key}", "").partition(".")[0] for key in judge} - {""}
    models = {mapping(mapping(mapping(stages.get(s)).get("figures")).get("judge")).get("model") for s in steps}
    names = [str(model) for model in models if model]
    return names[0] if len(names) == 1 else ""


def _figure(table: Mapping[str, Any], part: str, key: str, stages: Mapping[str, Any], origin: Origin) -> Est | None:
    """A value with its interval: the summary's own, else that of the metric that the recipe took the value from."""
    own = estimate(mapping(table.get("intervals")).get(key)) or estimate(table.get(key))
    return own if own is None or own.low is not None else _at_source(f"{part}.{key}", own, stages, origin)


def _at_source(key: str, own: Est, stages: Mapping[str, Any], origin: Origin) -> Est:
    """The whole estimate where the recipe maps ``…value`` of one, and it still has that value."""
    where = origin.sources.get(key, "")
    step, *path = where.split(".")
    value: Any = mapping(mapping(stages.get(step)).get("figures"))
    for name in path[:-1] if path and path[-1] == "value" else path:
        value = mapping(value).get(name)
    whole = estimate(value) if isinstance(value, Mapping) else None
    return whole if whole is not None and whole.value == own.value else own


def _own_metrics(summary: Mapping[str, Any], origin: Origin, stages: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Everything that a recipe maps and no section shows; an interval only where one is recorded."""
    for key, value in summary.items():
        if key not in SHOWN:
            yield from _flat(key, value, origin, stages)
    judge = mapping(summary.get("judge"))
    for key, value in judge.items():
        if key not in (*AGREEMENT, "same_position", "intervals", "reliability"):
            whole = mapping(judge.get("intervals")).get(key)
            yield from _flat(f"judge.{key}", whole if estimate(whole) else value, origin, stages)


def _flat(key: str, value: Any, origin: Origin, stages: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from aifeedback.reports.wording import in_words, metric

    if isinstance(value, Mapping) and "value" not in value:
        for name, part in value.items():
            yield from _flat(f"{key}.{name}", part, origin, stages)
        return
    figure = estimate(value)
    if figure is not None:
        yield in_words(key), metric(figure if figure.low is not None else _at_source(key, figure, stages, origin))
    elif isinstance(value, (str, bool)):
        yield in_words(key), str(value)
    elif isinstance(value, Mapping):
        yield in_words(key), "unknown" + "".join(f"; {note}" for note in value.get("notes") or ())
    elif value is None:
        yield in_words(key), "not measured"
    elif isinstance(value, Sequence) and len(value) <= 20 and not any(isinstance(v, (Mapping, list)) for v in value):
        yield in_words(key), ", ".join(map(str, value))
    else:
        yield in_words(key), f"{len(value):,} entries, in summary.json" if isinstance(value, Sequence) else str(value)


def _why_no_position(stages: Mapping[str, Any]) -> str:
    """Why position bias was not measured, by who judged and how."""
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
        return "Does not apply: each response is rated alone, so no position can matter."
    if all(mapping(judge.get("settings")).get("orders") == "one" for judge in in_pairs):
        return "Not measured in this run: each pair was shown in one order only."
    return "Not measured in this run: no pair has a verdict in both orders."


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
    return _lines(files[0]) if files else []


def _lines(file: Path) -> list[Mapping[str, Any]]:
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the torn last line of a stopped run
            continue
    return lines


def _examples(summary: Mapping[str, Any], stages: Mapping[str, Any], folder: Path | None) -> list[Mapping[str, Any]]:
    """What the summary has, else what a step chose by rule; sensitive where tagged or judged so."""
    chosen = summary.get("examples") or next((f["examples"] for _, f in _figures(stages) if f.get("examples")), [])
    usable = [e for e in chosen if isinstance(e, Mapping) and isinstance(e.get("answers"), Mapping)]
    harmful = _harmful_ids(folder) if any(e.get("completions") for e in usable) else frozenset()
    unsafe = {e.get("prompt") for e in mapping(_safety(summary)).get("examples") or () if mapping(e).get("unsafe")}
    return [
        {**e, "sensitive": bool(e.get("sensitive")) or e.get("prompt") in unsafe
         or not harmful.isdisjoint(mapping(e.get("completions")).values())}
        for e in usable
    ]  # fmt: skip


def _harmful_ids(folder: Path | None) -> frozenset[str]:
    """Ids of the responses that any assessor of the run calls harmful."""
    ids: set[str] = set()
    for file in sorted(folder.rglob("assessments-*.jsonl")) if folder is not None else ():
        for row in _lines(file):
            if row.get("is_harmless") is False:
                ids.add(str(row.get("completion_id")))
    return frozenset(ids)


def _principle(record: Any) -> str:
    """The wording of a principle, whatever it is for; a constitution's entry or plain text."""
    if not isinstance(record, Mapping):
        return str(record)
    return "; ".join(str(record[key]) for key in ("text", "compare", "critique", "revise") if record.get(key)) or str(
        dict(record)
    )


def _figures(stages: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return ((name, mapping(mapping(stage).get("figures"))) for name, stage in stages.items())
