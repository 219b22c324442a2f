"""From names in a recipe or on the command line to things that answer: models, labelers, scorers, rewards, policies.

hf:DIR_OR_ID   openai:NAME   fake:NAME   lab:NAME      models
people:lab     gold:lab     people:talk … gold:talk …  simulated people and the oracles of the built-in lab
rm:DIR                                                 a reward model as a judge
python:FILE.py:FUNCTION                                a reward function
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from aifeedback.errors import RecipeError
from aifeedback.feedback.judge import JudgeLabeler
from aifeedback.feedback.principles import PrincipleUse, use_of
from aifeedback.protocols import Labeler, Model, Scorer
from aifeedback.stages.base import Job
from aifeedback.stages.inputs import SCHEMES, input_path, prompt_file
from aifeedback.stages.judges import NO_PROMPT, JudgeSpec, PanelSpec, constitution_file
from aifeedback.standards.constitution import Constitution
from aifeedback.standards.judge import JudgePrompt
from aifeedback.standards.rubric import Rubric

LOCAL = ("hf:", "lab:")
"""Models that run on this machine, in as many processes as the job says."""
SHARED = 2048
"""Least pairs or completions per call of a judge that works in several processes: these start with long calls only."""


def connect_model(
    name: str, job: Job, *, base_url: str | None = None, server: Mapping[str, Any] | None = None
) -> Model:
    """A model with the run's journal in front of it; asked for again in the same process, it is not loaded again.

    ``server``: options of an OpenAI-compatible one. Under a spend cap, what the journal says was spent already counts.
    """
    from aifeedback.models.cache import Journaled
    from aifeedback.store import Journal

    path = input_path(name)
    weights = sorted(path.glob("*.safetensors")) if path and path.is_dir() else []
    stamp = tuple(file.stat().st_mtime_ns for file in weights)
    options = {**(server or {}), **({"base_url": base_url} if base_url else {})} if name.startswith("openai:") else {}
    told = json.dumps(options, sort_keys=True)
    workers = job.workers if name.startswith(LOCAL) else 1
    model = _loaded(name, told, stamp, job.journal if "cap_usd" in options else None, workers)
    return Journaled(model, Journal(job.journal))


@lru_cache(maxsize=4)
def _loaded(name: str, options: str, stamp: tuple[int, ...], capped_by: Path | None, workers: int | None) -> Model:
    """``stamp`` tells weights apart that were written to the same folder one after another."""
    from aifeedback.models import connect
    from aifeedback.store import Journal

    del stamp
    given = json.loads(options)
    if capped_by is not None:
        with Journal(capped_by) as journal:
            given["spent_usd"] = given.get("spent_usd", 0.0) + journal.spent_usd(name)
    model: Any = connect(name, **given)
    count = model.copies_that_fit() if workers is None else workers
    if count == 1:
        return model
    from aifeedback.models.spread import Spread

    return Spread(model, workers=count, options=given)


def forget_models() -> None:
    """Lets go of the models loaded so far and, where nothing else holds them, of the processes that share their work."""
    _loaded.cache_clear()


def judge_prompt(name: str, shots: int | None = None, seed: int | None = None) -> JudgePrompt:
    """With ``shots`` of its exemplars: the first, or drawn and ordered by ``seed``."""
    prompt = JudgePrompt.load(prompt_file(name))
    if shots is None and seed is None:
        return prompt
    return prompt.with_shots(len(prompt.shown) if shots is None else shots, seed=seed)


def labeler(judge: JudgeSpec | PanelSpec, job: Job) -> Labeler:
    """Whoever says which of two completions is better."""
    if isinstance(judge, PanelSpec):
        if job.workers is None:  # what suits each member alone may be too much for all of them
            job = replace(job, workers=1)
        return _calibrated(_panel(judge, job), judge.calibration, None)
    return _calibrated(_uncalibrated(judge, job), judge.calibration, judge.model)


def asked_together(judge: JudgeSpec | PanelSpec, job: Job, batch: int) -> int:
    """``batch``, or more of them where several processes may share a call; answers are journalled by less."""
    is_shared = isinstance(judge, JudgeSpec) and judge.model.startswith(LOCAL) and job.workers != 1
    return max(batch, SHARED) if is_shared else batch


def _uncalibrated(judge: JudgeSpec, job: Job) -> Labeler:
    scheme, _, rest = judge.model.partition(":")
    if scheme == "gold":
        from aifeedback.lab.oracles import oracle

        return oracle(rest)
    if scheme == "people":
        from aifeedback.lab.oracles import people

        return people(rest, job.seed)
    if scheme == "rm":
        from aifeedback.train.reward_model import RewardModel

        return RewardModel(rest)
    return _asked(judge, job)


def _panel(panel: PanelSpec, job: Job) -> Labeler:
    from aifeedback.feedback.panel import LearnedWeights, Panel

    members = [labeler(member, job) for member in panel.members]
    weights = LearnedWeights.load(panel.weights).of([m.name for m in members]) if panel.weights else None
    return Panel(members, combine=panel.combine, weights=weights, quorum=panel.quorum, max_spread=panel.max_spread)


def _asked(judge: JudgeSpec, job: Job) -> Labeler:
    if judge.by == "ratings":
        from aifeedback.feedback.ratings import RatingLabeler

        return RatingLabeler(scorer(judge, job))
    prompt = judge_prompt(judge.prompt, judge.shots, judge.shots_seed)
    return JudgeLabeler(_model(judge, job), prompt, judge.settings(job.seed), principles=principles(judge, job.seed))


def principles(judge: JudgeSpec, seed: int) -> PrincipleUse | None:
    """The principles, or a rubric's criteria, that a judge of pairs goes by; None where it has none."""
    if judge.rubric:
        return PrincipleUse(Rubric.load(judge.rubric).pair_wordings(), "averaged")
    if judge.constitution is None:
        return None
    return use_of(constitution(judge.constitution), how=judge.use, per_pair=judge.per_pair, seed=seed)


def _calibrated(found: Labeler, calibration: str | None, model: str | None) -> Labeler:
    if calibration is None:
        return found
    from aifeedback.feedback.calibrate import CalibratedLabeler, Calibration

    path = calibration_file(calibration, model)
    return CalibratedLabeler(found, Calibration.load(path.stem, path.parent))


def calibration_file(name: str, model: str | None = None) -> Path:
    """A calibration by its path, or by name: in ``calibrations/`` of the judge's own folder, else of this one."""
    if name.endswith(".json") or "/" in name:
        return Path(name)
    folder = input_path(model) if model else None
    own = folder / "calibrations" / f"{name}.json" if folder and folder.is_dir() else None
    return own if own is not None and own.is_file() else Path("calibrations") / f"{name}.json"


def constitution(name: str) -> Constitution:
    """A shipped constitution by name, one of the lab's, or a file."""
    return Constitution.load(constitution_file(name))


def constitutions(judge: JudgeSpec | PanelSpec) -> list[str]:
    """The constitutions that a judge, or the members of a panel, are asked by; each once."""
    members = judge.members if isinstance(judge, PanelSpec) else [judge]
    return list(dict.fromkeys(m.constitution for m in members if m.constitution))


def principles_told(name: str) -> list[str]:
    """Its principles as a report prints them: id, text, and the question that judges are asked."""
    told = constitution(name)
    return [f"{told.full_id(p)}: {p.text} Asked as: “{p.worded('compare')}”" for p in told.principles]


def scorer(judge: JudgeSpec, job: Job) -> Scorer:
    """Whoever scores completions one by one: the judge's expected 1–10 score, or the lab's oracle."""
    if judge.model.startswith("gold:"):
        from aifeedback.lab.oracles import oracle

        return oracle(judge.model.partition(":")[2])
    from aifeedback.feedback.rubric import RubricScorer
    from aifeedback.feedback.score import JudgeScorer, ScoreSettings

    settings = ScoreSettings(
        rationale=judge.rationale,
        hidden_mass=judge.hidden_mass,
        min_coverage=judge.min_coverage,
        seed=job.seed,
        chat=judge.chat,
    )
    prompt = judge_prompt(judge.prompt, judge.shots, judge.shots_seed)
    if judge.rubric:
        return RubricScorer(_model(judge, job), prompt, Rubric.load(judge.rubric).rating_wordings(), settings)
    return JudgeScorer(_model(judge, job), prompt, settings)


def _model(judge: JudgeSpec, job: Job) -> Model:
    return connect_model(judge.model, job, server=judge.server_options)


def who(judge: JudgeSpec | str, job: Job) -> tuple[str, str]:
    """(family, URI) of a judge or a model, of the oracle, or of people."""
    name = judge if isinstance(judge, str) else judge.model
    scheme = name.partition(":")[0]
    if scheme in NO_PROMPT:
        return {"gold": "oracle", "people": "people", "rm": "reward model"}[scheme], name
    card = _answering(judge, job).card
    return card.family, card.uri


def revision(judge: JudgeSpec | str, job: Job) -> str:
    """The revision of a model's weights; empty for the oracle, people and reward models."""
    name = judge if isinstance(judge, str) else judge.model
    return "" if name.partition(":")[0] in NO_PROMPT else _answering(judge, job).card.revision


def _answering(judge: JudgeSpec | str, job: Job) -> Model:
    return connect_model(judge, job) if isinstance(judge, str) else _model(judge, job)


def described(judge: JudgeSpec, job: Job) -> dict[str, Any]:
    """Who judged, by which words: what the report prints and an auditor asks first."""
    scheme = judge.model.partition(":")[0]
    if scheme in NO_PROMPT:
        return {"model": judge.model, "family": who(judge.model, job)[0], "prompt": None}
    card = _model(judge, job).card
    prompt = judge_prompt(judge.prompt, judge.shots, judge.shots_seed)
    settings = judge.settings(job.seed).model_dump(mode="json", exclude={"batch_size"})
    return {
        **card.model_dump(mode="json"),
        "model": judge.model,
        "by": judge.by,
        "prompt": {
            "name": prompt.name,
            "version": prompt.version,
            "digest": prompt.digest,
            "preamble": prompt.preamble,
            "sample": prompt.sample,
            "ending": prompt.ending,
            "rationale_request": prompt.rationale_request if judge.rationale else None,
            "labels": list(prompt.labels),
            "exemplars": len(prompt.shown),
        },
        "rubric": judge.rubric,
        "constitution": judge.constitution,
        "settings": settings,
    }


def judged_by(judge: JudgeSpec | PanelSpec, job: Job) -> dict[str, Any]:
    """Figures that name who judged: ``judge``, or for a panel ``judges`` (each member) and ``panel`` (how they join)."""
    if isinstance(judge, JudgeSpec):
        return {"judge": described(judge, job)}
    members = {f"{m.model} {m.prompt}": described(m, job) for m in judge.members}
    return {"judges": members, "panel": judge.model_dump(mode="json", exclude={"members"})}


def outside(name: str) -> Iterator[str]:
    """``name`` if it comes from outside the run (a reference to another stage does not)."""
    if name and "@" not in name.partition(":")[0] and not name.partition(":")[2].startswith("@"):
        yield name


def outside_model(name: str) -> Iterator[str]:
    """As ``outside``, for what must be a model: a name without a scheme is no file."""
    known = name.partition(":")[0] in SCHEMES
    yield from outside(name if known or not name or name.startswith("@") else f"model:{name}")


def outside_judge(judge: JudgeSpec | PanelSpec) -> Iterator[str]:
    """The models and files that a judge, or every member of a panel, is made of, as far as they come from outside."""
    if isinstance(judge, PanelSpec):
        for member in judge.members:
            yield from outside_judge(member)
        yield from outside(judge.weights or "")
        yield from outside(str(calibration_file(judge.calibration)) if judge.calibration else "")
        return
    yield from outside_model(judge.model)
    if judge.model.partition(":")[0] not in NO_PROMPT:
        yield f"prompt:{judge.prompt}"
    if judge.constitution:
        yield f"constitution:{judge.constitution}"
    if judge.rubric:
        yield f"rubric:{judge.rubric}"
    if judge.calibration:
        referred = judge.calibration.startswith("@")
        yield from outside(judge.calibration if referred else str(calibration_file(judge.calibration, judge.model)))


def policy_folder(name: str) -> str:
    """The model folder or hub id that training starts from."""
    scheme, _, rest = name.partition(":")
    if scheme == "lab":
        return str(input_path(name))
    if scheme == "hf":
        return rest
    if scheme in SCHEMES:
        raise RecipeError(f"'{name}' cannot be trained", fix="give a model folder or hub id: hf:DIR or lab:NAME")
    return name
