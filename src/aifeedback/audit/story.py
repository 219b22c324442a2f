"""What the report of a run tells: figures with intervals, policies, who judged, how training went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    not_at_length: str = ""
    """Why there is no win rate at equal length; empty where there is one, or nothing was measured."""

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
    why_no_position: str = ""
    """Where there are no figures of position: the sentence that stands in their place."""
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


def estimate(value: Any) -> Est | None:
    """A figure from JSON: an estimate's mapping or a bare number; None where it is not known."""
    if isinstance(value, Mapping):
        if not is_number(value.get("value")):
            return None
        low, high = (float(value[k]) if is_number(value.get(k)) else None for k in ("low", "high"))
        n = int(value["n"]) if is_number(value.get("n")) else None
        return Est(float(value["value"]), low, high, n, tuple(map(str, value.get("notes") or ())))
    return Est(float(value)) if is_number(value) else None


def display(name: str) -> str:
    return DISPLAY.get(name, name)


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
