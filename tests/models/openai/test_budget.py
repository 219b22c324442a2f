"""A spend cap is not exceeded by more than the calls in flight; the forecast is close after 5 % of the work."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from aifeedback.errors import ModelError, RecipeError
from aifeedback.models import connect
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.models.openai.budget import Price, Spending, price_of
from aifeedback.models.openai.server import ServerModel
from aifeedback.models.openai.wire import Usage
from aifeedback.types import Message, Problem, Sampling
from models.stub import Request, Response, StubServer, as_json, healthy

PRICES = """
as_of: "2026-01"
models:
  stub*: {input: 3.0, output: 15.0, cached_input: 0.3}
"""
QUICK = {"backoff_first_s": 0.002, "backoff_most_s": 0.02}


@pytest.fixture
def prices(tmp_path: Path) -> str:
    (tmp_path / "prices.yaml").write_text(PRICES)
    return str(tmp_path / "prices.yaml")


def prompts(count: int, seed: int = 0) -> list[list[Message]]:
    """Items of very different lengths behind one preamble."""
    draw = Random(seed)
    return [
        [Message(role="user", content="Judge. " * 100 + f"item {n} " + "word " * int(draw.lognormvariate(5, 1)))]
        for n in range(count)
    ]


def tokens_of(request: Request) -> int:
    """The stub's tokenizer: 3.7 characters per token."""
    return int(len(request.text) / 3.7) + 1


class Shop:
    """Bills every answered request, as a hosted server would."""

    def __init__(self, *, answer_tokens: int = 1, wait_s: float = 0.002) -> None:
        self.billed_usd = 0.0
        self.answer_tokens, self.wait_s = answer_tokens, wait_s
        self.seen: Counter[str] = Counter()

    def __call__(self, request: Request) -> Response:
        used = {"prompt_tokens": tokens_of(request), "completion_tokens": self.answer_tokens}
        self.billed_usd += (3.0 * used["prompt_tokens"] + 15.0 * used["completion_tokens"]) / 1e6
        self.seen[request.text] += 1
        return as_json({**healthy(request), "usage": used}, wait_s=self.wait_s)


def model_of(server: StubServer, **options: object) -> ServerModel:
    return connect("openai:stub", base_url=server.url, **{**QUICK, **options})  # type: ignore[return-value]


@pytest.mark.parametrize("cap_usd", [0.01, 0.05, 0.2])
def test_the_cap_holds(cap_usd: float, prices: str, tmp_path: Path) -> None:
    shop = Shop()
    with StubServer(shop) as server, Journal(tmp_path / "journal.sqlite") as journal:
        model = model_of(server, prices=prices, cap_usd=cap_usd, concurrency=8)
        readings = Journaled(model, journal).read_labels(prompts(400), ["1", "2"])
        dearest = max((3.0 * (len(p[0].content) / 3.7 + 1) + 15.0) / 1e6 for p in prompts(400))
        assert shop.billed_usd <= cap_usd + 8 * dearest
        assert shop.billed_usd <= cap_usd, "by reservation it even stays below the cap, where the estimates are high"
        unread = [r for r in readings if r.problem is not None]
        assert all(r.problem is Problem.OVER_BUDGET and r.logprobs == (None, None) for r in unread)
        assert len(unread) > 0
        assert shop.billed_usd > cap_usd - 12 * dearest, "and the money is used"
        assert model.spending.spent_usd == pytest.approx(shop.billed_usd)
        assert journal.totals().cost_usd == pytest.approx(shop.billed_usd)
        model.close()
        # With more money the run goes on where it stopped, and asks nothing twice.
        more = model_of(server, prices=prices, cap_usd=10.0, spent_usd=journal.totals().cost_usd)
        assert all(r.problem is None for r in Journaled(more, journal).read_labels(prompts(400), ["1", "2"]))
        assert set(shop.seen.values()) == {1}


def test_the_cap_holds_through_timeouts_and_broken_answers(prices: str) -> None:
    """What a server did but could not say counts at its estimate."""
    shop = Shop()

    def shaky(request: Request) -> Response:
        response = shop(request)
        if request.number % 5 == 1:
            return Response(response.body, wait_s=0.6)
        return Response(response.body, cut=50) if request.number % 5 == 3 else response

    with StubServer(shaky) as server:
        model = model_of(server, prices=prices, cap_usd=0.03, concurrency=8, attempt_timeout_s=0.3)
        model.read_labels(prompts(200), ["1", "2"])
        assert shop.billed_usd <= 0.03
        assert model.spending.spent_usd >= shop.billed_usd - 1e-9
        model.close()


@pytest.mark.parametrize("answer_tokens", [1, 60])
def test_the_forecast_is_close_after_a_twentieth(answer_tokens: int, prices: str, tmp_path: Path) -> None:
    shop = Shop(answer_tokens=answer_tokens, wait_s=0.0)
    forecasts: list[tuple[int, float]] = []

    def watch(done: int, total: int, figures: dict[str, float]) -> None:
        forecasts.append((done, figures["forecast_usd"]))

    with StubServer(shop) as server, Journal(tmp_path / "journal.sqlite") as journal:
        model = model_of(server, prices=prices, concurrency=8)
        before = model.forecast(prompts(600), max_tokens=answer_tokens)
        assert before.calls == 600
        Journaled(model, journal, progress=watch).reply(prompts(600), Sampling(max_new_tokens=200))  # type: ignore[arg-type]
        model.close()
    early = next(forecast for done, forecast in forecasts if done >= 30)
    assert early == pytest.approx(shop.billed_usd, rel=0.10)
    assert before.cost_usd is not None
    assert shop.billed_usd < before.cost_usd < 2 * shop.billed_usd, "before anything is measured it is on the high side"


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(7))
def test_campaign_the_cap_is_used_and_the_bill_foretold(seed: int, prices: str, tmp_path: Path) -> None:
    """600 calls of very different length, 8 in flight: first without a cap, then with half of that bill as the cap."""
    asked, forecasts = prompts(600, seed), []

    def watch(done: int, total: int, figures: dict[str, float]) -> None:
        forecasts.append((done, figures["forecast_usd"]))

    whole, capped = Shop(), Shop()
    with StubServer(whole) as server, Journal(tmp_path / "whole.sqlite") as journal:
        model = model_of(server, prices=prices, concurrency=8)
        Journaled(model, journal, progress=watch).read_labels(asked, ["1", "2"])  # type: ignore[arg-type]
        model.close()
    cap_usd = whole.billed_usd / 2
    with StubServer(capped) as server:
        model = model_of(server, prices=prices, cap_usd=cap_usd, concurrency=8)
        model.read_labels(asked, ["1", "2"])
        model.close()
    early = next(forecast for done, forecast in forecasts if done >= 30)
    used, foretold = capped.billed_usd / cap_usd, early / whole.billed_usd
    print(f"seed {seed}: {100 * used:.2f} % of the cap billed, forecast {100 * foretold:.2f} % of the bill")
    assert 0.95 < used <= 1.0
    assert foretold == pytest.approx(1.0, abs=0.10)


def test_a_cached_prompt_costs_less() -> None:
    price = Price(input=3.0, output=15.0, cached_input=0.3)
    assert price.of(Usage(1000, 10, 800)) == pytest.approx((200 * 3.0 + 800 * 0.3 + 10 * 15.0) / 1e6)
    assert Price(input=3.0, output=15.0).of(Usage(1000, 0, 800)) == pytest.approx(3e-3)


def test_prices_are_found_by_pattern_and_unknown_ones_are_none(prices: str) -> None:
    assert price_of("stub-mini", prices) == Price(input=3.0, output=15.0, cached_input=0.3)
    assert price_of("other", prices) is None
    paper = price_of("gpt-4")
    assert paper is not None
    two_orders = 2 * paper.of(Usage(830, 61))
    assert two_orders == pytest.approx(0.057, abs=1e-3), "Lee et al. 2023: $0.057 for a pair in both orders"


def test_a_broken_table_is_reported(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("as_of: x\nmodels: {m: {inputs: 3, output: 1}}")
    with pytest.raises(RecipeError, match=r"p\.yaml(.|\n)*inputs"):
        price_of("m", tmp_path / "p.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        price_of("m", tmp_path / "missing.yaml")
    with pytest.raises(ModelError, match="price of this model is not known"):
        Spending(None, cap_usd=1.0)
