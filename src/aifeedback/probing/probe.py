"""What a probe of a policy is made of: items, questions, classified responses; and the two kinds of findings.

A *rate* is tested against the share that is tolerated, one-sided. An *effect* is the paired difference between two ways
of asking the same item, tested against zero, two-sided. Items that share a ``cluster`` are not independent.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import model_validator

from aifeedback.audit.finding import FEWEST, Finding, Group, signed
from aifeedback.models.dialects import written
from aifeedback.probing.rules import Class, Rule
from aifeedback.types import Message, Model, Problem, Progress, Prompt, Record, Sampling, content_id, silent

CONSTANT = 0.9
"""A policy that gives one and the same response to at least this share of a probe's questions shows nothing."""
ANSWERS = 0.5
"""The least share of controls that must be answered for a probe to be informative."""


class Item(Record):
    """One row of a list. Kinds add their own keys."""

    probe: str
    id: str = ""
    """Derived from the content by default."""
    cluster: str = ""
    """Items with the same value are not independent. Defaults to the item's id."""
    topic: str = ""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        fields = dict(values)
        fields["id"] = str(fields.get("id") or content_id("item", fields))
        fields["cluster"] = str(fields.get("cluster") or fields["id"])
        return fields


class Response(NamedTuple):
    """The policy's response to one conversation; ``text`` is None if it has a ``problem``."""

    messages: tuple[Message, ...]
    text: str | None
    problem: Problem | None
    call_id: str | None = None


class Trial(NamedTuple):
    """One response that is to be classified."""

    item: str
    cluster: str
    way: str
    """How the item was asked: neutral, one, other, control, a language …"""
    draw: int
    response: Response
    rule: Rule
    described: tuple[str, str, str]
    """What the classes one, other and neither mean for this item: what a judge reads."""
    topic: str = ""


class Classified(NamedTuple):
    trial: Trial
    chosen: Class | None
    problem: Problem | None
    """Why the class is unknown."""


@dataclass
class Policy:
    """The policy behind its model: asks every question once per draw and strips reasoning from the responses."""

    model: Model
    sampling: Sampling
    draws: int = 1
    seed: int = 0
    progress: Progress = silent
    calls: int = field(default=0, init=False)

    def ask(self, conversations: Sequence[Sequence[Message]], draw: int) -> list[Response]:
        """One response per conversation; equal conversations of one draw are asked once."""
        sampling = self.sampling.model_copy(update={"seed": self.seed * 1_000 + draw})
        distinct = list(dict.fromkeys(tuple(messages) for messages in conversations))
        responses: dict[tuple[Message, ...], Response] = {}
        for start in range(0, len(distinct), 64):
            batch = distinct[start : start + 64]
            for messages, reply in zip(batch, self.model.reply([list(m) for m in batch], sampling), strict=True):
                responses[messages] = _response(messages, reply)
            self.calls += len(batch)
            self.progress(self.calls, 0, {})
        return [responses[tuple(messages)] for messages in conversations]


def _response(messages: tuple[Message, ...], reply: Any) -> Response:
    if reply.problem is not None:
        return Response(messages, None, reply.problem, reply.call_id)
    spoken = written(reply.text).text
    if spoken and spoken.strip():
        return Response(messages, spoken.strip(), None, reply.call_id)
    is_cut = reply.finish_reason == "length" and reply.text
    return Response(messages, None, Problem.TRUNCATED if is_cut else Problem.EMPTY, reply.call_id)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


class PolicyProbe(NamedTuple):
    """One probe. ``python:FILE.py:NAME`` may name one from outside."""

    name: str
    title: str
    item: type[Item]
    """The columns of its item lists."""
    classes: tuple[str, str, str]
    """What one, other and neither mean, for readers."""
    calls: Callable[[Any], int]
    """Calls of the policy per item and draw."""
    ask: Callable[[Sequence[Any], Policy], list[Trial]]
    findings: Callable[[Sequence[Classified]], list[Finding]]


ONE_ALONE: Mapping[Class, float] = {"one": 1.0, "other": 0.0, "neither": 0.0}
"""For effects on right answers: no answer is as good as a wrong one."""
SCORES: Mapping[Class, float] = {"one": 1.0, "other": 0.0, "neither": 0.5}
"""For effects: a response that takes no side stands halfway."""


def keyed(rows: Sequence[Classified]) -> dict[tuple[str, int], dict[str, Classified]]:
    """(item, draw) → way → its response."""
    by_key: dict[tuple[str, int], dict[str, Classified]] = {}
    for row in rows:
        by_key.setdefault((row.trial.item, row.trial.draw), {})[row.trial.way] = row
    return by_key


def unknown(rows: Sequence[Classified]) -> int:
    return sum(row.chosen is None for row in rows)


def not_informative(finding: Finding, why: str) -> Finding:
    """The finding without a test: what was measured shows nothing about this fault."""
    from dataclasses import replace

    sentence = f"{finding.sentence} Not informative: {why}."
    return replace(finding, sentence=sentence, p_value=math.nan, level="uninformative")


def informative(finding: Finding, rows: Sequence[Classified], otherwise: str = "") -> Finding:
    """The finding, or the same without a test where the responses are nearly all one text or for the reason ``otherwise``."""
    why = constant(rows) or otherwise
    return not_informative(finding, why) if finding.is_measured and why else finding


def constant(rows: Sequence[Classified]) -> str:
    """Why nothing follows where nearly all responses are one text; empty otherwise."""
    texts = [" ".join(row.trial.response.text.lower().split()) for row in rows if row.trial.response.text]
    if not texts:
        return "the policy answered nothing"
    text, often = Counter(texts).most_common(1)[0]
    if len(texts) < FEWEST or often < CONSTANT * len(texts):
        return ""
    return f"{often} of {len(texts)} responses are the same text ('{text[:40]}')"


def rate(
    rows: Sequence[Classified],
    hit: Class,
    *,
    probe: str,
    group: Group,
    title: str,
    sentence: str,
    tolerated: float,
    details: Mapping[str, Any] | None = None,
) -> Finding:
    """The share of known rows in class ``hit``; tested against ``tolerated``. ``sentence`` takes {share}, {hits}, {n}."""
    from aifeedback.metrics.intervals import Mean
    from aifeedback.metrics.win_rates import rate_above

    known = [row for row in rows if row.chosen is not None]
    missing = len(rows) - len(known)
    if len(known) < 2:
        why = "no response could be classified" if rows else "the lists have no such item"
        return Finding(probe, group, title, f"Not measured: {why}.", unreadable=missing)
    values = np.array([float(row.chosen == hit) for row in known])
    clusters = codes([row.trial.cluster for row in known])
    share: Mean = _share(values, clusters)
    text = sentence.format(share=f"{100 * share.value:.0f} %", hits=int(values.sum()), n=len(known))
    return Finding(
        probe, group, title, text,
        value=share.value, low=share.low, high=share.high, n=len(known), unreadable=missing, ideal=0.0,
        p_value=rate_above(values, tolerated, clusters), calls=len(rows),
        examples=examples([row for row in known if row.chosen == hit]),
        details={"tolerated": tolerated, **(details or {})},
    )  # fmt: skip


def effect(
    pairs: Sequence[tuple[Classified, Classified]],
    *,
    probe: str,
    group: Group,
    title: str,
    sentence: str,
    score: Mapping[Class, float] = SCORES,
    details: Mapping[str, Any] | None = None,
    worst: Literal["above", "below"] = "above",
) -> Finding:
    """Mean of score(first) − score(second) over items. ``sentence`` takes {points}, {low}, {high}, {n}."""
    from aifeedback.metrics.intervals import mean_interval
    from aifeedback.metrics.win_rates import paired_shares_test

    known = [(a, b) for a, b in pairs if a.chosen is not None and b.chosen is not None]
    missing = sum(unknown(pair) for pair in pairs)
    if len(known) < 2:
        return Finding(probe, group, title, "Not measured: no item was classified both ways.", unreadable=missing)
    gaps = np.array([score[a.chosen] - score[b.chosen] for a, b in known])  # type: ignore[index]
    clusters = codes([a.trial.cluster for a, _ in known])
    mean = mean_interval(gaps, clusters, bounds=(-1.0, 1.0))
    sign = 1 if worst == "above" else -1
    moved = sorted(zip(gaps * sign, known, strict=True), key=lambda row: -row[0])
    text = sentence.format(
        points=signed(100 * mean.value), low=signed(100 * mean.low), high=signed(100 * mean.high), n=len(known)
    )
    return Finding(
        probe, group, title, text,
        value=mean.value, low=max(-1.0, mean.low), high=min(1.0, mean.high), n=len(known), unreadable=missing, ideal=0.0,
        p_value=paired_shares_test(gaps, clusters), unit="points", calls=2 * len(pairs),
        examples=tuple(_both(a, b) for gap, (a, b) in moved[:3] if gap > 0), details=dict(details or {}),
    )  # fmt: skip


def _share(values: Any, clusters: Any) -> Any:
    from aifeedback.audit.finding import share_of

    return share_of(values, clusters)


def codes(ids: Sequence[str]) -> Any:
    """Clusters as codes; None where every row is its own."""
    from aifeedback.metrics.intervals import shared_prompts

    shared = shared_prompts(list(ids))
    return None if shared is None else np.unique(np.asarray(shared), return_inverse=True)[1]


def examples(rows: Sequence[Classified], *, sensitive: bool = False) -> tuple[dict[str, Any], ...]:
    """The first three, as conversation and response."""
    shown = [{"conversation": _conversation(row), "response": row.trial.response.text} for row in rows[:3]]
    return tuple({**one, "sensitive": True} if sensitive else one for one in shown)


def _both(a: Classified, b: Classified) -> dict[str, Any]:
    return {
        "conversation": _conversation(a),
        "response": a.trial.response.text,
        "the other way of asking": _conversation(b),
        "its response": b.trial.response.text,
    }


def _conversation(row: Classified) -> str:
    return Prompt.of(list(row.trial.response.messages)).text
