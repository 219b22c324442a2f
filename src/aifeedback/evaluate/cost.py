"""What a label costs, from an AI and from a person; the defaults are the prices and counts of Lee et al. 2023.

AI: inferences × (input tokens × price + output tokens × price) = 2 × (830 × $0.03/1k + 61 × $0.06/1k) = $0.057 for
both orders with a rationale. Human: words / 50 × $0.11 = 304 / 50 × $0.11 = $0.67. A person is about 11.7 times
dearer there; today's prices differ by orders of magnitude, so give your own.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from aifeedback.config import Config
from aifeedback.errors import InputError


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


class CostPlan(NamedTuple):
    value: float
    """US dollars in all."""
    ai_usd: float
    human_usd: float
    human_only_usd: float
    """If people labelled everything."""
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
