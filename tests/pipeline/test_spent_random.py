"""R24: over random recipes that fail, stop, change and resume, every page says what the journals hold."""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from aifeedback.errors import AIFeedbackError, BatchPending, JudgeUnavailable
from aifeedback.models.journal import Journal
from aifeedback.models.journal.journal import Spent
from aifeedback.pipeline import runner
from models.batch_stub import OpenAIStub
from models.stub import Request, Response, StubServer
from pipeline.test_spent import INPUT_USD, MODELS, OUTPUT_USD, Paid, of_journals, require_equal, run, told, verified


class InProcess:
    """In place of a pool of processes: a stage runs at once, here."""

    def __init__(self, *_: Any, initargs: tuple[Any, ...], **__: Any) -> None:
        runner.__dict__["_EVENTS"] = queue.SimpleQueue()
        del initargs

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, work: Any, task: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass


class Shop(Paid):
    """A server that bills batches at half price, fails some requests, and may go down for good after some more."""

    def __init__(self, draw: Random) -> None:
        super().__init__()
        self.draw = draw
        self.usd = 0.0
        self.failing = 0.0
        self.answers_left: int | None = None
        self.share = 1.0
        self.deaths = self.largest = 0
        """Starts that gave the judge up, and the tokens of the largest answer."""
        self.is_broken = self._fails

    def _fails(self, request: Request) -> bool:
        del request
        if self.answers_left is not None:
            self.answers_left -= 1
            if self.answers_left < 0:
                return True
        return self.draw.random() < self.failing

    def __call__(self, request: Request) -> Response:
        before = self.input, self.output
        response = super().__call__(request)
        used = self.input - before[0], self.output - before[1]
        self.largest = max(self.largest, sum(used))
        self.usd += self.share * (used[0] * INPUT_USD + used[1] * OUTPUT_USD) / 1e6
        return response


class Batches(OpenAIStub):
    def __init__(self, shop: Shop) -> None:
        super().__init__(shop)
        self.shop = shop

    def one(self, path: str, body: dict[str, Any]) -> Response:
        self.shop.share = 0.5
        try:
            return super().one(path, body)
        finally:
            self.shop.share = 1.0


@pytest.fixture
def shop() -> Shop:
    return Shop(Random(0))


@pytest.fixture
def batches(shop: Shop) -> Batches:
    return Batches(shop)


@pytest.fixture
def url(batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", InProcess)
    prices = {"as_of": "today", "batch": 0.5, "models": {"paid": {"input": INPUT_USD, "output": OUTPUT_USD}}}
    Path("prices.yaml").write_text(yaml.safe_dump(prices))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Question {n}{'?' * n}"}) + "\n" for n in range(6)))
    with StubServer(batches, models=MODELS) as server:
        yield server.url


def recipe(draw: Random, url: str) -> list[dict[str, Any]]:
    """Stages with random settings; later ones depend on the first two."""
    model = {"base_url": url, "prices": "prices.yaml"}

    def server() -> dict[str, Any]:
        limits = {"attempts": draw.choice([1, 2]), "concurrency": draw.choice([1, 4]), "backoff_first_s": 0.001}
        return {**limits, "dead_after": 6}

    def judge() -> dict[str, Any]:
        found: dict[str, Any] = {"model": "openai:paid", **model, "server": server()}
        if draw.random() < 0.3:
            found["server"] |= draw.choice([{"readout": "votes", "votes": 2}, {"readout": "parsed"}])
        if draw.random() < 0.3:
            found["rationale"] = {"samples": draw.choice([1, 2]), "temperature": 0.5}
        return through_batches(found) if draw.random() < 0.3 else found

    def through_batches(found: dict[str, Any]) -> dict[str, Any]:
        limits = {name: value for name, value in found["server"].items() if name not in ("concurrency", "dead_after")}
        return {**found, "batch_api": True, "server": limits}

    asked = {"model": "openai:paid", "prompts": "prompts.jsonl", "per_prompt": 2, **model, "server": server()}
    stages: list[dict[str, Any]] = [
        {
            "id": "answers",
            "stage": "sample",
            "limit": draw.choice([3, 6]),
            **(through_batches(asked) if draw.random() < 0.3 else asked),
        },
        {"id": "pairs", "stage": "pair", "completions": "@answers/completions.jsonl"},
    ]
    pairs = "@pairs/comparisons.jsonl"
    further: list[dict[str, Any]] = [
        {"stage": "label", "comparisons": pairs, "judge": judge() | {"orders": draw.choice(["both", "one"])}},
        {"stage": "label", "comparisons": pairs, "judge": judge(), "limit": 2},
        {"stage": "label", "comparisons": pairs, "judge": {"members": [judge(), judge() | {"prompt": "helpful-base"}]}},
        {"stage": "score", "completions": "@answers/completions.jsonl", "judge": judge()},
        {"stage": "audit", "data": pairs, "judges": {"paid": judge()}, "probes": ["position", "repeatability"]},
    ]
    chosen = draw.sample(further, draw.choice([2, 3]))
    return stages + [{"id": f"stage{n}", **stage} for n, stage in enumerate(chosen)]


def changed(draw: Random, stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Another limit, a stage less, or nothing."""
    kind = draw.choice(["same", "same", "limit", "dropped"])
    if kind == "dropped" and len(stages) > 3:
        return stages[:-1]
    if kind == "limit":
        return [{**s, "limit": 2} if s["stage"] in ("label", "score") else s for s in stages]
    return stages


def require_equal_by_stage() -> None:
    """Every finished stage reports the calls that the journals hold for it."""
    for name, stage in json.loads(Path("run/manifest.json").read_text())["stages"].items():
        with Journal("run/journal.sqlite") as journal:
            own = journal.spent(name)
        for path in Path(f"run/stages/{name}").glob("journal-*.sqlite"):
            with Journal(path) as journal:
                own += journal.spent()
        assert told(stage) == Spent(own.calls, own.tokens, pytest.approx(own.cost_usd))  # type: ignore[arg-type]


def follow(seed: int, url: str, shop: Shop, batches: Batches) -> tuple[Spent, int]:
    """One recipe from its first start to its report, checked after every start; what it spent, and its starts."""
    draw = Random(seed)
    stages = recipe(draw, url)
    ids, starts = {stage["id"] for stage in stages}, 0
    for attempt in range(40):
        Path("paid.yaml").write_text(yaml.safe_dump({"name": "paid", "workers": 1, "stages": stages}, sort_keys=False))
        shop.failing = draw.choice([0.0, 0.1, 0.3]) if attempt < 3 else 0.0
        shop.answers_left = draw.choice([None, 5, 25]) if attempt < 3 else None
        done = run("run", "paid.yaml", "-o", "run")
        starts += 1
        if done.exception is not None and not isinstance(done.exception, AIFeedbackError):
            raise done.exception
        shop.deaths += isinstance(done.exception, JudgeUnavailable)
        if done.exception is None:
            kept = {stage["id"] for stage in stages}
            assert require_equal(done.output, has_all_stages=kept == ids) == of_journals()
            require_equal_by_stage()
        elif Path("run/manifest.json").is_file():
            manifest = json.loads(Path("run/manifest.json").read_text())
            assert told(manifest) == of_journals(), "a stage that failed was paid for too"
        if isinstance(done.exception, BatchPending):
            batches.finish()
        elif "the file is empty" in str(done.exception):  # no answer came: a finished stage is repeated by hand
            shutil.rmtree("run/stages/answers")
        elif done.exception is None and attempt >= 3:
            break
        elif done.exception is None:
            stages = changed(draw, stages)
    else:
        raise AssertionError(f"seed {seed}: it never ends: {done.exception}")
    spent = told(json.loads(Path("run/manifest.json").read_text()))
    assert spent.calls == verified()
    lost = shop.input + shop.output - spent.tokens
    assert 0 <= lost <= shop.deaths * 8 * shop.largest, "only calls in flight when a judge was given up"
    assert lost or spent.cost_usd == pytest.approx(shop.usd)
    return spent, starts


@pytest.mark.parametrize("seed", [0, 3])
def test_every_page_says_what_the_journals_hold(seed: int, url: str, shop: Shop, batches: Batches) -> None:
    follow(seed, url, shop, batches)


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(50))
def test_campaign_fifty_random_recipes(seed: int, url: str, shop: Shop, batches: Batches) -> None:
    spent, starts = follow(seed, url, shop, batches)
    print(
        f"R24 seed {seed}: {starts} starts, {spent.calls} calls, {spent.tokens} tokens, {len(batches.batches)} batches"
    )
