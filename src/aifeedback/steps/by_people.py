"""People's verdicts beside a judge's: win rates, agreement among raters, prediction-powered rates, by slice.

``compare`` and ``evaluate`` share it. A pair counts by the mean of its raters' verdicts, and identical responses are a
tie; the prediction-powered rate is what people would say of all pairs, from those they rated and the judge's labels of
all (``metrics.ppi``). It holds where the rated pairs are a random sample: of ``draw`` (with its weights), or of
``rate --limit``.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Protocol

from pydantic import Field

from aifeedback import data
from aifeedback.annotation.assignment import Weight, weight_of
from aifeedback.annotation.items import MOST_ANSWERS, Item, item_id, items_of_comparisons, items_of_completions
from aifeedback.annotation.labeler import PeopleLabeler, pair_rates
from aifeedback.errors import FileError
from aifeedback.judging.spec import Judging, PanelSpec
from aifeedback.metrics.length import LengthForm
from aifeedback.steps import connect
from aifeedback.steps.match import Match, pairs_of
from aifeedback.steps.policies import Responses
from aifeedback.steps.step import Context, Figures, Measured
from aifeedback.types import Comparison, Completion, Problem, Prompt, text_id

FEWEST = 3
"""Rated pairs below which nothing is estimated from them."""
IDENTICAL = "identical"


class RaterFigures(Figures):
    ratings: int
    mark: str
    """✓ ! ✗, by the rules of ``annotation.rater_quality``."""
    reasons: tuple[str, ...] = ()


class MatchByPeopleFigures(Figures):
    """One policy against another."""

    pairs: int
    rated: int
    """Pairs with a verdict of people."""
    identical: int = 0
    """Pairs with two identical responses: ties."""
    win_rate: Measured
    length_controlled: Measured
    judge: Measured | None = None
    """Win rate of the same policy by the judge beside people."""
    prediction_powered: Measured | None = None


class SliceByPeople(Figures):
    """One policy against another on the prompts with one tag."""

    match: str
    tag: str
    value: str
    pairs: int
    rated: int
    people: Measured | None = None
    judge: Measured | None = None
    prediction_powered: Measured | None = None


class ByPeople(Figures):
    source: str
    """Whose ratings."""
    judge: str = ""
    """The judge beside them, whose labels the prediction-powered rates use; empty where there is none."""
    ratings: int = 0
    raters: dict[str, RaterFigures] = Field(default_factory=dict)
    kendalls_w: Measured | None = None
    krippendorff_alpha: Measured | None = None
    same_verdict: Measured | None = None
    matches: dict[str, MatchByPeopleFigures] = Field(default_factory=dict)
    """ONE_vs_OTHER → the first against the second."""
    slices: list[SliceByPeople] = Field(default_factory=list)


class Compared(Protocol):
    """What is read of the settings of a comparison."""

    @property
    def reference(self) -> str: ...
    @property
    def judges(self) -> Mapping[str, Judging]: ...
    @property
    def by(self) -> Sequence[str]: ...
    @property
    def length_control(self) -> LengthForm: ...


def labelers(
    judges: Mapping[str, Judging], prompts: Sequence[Prompt], drawn: Mapping[str, Responses], context: Context
) -> dict[str, PeopleLabeler]:
    """The judges that are ratings of people. Raises FileError, before any judgement, where they rated none of it."""
    by_judge: dict[str, PeopleLabeler] = {}
    for judge, spec in judges.items():
        if isinstance(spec, PanelSpec) or spec.calibration or spec.model.scheme != "people":
            continue
        if isinstance(labeler := connect.labeler(spec, context), PeopleLabeler):
            by_judge[judge] = labeler
    for labeler in by_judge.values():
        for sample in drawn.values():
            _also_as_sampled(labeler, sample)
        own = [sample.completions for sample in drawn.values()]
        _require_ratings(
            labeler, [pair for one, other in combinations(own, 2) for pair in pairs_of(prompts, one, other)]
        )
    return by_judge


def measured(
    compare: Compared,
    labelers: Mapping[str, PeopleLabeler],
    completions: Mapping[str, Sequence[Completion | None]],
    prompts: Sequence[Prompt],
    judged: Mapping[tuple[str, str, str], Match],
) -> ByPeople | None:
    """By the first judge that is people's ratings, beside the first other judge, one that reads a prompt where there is any.

    ``judged``: (one, other, judge) → what that judge made of them.
    """
    if not labelers:
        return None
    source, people = next(iter(labelers.items()))
    beside = [name for name in compare.judges if name not in labelers]
    judge = next((name for name in beside if _reads(compare.judges[name])), beside[0] if beside else "")
    weights = weights_in(_folder(people))
    names = [name for name in completions if name != compare.reference]
    matches: dict[str, MatchByPeopleFigures] = {}
    slices: list[SliceByPeople] = []
    for one, other in [(name, compare.reference) for name in names] + list(combinations(names, 2)):
        pairs = pairs_of(prompts, completions[one], completions[other])
        verdicts = [p.p_first for p in people.label(pairs)]
        match = judged.get((one, other, judge))
        known = None if match is None else [p.p_first for p in match.preferences]
        name = f"{one}_vs_{other}"
        matches[name] = match_by_people(pairs, verdicts, known, weights=weights, length_control=compare.length_control)
        slices += slices_by_people(name, compare.by, pairs, verdicts, known, weights=weights)
    among = among_raters(people, items_between(completions, prompts))
    return ByPeople.model_validate({"source": source, "judge": judge, **among, "matches": matches, "slices": slices})


def _reads(judge: Judging) -> bool:
    return isinstance(judge, PanelSpec) or judge.model.is_readable


def _folder(people: PeopleLabeler) -> str:
    return people.name.removeprefix("people:")


def _also_as_sampled(people: PeopleLabeler, responses: Responses) -> None:
    """Make ratings of a response as it was sampled count for the same response with its trailing symbols removed."""
    for tidied, own in zip(responses.completions, responses.untouched, strict=True):
        if tidied is not None and own is not None and tidied.text != own.text:
            people.aliases[tidied.prompt_id, text_id(tidied.text)] = text_id(own.text)


def _require_ratings(people: PeopleLabeler, pairs: Sequence[Comparison]) -> None:
    different = [pair for pair in pairs if pair.first.text != pair.second.text]
    if different and all(p.problem == Problem.MISSING for p in people.label(different)):
        raise FileError(
            f"holds no rating of these {len(different):,} pairs",
            file=_folder(people),
            fix="rate these very responses: `aifeedback rate FOLDER -o RATINGS` takes the folder of a comparison; "
            "responses that were sampled again are other responses",
        )


def among_raters(people: PeopleLabeler, items: Sequence[Item]) -> dict[str, object]:
    """Fields of ByPeople on the ratings of these items: how many, by whom, how far the raters agree, how good each is."""
    from aifeedback.annotation.items import Catalogue, current
    from aifeedback.annotation.rater_quality import rater_quality
    from aifeedback.annotation.results import summarise

    own = [rating for rating in people.ratings if rating.purpose == "rating"]
    now = current(Catalogue(items).matched(own)[0])
    summary, quality = summarise(items, own), rater_quality(items, people.ratings)
    counts = Counter(rating.rater for rating in now)
    return {
        "ratings": len(now),
        "raters": {
            name: RaterFigures(
                ratings=counts[name],
                mark=quality.get(name, {}).get("verdict", "✓"),
                reasons=tuple(quality.get(name, {}).get("reasons", ())),
            )
            for name in sorted(counts)
        },
        **{
            key: Measured.model_validate(summary[key])
            for key in ("kendalls_w", "krippendorff_alpha", "same_verdict")
            if summary[key] is not None
        },
    }


def items_between(responses: Mapping[str, Sequence[Completion | None]], prompts: Sequence[Prompt]) -> list[Item]:
    """What raters may have been shown of these policies: all responses to a prompt ranked, and every two of them."""
    columns = list(responses.values())
    items: dict[str, Item] = {}
    for place, prompt in enumerate(prompts):
        own = [completion for column in columns if (completion := column[place]) is not None]
        if 1 < len({completion.text for completion in own}) <= MOST_ANSWERS:
            items |= {item.id: item for item in items_of_completions([prompt] * len(own), own)}
        pairs = [Comparison.of(prompt, a, b) for i, a in enumerate(own) for b in own[i + 1 :] if a.text != b.text]
        items |= {item.id: item for item in items_of_comparisons(pairs)}
    return list(items.values())


def match_by_people(
    pairs: Sequence[Comparison],
    people: Sequence[float | None],
    judge: Sequence[float | None] | None,
    *,
    weights: Mapping[str, Weight] | None = None,
    length_control: LengthForm = "ratio",
) -> MatchByPeopleFigures:
    """The first of each pair against the second, by ``people`` and ``judge`` (p_first; None: not rated, not known)."""
    from aifeedback.metrics.win_rates import win_rate

    rates = pair_rates(pairs, people, length_control=length_control)
    powered = _powered(pairs, people, judge, weights)
    alone = _alone(pairs, people, weights) if weights else rates["win_rate"]
    return MatchByPeopleFigures(
        pairs=len(pairs),
        rated=_rated(pairs, people),
        identical=rates["identical"],
        win_rate=Measured.model_validate(alone),
        length_controlled=Measured.model_validate(rates["length_controlled"]),
        judge=None if judge is None else Measured.of(win_rate(judge, hard=True, prompts=_shared(pairs))),
        prediction_powered=powered,
    )


def slices_by_people(
    match: str,
    tags: Sequence[str],
    pairs: Sequence[Comparison],
    people: Sequence[float | None],
    judge: Sequence[float | None] | None,
    *,
    weights: Mapping[str, Weight] | None = None,
) -> list[SliceByPeople]:
    """``match_by_people`` on the prompts of every value of every tag. Pairs whose prompt lacks the tag are in none."""
    slices = []
    for tag in tags:
        places: dict[str, list[int]] = defaultdict(list)
        for place, pair in enumerate(pairs):
            if (value := pair.prompt.tags.get(tag)) is not None:
                places[value].append(place)
        for value, rows in sorted(places.items()):
            own, verdicts = [pairs[i] for i in rows], [people[i] for i in rows]
            labels = None if judge is None else [judge[i] for i in rows]
            rated = _rated(own, verdicts)
            whole = match_by_people(own, verdicts, labels, weights=weights) if rated else None
            slices.append(
                SliceByPeople(
                    match=match,
                    tag=tag,
                    value=value,
                    pairs=len(own),
                    rated=rated,
                    people=whole.win_rate if whole else None,
                    judge=whole.judge if whole else None,
                    prediction_powered=whole.prediction_powered if whole else None,
                )
            )
    return slices


def weights_in(folder: str | Path) -> dict[str, Weight] | None:
    """Item → its sampling weight and stratum, where the rated file was a sample of ``draw``; None where it was not.

    They are in the folder's ``labelled.jsonl``, the strata's sizes in ``summary.json``. Pairs that nobody could decide
    leave their stratum's weight to the others of it.
    """
    where = Path(folder)
    file, summary = where / "labelled.jsonl", where / "summary.json"
    if not where.is_dir() or not file.is_file() or not summary.is_file():
        return None
    weights: dict[str, Weight] = {}
    for row in data.read_rows(file):
        weight = None if row.fault else weight_of(row.values)
        if weight is None or "item_id" not in row.values:
            return None
        weights[str(row.values["item_id"])] = weight
    sizes = json.loads(summary.read_text(encoding="utf-8")).get("strata") or {}
    sums: dict[str, float] = defaultdict(float)
    for weight, stratum in weights.values():
        sums[stratum] += weight
    return {
        identity: (weight * sizes.get(stratum, sums[stratum]) / sums[stratum], stratum)
        for identity, (weight, stratum) in weights.items()
    } or None


def weights_of(rows: Sequence[data.LabelledRow]) -> dict[str, Weight] | None:
    """The same of rows that carry their weight themselves; None where one does not."""
    weights: dict[str, Weight] = {}
    for row in rows:
        weight = weight_of(row.extra)
        if weight is None:
            return None
        weights[_identity(row.comparison)] = weight
    return weights or None


def _rated(pairs: Sequence[Comparison], people: Sequence[float | None]) -> int:
    return sum(p is not None and _differs(pair) for pair, p in zip(pairs, people, strict=True))


def _differs(pair: Comparison) -> bool:
    return pair.first.text != pair.second.text


def _shared(pairs: Sequence[Comparison]) -> Sequence[str] | None:
    from aifeedback.metrics.intervals import shared_prompts

    return shared_prompts([pair.prompt.id for pair in pairs])


def _sample(
    pairs: Sequence[Comparison], people: Sequence[float | None], weights: Mapping[str, Weight] | None
) -> tuple[list[float], list[str]]:
    """Weight and stratum of every row: identical pairs, all known, stand for themselves; the rated ones for the rest."""
    rated = [p is not None and _differs(pair) for pair, p in zip(pairs, people, strict=True)]
    drawn = [_weight(pair, weights) if is_rated else (1.0, "") for pair, is_rated in zip(pairs, rated, strict=True)]
    total = sum(weight for (weight, _), is_rated in zip(drawn, rated, strict=True) if is_rated)
    scale = sum(map(_differs, pairs)) / total if total else 1.0
    return (
        [weight * scale if is_rated else 1.0 for (weight, _), is_rated in zip(drawn, rated, strict=True)],
        [stratum if is_rated else IDENTICAL for (_, stratum), is_rated in zip(drawn, rated, strict=True)],
    )


def _weight(pair: Comparison, weights: Mapping[str, Weight] | None) -> Weight:
    if weights is None:
        return 1.0, "rated"
    return weights.get(_identity(pair), (1.0, "not drawn"))


def _identity(pair: Comparison) -> str:
    return item_id(pair.prompt.id, [text_id(pair.first.text), text_id(pair.second.text)])


def _powered(
    pairs: Sequence[Comparison],
    people: Sequence[float | None],
    judge: Sequence[float | None] | None,
    weights: Mapping[str, Weight] | None,
) -> Measured | None:
    """None without a judge, or where people rated every pair and the judge has nothing to add."""
    from aifeedback.metrics.ppi import prediction_powered_sample

    rated = _rated(pairs, people)
    if judge is None or rated < FEWEST or rated == sum(map(_differs, pairs)):
        return None
    shares, strata = _sample(pairs, people, weights)
    return Measured.of(prediction_powered_sample(people, judge, strata=strata, weights=shares, prompts=_shared(pairs)))


def _alone(
    pairs: Sequence[Comparison], people: Sequence[float | None], weights: Mapping[str, Weight]
) -> dict[str, object]:
    """The weighted win rate by people alone, over all pairs that the sample stands for."""
    from aifeedback.annotation.sampling import weighted_mean

    shares, strata = _sample(pairs, people, weights)
    rows = [(p, w, s) for p, w, s in zip(people, shares, strata, strict=True) if p is not None]
    return weighted_mean([p for p, _, _ in rows], [max(1.0, w) for _, w, _ in rows], [s for _, _, s in rows]).as_dict()
