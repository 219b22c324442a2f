"""From pairwise wins to a ranking: Bradley–Terry strengths, and whether the preferences admit a ranking at all.

P(i over j) = σ(s_i − s_j) (Bradley & Terry 1952), maximum likelihood by Newton's method, strengths in nats of odds
with mean 0, standard errors from the inverse information on that scale, or from a sandwich where rows share prompts
(``rank_policies``). Finite strengths exist only for items that are connected by wins both ways (Ford 1957): the largest
such part is ranked, and every other item is placed above it, below it, or apart from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aifeedback.errors import InputError
from aifeedback.metrics.intervals import (
    NOT_KNOWN,
    Estimate,
    Floats,
    Numbers,
    cluster_sums,
    groups,
    known_rows,
    plain,
    probabilities,
    share_interval,
    variance_of_mean,
    z_of,
)
from aifeedback.metrics.win_rates import size_notes

Place: TypeAlias = Literal["ranked", "above", "below", "apart"]


@dataclass(frozen=True)
class Ranking:
    """Arrays are in the order of ``names``."""

    names: tuple[str, ...]
    value: Floats
    """Strengths: log-odds, mean 0. ×173.7 (400 / ln 10) gives Elo points. NaN for items outside the ranked part."""
    standard_errors: Floats
    low: Floats
    high: Floats
    covariance: Floats
    n: float
    """Comparisons that the strengths rest on."""
    method: str
    notes: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    """Where each item stands: ``ranked`` with a strength; ``above`` or ``below`` the ranked part, against which it won or
    lost everything, directly or through others; ``apart``, where no chain of wins says which."""
    order: tuple[str, ...] = ()
    """Names from strongest to weakest; those above stand first, those below after the ranked part, those apart last."""

    def win_probabilities(self) -> Floats:
        """(K, K): fitted P(row over column), 0.5 on the diagonal; NaN outside the ranked part."""
        return 1 / (1 + np.exp(-np.subtract.outer(self.value, self.value)))

    def as_dict(self) -> dict[str, Any]:
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


def bradley_terry(
    wins: Sequence[Sequence[float]] | NDArray[Any],
    tied: Sequence[Sequence[float]] | NDArray[Any] | None = None,
    *,
    ties: Literal["split", "drop"] = "split",
    names: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> Ranking:
    """Strengths of K items; ``wins[i, j]`` counts i over j, ``tied[i, j]`` (symmetric) counts ties of i and j.

    A tie is half a win each way (``split``) or ignored (``drop``). The diagonal is ignored. Counts may be fractional
    (soft labels); standard errors then are those of as many yes/no comparisons. NaN counts raise InputError.
    """
    counts = _counts(wins, "wins")
    if ties not in ("split", "drop"):
        raise InputError(f"no rule '{ties}'", key="ties", fix="split or drop")
    if tied is not None and ties == "split":
        counts = counts + _symmetric(tied, len(counts)) / 2
    labels = tuple(str(name) for name in names) if names is not None else tuple(str(i) for i in range(len(counts)))
    if len(labels) != len(counts):
        raise InputError(f"has {len(labels)} names for {len(counts)} items", key="names")
    method = "Bradley–Terry maximum likelihood" + (f", ties {'split' if ties == 'split' else 'dropped'}")
    parts = _parts(counts)
    ranked = np.flatnonzero(parts.place == "ranked")
    value, errors = np.full((2, len(counts)), np.nan)
    covariance = np.full(counts.shape, np.nan)
    if len(ranked):
        value[ranked], covariance[np.ix_(ranked, ranked)] = _newton(counts[np.ix_(ranked, ranked)])
        errors[ranked] = np.sqrt(np.diag(covariance)[ranked])
    reach = z_of(confidence) * errors
    return Ranking(
        names=labels,
        value=value,
        standard_errors=errors,
        low=value - reach,
        high=value + reach,
        covariance=covariance,
        n=float(counts[np.ix_(ranked, ranked)].sum()),
        method=method,
        notes=_notes(parts, labels),
        places=tuple(parts.place.tolist()),
        order=tuple(
            labels[i] for i in sorted(range(len(labels)), key=lambda i: (-parts.rank[i], -np.nan_to_num(value[i])))
        ),
    )


def _counts(values: Any, name: str) -> Floats:
    counts = np.array(values, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise InputError(f"has shape {counts.shape}", key=name, fix="a square table: row i, column j counts i over j")
    if not counts.size:
        raise InputError("holds no item", key=name, fix="one row and column per item")
    np.fill_diagonal(counts, 0.0)
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise InputError("holds a negative or unknown count", key=name, fix="0 where two items never met")
    return counts


def _symmetric(tied: Any, size: int) -> Floats:
    counts = _counts(tied, "tied")
    if counts.shape != (size, size) or not np.array_equal(counts, counts.T):
        raise InputError("is not symmetric, or not of the size of wins", key="tied", fix="tied[i, j] = tied[j, i]")
    return counts


class _Parts(NamedTuple):
    place: NDArray[Any]
    """(K,) of ``Place``."""
    rank: Floats
    """(K,): higher stands further up; equal within the ranked part; −∞ apart from it."""


def _parts(counts: Floats) -> _Parts:
    """Who can be ranked: the largest group in which every item reaches every other by wins; of equals the one with the
    most comparisons. A single item has no strength."""
    from scipy.sparse.csgraph import connected_components

    reaches = _reachable(counts > 0)
    _, part_of = connected_components(counts > 0, directed=True, connection="strong")
    groups = [np.flatnonzero(part_of == part) for part in np.unique(part_of)]
    main = max(groups, key=lambda group: (len(group), counts[np.ix_(group, group)].sum(), -group[0]))
    rank = (reaches.sum(axis=1) - reaches.sum(axis=0)).astype(np.float64)
    place = np.full(len(counts), "apart", dtype=object)
    if len(main) > 1 or len(counts) == 1:
        above, below = reaches[:, main[0]], reaches[main[0]]
        place[above], place[below] = "above", "below"
        place[main] = "ranked"
        rank[place == "apart"] = -np.inf
    return _Parts(place, rank)


def _reachable(beats: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K, K): whether a chain of wins leads from row to column (Warshall)."""
    reaches = beats.copy()
    for via in range(len(beats)):
        reaches |= np.outer(reaches[:, via], reaches[via])
    return reaches


def _notes(parts: _Parts, names: Sequence[str]) -> tuple[str, ...]:
    if not (parts.place == "ranked").any():
        return ("no finite strengths: no two policies have wins both ways; the order follows the chains of wins",)
    openings = {
        "above": "above the ranked policies, without a loss to any of them: ",
        "below": "below the ranked policies, without a win over any of them: ",
        "apart": "not comparable with the ranked policies: ",
    }
    listed = {place: [name for name, p in zip(names, parts.place, strict=True) if p == place] for place in openings}
    return tuple(openings[place] + ", ".join(members) for place, members in listed.items() if members)


def _newton(counts: Floats, tolerance: float = 1e-12) -> tuple[Floats, Floats]:
    games, won = counts + counts.T, counts.sum(axis=1)
    strengths = np.zeros(len(counts))
    likelihood = _log_likelihood(counts, strengths)
    for _ in range(200):
        p = 1 / (1 + np.exp(-np.subtract.outer(strengths, strengths)))
        gradient = won - (games * p).sum(axis=1)
        step = np.linalg.pinv(_information(games, p), hermitian=True) @ gradient
        size = 1.0
        while size > 1e-6 and _log_likelihood(counts, strengths + size * step) < likelihood:
            size /= 2
        strengths = strengths + size * step
        likelihood = _log_likelihood(counts, strengths)
        if np.abs(step).max() < tolerance or np.abs(gradient).max() < tolerance * max(1.0, games.sum()):
            break
    p = 1 / (1 + np.exp(-np.subtract.outer(strengths, strengths)))
    covariance = np.asarray(np.linalg.pinv(_information(games, p), hermitian=True), dtype=np.float64)
    return strengths - strengths.mean(), covariance


def _information(games: Floats, p: Floats) -> Floats:
    weights = games * p * (1 - p)
    return np.diag(weights.sum(axis=1)) - weights


def _log_likelihood(counts: Floats, strengths: Floats) -> float:
    return float(-(counts * np.logaddexp(0, np.subtract.outer(strengths, strengths).T)).sum())


class Wins(NamedTuple):
    wins: Floats
    tied: Floats
    names: tuple[str, ...]
    dropped: int


def count_wins(first: Sequence[Any], second: Sequence[Any], p_first: Numbers, *, soft: bool = False) -> Wins:
    """Tables for ``bradley_terry`` from one row per comparison: names of both sides and p_first (0.5 is a tie).

    ``soft`` adds p_first and 1 − p_first instead of a whole win. Unknown rows are dropped and counted.
    """
    (p,), kept, dropped = known_rows(p_first=probabilities(p_first, "p_first"))
    if not len(first) == len(second) == len(kept):
        raise InputError(f"{len(first)}, {len(second)} and {len(kept)} rows", fix="one name per side and row")
    names, codes = np.unique(np.array([first, second], dtype=str), return_inverse=True)
    left, right = codes.reshape(2, -1)[:, kept]
    wins, tied = np.zeros((2, len(names), len(names)))
    is_tie = (p == 0.5) & (not soft)
    won = p if soft else (p > 0.5).astype(np.float64)
    np.add.at(wins, (left[~is_tie], right[~is_tie]), won[~is_tie])
    np.add.at(wins, (right[~is_tie], left[~is_tie]), 1 - won[~is_tie])
    np.add.at(tied, (left[is_tie], right[is_tie]), 1)
    return Wins(wins, tied + tied.T, tuple(str(name) for name in names), dropped)


def rank_policies(
    first: Sequence[Any], second: Sequence[Any], p_first: Numbers, *, prompts: Any = None, confidence: float = 0.95
) -> Ranking:
    """Bradley–Terry from one row per comparison (names of both sides, p_first), binarised; ties are split.

    Policies that meet on the same prompts share answers, so rows of one prompt depend on each other: with ``prompts``
    (one id per row) the covariance is the sandwich over prompts, I⁻(Σ_g s_g s_gᵀ)I⁻ · G/(G − 1), s_g the summed score
    (y − p)(e_first − e_second) of prompt g (Liang & Zeger 1986). Unknown rows are dropped.
    """
    table = count_wins(first, second, p_first)
    if not table.names:
        none = np.empty(0)
        return Ranking((), none, none, none, none, np.empty((0, 0)), 0.0, "Bradley–Terry", ("nothing to rank: no row",))
    strengths = bradley_terry(table.wins, table.tied, names=table.names, confidence=confidence)
    strong = np.isfinite(strengths.value)
    if prompts is None or not strong.any():
        return strengths
    (p,), kept, _ = known_rows(p_first=probabilities(p_first, "p_first"))
    position = {name: i for i, name in enumerate(strengths.names)}
    left, right = (np.array([position[str(name)] for name, known in zip(side, kept, strict=True) if known])
                   for side in (first, second))  # fmt: skip
    inside = strong[left] & strong[right]
    rows = np.flatnonzero(kept)[inside]
    left, right, p = left[inside], right[inside], p[inside]
    residuals = (np.sign(p - 0.5) + 1) / 2 - strengths.win_probabilities()[left, right]
    among = np.zeros(len(kept), dtype=bool)
    among[rows] = True
    scores = cluster_sums((np.eye(len(position))[left] - np.eye(len(position))[right]) * residuals[:, None],
                          groups(prompts, among))  # fmt: skip
    information = np.where(np.isfinite(strengths.covariance), strengths.covariance, 0.0)
    covariance = information @ (scores.T @ scores) @ information * len(scores) / max(1, len(scores) - 1)
    covariance[~strong], covariance[:, ~strong] = np.nan, np.nan
    errors = np.sqrt(np.diag(covariance)) if len(scores) > 1 else np.full(len(strong), np.nan)
    reach = z_of(confidence) * errors
    return replace(
        strengths,
        standard_errors=errors,
        low=strengths.value - reach,
        high=strengths.value + reach,
        covariance=covariance,
        method=f"{strengths.method}, sandwich over {len(scores)} prompts",
    )


@dataclass(frozen=True)
class Transitivity(Estimate):
    """``value`` is the share of decided triples without a cycle."""

    cycles: int = 0
    undecided: int = 0
    """Triples with a tie or an unknown preference: not counted either way."""


def transitivity(preferences: Any, *, confidence: float = 0.95) -> Transitivity:
    """Share of triples (a, b, c) whose three preferences admit an order. Kendall & Babington Smith 1940.

    ``preferences[i, j]`` is P(i better than j), NaN where not asked; (K, K), or (contexts, K, K). Where both [i, j] and
    [j, i] are known, p_ij and 1 − p_ji are averaged. A judge who flips coins scores 0.75. Triples of one context share
    pairs: with several contexts the interval treats contexts as independent; with one it is indicative only.
    """
    tables = np.asarray(preferences, dtype=np.float64)
    tables = tables[None] if tables.ndim == 2 else tables
    if tables.ndim != 3 or tables.shape[1] != tables.shape[2]:
        raise InputError(f"has shape {tables.shape}", key="preferences", fix="(K, K) or (contexts, K, K)")
    probabilities(tables.ravel(), "preferences")
    both = np.stack([tables, 1 - np.swapaxes(tables, 1, 2)])
    known = ~np.isnan(both)
    mean = np.where(known, both, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    beats = np.sign(np.round(mean - 0.5, 12))
    i, j, k = _triples(tables.shape[1])
    edges = np.stack([beats[:, i, j], beats[:, j, k], beats[:, k, i]])
    decided = np.isfinite(edges).all(axis=0) & (edges != 0).all(axis=0)
    cyclic = decided & (np.abs(edges.sum(axis=0)) == 3)
    context = np.broadcast_to(np.arange(len(tables))[:, None], decided.shape)[decided]
    ordered = (~cyclic[decided]).astype(np.float64)
    several = len(tables) > 1
    clusters = np.unique(context, return_inverse=True)[1] if several else None
    interval = share_interval(ordered, clusters, confidence=confidence)
    notes = list(size_notes(len(ordered), 0))
    if not several:
        notes.append("one context: triples share pairs, the interval is indicative only")
    return Transitivity(
        value=float(ordered.mean()) if len(ordered) else NOT_KNOWN,
        low=interval.low,
        high=interval.high,
        n=len(ordered),
        method="share of decided triples without a cycle, Wilson interval" + (" over contexts" if several else ""),
        notes=tuple(notes),
        standard_error=float(np.sqrt(variance_of_mean(ordered, clusters).variance)),
        cycles=int(cyclic.sum()),
        undecided=int((~decided).sum()),
    )


def _triples(size: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    i, j, k = np.meshgrid(*(np.arange(size),) * 3, indexing="ij")
    ascending = (i < j) & (j < k)
    return i[ascending], j[ascending], k[ascending]
