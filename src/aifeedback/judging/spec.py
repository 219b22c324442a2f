"""Judges as settings: one model with its prompt, or a panel of several; and how many calls one item costs them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from aifeedback.config import Cli, Config
from aifeedback.errors import AIFeedbackError
from aifeedback.judging.pairwise import JudgeSettings, Rationale
from aifeedback.models.dialects import named_headers
from aifeedback.refs import DECISIONS, ConstitutionRef, JudgeRef, ModelRef, PromptRef, Ref, RubricRef

SERVER = "Server"
"""Heading of the options that only a served model has."""


OF_READINGS = ("readout", "top", "either_space", "votes", "votes_temperature", "answer_tokens", "structured")
"""Settings of a server that say how labels are read."""


class Served(Config):
    """Options of an OpenAI-compatible server; refused for a model that runs on this machine."""

    base_url: Annotated[str | None, Cli(panel=SERVER, metavar="URL")] = None
    """Address of an OpenAI-compatible server."""
    spend_cap_usd: Annotated[float | None, Cli(panel=SERVER, metavar="USD")] = Field(default=None, gt=0.0)
    """Stop before spending more than this (USD), earlier starts with the same journal included."""
    prices: Annotated[str | None, Cli(panel=SERVER, metavar="FILE")] = None
    """Price table (YAML); the shipped one by default."""
    headers: Annotated[
        dict[str, str] | None, Cli(("--header",), is_repeated=True, panel=SERVER, metavar="NAME=VALUE")
    ] = None
    """Send this header with every request; $NAME as the value is read from the environment. Repeat for several."""
    api_version: Annotated[str | None, Cli(panel=SERVER, metavar="VERSION")] = None
    """Azure: sent as api-version with every request, and the key as api-key."""
    extra_body: Annotated[dict[str, Any] | None, Cli(panel=SERVER, metavar="JSON")] = None
    """Further fields of every request, as JSON; null leaves a field out: '{"seed": null}'."""
    batch_api: Annotated[bool, Cli(panel=SERVER)] = False
    """Use the server's batch API (OpenAI, Anthropic): stop once the calls are submitted; rerun to collect the answers."""
    server: Annotated[dict[str, Any], Cli(is_hidden=True)] = Field(default_factory=dict)
    """Further server options by name: concurrency, requests_per_minute, readout, prices … (docs/servers.md)."""

    @field_validator("headers", mode="before")
    @classmethod
    def _headers(cls, value: Any) -> Any:
        return named_headers(value) if isinstance(value, dict | list | tuple) else value

    @field_validator("extra_body", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            parsed = json.loads(value)
        except ValueError:
            raise ValueError('not JSON; write for example {"seed": null}') from None
        return parsed

    @field_validator("prices")
    @classmethod
    def _is_file(cls, prices: str | None) -> str | None:
        if prices is not None and not Path(prices).is_file():
            raise ValueError(f"{prices}: no such file; give a YAML price table, or leave it out")
        return prices

    @property
    def server_options(self) -> dict[str, Any]:
        """What ``models.connect`` takes for a server; what was not set is left to its default."""
        own = {
            "base_url": self.base_url,
            "cap_usd": self.spend_cap_usd,
            "prices": self.prices,
            "headers": self.headers,
            "api_version": self.api_version,
            "extra_body": self.extra_body,
            "batch_api": self.batch_api or None,
        }
        return {**self.server, **{name: value for name, value in own.items() if value is not None}}

    @property
    def answers_later(self) -> bool:
        """Whether calls go through a batch API."""
        return bool(self.server_options.get("batch_api"))

    def require_replies(self, what: str) -> None:
        """Raises ValueError for settings of readings, where a model only writes."""
        if keys := [f"server.{name}" for name in self.server if name in OF_READINGS]:
            raise ValueError(f"{', '.join(keys)}: {what} reads no labels; leave it out")

    def require_server(self, models: Iterable[ModelRef]) -> None:
        """Raises ValueError where a server's options are set and none of the models is served."""
        models = [model for model in models if model]
        own = ("base_url", "prices", "headers", "api_version", "extra_body", "batch_api")
        chosen = [name for name in own if getattr(self, name)]
        chosen += [f"server.{name}" for name in self.server]
        if chosen and models and not any(model.is_served for model in models):
            raise ValueError(f"{', '.join(chosen)}: only a server (openai:NAME …) has such a setting, not {models[0]}")


class JudgeSpec(Served, JudgeSettings):
    """A model made into a judge. A bare model name stands for the defaults."""

    model: Annotated[JudgeRef, Cli(("--judge",), is_repeated=True, metavar="MODEL", panel="Judge")]
    """Judge: hf:DIR_OR_ID, openai:NAME, anthropic:NAME, systemone:NAME, decisions:NAME, fake:NAME, lab:NAME, rm:DIR,
    similarity:DIR or python:FILE.py:NAME. Repeat for a panel."""
    prompt: Annotated[PromptRef, Cli(is_repeated=True, metavar="NAME", panel="Judge")] = PromptRef("helpful-detailed")
    """Judge prompt: a shipped name, lab:NAME, or a YAML file. Repeat for a panel."""
    by: Annotated[Literal["pairs", "ratings"], Cli(panel="Judge")] = "pairs"
    """pairs: a verdict on both responses together. ratings: rate each alone; P(first better) from both distributions."""
    rationale: Annotated[
        Rationale | None, Cli(("--rationale", "--cot"), value={}, flatten=(Rationale,), panel="Judge")
    ] = None
    """Chain of thought before the verdict."""
    shots: Annotated[int | None, Cli(panel="Judge")] = Field(default=None, ge=0)
    """Number of few-shot examples of the prompt to show; all by default."""
    shots_seed: Annotated[int | None, Cli(panel="Judge")] = None
    """Draw and order the few-shot examples by this seed; by default the first ones in file order."""
    constitution: Annotated[ConstitutionRef | None, Cli(panel="Judge", metavar="NAME")] = None
    """Principles to judge by: a shipped constitution's name or a YAML file; the prompt must show a principle."""
    use: Annotated[Literal["drawn", "averaged", "together"] | None, Cli(panel="Judge")] = None
    """How the principles are used; as the constitution says by default."""
    per_pair: Annotated[int | None, Cli(panel="Judge")] = Field(default=None, ge=1)
    """Principles drawn for each pair; as the constitution says by default."""
    rubric: Annotated[RubricRef | None, Cli(panel="Judge", metavar="NAME")] = None
    """Weighted criteria, each judged alone: a shipped rubric's name or a YAML file."""
    hidden_mass: Annotated[float, Cli(panel="Judge")] = Field(default=0.0, ge=0.0, lt=1.0)
    """Ratings: labels that a server hides count as 0 where all of them together hold at most this much probability."""
    calibration: Annotated[str | None, Cli(panel="Judge", metavar="NAME")] = None
    """A calibration map fitted for this very judge (`aifeedback calibrate`): its name or file."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """A bare name is a model; ``rationale: true`` is one greedy rationale; the prompt follows the way of judging."""
        if isinstance(value, str):
            return {"model": value}
        if isinstance(value, dict):
            value = dict(value)
            if isinstance(value.get("rationale"), bool):
                value["rationale"] = {} if value["rationale"] else None
            if value.get("prompt") is None:
                value.pop("prompt", None)
                if prompt := _prompt_for(value):
                    value["prompt"] = prompt
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.rubric and self.constitution:
            raise ValueError("a judge goes by a rubric or by a constitution, not by both")
        if self.by == "ratings" and self.constitution:
            raise ValueError(
                "constitution: ratings cannot use one; give criteria to rate by (--rubric), or judge pairs"
            )
        if self.by == "ratings" and self.clamp:
            raise ValueError("clamp: it bounds the preference of a judge of pairs, not of ratings")
        if self.rationale and self.model.scheme in DECISIONS:
            raise ValueError(f"rationale: {self.model} is a decision model and writes no text; leave it out")
        self.require_server([self.model])
        if self.answers_later and self.model.scheme in DECISIONS:
            raise ValueError(f"batch_api: {self.model} is a decision model, which has no batch API; leave it out")
        return self

    def refs(self) -> Iterator[Ref]:
        if not self.model:
            return
        yield self.model
        if not self.model.is_readable:
            return
        yield self.prompt
        yield from (ref for ref in (self.constitution, self.rubric) if ref)
        if self.calibration:
            yield calibration_ref(self.calibration, self.model)

    def problems(self) -> Iterator[str]:
        """Settings that the judge prompt does not support; a prompt that cannot be read is a problem of ``refs``."""
        if not self.model or not self.model.is_readable:
            return
        try:
            prompt = self.prompt.load()
        except AIFeedbackError:
            return
        if self.rationale and prompt.rationale_request is None:
            yield f"judge prompt '{prompt.name}' offers no chain of thought: leave out the rationale, or use another prompt"
        if self.shots is not None and self.shots > len(prompt.exemplars):
            yield f"judge prompt '{prompt.name}' has {len(prompt.exemplars)} exemplars, {self.shots} requested"

    @property
    def questions(self) -> int:
        """Calls for one response, or for one pair in one order: one per principle or criterion."""
        if self.rubric:
            return len(self.rubric.load().criteria)
        if self.constitution is None:
            return 1
        constitution = self.constitution.load()
        use = self.use or constitution.use
        if use == "together":
            return 1
        return len(constitution.wordings("compare")) if use == "averaged" else self.per_pair or constitution.per_pair

    @property
    def calls_per_score(self) -> int:
        """Calls for one completion: one reading, after a rationale where one is written."""
        if not self.model.is_readable:
            return 0
        return self.questions * (2 * self.rationale.samples if self.rationale else 1)

    @property
    def calls_per_pair(self) -> int:
        shown = 2 if self.by == "ratings" or self.orders == "both" else 1
        return shown * self.calls_per_score

    def settings(self, seed: int) -> JudgeSettings:
        """What the labeler takes."""
        own: dict[str, Any] = {name: getattr(self, name) for name in JudgeSettings.model_fields}
        own["seed"] = seed
        return JudgeSettings(**own)


COMBINATIONS = "must be mean, median or a file of learned weights (.json)"


class PanelSpec(Config):
    """Several judges, or one model under several prompts, as one."""

    members: Annotated[tuple[JudgeSpec, ...], Cli(is_hidden=True)] = Field(min_length=2)
    """The judges, two or more."""
    combine: Annotated[Literal["mean", "median"], Cli(panel="Judge", metavar="mean|median|FILE")] = "mean"
    """How a panel's preferences become one: mean, median, or a file of learned weights (.json)."""
    weights: Annotated[Ref | None, Cli(is_hidden=True)] = None
    """Weights learned for these panel members (`aifeedback calibrate --kind weights`); equal weights by default."""
    quorum: int | None = Field(default=None, ge=1)
    """Fewest members whose judgement must be known; all of them by default."""
    max_spread: float = Field(default=1.0, ge=0.0, le=1.0)
    """A larger distance between the members' preferences leaves the label unknown (`disagreement`)."""
    calibration: str | None = None
    """A calibration map fitted for this very panel: its name or file."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """``combine: FILE.json`` is a mean with learned weights."""
        if isinstance(value, dict) and str(value.get("combine", "")).endswith(".json"):
            return {**value, "combine": "mean", "weights": value["combine"]}
        return value

    @field_validator("combine", mode="before")
    @classmethod
    def _is_known(cls, combine: Any) -> Any:
        if combine not in ("mean", "median"):
            raise ValueError(COMBINATIONS)
        return combine

    def refs(self) -> Iterator[Ref]:
        for member in self.members:
            yield from member.refs()
        yield from (ref for ref in (self.weights,) if ref)
        if self.calibration:
            yield calibration_ref(self.calibration, None)

    @property
    def calls_per_pair(self) -> int:
        return sum(member.calls_per_pair for member in self.members)


def _tag(value: Any) -> str:
    members = "members" in value if isinstance(value, dict) else isinstance(value, PanelSpec)
    return "(panel)" if members else "(judge)"


Judging: TypeAlias = Annotated[
    Annotated[JudgeSpec, Tag("(judge)")] | Annotated[PanelSpec, Tag("(panel)")], Discriminator(_tag)
]
"""A judge, or a panel where ``members`` are given."""


def rating_alone(judge: Any) -> Any:
    """Settings of a judge that rates each response alone, so that its default prompt is a rating prompt."""
    if isinstance(judge, str):
        judge = {"model": judge}
    return {"by": "ratings", **judge} if isinstance(judge, Mapping) else judge


def calibration_file(name: str, model: ModelRef | None = None) -> Path:
    """A calibration by its path, or by name: in ``calibrations/`` of the judge's own folder, else of this one."""
    if name.endswith(".json") or "/" in name:
        return Path(name)
    folder = model.path if model else None
    own = folder / "calibrations" / f"{name}.json" if folder and folder.is_dir() else None
    return own if own and own.is_file() else Path("calibrations") / f"{name}.json"


def calibration_ref(name: str, model: ModelRef | None) -> Ref:
    return Ref(name if name.startswith("@") else calibration_file(name, model))


def _prompt_for(value: Mapping[str, Any]) -> str | None:
    """The shipped prompt for this way of judging, if it differs from the default."""
    if value.get("by") == "ratings":
        return "criterion-rating" if value.get("rubric") else "rating"
    return "principle" if value.get("rubric") or value.get("constitution") else None


def judge_from_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The judge, or the panel of every named model under every named prompt, that a command's options describe."""
    from aifeedback.errors import RecipeError

    how = dict(options)
    models, prompts = _listed(how.pop("model", [])), _listed(how.pop("prompt", None))
    joined = {key: how.pop(key) for key in ("combine", "weights", "quorum", "max_spread") if key in how}
    judges = [one_judge(model, prompt, how, models) for model in models for prompt in prompts or [None]]
    if len(judges) == 1:
        combine = str(joined.get("combine", "mean"))
        if combine not in ("mean", "median") and not combine.endswith(".json"):
            raise RecipeError(f"'--combine' = '{combine}': {COMBINATIONS}")
        if joined:
            raise RecipeError(
                "a single judge has nothing to combine", key=f"--{next(iter(joined))}", fix="repeat --judge or --prompt"
            )
        return judges[0]
    calibration = how.get("calibration")
    members = [{key: value for key, value in judge.items() if key != "calibration"} for judge in judges]
    return {"members": members, **joined, **({"calibration": calibration} if calibration else {})}


def _listed(value: Any) -> Any:
    """A single name, as --set gives it, as a list of one."""
    return [value] if isinstance(value, str) else value


def one_judge(model: str, prompt: str | None, how: Mapping[str, Any], among: Iterable[str] = ()) -> dict[str, Any]:
    """One judge of a command: lab models read the lab's prompts; a server's options go to served models alone.

    ``among``: every model that the options are meant for.
    """
    judge: dict[str, Any] = {"model": model, **how}
    if prompt is None and model.startswith("lab:"):
        prompt = "lab:rating" if how.get("by") == "ratings" else "lab:pairwise"
    if prompt is not None:
        judge["prompt"] = prompt
    if not ModelRef(model).is_served and any(ModelRef(other).is_served for other in among):
        judge = {key: value for key, value in judge.items() if key not in Served.model_fields}
    return judge
