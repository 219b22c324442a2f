"""Build models, judges, scorers and rewards from their settings; every call goes through the run's journal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from aifeedback.judging.pairwise import JudgeLabeler, PrincipleUse, use_of
from aifeedback.judging.spec import JudgeSpec, PanelSpec, calibration_file
from aifeedback.prompts.history import in_one_line, read_log
from aifeedback.refs import ConstitutionRef, ModelRef, RubricRef
from aifeedback.steps.step import Context, Figures
from aifeedback.types import Labeler, Model, Scorer

SHARED = 2048
"""Fewest pairs or completions per call of a judge that works in several processes: these start with long calls only."""


def connect_model(name: str, context: Context, *, server: Mapping[str, Any] | None = None) -> Model:
    """A model with the run's journal in front of it. Under a spend cap, what the journal says was spent counts."""
    from aifeedback.models.journal import Journal
    from aifeedback.models.journaled import Journaled

    ref = ModelRef(name)
    path = ref.path
    weights = sorted(path.glob("*.safetensors")) if path and path.is_dir() else []
    stamp = tuple(file.stat().st_mtime_ns for file in weights)
    options = dict(server or {}) if ref.is_served else {}
    if options.get("batch_api"):
        options.setdefault("batch_folder", str(context.journal.with_suffix(".batches").absolute()))
    capped_by = context.journal if "cap_usd" in options else None
    workers = context.workers if ref.is_local else 1
    model = _loaded(str(name), json.dumps(options, sort_keys=True), stamp, capped_by, workers)
    return Journaled(model, Journal(context.journal, step=context.step))


@lru_cache(maxsize=4)
def _loaded(name: str, options: str, stamp: tuple[int, ...], capped_by: Path | None, workers: int | None) -> Model:
    """``stamp`` distinguishes weights that were written to the same folder one after another."""
    from aifeedback.models import connect
    from aifeedback.models.journal import Journal

    del stamp
    arguments = json.loads(options)
    if capped_by is not None:
        with Journal(capped_by) as journal:
            arguments["spent_usd"] = arguments.get("spent_usd", 0.0) + journal.spent_usd(name)
    model: Any = connect(name, **arguments)
    count = model.copies_that_fit() if workers is None else workers
    if count == 1:
        return model
    from aifeedback.models.workers import WorkerPool

    return WorkerPool(model, workers=count, options=arguments)


def release_models() -> None:
    """Drop the models loaded so far and, where nothing else holds them, stop their workers."""
    _loaded.cache_clear()


def labeler(judge: JudgeSpec | PanelSpec, context: Context) -> Labeler:
    """Whoever says which of two completions is better."""
    if isinstance(judge, PanelSpec):
        if context.workers is None:  # what suits each member alone may be too much for all of them
            context = replace(context, workers=1)
        return _calibrated(_panel(judge, context), judge.calibration, None)
    return _calibrated(_uncalibrated(judge, context), judge.calibration, judge.model)


def batch_for(judge: JudgeSpec | PanelSpec, context: Context, batch: int) -> int:
    """``batch``, or more where several processes may share a call, and everything for a judge whose calls wait in
    batches; answers are journalled in smaller parts."""
    members = judge.members if isinstance(judge, PanelSpec) else (judge,)
    if any(member.answers_later for member in members):
        return sys.maxsize
    is_shared = isinstance(judge, JudgeSpec) and judge.model.is_local and context.workers != 1
    return max(batch, SHARED) if is_shared else batch


def _uncalibrated(judge: JudgeSpec, context: Context) -> Labeler:
    scheme, name = judge.model.scheme, judge.model.name
    if scheme == "gold":
        from aifeedback.lab.oracles import oracle

        return oracle(name)
    if scheme == "people":
        from aifeedback.lab.oracles import NAMES, people

        if name in NAMES:
            return people(name, context.seed)
        from aifeedback.annotation.labeler import PeopleLabeler

        return PeopleLabeler.load(name)
    if scheme == "rm":
        from aifeedback.training.reward_model import RewardModel

        return RewardModel(name)
    if scheme == "similarity":
        from aifeedback.judging.similarity import SimilarityLabeler
        from aifeedback.models.embedding import Embedder

        return SimilarityLabeler(Embedder(name), str(judge.model))
    if judge.by == "ratings":
        from aifeedback.judging.pointwise import RatingLabeler

        return RatingLabeler(scorer(judge, context))
    prompt = judge.prompt.load(judge.shots, judge.shots_seed)
    settings = judge.settings(context.seed)
    return JudgeLabeler(_model(judge, context), prompt, settings, principles=principles(judge, context.seed))


def _panel(panel: PanelSpec, context: Context) -> Labeler:
    from aifeedback.judging.panel import LearnedWeights, Panel

    members = [labeler(member, context) for member in panel.members]
    weights = LearnedWeights.load(panel.weights).of([m.name for m in members]) if panel.weights else None
    return Panel(members, combine=panel.combine, weights=weights, quorum=panel.quorum, max_spread=panel.max_spread)


def principles(judge: JudgeSpec, seed: int) -> PrincipleUse | None:
    """The principles, or a rubric's criteria, that a judge of pairs goes by; None where it has none."""
    if judge.rubric:
        return PrincipleUse(judge.rubric.load().pair_wordings(), "averaged")
    if judge.constitution is None:
        return None
    return use_of(judge.constitution.load(), how=judge.use, per_pair=judge.per_pair, seed=seed)


def _calibrated(uncalibrated: Labeler, calibration: str | None, model: ModelRef | None) -> Labeler:
    if calibration is None:
        return uncalibrated
    from aifeedback.judging.calibration import CalibratedLabeler, Calibration

    path = calibration_file(calibration, model)
    return CalibratedLabeler(uncalibrated, Calibration.load(path.stem, path.parent))


def scorer(judge: JudgeSpec, context: Context) -> Scorer:
    """Whoever scores completions one by one: the judge's expected 1–10 score, or the lab's oracle."""
    if judge.model.scheme == "gold":
        from aifeedback.lab.oracles import oracle

        return oracle(judge.model.name)
    from aifeedback.judging.pointwise import JudgeScorer, RubricScorer, ScoreSettings

    settings = ScoreSettings(
        rationale=judge.rationale,
        hidden_mass=judge.hidden_mass,
        min_coverage=judge.min_coverage,
        seed=context.seed,
        chat=judge.chat,
    )
    prompt = judge.prompt.load(judge.shots, judge.shots_seed)
    if judge.rubric:
        return RubricScorer(_model(judge, context), prompt, judge.rubric.load().rating_wordings(), settings)
    return JudgeScorer(_model(judge, context), prompt, settings)


def _model(judge: JudgeSpec, context: Context) -> Model:
    return connect_model(judge.model, context, server=judge.server_options)


class PromptCard(Figures):
    """The words that a judge was shown."""

    name: str
    version: int | str
    digest: str
    preamble: str
    sample: str
    ending: str
    rationale_request: str | None = None
    labels: tuple[str, ...]
    exemplars: int
    owner: str | None = None
    """Who answers for it."""
    history: str | None = None
    """Its versions, the oldest first."""


class StandardCard(Figures):
    """A constitution or rubric that a judge went by."""

    kind: str
    name: str
    version: str
    owner: str
    source: str
    digest: str
    """Of the wording."""
    history: str | None = None
    """Its versions, the oldest first."""


class JudgeCard(Figures):
    """Who judged, by which words and settings: what the report prints and an auditor needs first."""

    model: str
    family: str
    uri: str = ""
    revision: str = ""
    parameters: int | None = None
    context_window: int | None = None
    by: str = "pairs"
    prompt: PromptCard | None = None
    rubric: str | None = None
    constitution: str | None = None
    standards: tuple[StandardCard, ...] = ()
    """Its constitution and rubric, as they were read."""
    settings: Mapping[str, Any] = {}
    members: Mapping[str, JudgeCard] | None = None
    """Of a panel."""


_FAMILIES = {"gold": "oracle", "people": "people", "rm": "reward model", "similarity": "embedding"}


def model_card(name: ModelRef, context: Context, server: Mapping[str, Any] | None = None) -> JudgeCard:
    """Who a model is, without a prompt: its family, revision and size."""
    if not name.is_readable:
        return JudgeCard(model=str(name), family=_FAMILIES[name.scheme], uri=str(name))
    card = connect_model(name, context, server=server).card
    return JudgeCard(model=str(name), **card.model_dump(mode="json"))


def _standard(ref: ConstitutionRef | RubricRef) -> StandardCard:
    from aifeedback.prompts.lint import wording_digest

    standard = ref.load()
    return StandardCard(
        kind=ref.standard.removesuffix("s"),
        name=standard.name,
        version=standard.version,
        owner=standard.owner,
        source=standard.source,
        digest=wording_digest(standard),
        history=in_one_line(standard.history, read_log(ref.path)),
    )


def judge_card(judge: JudgeSpec | PanelSpec, context: Context) -> JudgeCard:
    """Who judges, by which words."""
    if isinstance(judge, PanelSpec):
        members = {f"{member.model} {member.prompt}": judge_card(member, context) for member in judge.members}
        settings = judge.model_dump(mode="json", exclude={"members"})
        return JudgeCard(
            model=f"panel ({judge.combine}): {', '.join(members)}", family="panel", settings=settings, members=members
        )
    card = model_card(judge.model, context, judge.server_options)
    if not judge.model.is_readable:
        return card
    prompt = judge.prompt.load(judge.shots, judge.shots_seed)
    words = PromptCard(
        name=prompt.name,
        version=prompt.version,
        digest=prompt.digest,
        preamble=prompt.preamble,
        sample=prompt.sample,
        ending=prompt.ending,
        rationale_request=prompt.rationale_request if judge.rationale else None,
        labels=tuple(prompt.labels),
        exemplars=len(prompt.shown),
        owner=prompt.owner or None,
        history=in_one_line(prompt.history, read_log(judge.prompt.path)),
    )
    settings = judge.settings(context.seed).model_dump(mode="json", exclude={"batch_size"})
    return card.model_copy(
        update={
            "by": judge.by,
            "prompt": words,
            "rubric": judge.rubric,
            "constitution": judge.constitution,
            "standards": tuple(_standard(ref) for ref in (judge.constitution, judge.rubric) if ref),
            "settings": settings,
        }
    )
