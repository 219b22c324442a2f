"""What a monitor keeps: its settings, the golden set, the outcome of each round, and the events of its log.

WATCH/monitor.yaml             settings, with the digests of the files that they name
WATCH/golden.jsonl             the golden set (GoldenItem); a closed appeal adds to it
WATCH/prompts.jsonl, redteam.jsonl   canary prompts and red-team prompts, where the policy is watched
WATCH/rounds/DATE/             one round: outcomes.json, preferences, responses, one journal per pass
WATCH/journal.sqlite           the log: events, hash-chained
WATCH/events.jsonl             the same, to be read without a tool
WATCH/report.html              the page
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from aifeedback.config import Cli, Config
from aifeedback.judging.spec import JudgeSpec, Judging, PanelSpec
from aifeedback.refs import PolicyRef, Ref, refs_in
from aifeedback.steps.safety import AssessorSpec
from aifeedback.steps.sample import SamplingSettings
from aifeedback.types import Comparison, Probability, Record

Part: TypeAlias = Literal["golden", "canary", "redteam"]


class MonitorSettings(Config):
    """The questions of each round, the models asked, and the tolerated false-alarm rate."""

    judge: Annotated[Judging, Cli(flatten=(JudgeSpec, PanelSpec), panel="Judge")]
    """The judge to watch."""
    golden: Annotated[Ref, Cli(metavar="FILE")]
    """Golden set: pairs, best with human labels."""
    policy: Annotated[PolicyRef | None, Cli(metavar="MODEL", panel="Policy")] = None
    """The policy to watch."""
    policy_base_url: Annotated[str | None, Cli(metavar="URL", panel="Policy")] = None
    """Address of the policy's server; the judge's server options by default."""
    prompts: Annotated[Ref | None, Cli(metavar="FILE", panel="Policy")] = None
    """Canary prompts: the policy answers them in every round."""
    redteam: Annotated[Ref | None, Cli(metavar="FILE", panel="Policy")] = None
    """Red-team prompts: an attack succeeds where the response is harmful or, without an assessor, no refusal."""
    assessor: Annotated[AssessorSpec | None, Cli(metavar="MODEL", panel="Policy")] = None
    """Judge of harm and refusal; by default refusals are found by stock phrases."""
    sampling: Annotated[SamplingSettings, Cli(flatten=(SamplingSettings,), only=("max_new_tokens",))] = (
        SamplingSettings(temperature=0.0)
    )
    """How the policy's responses are drawn."""
    passes: int = Field(default=5, ge=2, le=20)
    """Passes of a baseline: repeated passes measure how much the judge varies without any change."""
    false_alarms_per_year: Annotated[float, Cli(("--false-alarms",))] = Field(default=1.0, gt=0.0)
    """False alarms per year, over all charts together, if nothing changes."""
    rounds_per_year: float = Field(default=52.0, gt=0.0)
    """Rounds per year: 52 is weekly."""
    fingerprint: Literal["alarm", "note"] = "alarm"
    """What a new server fingerprint means; note: it is only shown on the page."""
    webhook: Annotated[str | None, Cli(metavar="URL")] = None
    """POST every alarm here as JSON; $NAME is read from the environment."""
    seed: Annotated[int, Cli(is_hidden=True)] = 0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.policy is None and (keys := [n for n in ("prompts", "redteam", "assessor") if getattr(self, n)]):
            raise ValueError(f"{', '.join(keys)}: these need a policy")
        if self.policy is not None and not (self.prompts or self.redteam):
            raise ValueError("policy: needs prompts or redteam to answer")
        return self

    def refs(self) -> Iterator[Ref]:
        for name in type(self).model_fields:
            yield from refs_in(getattr(self, name))

    @property
    def policy_server(self) -> Mapping[str, Any] | None:
        """Server options of the policy."""
        if self.policy is None or not self.policy.is_served:
            return None
        if self.policy_base_url:
            return {"base_url": self.policy_base_url}
        return self.judge.server_options if isinstance(self.judge, JudgeSpec) else None


class GoldenItem(Record):
    """A pair with the verdict that people gave it, where they gave one."""

    comparison: Comparison
    human_p_first: Probability | None = None
    origin: str = "golden"
    """``golden``, or the id of the appeal that added it."""

    @property
    def id(self) -> str:
        return self.comparison.id


class GoldenOutcome(Record):
    """The judge's verdict on one golden pair in one pass."""

    p_first: Probability | None
    by_order: tuple[Probability | None, Probability | None] = (None, None)
    """As read in storage order and in the swapped order."""
    problem: str | None = None


class ResponseOutcome(Record):
    """The policy's response to one prompt in one pass; None where it is unknown."""

    length: int | None = None
    """In characters."""
    response: str | None = None
    """full_compliance, full_refusal or partial_refusal."""
    is_harmless: bool | None = None
    problem: str | None = None


class Version(Record):
    """What a model is and what its server reports of itself."""

    uri: str
    revision: str = ""
    """Digest of a local model; of a server, its address and what it reports when asked."""
    model: str = ""
    """As the server names it in its answers."""
    fingerprint: str = ""
    """The server's ``system_fingerprint``."""

    def __str__(self) -> str:
        reported = " ".join(part for part in (self.model, self.fingerprint) if part)
        return f"{self.uri}{f' ({reported})' if reported else ''}"


class Pass(Record):
    """Everything asked once; item id → outcome."""

    golden: Mapping[str, GoldenOutcome] = {}
    canary: Mapping[str, ResponseOutcome] = {}
    redteam: Mapping[str, ResponseOutcome] = {}


class Round(Record):
    """One dated round. A baseline has several passes, and all later rounds are compared with what came since."""

    name: str
    at: str
    """UTC, ISO 8601."""
    kind: Literal["baseline", "round"]
    passes: tuple[Pass, ...] = Field(min_length=1)
    versions: tuple[Version, ...] = ()
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    heads: Mapping[str, str] = {}
    """Journal of each pass → head of its chain."""


EventKind: TypeAlias = Literal["alarm", "incident", "appeal", "change", "close", "failed"]
Severity: TypeAlias = Literal[1, 2, 3, 4]


class Event(Record):
    """One line of the log; nothing is ever changed, a later event closes an earlier one."""

    id: str
    """``appeal-2``: its kind, and how many of this kind there were."""
    kind: EventKind
    at: str
    by: str
    text: str
    severity: Severity | None = None
    """1: somebody may come to harm, 2: wrong results reached users, 3: noticed in time, 4: for the record."""
    item: str | None = None
    """Id of the pair that an appeal is about."""
    round: str | None = None
    chart: str | None = None
    """Of an alarm: its chart, or ``version``."""
    p_first: Probability | None = None
    """Of an appeal: the verdict appealed against."""
    p_again: Probability | None = None
    """Of an appeal: the judge's verdict when asked again."""
    closes: str | None = None
    outcome: str | None = None
    """Of a closing event; ``upheld`` or ``rejected`` for an appeal."""
    human_p_first: Probability | None = None
    """Of a closed appeal: the verdict of the people who decided it."""
