"""How good each rater is: agreement with the others and with gold items, speed, straight-lining, drift, repeats.

Agreement is compared with two numbers. *Chance* is what the rater would reach with the same verdicts in random order;
*the others' agreement* is how often the other raters agree among themselves on the same items. The verdict follows
declared rules (``RULES``): ✗ a rater whose verdicts carry no information, ! one to look at, ✓ neither. Tests are
corrected for the number of raters (Holm). Nobody is excluded here: that is a decision to be written down.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from aifeedback.annotation.items import Catalogue, Item, current, item_id
from aifeedback.annotation.labeler import verdict
from aifeedback.metrics.intervals import Floats, special
from aifeedback.types import Rating

FEW = 20
"""Items below which a rater is not judged by agreement."""
FEW_GOLD = 10
COPIED = 0.95
"""Agreement of two raters from which on one may have copied the other."""
READING = 50.0
"""Characters per second, about 600 words a minute: who is faster has not read the texts."""
RULES = (
    f"✗ with at least {FEW} items: agreement not above chance (p > 0.05) and below the others' (one-sided p < 0.05)",
    f"✗ with at least {FEW_GOLD} gold items: the interval of the share right reaches down to 0.5 and ends below 0.8",
    f"✗ with at least {FEW} decided pairs: the same position chosen in 90 % or more",
    "! below the others' agreement (adjusted p < 0.05), or not above chance with only one other rater",
    "! one position preferred (adjusted p < 0.01)",
    f"! faster than {READING:.0f} characters per second in more than half of the items",
    "! agreement falls from the first half to the second (adjusted p < 0.05)",
    f"! the same value for all of at least {FEW} single responses, where others vary",
    f"! the same verdicts as one other rater on 95 % or more of at least {FEW} pairs or rankings, against the rest "
    "(adjusted p < 0.01)",
)


class _Row(NamedTuple):
    """One item of one rater: agreement with each of the others, and how far these agree among themselves."""

    own: float
    others: float | None


class _Shared(NamedTuple):
    """One item and everyone who rated it."""

    item: Item
    place: dict[str, int]
    """Rater → row of ``agreement``."""
    agreement: Floats
    """(R, R) of every two raters; 1 on the diagonal."""
    verdicts: Counter[float]
    """How often each verdict was given."""

    def rest(self, counts: Floats) -> tuple[float, int]:
        """Sum and number of agreements over the pairs of raters that ``counts`` (R, R, of 0 and 1) keeps."""
        kept = np.triu(counts, 1)
        return float((self.agreement * kept).sum()), int(kept.sum())


def unsound(quality: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The raters marked ✗: the declared rule by which ``rate --export --exclude-unsound`` leaves raters out."""
    return sorted(rater for rater, one in quality.items() if one["verdict"] == "✗")


def rater_quality(items: Sequence[Item], ratings: Sequence[Rating]) -> dict[str, Any]:
    """Per rater the measurements, ``verdict`` and ``reasons``; ratings of other items are left out."""
    matched, _ = Catalogue(items).matched([r for r in ratings if r.purpose in ("rating", "gold")])
    by_id = {item.id: item for item in items}
    now = [r for r in current(matched) if _units(by_id[r.item_id], r)]
    by_rater: dict[str, list[Rating]] = defaultdict(list)
    for rating in now:
        by_rater[rating.rater].append(rating)
    again = [rating for rating in current(ratings) if rating.purpose == "repeat"]
    shared = _shared(now, by_id)
    names = sorted(by_rater)
    copied = _copied(shared, names)
    copies = frozenset(frozenset((rater, one["rater"])) for rater, one in copied.items())
    repeated: dict[str, list[Rating]] = defaultdict(list)
    for rating in again:
        repeated[rating.rater].append(rating)
    rows = _rows(shared, copies)
    measured = {
        rater: _measure(rater, by_rater[rater], shared, rows, by_id, repeated[rater], len(names)) for rater in names
    }
    for rater, one in measured.items():
        one["copied"] = copied.get(rater)
    for key in ("below_others", "position", "drift"):
        _adjust([one[key] for one in measured.values() if one[key] is not None])
    for one in measured.values():
        one["verdict"], one["reasons"] = _judged(one)
    return measured


def _measure(
    rater: str,
    own: Sequence[Rating],
    shared: Mapping[str, _Shared],
    rows_of: Mapping[tuple[str, str], _Row],
    items: Mapping[str, Item],
    again: Sequence[Rating],
    raters: int,
) -> dict[str, Any]:
    with_others = [rating for rating in own if (rater, rating.item_id) in rows_of]
    rows = [rows_of[rater, rating.item_id] for rating in with_others]
    seconds = [r.seconds for r in own if r.seconds is not None]
    chance = _chance(with_others, shared)
    return {
        "n": len(own),
        "agreement": _share([row.own for row in rows]),
        "chance": chance,
        "above_chance_p": _above(rows, chance),
        "below_others": _paired([row.own - row.others for row in rows if row.others is not None]),
        "gold": _gold(own, items),
        "repeats": _repeats(own, again, items),
        "median_seconds": median(seconds) if seconds else None,
        "too_fast": _too_fast(own, items),
        "position": _position(own, items),
        "same_value": _same_value(with_others, shared),
        "drift": _drift(rows),
        "raters": raters,
    }


def _shared(ratings: Sequence[Rating], items: Mapping[str, Item]) -> dict[str, _Shared]:
    """Item id → who rated it and how far every two of them agree: computed once, since raters are compared in pairs."""
    by_item: dict[str, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_item[rating.item_id].append(rating)
    shared: dict[str, _Shared] = {}
    for identity, own in by_item.items():
        item = items[identity]
        units = [_units(item, rating) for rating in own]
        units_RU = np.array(units, dtype=float)
        agreement_RR = _alike_all(item, units_RU[:, None, :], units_RU[None, :, :]).mean(-1)
        verdicts = Counter(value for row in units for value in row)
        shared[identity] = _Shared(item, {r.rater: place for place, r in enumerate(own)}, agreement_RR, verdicts)
    return shared


def _rows(shared: Mapping[str, _Shared], copies: frozenset[frozenset[str]]) -> dict[tuple[str, str], _Row]:
    """(rater, item id) → their row, where others rated the item too.

    A rater and a copy of them agree by definition: that says nothing about how far others agree.
    """
    rows: dict[tuple[str, str], _Row] = {}
    for identity, one in shared.items():
        size = len(one.place)
        if size < 2:
            continue
        counts_RR = np.ones((size, size))
        for pair in copies:
            if pair <= one.place.keys():
                a, b = (one.place[name] for name in pair)
                counts_RR[a, b] = counts_RR[b, a] = 0.0
        total, pairs = one.rest(counts_RR)
        np.fill_diagonal(counts_RR, 0.0)
        own_R, own_pairs_R = (one.agreement * counts_RR).sum(1), counts_RR.sum(1)
        with_others_R = (one.agreement.sum(1) - one.agreement.diagonal()) / (size - 1)
        for rater, place in one.place.items():
            left = pairs - int(own_pairs_R[place])
            others = (total - float(own_R[place])) / left if left else None
            rows[rater, identity] = _Row(float(with_others_R[place]), others)
    return rows


def _copied(shared: Mapping[str, _Shared], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rater → the other one with whom they agree too well, against how well all others agree on the same items.

    Which of the two copied is not known. Needs three raters: two who agree may both be right.
    """
    if len(names) < 3:
        return {}
    place_of = {name: place for place, name in enumerate(names)}
    size = (len(names), len(names))
    rated_RR, agreed_RR, rest_RR = (np.zeros(size) for _ in range(3))
    for one in shared.values():
        if one.item.scale is not None or len(one.place) < 3:  # without a third rater there is nothing to compare with
            continue
        places = np.ix_(*[[place_of[name] for name in one.place]] * 2)
        total, pairs = one.rest(np.ones_like(one.agreement))
        rated_RR[places] += 1
        agreed_RR[places] += one.agreement
        rest_RR[places] += (total - one.agreement) / (pairs - 1)
    tests: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for a, b in zip(*np.nonzero(np.triu(rated_RR >= FEW, 1)), strict=True):
        n, agreed, rest = int(rated_RR[a, b]), float(agreed_RR[a, b]), float(rest_RR[a, b] / rated_RR[a, b])
        # not a t test: agreement that is nearly 1 has next to no spread
        test = {"value": agreed / n - rest, "agreement": agreed / n, "n": n, "p_value": _at_least(agreed, n, rest)}
        tests.append(((str(names[a]), str(names[b])), test))
    _adjust([test for _, test in tests])
    worst: dict[str, dict[str, Any]] = {}
    for pair, test in tests:
        if test["agreement"] >= COPIED and test["value"] > 0 and test["p_adjusted"] < 0.01:
            for rater, other in (pair, pair[::-1]):
                if rater not in worst or worst[rater]["agreement"] < test["agreement"]:
                    worst[rater] = {**test, "rater": other}
    return worst


def _units(item: Item, rating: Rating) -> list[float]:
    """The verdict as numbers: one value, or one per pair of responses."""
    if rating.value is not None:
        return [rating.value]
    pairs = [verdict(rating, i, j) for i, j in combinations(range(len(item.answers)), 2)]
    return [p for p in pairs if p is not None]


def _alike_all(item: Item, one: Floats, other: Floats) -> Floats:
    """1 for the same verdict; on a scale of several values by distance."""
    if item.scale is None or item.scale.is_yes_no:
        return (one == other).astype(float)
    return 1.0 - np.abs(one - other) / (item.scale.high - item.scale.low)


def _alike(item: Item, one: float, other: float) -> float:
    return float(_alike_all(item, np.float64(one), np.float64(other)))  # type: ignore[arg-type]


def _agreement(item: Item, one: Rating, other: Rating) -> float:
    pairs = list(zip(_units(item, one), _units(item, other), strict=True))
    return sum(_alike(item, a, b) for a, b in pairs) / len(pairs)


def _chance(own: Sequence[Rating], shared: Mapping[str, _Shared]) -> float | None:
    """Agreement of the rater's verdicts with the others' on any item, the right one or not."""
    mine: dict[Any, Counter[float]] = defaultdict(Counter)
    theirs: dict[Any, Counter[float]] = defaultdict(Counter)
    example: dict[Any, Item] = {}
    for rating in own:
        one = shared[rating.item_id]
        kind = one.item.scale or "comparison"
        example[kind] = one.item
        verdicts = _units(one.item, rating)
        mine[kind].update(verdicts)
        theirs[kind].update(one.verdicts)
        theirs[kind].subtract(verdicts)
    total = sum(sum(c.values()) for c in mine.values())
    if not total:
        return None
    alike = 0.0
    for kind, counts in mine.items():
        against = sum(theirs[kind].values())
        alike += (
            sum(n * m * _alike(example[kind], a, b) for a, n in counts.items() for b, m in theirs[kind].items())
            / against
        )
    return alike / total


def _share(values: Sequence[float]) -> dict[str, Any] | None:
    """Mean of numbers in [0, 1] with its 95 % interval."""
    from aifeedback.metrics.intervals import share_interval

    if not values:
        return None
    interval = share_interval(np.array(values))
    return {"value": sum(values) / len(values), "low": interval.low, "high": interval.high, "n": len(values)}


def _above(rows: Sequence[_Row], chance: float | None) -> float | None:
    """One-sided p-value of agreement at chance against agreement above it: a t test, binomial where all agree alike."""
    if chance is None or len(rows) < 2:
        return None
    test = _paired([row.own - chance for row in rows])
    if test is None:
        return None
    if test["low"] is None:
        return _at_least(sum(row.own for row in rows), len(rows), chance)
    two_sided = test["p_value"]
    return two_sided / 2 if test["value"] > 0 else 1 - two_sided / 2


def _at_least(agreed: float, n: int, share: float) -> float:
    """Binomial probability of ``agreed`` of ``n`` or more."""
    return float(special().bdtrc(math.floor(agreed + 1e-9) - 1, n, min(share, 1.0))) if agreed >= 1 else 1.0


def _paired(differences: Sequence[float]) -> dict[str, Any] | None:
    """Mean difference with its t interval and two-sided p-value; None below two items."""
    from aifeedback.metrics.intervals import variance_of_mean

    if len(differences) < 2:
        return None
    values = np.array(differences)
    return _tested(float(values.mean()), *variance_of_mean(values))


def _tested(mean: float, variance: float, df: int) -> dict[str, Any]:
    from aifeedback.metrics.intervals import has_spread, t_of, t_test_p

    n = df + 1
    if not has_spread(variance):  # no spread says nothing of how sure the mean is
        return {"value": mean, "low": None, "high": None, "n": n, "p_value": 1.0}
    error = math.sqrt(variance)
    reach = t_of(0.95, df) * error
    return {"value": mean, "low": mean - reach, "high": mean + reach, "n": n, "p_value": t_test_p(mean / error, df)}


def _drift(rows: Sequence[_Row]) -> dict[str, Any] | None:
    """Change of agreement from the first half of the items to the second, against the others' where there are some."""
    from aifeedback.metrics.intervals import t_of, t_test_p

    values = [row.own - (row.others or 0.0) for row in rows if row.others is not None] or [row.own for row in rows]
    half = len(values) // 2
    if half < FEW // 2:
        return None
    first, second = np.array(values[:half]), np.array(values[half:])
    parts = [float(part.var(ddof=1)) / len(part) for part in (first, second)]
    change, variance = float(second.mean() - first.mean()), sum(parts)
    if variance == 0:
        return {"value": change, "low": None, "high": None, "n": len(values), "p_value": 1.0}
    df = variance**2 / sum(p**2 / (len(x) - 1) for p, x in zip(parts, (first, second), strict=True))
    reach = t_of(0.95, df) * math.sqrt(variance)
    p = float(t_test_p(change / math.sqrt(variance), df))
    return {"value": change, "low": change - reach, "high": change + reach, "n": len(values), "p_value": p}


def _gold(own: Sequence[Rating], items: Mapping[str, Item]) -> dict[str, Any] | None:
    right = []
    for rating in own:
        item = items[rating.item_id]
        if item.expected is None:
            continue
        agreed = item.expected.p_first
        if item.is_pair and agreed != 0.5:
            agreed = float(agreed > 0.5)
        right.append(_alike(item, _units(item, rating)[0], agreed))
    return _share(right)


def _repeats(own: Sequence[Rating], again: Sequence[Rating], items: Mapping[str, Item]) -> dict[str, Any] | None:
    """Share of repeated items with the same verdict as the first time."""
    first = {rating.item_id: rating for rating in own}
    same = []
    for rating in again:
        item = _original(rating, items)
        before = first.get(item.id) if item is not None else None
        match = Catalogue([item]).match(rating.model_copy(update={"item_id": item.id})) if item and before else None
        if item is not None and before is not None and match is not None and _units(item, match):
            same.append(_agreement(item, before, match))
    return _share(same)


def _original(rating: Rating, items: Mapping[str, Item]) -> Item | None:
    if rating.asks is None:
        return items.get(item_id(rating.prompt_id or "", rating.answers))
    return next(
        (i for i in items.values() if i.prompt.id == rating.prompt_id and i.texts == rating.answers and i.scale), None
    )


def _too_fast(own: Sequence[Rating], items: Mapping[str, Item]) -> float | None:
    timed = [(r.seconds, items[r.item_id]) for r in own if r.seconds is not None]
    if not timed:
        return None
    return sum(s < sum(len(a.text) for a in item.answers) / READING for s, item in timed) / len(timed)


def _position(own: Sequence[Rating], items: Mapping[str, Item]) -> dict[str, Any] | None:
    """Share of decided pairs in which the response shown first won. Orders are drawn, so it is ½ for who reads."""
    from aifeedback.metrics.intervals import share_interval
    from aifeedback.metrics.win_rates import sign_test

    decided = [r for r in own if items[r.item_id].is_pair and verdict(r) in (0.0, 1.0)]
    first = [float((verdict(r) == 1.0) == (r.order_shown[0] == 0)) for r in decided]
    if not first:
        return None
    interval, wins = share_interval(np.array(first)), int(sum(first))
    return {
        "value": wins / len(first),
        "low": interval.low,
        "high": interval.high,
        "n": len(first),
        "p_value": float(sign_test(wins, len(first) - wins)),
    }


def _same_value(own: Sequence[Rating], shared: Mapping[str, _Shared]) -> bool:
    """Whether every single response got one value, while the others gave another one in more than a fifth."""
    values = {r.value for r in own}
    if len(own) < FEW or len(values) != 1 or None in values:
        return False
    (value,) = values
    theirs = [
        (one.verdicts[float(value or 0.0)] - 1, one.verdicts.total() - 1) for r in own for one in (shared[r.item_id],)
    ]
    same, all_ = (sum(column) for column in zip(*theirs, strict=True))
    return all_ - same > all_ / 5


def _adjust(tests: Sequence[dict[str, Any]]) -> None:
    from aifeedback.metrics import holm

    if tests:
        for test, p in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
            test["p_adjusted"] = float(p)


def _judged(one: Mapping[str, Any]) -> tuple[str, list[str]]:
    """✗, ! or ✓ by RULES, and why."""
    bad, look = [], []
    below, agreement, position, gold = (one[key] for key in ("below_others", "agreement", "position", "gold"))
    p_above = one["above_chance_p"]
    at_chance = agreement is not None and agreement["n"] >= FEW and p_above is not None and p_above > 0.05
    lower = below if below is not None and below["n"] >= FEW and below["value"] < 0 else None
    # no correction where both must hold: a sound rater is far above chance
    if lower is not None and at_chance and lower["p_value"] / 2 < 0.05:
        bad.append("agrees with the others no more than chance")
    elif lower is not None and lower["p_adjusted"] < 0.05:
        look.append("agrees with the others less than they do among themselves")
    elif at_chance and one["raters"] == 2:
        look.append("the two raters agree no more than chance: one of them, or the task, is unclear")
    if gold is not None and gold["n"] >= FEW_GOLD and gold["low"] <= 0.5 and gold["high"] < 0.8:
        bad.append(f"{gold['value']:.0%} of {gold['n']} gold items right")
    if position is not None and position["n"] >= FEW:
        most = max(position["value"], 1 - position["value"])
        if most >= 0.9:
            bad.append(f"chose the same position in {most:.0%} of {position['n']} pairs")
        elif position["p_adjusted"] < 0.01:
            look.append(f"prefers one position ({most:.0%} of {position['n']} pairs)")
    if one["too_fast"] is not None and one["n"] >= FEW and one["too_fast"] > 0.5:
        look.append(f"too fast to have read the responses in {one['too_fast']:.0%} of the items")
    if one["drift"] is not None and one["drift"]["value"] < 0 and one["drift"]["p_adjusted"] < 0.05:
        look.append(f"agreement fell by {-one['drift']['value']:.2f} from the first half to the second")
    if one["copied"] is not None:
        same, n = one["copied"]["agreement"], one["copied"]["n"]
        look.append(
            f"gave the same verdict as {one['copied']['rater']} on {same:.0%} of {n} items: one may have copied"
        )
    if one["same_value"]:
        look.append("gave every response the same value")
    return "✗" if bad else "!" if look else "✓", [*bad, *look]
