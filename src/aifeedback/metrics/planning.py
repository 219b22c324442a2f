"""Whose feedback to use for given constraints, how many human labels the evidence needs, and what each way costs.

The counts are sample sizes (``metrics.sample_size``); the advice is rules, each with its reason, so that a reader can
disagree with one of them. Costs are those of ``metrics.planning``: give your own prices.

**Costs**; the defaults are the prices and counts of Lee et al. 2023.

AI: inferences × (input tokens × price + output tokens × price) = 2 × (830 × $0.03/1k + 61 × $0.06/1k) = $0.057 for
both orders with a rationale. Human: words / 50 × $0.11 = 304 / 50 × $0.11 = $0.67. A person is about 11.7 times
dearer there; today's prices differ by orders of magnitude, so give your own.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from aifeedback.config import Config
from aifeedback.errors import InputError
from aifeedback.metrics.ppi import sample_size


class AIPrice(Config):
    """One AI label."""

    input_tokens: float = Field(default=830.0, ge=0)
    """Tokens of the judge prompt, per inference."""
    output_tokens: float = Field(default=61.0, ge=0)
    """Tokens of the rationale and verdict, per inference."""
    usd_per_1k_input: float = Field(default=0.03, ge=0)
    """Price of 1,000 input tokens."""
    usd_per_1k_output: float = Field(default=0.06, ge=0)
    """Price of 1,000 output tokens."""
    inferences: int = Field(default=2, ge=1)
    """Inferences per label: 2 for both orders."""


class HumanPrice(Config):
    """One human label."""

    words: float = Field(default=304.0, ge=0)
    """Words a rater reads."""
    words_per_minute: float = Field(default=238.0, gt=0)
    """Reading speed: 238 is the mean for English non-fiction (Brysbaert 2019); deciding takes time on top."""
    usd_per_50_words: float = Field(default=0.11, ge=0)
    """Pay per 50 words."""
    raters: int = Field(default=1, ge=1)
    """Raters per item."""


def ai_label_cost(price: AIPrice | None = None) -> float:
    """US dollars per AI label; $0.0571 at the published figures."""
    p = price or AIPrice()
    one = p.input_tokens * p.usd_per_1k_input / 1000 + p.output_tokens * p.usd_per_1k_output / 1000
    return p.inferences * one


def human_label_cost(price: HumanPrice | None = None) -> float:
    """US dollars per human label; $0.669 at the published figures."""
    p = price or HumanPrice()
    return p.raters * p.words / 50 * p.usd_per_50_words


def human_label_hours(price: HumanPrice | None = None) -> float:
    """Hours that raters read per label; 0.021 (77 s) for the published 304 words."""
    p = price or HumanPrice()
    return p.raters * p.words / p.words_per_minute / 60


class CostPlan(NamedTuple):
    value: float
    """US dollars in all."""
    ai_usd: float
    human_usd: float
    human_only_usd: float
    """If people labelled all rows."""
    ratio: float
    """Price of a human label over that of an AI label; infinity when AI labels are free."""


def cost_plan(
    labels: int, *, human_share: float = 0.0, ai: AIPrice | None = None, human: HumanPrice | None = None
) -> CostPlan:
    """Cost of ``labels`` preferences of which a share in [0, 1] is labelled by people and the rest by the AI."""
    if labels < 0 or not 0 <= human_share <= 1:
        raise InputError("labels must be ≥ 0 and human_share in [0, 1]", key="human_share")
    ai_each, human_each = ai_label_cost(ai), human_label_cost(human)
    ai_usd, human_usd = labels * (1 - human_share) * ai_each, labels * human_share * human_each
    ratio = human_each / ai_each if ai_each > 0 else float("inf")
    return CostPlan(ai_usd + human_usd, ai_usd, human_usd, labels * human_each, ratio)


CLOSE = 0.05
"""A judge this near to how often two people agree labels about as well as one more person."""
USEFUL = 0.6
"""A judge that agrees with people less often teaches mostly noise."""


class Constraints(Config):
    """What is wanted and what is known."""

    labels: int = Field(default=20_000, ge=1)
    """Preference labels to train on."""
    half_width: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Wanted precision of a win rate among people: ± this much, at 95 %."""
    share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Win rate that is expected; 0.5 needs the most labels."""
    judge_agreement: float | None = Field(default=None, gt=0.0, lt=1.0)
    """How often the AI judge decides as people do, measured; None: unknown yet."""
    people_agreement: float = Field(default=0.75, gt=0.5, lt=1.0)
    """How often two people agree on this task."""
    budget_usd: float | None = Field(default=None, ge=0.0)
    """Most that all labels together may cost."""
    high_stakes: bool = False
    """Errors hurt people: an AI's word alone is never enough."""
    is_taste: bool = False
    """What is better is a matter of taste, humour or culture, on which a judge's agreement elsewhere says little."""
    locales: int = Field(default=1, ge=1)
    """Languages or groups of users; the judge is measured, and the result proven, in each."""
    pairs: int = Field(default=0, ge=0)
    """Pairs with human labels that exist already; they are not bought again."""
    can_sample: bool = True
    """The policy can write new texts during training; DPO needs none."""
    ai: AIPrice = AIPrice()
    human: HumanPrice = HumanPrice()


class Way(NamedTuple):
    name: str
    human_labels: int
    """To buy, beyond the pairs that exist."""
    ai_labels: int
    usd: float
    hours: float
    """Hours that raters read."""
    is_affordable: bool
    about: str


class Plan(NamedTuple):
    human_alone: int
    """Human comparisons for the wanted half-width, without an AI."""
    human_with_ai: int | None
    """The same with the AI's labels on ``labels`` further rows (prediction-powered); None: agreement unknown."""
    to_measure_judge: int
    """Human labels that measure the judge's agreement within ± half_width."""
    correlation: float | None
    """Of AI and human verdicts, 2·agreement − 1: holds for two outcomes that are about equally frequent."""
    usd_per_human_label: float
    usd_per_ai_label: float
    hours_per_human_label: float
    ways: tuple[Way, ...]
    advice: str
    """RLHF, RLAIF or hybrid; with DPO or RL."""
    reasons: tuple[str, ...]


def plan(constraints: Constraints | None = None) -> Plan:
    """What to label by whom. Raises InputError for values that fit no plan."""
    c = constraints or Constraints()
    rho = None if c.judge_agreement is None else max(0.0, 2 * c.judge_agreement - 1)
    alone = sample_size(c.half_width, share=c.share).value
    helped = None if rho is None else sample_size(c.half_width, share=c.share, ai_correlation=rho, n_ai=c.labels).value
    check = sample_size(c.half_width, share=c.judge_agreement or 0.5).value
    ways = _ways(c, alone if helped is None else helped, check)
    advice, reasons = _advice(c, {way.name: way for way in ways})
    human, ai = human_label_cost(c.human), ai_label_cost(c.ai)
    return Plan(alone, helped, check, rho, human, ai, human_label_hours(c.human), ways, advice, reasons)


def _ways(c: Constraints, evidence: int, check: int) -> tuple[Way, ...]:
    """All three include the human labels that prove the result, in each locale; those that rely on an AI also measure it.

    Existing pairs serve as labels and to measure the judge, never as evidence: that needs new responses.
    """
    evidence, check = evidence * c.locales, check * c.locales
    slices = min(c.labels, max(check, c.labels // 5))
    rows = (
        ("RLHF", c.labels, 0, "people label everything"),
        ("hybrid", slices + check, c.labels - slices, "an AI labels four fifths, people the hard or local rest"),
        ("RLAIF", check, c.labels, "an AI labels everything, people check it and judge the result"),
    )
    human, ai = human_label_cost(c.human), ai_label_cost(c.ai)
    made = []
    for name, people, machine, about in rows:
        bought = max(0, people - c.pairs) + evidence
        usd, hours = bought * human + machine * ai, bought * human_label_hours(c.human)
        made.append(Way(name, bought, machine, usd, hours, c.budget_usd is None or usd <= c.budget_usd, about))
    return tuple(made)


def _advice(c: Constraints, ways: dict[str, Way]) -> tuple[str, tuple[str, ...]]:
    wish, reasons = _wish(c)
    if not ways[wish].is_affordable:
        price = f"{wish} costs ${ways[wish].usd:,.0f}, more than the budget of ${c.budget_usd or 0.0:,.0f}"
        cheaper = [name for name in ("hybrid", "RLAIF") if ways[name].usd < ways[wish].usd and ways[name].is_affordable]
        if not cheaper:
            reasons.append(f"{price}: buy fewer labels, or accept a wider interval")
        elif _is_too_weak(c):
            # a budget makes no judge better: noise at a lower price is still noise
            reasons.append(
                f"{price}; only {' or '.join(cheaper)} fits, and this judge is too weak for it: buy fewer human labels, or find "
                f"a judge that agrees with people on at least {USEFUL:.0%} of pairs"
            )
        elif (c.high_stakes or c.is_taste) and cheaper[0] == "RLAIF":
            why = "at these stakes" if c.high_stakes else "in matters of taste"
            reasons.append(f"{price}; only RLAIF fits, and {why} it is not enough: buy fewer labels instead")
        else:
            reasons.append(f"{price}; {cheaper[0]} fits")
            wish = cheaper[0]
    if c.locales > 1:
        reasons.append(f"{c.locales} locales: the judge is measured, and the result proven, in each of them")
    return f"{wish} with {'DPO' if _is_for_dpo(c) else 'RL'}", (*reasons, _route(c))


def _is_for_dpo(c: Constraints) -> bool:
    return c.pairs > 0 or not c.can_sample


def _route(c: Constraints) -> str:
    if not c.can_sample:
        return "the policy cannot sample while it trains: DPO learns from the labelled pairs alone"
    if c.pairs:
        return f"{c.pairs:,} labelled pairs exist: DPO on them is the simplest start; go to RL where its win rate stops rising"
    return "the policy can sample: RL learns from its own texts, and best-of-n is a cheap check"


def _wish(c: Constraints) -> tuple[str, list[str]]:
    if c.judge_agreement is None:
        reasons = ["the judge's agreement with people is unknown: measure it first (`aifeedback audit`)"]
        return "hybrid", [*_limits(c), *reasons]
    rates = f"the judge agrees with people on {c.judge_agreement:.0%} of pairs, two people on {c.people_agreement:.0%}"
    if _is_too_weak(c):
        unclear = [f"two people agree on {c.people_agreement:.0%} only: sharpen the guidelines before buying labels"]
        return "RLHF", [f"{rates}: too little to learn from", *(unclear if c.people_agreement < USEFUL else ())]
    if limits := _limits(c):
        return "hybrid", [*limits, rates]
    if c.people_agreement - c.judge_agreement <= CLOSE + 1e-9:  # 0.75 − 0.70 is more than 0.05 in binary
        return "RLAIF", [f"{rates}: about as good as one more person"]
    return "hybrid", [f"{rates}: a useful judge, not a substitute"]


def _limits(c: Constraints) -> list[str]:
    """Why an AI's labels alone will not do, however good they are."""
    limits = []
    if c.high_stakes:
        limits.append("errors hurt people: people label a share, and the judge counts only where they agree with it")
    if c.is_taste:
        limits.append("a matter of taste or culture: people from the intended users label a share")
    return limits


def _is_too_weak(c: Constraints) -> bool:
    """A judge from which no share of AI labels would teach anything, however cheap."""
    return c.judge_agreement is not None and c.judge_agreement < USEFUL
