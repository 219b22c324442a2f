"""Several judges or prompts as one: mean, median or learned weights, with the disagreement kept.

Every member's judgements stay in the preference, so that who said what can be counted later (``disagreement``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from aifeedback.config import Config, parse
from aifeedback.errors import InputError
from aifeedback.models.pending import each_before_pending
from aifeedback.storage import write_json
from aifeedback.types import Comparison, Labeler, Preference, Problem


class Disagreement(NamedTuple):
    """How far the judges of one preference are apart."""

    by_judge: Mapping[str, float]
    """Mean p_first of each judge that was read."""
    spread: float
    """Largest minus smallest, in [0, 1]."""
    minority: float
    """Share of the judges on the smaller side of one half, in [0, 0.5]; a judge exactly at one half is on neither."""


class Panel:
    """A ``Labeler`` made of labelers. A pair that fewer than ``quorum`` members could read stays unknown."""

    def __init__(
        self,
        members: Sequence[Labeler],
        *,
        combine: Literal["mean", "median"] = "mean",
        weights: Sequence[float] | None = None,
        quorum: int | None = None,
        max_spread: float = 1.0,
        name: str | None = None,
    ) -> None:
        """``quorum`` is all of them when not given; a spread above ``max_spread`` counts as no verdict."""
        names = [member.name for member in members]
        if not members or len(set(names)) < len(names):
            raise InputError("panel members need different names", fix="give each prompt file a different name")
        if weights is not None and (len(weights) != len(members) or combine == "median" or not sum(weights) > 0):
            raise InputError("a panel's weights are one per member, not all 0, and belong to the mean")
        if quorum is not None and not 1 <= quorum <= len(members):
            raise InputError(f"a quorum of {quorum} does not fit a panel of {len(members)}", key="quorum")
        self._members, self._combine, self._max_spread = tuple(members), combine, max_spread
        self._weights = tuple(weights) if weights is not None else (1.0,) * len(members)
        self._quorum = quorum or len(members)
        self._name = name or f"panel({combine}: {', '.join(names)})"

    @property
    def new_questions(self) -> int | None:
        """Questions put to the members' models, without those that a journal answered; None where one does not count."""
        counts = [getattr(member, "new_questions", None) for member in self._members]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def name(self) -> str:
        return self._name

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """Ask every member about every pair."""
        labels = each_before_pending(partial(member.label, comparisons) for member in self._members)
        return [self._joined(c, [own[i] for own in labels]) for i, c in enumerate(comparisons)]

    def _joined(self, comparison: Comparison, labels: Sequence[Preference]) -> Preference:
        known = [(p.p_first, w) for p, w in zip(labels, self._weights, strict=True) if p.p_first is not None]
        gaps = [p.position_gap for p in labels if p.position_gap is not None]
        p_first, problem = self._verdict(known)
        return Preference(
            comparison_id=comparison.id,
            source=self._name,
            p_first=p_first,
            judgements=tuple(j for p in labels for j in p.judgements),
            position_gap=math.fsum(gaps) / len(gaps) if len(gaps) == len(labels) else None,
            problem=problem,
        )

    def _verdict(self, known: Sequence[tuple[float, float]]) -> tuple[float | None, Problem | None]:
        values = [p for p, _ in known]
        total = math.fsum(w for _, w in known)
        if len(known) < self._quorum or total <= 0:
            return None, Problem.MISSING
        if max(values) - min(values) > self._max_spread:
            return None, Problem.DISAGREEMENT
        if self._combine == "median":
            return median(values), None
        return min(max(math.fsum(p * w for p, w in known) / total, 0.0), 1.0), None


def disagreement(preference: Preference) -> Disagreement | None:
    """How much the panel members disagree; None if fewer than two gave a readable verdict."""
    by_judge: dict[str, list[float]] = {}
    for judgement in preference.judgements:
        if judgement.p_first is not None:
            by_judge.setdefault(judgement.judge, []).append(judgement.p_first)
    means = {judge: math.fsum(values) / len(values) for judge, values in by_judge.items()}
    if len(means) < 2:
        return None
    above, below = sum(p > 0.5 for p in means.values()), sum(p < 0.5 for p in means.values())
    values = list(means.values())
    return Disagreement(means, max(values) - min(values), min(above, below) / len(means))


class LearnedWeights(Config):
    """A panel's weights, learned on pairs that people labelled too, with what they gain on pairs held out."""

    members: Mapping[str, float]
    """Labeler's name → weight; they sum to 1."""
    n: int
    folds: int
    seed: int
    log_loss_equal: float
    """Of equal weights, in nats."""
    log_loss_learned: float
    """Of learned weights, for pairs that they were not learned on."""

    def of(self, names: Sequence[str]) -> list[float]:
        """The weights of these members, in order. Raises InputError for other members than those learned for."""
        if set(names) != set(self.members):
            known = ", ".join(self.members)
            raise InputError(f"these weights are of {known}, the panel is {', '.join(names)}", key="weights")
        return [self.members[name] for name in names]

    def save(self, path: str | PathLike[str]) -> Path:
        target = Path(path)
        write_json(target, self.model_dump(mode="json"))
        return target

    @classmethod
    def load(cls, path: str | PathLike[str]) -> LearnedWeights:
        """Raises InputError, naming the file, if it is missing or has no weights."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as broken:
            raise InputError(f"no panel weights can be read: {broken}", file=path) from None
        return parse(cls, values, file=path, error=InputError)


def fit_weights(
    preferences: Sequence[Preference], human: Sequence[float | None], *, folds: int = 5, seed: int = 0
) -> LearnedWeights:
    """Weights for the members of the panel that gave these preferences; their worth is measured by cross-validation.

    A member's p_first is the mean of its judgements. Only pairs that all members and people labelled are used.
    Raises InputError below 20 of them, or where the preferences are of fewer than two judges.
    """
    both = [
        (apart.by_judge, h)
        for p, h in zip(preferences, human, strict=True)
        if h is not None and (apart := disagreement(p))
    ]
    names = list(dict.fromkeys(name for by_judge, _ in both for name in by_judge))
    whole = [([by_judge[n] for n in names], h) for by_judge, h in both if len(by_judge) == len(names)]
    if len(whole) < max(20, folds):
        what = f"{len(whole)} pairs have a verdict of people and of every member"
        raise InputError(what, fix=f"weights need at least {max(20, folds)}: label such pairs with the whole panel")
    p, h = np.array([row for row, _ in whole]).T, np.array([verdict for _, verdict in whole])
    fold_of = np.random.default_rng(seed).permutation(len(h)) % folds
    held_out = np.empty(len(h))
    for fold in range(folds):
        out = fold_of == fold
        held_out[out] = learn_weights(p[:, ~out], h[~out]) @ p[:, out]
    return LearnedWeights(
        members=dict(zip(names, (float(w) for w in learn_weights(p, h)), strict=True)),
        n=len(h),
        folds=folds,
        seed=seed,
        log_loss_equal=_log_loss(p.mean(axis=0), h),
        log_loss_learned=_log_loss(held_out, h),
    )


def _log_loss(p: np.ndarray, human: np.ndarray) -> float:
    q = np.clip(p, 1e-6, 1 - 1e-6)
    return float(-np.mean(human * np.log(q) + (1 - human) * np.log1p(-q)))


def learn_weights(p_members: np.ndarray, human: np.ndarray, *, iterations: int = 2000) -> np.ndarray:
    """Weights that sum to 1 and make the weighted mean most likely to give the human labels (maximum likelihood).

    ``p_members`` has shape (M, N), ``human`` shape (N,) in [0, 1]; both without NaN. The likelihood of a mixture is
    concave in its weights; expectation maximisation climbs it: w ← mean of each member's share in what was seen.
    """
    if p_members.ndim != 2 or p_members.shape[1:] != human.shape or human.size == 0:
        raise InputError("members have shape (M, N) and the human labels (N,), N at least 1")
    p = np.clip(p_members, 1e-9, 1 - 1e-9)
    weights = np.full(len(p), 1.0 / len(p))
    for _ in range(iterations):
        first, second = weights[:, None] * p, weights[:, None] * (1 - p)
        share = human * first / first.sum(axis=0) + (1 - human) * second / second.sum(axis=0)
        updated = share.mean(axis=1)
        if float(np.abs(updated - weights).max()) < 1e-12:
            break
        weights = updated
    return weights
