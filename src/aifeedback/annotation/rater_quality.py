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

from aifeedback.annotation.items import Catalogue, Item, current, item_id
from aifeedback.annotation.labeler import verdict
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
    copied = _copied(now, by_id)
    copies = frozenset(frozenset((rater, one["rater"])) for rater, one in copied.items())
    measured = {
        rater: _measure(rater, own, now, by_id, [r for r in again if r.rater == rater], copies)
        for rater, own in sorted(by_rater.items())
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
    everyone: Sequence[Rating],
    items: Mapping[str, Item],
    again: Sequence[Rating],
    copies: frozenset[frozenset[str]],
) -> dict[str, Any]:
    others: dict[str, list[Rating]] = defaultdict(list)
    for rating in everyone:
        if rating.rater != rater:
            others[rating.item_id].append(rating)
    shared = [rating for rating in own if others[rating.item_id]]
    rows = [_row(items[r.item_id], r, others[r.item_id], copies) for r in shared]
    seconds = [r.seconds for r in own if r.seconds is not None]
    return {
        "n": len(own),
        "agreement": _share([row.own for row in rows]),
        "chance": _chance(items, shared, others),
        "above_chance_p": _above(rows, _chance(items, shared, others)),
        "below_others": _paired([row.own - row.others for row in rows if row.others is not None]),
        "gold": _gold(own, items),
        "repeats": _repeats(own, again, items),
        "median_seconds": median(seconds) if seconds else None,
        "too_fast": _too_fast(own, items),
        "position": _position(own, items),
        "same_value": _same_value(shared, others),
        "drift": _drift(rows),
        "raters": len({r.rater for r in everyone}),
    }


def _copied(ratings: Sequence[Rating], items: Mapping[str, Item]) -> dict[str, dict[str, Any]]:
    """Rater → the other one with whom they agree too well, against how well all others agree on the same items.

    Which of the two copied is not known. Needs three raters: two who agree may both be right.
    """
    by_item: dict[str, dict[str, Rating]] = defaultdict(dict)
    for rating in (r for r in ratings if items[r.item_id].scale is None):
        by_item[rating.item_id][rating.rater] = rating
    names = sorted({rating.rater for rating in ratings})
    tests: list[tuple[tuple[str, str], dict[str, Any]]] = []
    for pair in combinations(names, 2) if len(names) > 2 else ():
        own, excess = [], []
        for identity, by_rater in by_item.items():
            if not by_rater.keys() >= set(pair):
                continue
            item = items[identity]
            same = _agreement(item, by_rater[pair[0]], by_rater[pair[1]])
            rest = [
                _agreement(item, a, b) for (n, a), (m, b) in combinations(by_rater.items(), 2) if {n, m} != set(pair)
            ]
            own.append(same)
            excess += [same - sum(rest) / len(rest)] if rest else []
        if len(own) >= FEW and (excess_test := _paired(excess)) is not None:
            tests.append((pair, {**excess_test, "agreement": sum(own) / len(own)}))
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


def _alike(item: Item, one: float, other: float) -> float:
    """1 for the same verdict; on a scale of several values by distance."""
    if item.scale is None or item.scale.is_yes_no:
        return float(one == other)
    return 1.0 - abs(one - other) / (item.scale.high - item.scale.low)


def _agreement(item: Item, one: Rating, other: Rating) -> float:
    pairs = list(zip(_units(item, one), _units(item, other), strict=True))
    return sum(_alike(item, a, b) for a, b in pairs) / len(pairs)


def _row(item: Item, own: Rating, others: Sequence[Rating], copies: frozenset[frozenset[str]]) -> _Row:
    """A rater and a copy of them agree by definition: that says nothing about how far others agree."""
    apart = [pair for pair in combinations(others, 2) if frozenset(r.rater for r in pair) not in copies]
    among = [_agreement(item, *pair) for pair in apart]
    with_them = [_agreement(item, own, other) for other in others]
    return _Row(sum(with_them) / len(with_them), sum(among) / len(among) if among else None)


def _chance(items: Mapping[str, Item], own: Sequence[Rating], others: Mapping[str, Sequence[Rating]]) -> float | None:
    """Agreement of the rater's verdicts with the others' on any item, the right one or not."""
    mine: dict[Any, Counter[float]] = defaultdict(Counter)
    theirs: dict[Any, Counter[float]] = defaultdict(Counter)
    example: dict[Any, Item] = {}
    for rating in own:
        item = items[rating.item_id]
        kind = item.scale or "comparison"
        example[kind] = item
        mine[kind].update(_units(item, rating))
        for other in others[rating.item_id]:
            theirs[kind].update(_units(item, other))
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
    import numpy as np

    from aifeedback.metrics.intervals import share_interval

    if not values:
        return None
    interval = share_interval(np.array(values))
    return {"value": sum(values) / len(values), "low": interval.low, "high": interval.high, "n": len(values)}


def _above(rows: Sequence[_Row], chance: float | None) -> float | None:
    """One-sided p-value of agreement at chance against agreement above it."""
    if chance is None or len(rows) < 2:
        return None
    test = _paired([row.own - chance for row in rows])
    if test is None:
        return None
    two_sided = test["p_value"]
    return two_sided / 2 if test["value"] > 0 else 1 - two_sided / 2


def _paired(differences: Sequence[float]) -> dict[str, Any] | None:
    """Mean difference with its t interval and two-sided p-value; None below two items."""
    import numpy as np

    from aifeedback.metrics.intervals import t_of, t_test_p, variance_of_mean

    if len(differences) < 2:
        return None
    values = np.array(differences)
    mean, (variance, df) = float(values.mean()), variance_of_mean(values)
    error = math.sqrt(variance)
    if error == 0:  # no spread says nothing of how sure the mean is
        return {"value": mean, "low": None, "high": None, "n": len(values), "p_value": 1.0}
    reach = t_of(0.95, df) * error
    p = float(t_test_p(mean / error, df))
    return {"value": mean, "low": mean - reach, "high": mean + reach, "n": len(values), "p_value": p}


def _drift(rows: Sequence[_Row]) -> dict[str, Any] | None:
    """Change of agreement from the first half of the items to the second, against the others' where there are some."""
    import numpy as np

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
    import numpy as np

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


def _same_value(shared: Sequence[Rating], others: Mapping[str, Sequence[Rating]]) -> bool:
    """Whether every single response got one value, while the others gave another one in more than a fifth."""
    values = {r.value for r in shared}
    if len(shared) < FEW or len(values) != 1 or None in values:
        return False
    theirs = [other.value for r in shared for other in others[r.item_id]]
    return sum(v not in values for v in theirs) > len(theirs) / 5


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
