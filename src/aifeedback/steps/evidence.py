"""What counts as evidence in a comparison: evaluators against the recorded origin of the policies, claim by claim.

``--trained-by`` can add a trainer and never remove one. A policy whose origin no record tells is unverified, and so is
every claim that rests on evaluators with a part in training. Prompts that a policy was trained on are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from pydantic import Field

from aifeedback.errors import FileError
from aifeedback.metrics.independence import DISTILLED, ORACLE, OWN_CODE, PEOPLE, Source, dependence
from aifeedback.models import lineage
from aifeedback.models.lineage import Origin
from aifeedback.models.openai.settings import family_of
from aifeedback.refs import SCHEMES, JudgeRef, PolicyRef, Ref
from aifeedback.steps.connect import JudgeCard
from aifeedback.steps.step import Figures, Measured
from aifeedback.types import Prompt

NOBODY = Source("demonstrations alone", family="people")
"""Stands for the trainers of a policy whose record names none."""
FEWEST_AGREEMENT = 30
"""Pairs with a human label from which an evaluator's agreement counts as measured."""


class EvaluatorIndependence(Figures):
    model: str
    family: str
    independent: bool
    reason: str = ""
    """Why it is not."""
    agreement: Measured | None = None
    """Its own agreement with people, from an audit of it."""


class Claim(Figures):
    """One badge."""

    verified: bool
    reason: str
    evaluators: tuple[str, ...] = ()
    """The independent evaluators that it rests on."""


class TrainedOn(Figures):
    """Evaluation prompts that a policy was trained on."""

    of: int
    """Evaluation prompts that were read."""
    trained_on: int
    excluded: bool
    """Whether they were left out; not where none would be left, and then nothing is verified."""
    by_policy: dict[str, int]

    @property
    def sentence(self) -> str:
        what = "left out of every metric" if self.excluded else "so nothing here is verified"
        names = ", ".join(name for name, count in self.by_policy.items() if count)
        return f"{self.trained_on:,} of {self.of:,} evaluation prompts were trained on ({names}); {what}"


class Independence(Figures):
    """Whether any evaluator had no part in training."""

    judges: dict[str, EvaluatorIndependence]
    assessors: dict[str, EvaluatorIndependence] = Field(default_factory=dict)
    trained_by: list[dict[str, str]]
    origins: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    """Policy → whose feedback trained it, as its folder records."""
    unrecorded: list[str] = Field(default_factory=list)
    """What is not known of the policies' origin."""
    verified: bool
    """Of the win rate."""
    reason: str
    claims: dict[str, Claim] = Field(default_factory=dict)
    """win_rate, harm, refusal, agreement."""
    prompts: TrainedOn | None = None


class Held(NamedTuple):
    """Evaluation prompts without those that a policy was trained on."""

    rows: list[Prompt]
    trained_on: TrainedOn | None


def origins(policies: Mapping[str, PolicyRef], reference: str) -> dict[str, Origin]:
    """By policy. A reference without a record has none that matters: a claim is about the others."""
    by_policy = {name: lineage.origin_of(policy) for name, policy in policies.items()}
    ref = policies.get(reference)
    if ref is not None and len(policies) > 1 and not by_policy[reference].trainers:
        by_policy[reference] = by_policy[reference]._replace(unrecorded=())
    return by_policy


def held_out(prompts: Sequence[Prompt], by_policy: Mapping[str, Origin]) -> Held:
    keys = [lineage.prompt_key(prompt) for prompt in prompts]
    counts = {name: sum(key in origin.prompts for key in keys) for name, origin in by_policy.items()}
    seen = frozenset().union(*(origin.prompts for origin in by_policy.values())) if by_policy else frozenset()
    kept = [prompt for prompt, key in zip(prompts, keys, strict=True) if key not in seen]
    if len(kept) == len(prompts):
        return Held(list(prompts), None)
    trained_on = TrainedOn(of=len(prompts), trained_on=len(prompts) - len(kept), excluded=bool(kept), by_policy=counts)
    return Held(kept or list(prompts), trained_on)


def independence(
    *,
    policies: Mapping[str, PolicyRef],
    by_policy: Mapping[str, Origin],
    declared: Sequence[Source],
    judges: Mapping[str, JudgeCard],
    assessors: Mapping[str, JudgeCard],
    trained_on: TrainedOn | None,
    agreement: Mapping[str, Measured],
) -> Independence:
    """One badge per claim: an evaluator counts where it, and whoever trained it, had no part in any policy's training."""
    whole: Origin = reduce(lambda one, other: one + other, by_policy.values(), Origin())
    trainers = list(dict.fromkeys([*declared, *(one.source for one in whole.trainers)]))
    compared = {lineage.weights_of(policy): name for name, policy in policies.items() if not policy.is_file}
    compared |= {str(policy): name for name, policy in policies.items() if not policy.is_file}
    compared.pop("", None)

    def objection(card: JudgeCard) -> str:
        if card.members:  # the verdict of a panel holds every member's
            return next(filter(None, (objection(member) for member in card.members.values())), "")
        source = _source(card)
        known = [source, source._replace(family=family_of(JudgeRef(card.model).name))]  # beside the family it declares
        for one in known if JudgeRef(card.model).is_served else known[:1]:
            if why := next(filter(None, (dependence(one, other) for other in trainers or [NOBODY])), ""):
                return why
        if policy := compared.get(source.weights) or compared.get(source.model):
            return f"it is the policy {policy} itself"
        for teacher in _teachers(card):
            if any(_is_same(teacher, other) for other in trainers):
                return f"it was trained on feedback of {teacher.name}, and so was a policy"
        return ""

    def evaluators(cards: Mapping[str, JudgeCard]) -> dict[str, EvaluatorIndependence]:
        rows = {}
        for name, card in cards.items():
            why = objection(card)
            free = not why and not whole.unrecorded and (trained_on is None or trained_on.excluded)
            rows[name] = EvaluatorIndependence(
                model=card.model, family=card.family, independent=free, reason=why, agreement=agreement.get(name)
            )
        return rows

    by_judge, by_assessor = evaluators(judges), evaluators(assessors)
    claims = {"win_rate": _claim(by_judge, whole, trained_on)} if judges else {}
    if assessors:
        claims |= dict.fromkeys(("harm", "refusal"), _claim(by_assessor, whole, trained_on))
    if judges:
        claims["agreement"] = _agreement(by_judge)
    headline = next(iter(claims.values()), Claim(verified=False, reason="nobody has evaluated the policies yet"))
    return Independence(
        judges=by_judge,
        assessors=by_assessor,
        trained_by=[{key: value for key, value in one._asdict().items() if key != "weights"} for one in trainers],
        origins={name: lineage.as_json(origin) for name, origin in by_policy.items()},
        unrecorded=list(whole.unrecorded),
        verified=headline.verified,
        reason=headline.reason,
        claims=claims,
        prompts=trained_on,
    )


def _claim(rows: Mapping[str, EvaluatorIndependence], whole: Origin, trained_on: TrainedOn | None) -> Claim:
    free = [name for name, row in rows.items() if row.independent]
    if free:
        return Claim(verified=True, reason=f"by {_listed([_described(n, rows[n]) for n in free])}",
                     evaluators=tuple(free))  # fmt: skip
    if whole.unrecorded:
        first, *others = whole.unrecorded
        more = f" and {len(others)} more" if others else ""
        return Claim(verified=False, reason=f"origin not recorded ({first}{more})")
    objections = [f"{name} ({row.reason})" for name, row in rows.items() if row.reason]
    if len(objections) == len(rows):
        return Claim(verified=False, reason=f"the only evidence comes from {_listed(objections)}")
    assert trained_on is not None
    return Claim(verified=False, reason=trained_on.sentence)


def _described(name: str, row: EvaluatorIndependence) -> str:
    who = {"oracle": "the known true preference", "people": "people"}.get(row.family, f"independent evaluator {name}")
    if row.agreement is None or row.agreement.value is None:
        return who
    return f"{who} (agrees with people on {100 * row.agreement.value:.0f} % of {row.agreement.n:,} pairs)"


def _agreement(rows: Mapping[str, EvaluatorIndependence]) -> Claim:
    """That the evaluators see what people see: measured on people's labels, or they are people."""
    free = {name: row for name, row in rows.items() if row.independent}
    known = [
        name
        for name, row in free.items()
        if row.family in ("people", "oracle")
        or (row.agreement is not None and (row.agreement.n or 0) >= FEWEST_AGREEMENT)
    ]
    if known:
        return Claim(verified=True, reason=f"measured for {_listed(known)}", evaluators=tuple(known))
    if not free:
        return Claim(verified=False, reason="no evaluator is independent")
    return Claim(verified=False, reason=f"agreement of {_listed(list(free))} with people is not known; give --audited")


def agreements(audits: Sequence[Ref], judges: Mapping[str, JudgeCard]) -> dict[str, Measured]:
    """Agreement with people of each evaluator, from audits of the same model under the same prompt. FileError for a
    file that holds no audit or was changed since."""
    import json

    from aifeedback.models.journal import digests

    by_judge: dict[str, Measured] = {}
    for ref in audits:
        path = ref.path
        file = path / "audit.json" if path is not None and path.is_dir() else path
        if file is None or not file.is_file():
            raise FileError(
                "no audit.json", file=str(ref), key="audited", fix="give the -o folder of `aifeedback audit`"
            )
        if why := digests.changed(file):
            raise FileError(why, key="audited", fix="audit the judge again")
        for audit in json.loads(file.read_text(encoding="utf-8")).get("judges") or ():
            who, value = audit.get("who") or {}, _finding(audit)
            for name, card in judges.items():
                is_same = (who.get("model"), who.get("revision")) == (card.model, card.revision)
                if value is not None and is_same and _prompt(who) == _prompt(card.as_json()):
                    by_judge[name] = value
    return by_judge


def _finding(audit: Mapping[str, Any]) -> Measured | None:
    one = next((f for f in audit.get("findings") or () if f.get("probe") == "agreement"), None)
    if one is None or one.get("value") is None:
        return None
    return Measured(**{key: one.get(key) for key in ("value", "low", "high", "n")})


def _prompt(card: Mapping[str, Any]) -> Any:
    return (card.get("prompt") or {}).get("digest")


def source_of(name: str, card: JudgeCard) -> Source:
    return _source(card)._replace(name=name)


def _source(card: JudgeCard) -> Source:
    """An evaluator. That it is people, or the known true preference, is believed of their own schemes only, and a scheme
    of an installed package is code like a Python file's."""
    ref = JudgeRef(card.model)
    model, family = card.uri or card.model, card.family
    if ref.scheme not in SCHEMES:
        model, family = f"{OWN_CODE}{card.model}", "unknown"
    elif lineage.FAMILIES.get(ref.scheme, "") != family and family.casefold() in (*PEOPLE, ORACLE, DISTILLED):
        family = "unknown"
    return Source(card.model, model, family, card.revision, lineage.weights_of(ref))


def _teachers(card: JudgeCard) -> list[Source]:
    """Whose feedback trained the evaluator itself, where its folder records that."""
    ref = JudgeRef(card.model)
    if ref.scheme not in ("hf", "lab", "rm"):
        return []
    return [one.source for one in lineage.origin_of(ref).trainers]


def _is_same(one: Source, other: Source) -> bool:
    if one.family in ("people", "oracle"):
        return False
    return any(a and a == b for a, b in ((one.model, other.model), (one.revision, other.revision),
                                         (one.weights, other.weights)))  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
