"""People's ratings as a labeler: what raters say of any two responses, and win rates of policies by people.

A verdict belongs to a prompt and two texts, whoever wrote them and in whatever order they are stored; a ranking holds
one for every two of its responses. Responses with the same text are a tie, which nobody needs to be asked about.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aifeedback.annotation.items import current, item_id
from aifeedback.annotation.store import RatingStore
from aifeedback.errors import FileError, InputError
from aifeedback.types import Comparison, Completion, Judgement, Preference, Problem, Prompt, Rating, text_id

if TYPE_CHECKING:
    from aifeedback.metrics.length import LengthForm

Combine = Literal["mean", "majority"]
P_FIRST = {"first": 1.0, "second": 0.0, "tie": 0.5}


def read_ratings(path: str | Path) -> list[Rating]:
    """The ratings in a folder of ``rate``, in its ``ratings.sqlite``, or in a ``ratings.jsonl``; corrections included.

    Raises FileError where there are none.
    """
    where = Path(path)
    if where.is_dir():
        names = [name for name in ("ratings.sqlite", "ratings.jsonl") if (where / name).is_file()]
        if not names:
            raise FileError(
                "holds no ratings.sqlite and no ratings.jsonl",
                file=where,
                fix="give the -o folder of `aifeedback rate`",
            )
        where = where / names[0]
    if not where.is_file():
        raise FileError("no such file or folder", file=where, fix="give the -o folder of `aifeedback rate`")
    if where.suffix == ".sqlite":
        store = RatingStore(where)
        try:
            ratings = store.ratings()
        finally:
            store.close()
    else:
        from aifeedback.data import read_records

        ratings = read_records(where, Rating)
    if not ratings:
        raise FileError("has no ratings", file=where, fix="rate some items first")
    return ratings


class PeopleLabeler:
    """A Labeler: preferences from ratings that were given before.

    ``combine``: the mean of the verdicts (a tie is 0.5), or the side of the majority. Ratings of the raters in
    ``exclude`` do not count.
    """

    def __init__(
        self,
        ratings: Sequence[Rating],
        *,
        name: str = "human",
        combine: Combine = "mean",
        exclude: Sequence[str] = (),
    ) -> None:
        if combine not in ("mean", "majority"):
            raise InputError(f"no rule '{combine}'", key="combine", fix="mean or majority")
        self.name, self.combine = name, combine
        self.aliases: dict[tuple[str, str], str] = {}
        """(Prompt, text) → the text under which raters saw it, where that was another form of it."""
        self.ratings = [rating for rating in ratings if rating.rater not in exclude]
        self._of_texts: dict[tuple[str, frozenset[str]], list[tuple[Rating, int, int]]] = defaultdict(list)
        self._of_id: dict[str, list[Rating]] = defaultdict(list)
        for rating in current(ratings):
            if rating.purpose != "rating" or rating.rater in exclude:
                continue
            if rating.prompt_id is None or not rating.answers:
                self._of_id[rating.item_id].append(rating)
                continue
            for i, j in combinations(range(len(rating.answers)), 2):
                texts = frozenset((rating.answers[i], rating.answers[j]))
                self._of_texts[rating.prompt_id, texts].append((rating, i, j))

    @classmethod
    def load(cls, path: str | Path, *, combine: Combine = "mean", exclude: Sequence[str] = ()) -> PeopleLabeler:
        """From a folder or file, see ``read_ratings``; named ``people:PATH``."""
        return cls(read_ratings(path), name=f"people:{path}", combine=combine, exclude=exclude)

    def label(self, comparisons: Sequence[Comparison]) -> list[Preference]:
        """One preference per comparison; unknown if nobody rated it or no rater could decide."""
        return [self._preference(comparison) for comparison in comparisons]

    def _preference(self, comparison: Comparison) -> Preference:
        if comparison.first.text == comparison.second.text:
            return Preference(comparison_id=comparison.id, source=self.name, p_first=0.5)
        return self.preference_of(comparison, self._judgements(comparison))

    def preference_of(self, comparison: Comparison, judgements: Sequence[Judgement]) -> Preference:
        votes = [j.p_first for j in judgements if j.p_first is not None]
        problem = None if votes else Problem.ABSTAINED if judgements else Problem.MISSING
        mean = sum(votes) / len(votes) if votes else None
        if mean is not None and self.combine == "majority":
            mean = 0.5 if math.isclose(mean, 0.5) else float(mean > 0.5)
        return Preference(
            comparison_id=comparison.id,
            source=self.name,
            p_first=mean,
            judgements=tuple(judgements),
            problem=problem,
        )

    def _judgements(self, comparison: Comparison) -> list[Judgement]:
        own = text_id(comparison.first.text), text_id(comparison.second.text)
        seen = [self.aliases.get((comparison.prompt.id, text), text) for text in own]
        return self._judgements_on(comparison, *own) or self._judgements_on(comparison, *seen)

    def _judgements_on(self, comparison: Comparison, first: str, second: str) -> list[Judgement]:
        by_rater: dict[str, Judgement] = {}
        for rating, i, j in self._of_texts.get((comparison.prompt.id, frozenset((first, second))), ()):
            places = (i, j) if rating.answers[i] == first else (j, i)
            by_rater[rating.rater] = _judgement(comparison, rating, *places)
        if self._of_id:
            identity = item_id(comparison.prompt.id, (first, second))
            for known, places in ((comparison.id, (0, 1)), (identity, (0, 1)), (comparison.swapped().id, (1, 0))):
                for rating in self._of_id.get(known, ()):
                    by_rater.setdefault(rating.rater, _judgement(comparison, rating, *places))
        return list(by_rater.values())


def _judgement(comparison: Comparison, rating: Rating, first: int, second: int) -> Judgement:
    p_first = verdict(rating, first, second)
    return Judgement(
        comparison_id=comparison.id,
        judge=f"human:{rating.rater}",
        shown_swapped=rating.order_shown.index(first) > rating.order_shown.index(second),
        readout="human",
        p_first=p_first,
        rationale=rating.comment,
        problem=None if p_first is not None else Problem.ABSTAINED,
    )


def verdict(rating: Rating, first: int = 0, second: int = 1) -> float | None:
    """P(response ``first`` is better than response ``second``) as this rating has it; None for 'cannot tell'."""
    if rating.ranking is not None:
        one, other = rating.ranking[first], rating.ranking[second]
        return 0.5 if one == other else float(one < other)
    p_first = P_FIRST.get(rating.choice or "")
    return p_first if p_first is None or (first, second) == (0, 1) else 1.0 - p_first


def policy_pairs(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Comparison]:
    """Every two responses by different sources to one prompt, those with the same text included."""
    by_prompt: dict[str, tuple[Prompt, dict[tuple[str, str], Completion]]] = {}
    for prompt, completion in zip(prompts, completions, strict=True):
        own = by_prompt.setdefault(prompt.id, (prompt, {}))[1]
        own.setdefault((completion.source, completion.text), completion)
    return [
        Comparison.of(prompt, one, other)
        for prompt, own in by_prompt.values()
        for one, other in combinations(own.values(), 2)
        if one.source != other.source
    ]


def win_rates(
    comparisons: Sequence[Comparison],
    labeler: PeopleLabeler,
    *,
    reference: str = "",
    weights: Sequence[tuple[float, str]] | None = None,
) -> dict[str, Any]:
    """Win rates of every source against every other by people, raw and length-controlled, and a ranking of all.

    Identical responses count as ties. Where some of the different pairs have no verdict yet, ties count only as often
    as they occur among all pairs, not as often as they are known. The ``reference`` is second in each pair; without it
    sources are in alphabetical order. ``weights`` has the sampling weight and the stratum of each comparison where they
    are a sample of ``draw``; each pair of sources then also gets its ``weighted`` win rate, which is the one to report.
    """
    from aifeedback.metrics import holm, rank_policies

    rows: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    weighted: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for place, comparison in enumerate(comparisons):
        one, other = comparison.first.source, comparison.second.source
        is_turned = one == reference or (other != reference and one > other)
        names = (other, one) if is_turned else (one, other)
        rows[names].append(comparison.swapped() if is_turned else comparison)
        weighted[names] += [] if weights is None else [weights[place]]
    verdicts = {names: [p.p_first for p in labeler.label(pairs)] for names, pairs in rows.items()}
    figures: dict[str, dict[str, Any]] = {}
    for names, pairs in sorted(rows.items()):
        one = pair_rates(pairs, verdicts[names])
        if weights is not None:
            one["weighted"] = _weighted(pairs, verdicts[names], weighted[names])
        figures[f"{names[0]} vs {names[1]}"] = one
    adjusted = holm([f["win_rate"]["p_value"] for f in figures.values()]) if figures else []
    for one, p in zip(figures.values(), adjusted, strict=True):
        one["win_rate"]["p_adjusted"] = None if math.isnan(p) else float(p)
    if not any(p is not None for column in verdicts.values() for p in column):
        return {}
    flat = [(names, pair, p) for names, pairs in rows.items() for pair, p in zip(pairs, verdicts[names], strict=True)]
    ranking = rank_policies(
        [names[0] for names, _, _ in flat],
        [names[1] for names, _, _ in flat],
        [p for _, _, p in flat],
        prompts=[pair.prompt.id for _, pair, _ in flat],
    ).as_dict()
    kept = {key: ranking[key] for key in ("names", "value", "low", "high", "n", "method", "notes")}
    return {"pairs": figures, "ranking": kept}


def pair_rates(
    pairs: Sequence[Comparison], p_first: Sequence[float | None], *, length_control: LengthForm = "ratio"
) -> dict[str, Any]:
    """Win rate of the first by people's verdicts, raw and length-controlled, and how many pairs are identical.

    A pair counts by the mean of its raters' verdicts; identical responses count as ties, in proportion where some of
    the different pairs have no verdict yet.
    """
    import warnings

    from aifeedback.metrics import ExtrapolationWarning, length_controlled_win_rate, win_rate

    is_same = [pair.first.text == pair.second.text for pair in pairs]
    prompts = [pair.prompt.id for pair in pairs]
    different = [i for i, same in enumerate(is_same) if not same]
    is_whole = not any(is_same) or all(p_first[i] is not None for i in different)
    chosen = range(len(pairs)) if is_whole else different
    figures = win_rate([p_first[i] for i in chosen], prompts=[prompts[i] for i in chosen]).as_dict()
    if not is_whole:
        figures = _with_ties(figures, len(pairs) - len(different), len(pairs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExtrapolationWarning)  # it is among the notes
        controlled = length_controlled_win_rate(
            list(p_first),
            [len(pair.first.text) for pair in pairs],
            [len(pair.second.text) for pair in pairs],
            prompts=prompts,
            method=length_control,
        ).as_dict()
    return {"win_rate": figures, "length_controlled": controlled, "identical": sum(is_same)}


def _weighted(
    pairs: Sequence[Comparison], p_first: Sequence[float | None], weights: Sequence[tuple[float, str]]
) -> dict[str, Any]:
    """Win rate over the rows that the sample stands for; identical pairs are a stratum, so that they are not
    overcounted while others have no verdict yet."""
    from aifeedback.annotation.sampling import weighted_mean

    strata = [
        f"{stratum} · identical" if pair.first.text == pair.second.text else stratum
        for pair, (_, stratum) in zip(pairs, weights, strict=True)
    ]
    return weighted_mean(p_first, [weight for weight, _ in weights], strata).as_dict()


def _with_ties(rate: Mapping[str, Any], ties: int, total: int) -> dict[str, Any]:
    """The win rate over all pairs from that of the different ones: s/2 + (1 − s)·w, s the share of identical pairs.

    The interval adds the two sources of error, each side by itself (Zou & Donner 2008): that of w, and of s.
    """
    w, low, high = rate["value"], rate["low"], rate["high"]
    note = f"{ties} of {total} pairs are identical and count as ties in proportion"
    if w is None:
        return {**rate, "notes": [*rate["notes"], note]}
    share = ties / total
    value = share / 2 + (1 - share) * w
    of_share = 1.96 * abs(0.5 - w) * math.sqrt(share * (1 - share) / total)
    down = math.hypot((1 - share) * (w - low), of_share) if low is not None else None
    up = math.hypot((1 - share) * (high - w), of_share) if high is not None else None
    return {
        **rate,
        "value": value,
        "low": None if down is None else max(0.0, value - down),
        "high": None if up is None else min(1.0, value + up),
        "method": f"{rate['method']}; identical pairs as ties in proportion",
        "notes": [*rate["notes"], note],
    }
