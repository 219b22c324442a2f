"""What calls cost: the price table, the spend cap and the forecast.

The cap is kept by reservation: a call starts only while spent + reserved + its own estimate stays within the cap, so
spending ends below the cap or, where estimates were too low, above it by no more than the calls in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import Field

from aifeedback.config import Config, parse
from aifeedback.errors import ModelError, RecipeError
from aifeedback.models.openai.wire import Usage

SHIPPED = Path(__file__).with_name("prices.yaml")
FIRST_GUESS = 2.5
"""Characters per token before anything was measured: low, so that first estimates of tokens are high."""


class Price(Config):
    """US dollars per million tokens."""

    input: float = Field(ge=0.0)
    output: float = Field(ge=0.0)
    cached_input: float | None = Field(default=None, ge=0.0)
    """For the part of a prompt that the server found in its cache; as ``input`` where not given."""
    batch: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of these prices that a batch costs; as the table says where not given."""

    def of(self, usage: Usage) -> float:
        """The cost of a call: as the server reports it, else by tokens; unknown token counts count as 0."""
        if usage.cost_usd is not None:
            return usage.cost_usd
        cached = min(usage.cached_tokens, usage.prompt_tokens or 0)
        cheap = self.input if self.cached_input is None else self.cached_input
        fresh = (usage.prompt_tokens or 0) - cached
        return (fresh * self.input + cached * cheap + (usage.completion_tokens or 0) * self.output) / 1e6


class PriceTable(Config):
    as_of: str
    """When the prices were looked up."""
    source: str = ""
    models: dict[str, Price]
    """Model name, or shell pattern, → price."""
    batch: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the prices that a batch costs."""


def price_of(name: str, prices: str | PathLike[str] | None = None, *, in_batch: bool = False) -> Price | None:
    """The price of a model from a table (the shipped one by default), singly or in a batch; None where the table does
    not know it.

    Raises RecipeError, naming file and key, for a table that cannot be read.
    """
    file = Path(prices) if prices is not None else SHIPPED
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as broken:
        raise RecipeError(f"the price table cannot be read: {broken}", file=file) from None
    if not isinstance(content, Mapping):
        raise RecipeError("the price table does not hold keys and values", file=file, fix=f"start from {SHIPPED}")
    table = parse(PriceTable, content, file=file)
    price = next((price for pattern, price in table.models.items() if fnmatchcase(name, pattern)), None)
    if price is None or not in_batch:
        return price
    share = table.batch if price.batch is None else price.batch
    cached = None if price.cached_input is None else share * price.cached_input
    return Price(input=share * price.input, output=share * price.output, cached_input=cached)


class Forecast(NamedTuple):
    """What a whole job will take, from what its first part took. None: nothing to go by yet."""

    calls: int
    prompt_tokens: float
    completion_tokens: float
    cost_usd: float | None
    seconds: float | None


class Spending:
    """Counts tokens and money of one model, refuses calls beyond the cap, and forecasts the rest of a job."""

    def __init__(self, price: Price | None, *, cap_usd: float | None = None, spent_usd: float = 0.0) -> None:
        """``spent_usd``: what earlier runs spent of the same cap. Raises ModelError for a cap without a price."""
        if cap_usd is not None and price is None:
            raise ModelError(
                "a spend cap was set, but the price of this model is not known",
                key="cap_usd",
                fix=f"add it to a copy of {SHIPPED} and pass that as prices",
            )
        self.price, self.cap_usd, self.spent_usd = price, cap_usd, spent_usd
        self.reserved_usd = 0.0
        self._metered_calls = self._metered_characters = self._metered_tokens = self._metered_answers = 0
        self._most_answer_tokens = 0
        self._was_billed = False
        self._settled = asyncio.Event()

    @property
    def characters_per_token(self) -> float:
        return self._metered_characters / self._metered_tokens if self._metered_tokens else FIRST_GUESS

    def estimate(self, characters: int, max_tokens: int) -> Usage:
        """Upper estimate of what one call uses. Thinking may pass ``max_tokens``, so the longest answer yet counts."""
        answer = max(max_tokens, self._most_answer_tokens)
        return Usage(int(characters / self.characters_per_token) + 16, answer)

    async def reserve(self, amount_usd: float) -> bool:
        """Sets money aside for a call; False where that would pass the cap, and the call must not be made.

        While other calls hold reservations, which mostly turn out smaller, it waits for them to be settled. Before any
        call was billed, one goes alone: it shows what an answer uses, thinking included.
        """
        while self.cap_usd is not None and not self._is_free(amount_usd):
            if self.reserved_usd <= 1e-12:
                return False
            self._settled.clear()
            await self._settled.wait()
        self.reserved_usd += amount_usd
        return True

    def try_reserve(self, amount_usd: float) -> bool:
        """Sets money aside without waiting for anything; False where that would pass the cap."""
        if self.cap_usd is not None and self.spent_usd + self.reserved_usd + amount_usd > self.cap_usd:
            return False
        self.reserved_usd += amount_usd
        return True

    def _is_free(self, amount_usd: float) -> bool:
        assert self.cap_usd is not None
        is_within = self.spent_usd + self.reserved_usd + amount_usd <= self.cap_usd
        return is_within and (self._was_billed or self.reserved_usd <= 1e-12)

    def settle(self, reserved_usd: float, cost_usd: float) -> None:
        """Replaces a reservation by the true cost."""
        self.reserved_usd = max(0.0, self.reserved_usd - reserved_usd)
        self.spent_usd += cost_usd
        self._was_billed = self._was_billed or cost_usd > 0.0
        self._settled.set()

    def meter(self, usage: Usage, characters: int) -> None:
        """Learns from a call how many tokens its characters were, and how long answers get."""
        self._most_answer_tokens = max(self._most_answer_tokens, usage.completion_tokens or 0)
        if usage.prompt_tokens and characters:
            self._metered_calls += 1
            self._metered_characters += characters
            self._metered_tokens += usage.prompt_tokens
            self._metered_answers += usage.completion_tokens or 0

    def forecast(self, characters: int, calls: int, max_tokens: int, *, calls_per_s: float | None = None) -> Forecast:
        """What ``calls`` further calls with so many prompt characters in all will take."""
        prompt_tokens = characters / self.characters_per_token
        answer = self._metered_answers / self._metered_calls if self._metered_calls else max_tokens
        cost = None
        if self.price is not None:
            cost = (prompt_tokens * self.price.input + calls * answer * self.price.output) / 1e6
        seconds = calls / calls_per_s if calls_per_s else None
        return Forecast(calls, prompt_tokens, calls * answer, cost, seconds)


class Charge:
    """The money of one question, over all its calls and attempts; every attempt is reserved first and settled after."""

    def __init__(self, spending: Spending, characters: int) -> None:
        self.spending, self.characters = spending, characters
        self.prompt_tokens = self.completion_tokens = 0
        self.cost_usd = 0.0
        self._estimate = Usage()
        self._reserved_usd = 0.0

    async def open(self, max_tokens: int) -> bool:
        """Reserves for one attempt; False where the cap forbids it."""
        price, amount = self.spending.price, 0.0
        self._estimate = self.spending.estimate(self.characters, max_tokens)
        while price is not None and (dearer := price.of(self._estimate)) > amount:
            # What was learned while waiting for a turn may make the call dearer than what was reserved for it.
            self.spending.settle(self._reserved_usd, 0.0)
            self._reserved_usd, amount = 0.0, dearer
            if not await self.spending.reserve(amount):
                return False
            self._reserved_usd = amount
            self._estimate = self.spending.estimate(self.characters, max_tokens)
        return True

    def close(self, usage: Usage | None = None, *, was_answered: bool = True) -> None:
        """Settles one attempt. ``was_answered`` False: refused or never sent, so free. Where the server does not say
        what it used, or went away in the middle, the estimate counts."""
        self.spending.settle(self._reserved_usd, self._counted(usage, was_answered=was_answered))
        self._reserved_usd = 0.0

    def bill(self, usage: Usage | None, max_tokens: int, *, was_answered: bool) -> float:
        """Counts an attempt for which others set money aside; what it cost."""
        self._estimate = self.spending.estimate(self.characters, max_tokens)
        return self._counted(usage, was_answered=was_answered)

    def upper_cost(self, max_tokens: int) -> float:
        """Upper estimate of one attempt, in dollars; 0 where the price is not known."""
        price = self.spending.price
        return 0.0 if price is None else price.of(self.spending.estimate(self.characters, max_tokens))

    def _counted(self, usage: Usage | None, *, was_answered: bool) -> float:
        price = self.spending.price
        used = Usage(0, 0) if not was_answered else usage or self._estimate
        if used.prompt_tokens is None:
            used = self._estimate
        elif usage is not None:
            self.prompt_tokens += used.prompt_tokens
            self.completion_tokens += used.completion_tokens or 0
            self.spending.meter(used, self.characters)
        cost = (used.cost_usd or 0.0) if price is None else price.of(used)
        self.cost_usd += cost
        return cost
