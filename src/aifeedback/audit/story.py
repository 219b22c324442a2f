"""What the report of a run shows: metrics with intervals, policies, who judged, how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, overload

from aifeedback.audit.origin import Fact
from aifeedback.evaluate.independence import Independence, Source, verify_independence

ACRONYMS = {name: name.upper() for name in ("sft", "rl", "rlaif", "rlhf", "cai", "dpo", "rm", "ppo", "grpo")} | {
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
    """Why there is no length-controlled win rate; empty where there is one, or nothing was measured."""
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
    why_no_position: str = ""
    """Why position bias was not measured; empty where it was."""
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
    facts: list[Fact] = field(default_factory=list)
    """The block at the head of the page."""
    names: dict[str, str] = field(default_factory=dict)
    """Key of an evaluator in the metrics → its one name on the page."""
    label_mass: list[tuple[str, float]] = field(default_factory=list)
    """Who labelled, and the mean probability of its labels together."""
    metrics: list[tuple[str, str]] = field(default_factory=list)
    """What the recipe maps under names of its own: name, value with its interval where one is recorded."""
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
    """A metric from JSON: an estimate's mapping or a bare number; None where it is not known."""
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
