"""From names in a recipe or on the command line to things that answer: models, labelers, scorers, rewards, policies.

hf:DIR_OR_ID   openai:NAME   fake:NAME   lab:NAME      models
people:lab     gold:lab     people:talk … gold:talk …  simulated people and the oracles of the built-in lab
rm:DIR                                                 a reward model as a judge
python:FILE.py:FUNCTION                                a reward function
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from aifeedback.errors import InputError, RecipeError
from aifeedback.feedback.judge import JudgeLabeler, JudgeSettings
from aifeedback.protocols import Labeler, Model, Scorer
from aifeedback.stages.base import Job
from aifeedback.standards.constitution import Constitution
from aifeedback.standards.judge import JudgePrompt

SCHEMES = ("hf", "openai", "fake", "lab", "people", "gold", "rm", "python", "prompt", "constitution", "model")


NO_PROMPT = ("gold", "people", "rm")
"""Judges that are asked nothing in words."""


class JudgeSpec(JudgeSettings):
    """A model made into a judge. A bare model name stands for the defaults."""

    model: str
    """Model name, for example hf:DIR or openai:NAME."""
    prompt: str = "helpful-detailed"
    """Judge prompt: a shipped name, lab:NAME, or a YAML file."""
    by: Literal["pairs", "ratings"] = "pairs"
    """pairs: a verdict on the two together. ratings: each rated alone, P(first better) from the two distributions."""
    shots: int | None = None
    """Exemplars to show, of those the prompt has."""
    constitution: str | None = None
    """Principles to judge by: a shipped constitution's name or a YAML file; the prompt must show a principle."""
    use: Literal["drawn", "averaged", "together"] | None = None
    """How its principles are used; as the constitution says when not given."""
    calibration: str | None = None
    """A file of `aifeedback calibrate`, fitted for this very judge."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server."""
    spend_cap_usd: float | None = Field(default=None, gt=0.0)
    """Most that this judge's calls may cost."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A bare name is a model; ``rationale: true`` is one greedy rationale."""
        if isinstance(value, str):
            return {"model": value}
        if isinstance(value, dict) and isinstance(value.get("rationale"), bool):
            return {**value, "rationale": {} if value["rationale"] else None}
        return value

    @property
    def calls_per_score(self) -> int:
        """Calls for one completion: a reading, after a rationale where one is written."""
        return 0 if self.model.partition(":")[0] in NO_PROMPT else 2 * self.rationale.samples if self.rationale else 1

    @property
    def calls_per_pair(self) -> int:
        shown = 2 if self.by == "ratings" or self.orders == "both" else 1
        return shown * self.calls_per_score

    def settings(self, seed: int) -> JudgeSettings:
        """What the labeler is given."""
        own = {name: getattr(self, name) for name in JudgeSettings.model_fields}
        return JudgeSettings(**{**own, "seed": seed})


def input_path(name: str) -> Path | None:
    """The file or folder behind a name, if it is a local one."""
    scheme, _, rest = name.partition(":")
    if scheme not in SCHEMES or not rest:
        return Path(name)
    if scheme == "lab":
        from aifeedback.lab.zoo import folder

        return folder(rest)
    if scheme == "python":
        return Path(rest.rpartition(":")[0] or rest)
    if scheme == "prompt":
        return prompt_file(rest)
    if scheme == "constitution":
        return constitution_file(rest)
    if scheme in ("hf", "rm") and Path(rest).exists():
        return Path(rest)
    return None


def input_problem(name: str) -> str | None:
    """What is wrong with an outside file, folder or model, found without loading it; None if nothing."""
    scheme, _, rest = name.partition(":")
    if scheme not in SCHEMES or not rest:
        return None if Path(name).exists() else f"{name}: no such file"
    if scheme in ("hf", "rm"):
        return _folder_problem(rest)
    if scheme == "model":
        return f"'{rest}' names no model; write hf:DIR_OR_ID, openai:NAME, lab:NAME or fake:NAME"
    if scheme == "lab":
        from aifeedback.lab.zoo import names

        return None if rest in names() else f"{name}: no such lab model; known: {', '.join(names())}"
    if scheme in ("people", "gold"):
        from aifeedback.lab.oracles import NAMES

        known = ", ".join(f"{scheme}:{one}" for one in NAMES)
        return None if rest in NAMES else f"{name}: only the built-in lab has {scheme}; known: {known}"
    if scheme in ("prompt", "constitution", "model"):
        return _standard_problem(scheme, rest)
    if scheme == "python":
        path = input_path(name)
        return None if path and path.is_file() else f"{name}: no such file; write python:FILE.py:FUNCTION"
    return None


def _folder_problem(name: str) -> str | None:
    path = Path(name)
    if not path.exists():
        looks_like_id = not name.startswith((".", "/", "~")) and name.count("/") <= 1
        return None if looks_like_id and "/" in name else f"hf:{name}: no such folder, and no hub id (OWNER/NAME)"
    if not (path / "config.json").is_file():
        return f"hf:{name}: no config.json; this is no model folder"
    tokenizers = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((path / file).is_file() for file in tokenizers):
        return f"hf:{name}: the model folder has no tokenizer; save it with tokenizer.save_pretrained('{name}')"
    weights = [*path.glob("*.safetensors"), *path.glob("*.safetensors.index.json")]
    return None if weights else f"hf:{name}: no *.safetensors weights (pickled weights are not loaded)"


def _standard_problem(kind: str, name: str) -> str | None:
    try:
        judge_prompt(name) if kind == "prompt" else constitution(name)
    except InputError as wrong:
        return str(wrong)
    return None


def connect_model(name: str, job: Job, *, base_url: str | None = None, spend_cap_usd: float | None = None) -> Model:
    """A model with the run's journal in front of it; asked for again in the same process, it is not loaded again."""
    from aifeedback.models.cache import Journaled
    from aifeedback.store import Journal

    path = input_path(name)
    weights = sorted(path.glob("*.safetensors")) if path and path.is_dir() else []
    stamp = tuple(file.stat().st_mtime_ns for file in weights)
    return Journaled(_loaded(name, base_url, spend_cap_usd, stamp), Journal(job.journal))


@lru_cache(maxsize=4)
def _loaded(name: str, base_url: str | None, spend_cap_usd: float | None, stamp: tuple[int, ...]) -> Model:
    """``stamp`` tells weights apart that were written to the same folder one after another."""
    from aifeedback.models import connect

    del stamp
    if name.startswith("openai:"):
        return connect(name, base_url=base_url, spend_cap_usd=spend_cap_usd)
    return connect(name)


def prompt_file(name: str) -> Path:
    """The YAML file of a judge prompt: a shipped name, lab:NAME, or a path."""
    if name.startswith("lab:"):
        from aifeedback.lab.zoo import prompt_file as lab_file

        return lab_file(name.partition(":")[2])
    from aifeedback.standards import shelf

    return shelf.find("judges", name)


def judge_prompt(name: str, shots: int | None = None) -> JudgePrompt:
    prompt = JudgePrompt.load(prompt_file(name))
    return prompt if shots is None else prompt.with_shots(shots)


def labeler(judge: JudgeSpec, job: Job) -> Labeler:
    """Whoever says which of two completions is better."""
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
    return _calibrated(_asked(judge, job), judge)


def _asked(judge: JudgeSpec, job: Job) -> Labeler:
    if judge.by == "ratings":
        from aifeedback.feedback.ratings import RatingLabeler

        return RatingLabeler(scorer(judge, job))
    from aifeedback.feedback.principles import use_of

    principles = use_of(constitution(judge.constitution), how=judge.use, seed=job.seed) if judge.constitution else None
    prompt = judge_prompt(judge.prompt, judge.shots)
    return JudgeLabeler(_model(judge, job), prompt, judge.settings(job.seed), principles=principles)


def _calibrated(found: Labeler, judge: JudgeSpec) -> Labeler:
    if judge.calibration is None:
        return found
    from aifeedback.feedback.calibrate import CalibratedLabeler, Calibration

    path = Path(judge.calibration)
    return CalibratedLabeler(found, Calibration.load(path.stem, path.parent))


def constitution_file(name: str) -> Path:
    """The YAML file of a constitution: a shipped name, lab:NAME, or a path."""
    if name.startswith("lab:"):
        from aifeedback.lab.zoo import constitution_file as lab_file

        return lab_file(name.partition(":")[2])
    from aifeedback.standards import shelf

    return shelf.find("constitutions", name)


def constitution(name: str) -> Constitution:
    """A shipped constitution by name, one of the lab's, or a file."""
    return Constitution.load(constitution_file(name))


def principles_told(name: str) -> list[str]:
    """Its principles as a report prints them: id, text, and the question that judges are asked."""
    told = constitution(name)
    return [f"{told.full_id(p)}: {p.text} Asked as: “{p.worded('compare')}”" for p in told.principles]


def scorer(judge: JudgeSpec, job: Job) -> Scorer:
    """Whoever scores completions one by one: the judge's expected 1–10 score, or the lab's oracle."""
    if judge.model.startswith("gold:"):
        from aifeedback.lab.oracles import oracle

        return oracle(judge.model.partition(":")[2])
    from aifeedback.feedback.score import JudgeScorer, ScoreSettings

    settings = ScoreSettings(rationale=judge.rationale, seed=job.seed, chat=judge.chat)
    return JudgeScorer(_model(judge, job), judge_prompt(judge.prompt, judge.shots), settings)


def _model(judge: JudgeSpec, job: Job) -> Model:
    return connect_model(judge.model, job, base_url=judge.base_url, spend_cap_usd=judge.spend_cap_usd)


def who(name: str, job: Job) -> tuple[str, str]:
    """(family, URI) of a model, of the oracle, or of people."""
    scheme = name.partition(":")[0]
    if scheme in NO_PROMPT:
        return {"gold": "oracle", "people": "people", "rm": "reward model"}[scheme], name
    card = connect_model(name, job).card
    return card.family, card.uri


def revision(name: str, job: Job) -> str:
    """The revision of a model's weights; empty for the oracle, people and reward models."""
    return "" if name.partition(":")[0] in NO_PROMPT else connect_model(name, job).card.revision


def described(judge: JudgeSpec, job: Job) -> dict[str, Any]:
    """Who judged, by which words: what the report prints and an auditor asks first."""
    scheme = judge.model.partition(":")[0]
    if scheme in NO_PROMPT:
        return {"model": judge.model, "family": who(judge.model, job)[0], "prompt": None}
    card = connect_model(judge.model, job, base_url=judge.base_url).card
    prompt = judge_prompt(judge.prompt, judge.shots)
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
        "settings": settings,
    }


def outside(name: str) -> Iterator[str]:
    """``name`` if it comes from outside the run (a reference to another stage does not)."""
    if name and "@" not in name.partition(":")[0] and not name.partition(":")[2].startswith("@"):
        yield name


def outside_model(name: str) -> Iterator[str]:
    """As ``outside``, for what must be a model: a name without a scheme is no file."""
    known = name.partition(":")[0] in SCHEMES
    yield from outside(name if known or not name or name.startswith("@") else f"model:{name}")


def outside_judge(judge: JudgeSpec) -> Iterator[str]:
    """The model and prompt file that a judge is made of, as far as they come from outside."""
    yield from outside_model(judge.model)
    if judge.model.partition(":")[0] not in NO_PROMPT:
        yield f"prompt:{judge.prompt}"
    if judge.constitution:
        yield f"constitution:{judge.constitution}"
    if judge.calibration:
        yield from outside(judge.calibration)


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
