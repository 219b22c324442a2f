"""Calls, tokens and cost of a paid run are the journal's, wherever they are printed, and the journal's are the server's."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from aifeedback.cli import app
from aifeedback.errors import JudgeUnavailable
from aifeedback.models.journal import Journal
from aifeedback.models.journal.journal import FILES, Spent
from models.stub import Request, Response, StubServer, as_json, healthy

INPUT_USD, OUTPUT_USD = 700.0, 9000.0
"""Per million tokens."""
PROMPTS = 12
MODELS = json.dumps({"object": "list", "data": [{"id": "paid"}]}).encode()


class Paid:
    """A server that keeps the bill: what it answered, and how many tokens that took."""

    def __init__(self) -> None:
        self.calls = self.input = self.output = 0
        self.is_broken: Callable[[Request], bool] = lambda _: False
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Response:
        if self.is_broken(request):
            return Response(b"{}", status=500)
        body = healthy(request)
        if not request.body.get("logprobs"):  # a completion: long enough to differ, and counted as such
            body["choices"][0] |= {"finish_reason": "stop"}
            body["choices"][0]["message"]["content"] = f"answer {len(request.text)} {request.body.get('seed', 0)}"
            body["usage"] |= {"completion_tokens": 5, "total_tokens": body["usage"]["prompt_tokens"] + 5}
        with self._lock:
            self.calls += 1
            self.input += body["usage"]["prompt_tokens"]
            self.output += body["usage"]["completion_tokens"]
        return as_json(body)

    @property
    def spent(self) -> Spent:
        usd = (self.input * INPUT_USD + self.output * OUTPUT_USD) / 1e6
        return Spent(self.calls, self.input + self.output, pytest.approx(usd))  # type: ignore[arg-type]


@pytest.fixture
def paid() -> Paid:
    return Paid()


@pytest.fixture
def server(paid: Paid) -> Iterator[StubServer]:
    with StubServer(paid, models=MODELS) as stub:
        yield stub


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: StubServer) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"Question {n}{'?' * n}"}) + "\n" for n in range(PROMPTS))
    )
    prices = {"as_of": "today", "source": "test", "models": {"paid": {"input": INPUT_USD, "output": OUTPUT_USD}}}
    Path("prices.yaml").write_text(yaml.safe_dump(prices))
    model = {"base_url": server.url, "prices": "prices.yaml", "server": {"attempts": 1, "concurrency": 2}}
    judge = {"model": "openai:paid", **model}
    stages = [
        {"id": "answers", "stage": "sample", "model": "openai:paid", "prompts": "prompts.jsonl", **model},
        {"id": "pairs", "stage": "pair", "completions": "@answers/completions.jsonl"},
        {"id": "labels", "stage": "label", "comparisons": "@pairs/comparisons.jsonl", "judge": judge},
        {"id": "again", "stage": "label", "comparisons": "@pairs/comparisons.jsonl", "judge": judge, "limit": 5},
        {"id": "scores", "stage": "score", "completions": "@answers/completions.jsonl", "judge": judge},
        {"id": "audit", "stage": "audit", "data": "@pairs/comparisons.jsonl", "judges": {"paid": judge},
         "probes": ["position", "repeatability"]},
    ]  # fmt: skip
    Path("paid.yaml").write_text(yaml.safe_dump({"name": "paid", "stages": stages}, sort_keys=False))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def journals() -> list[Path]:
    return sorted(Path("run").rglob("journal*.sqlite"))


def of_journals() -> Spent:
    """Sums over the rows themselves; digests of files are no calls."""
    total = Spent()
    for path in journals():
        with Journal(path) as journal:
            entries = [row.entry for row in journal.rows() if row.entry.kind != FILES]
            total += Spent(
                len(entries),
                sum(entry.prompt_tokens + entry.completion_tokens for entry in entries),
                sum(entry.cost_usd for entry in entries),
            )
    return Spent(total.calls, total.tokens, pytest.approx(total.cost_usd))  # type: ignore[arg-type]


def told(source: dict[str, Any]) -> Spent:
    return Spent(source["calls"], source["tokens"], source["cost_usd"])


def in_report() -> tuple[str, str, str]:
    text = html.unescape(re.sub(r"<[^>]+>", " ", Path("run/report.html").read_text()))
    text = " ".join(text.split())
    result = [
        re.search(rf"{name} \$?([\d,.]+)", text) for name in ("(?<!of )model calls", "tokens", "cost of model calls")
    ]
    assert all(result), text[:400]
    return tuple(match[1] for match in result if match)  # type: ignore[return-value]


def require_equal(output: str, *, has_all_stages: bool = True) -> Spent:
    """Journal, manifest, summary, report and terminal agree; returns what they say. A stage that was dropped since is on
    the bill, and in no list of stages."""
    expected = of_journals()
    manifest, summary = (json.loads(Path(f"run/{name}.json").read_text()) for name in ("manifest", "summary"))
    assert told(manifest) == told(summary) == expected
    assert f"{manifest['calls']:,} model calls, {manifest['tokens']:,} tokens, ${manifest['cost_usd']:,.4f}" in output
    usd = manifest["cost_usd"]
    assert in_report() == (
        f"{manifest['calls']:,}",
        f"{manifest['tokens']:,}",
        f"{usd:.2f}" if usd >= 1 else f"{usd:.4f}",
    )
    for stages in (manifest["stages"], summary["stages"]) if has_all_stages else ():
        assert sum((told(stage) for stage in stages.values()), Spent()) == expected
    return told(manifest)


def verified() -> int:
    """What ``audit verify`` counts."""
    done = run("audit", "verify", "run")
    assert done.exit_code == 0, done.output
    lines = re.findall(r"([\d,]+) calls, unchanged", done.output)
    assert len(lines) == len(journals())
    total = re.search(r"run: ([\d,]+) calls in", done.output)
    return int((total[1] if total else lines[0]).replace(",", ""))


def test_a_paid_run_reports_what_the_journal_holds(place: Path, paid: Paid) -> None:
    done = run("run", "paid.yaml", "-o", "run")
    assert done.exit_code == 0, done.output
    spent = require_equal(done.output)
    assert spent == paid.spent, "the journal holds what the server was paid for"
    assert spent.calls == verified()
    stages = json.loads(Path("run/manifest.json").read_text())["stages"]
    assert stages["answers"]["calls"] == 2 * PROMPTS
    assert stages["labels"]["calls"] == 2 * PROMPTS
    assert stages["scores"]["calls"] == 2 * PROMPTS
    assert told(stages["pairs"]) == told(stages["again"]) == Spent(0, 0, 0.0), (
        "answered from the journal: not paid again"
    )
    assert stages["audit"]["calls"] > 0
    again = run("run", "paid.yaml", "-o", "run")
    assert require_equal(again.output) == spent == paid.spent, "nothing was asked again"
    shown = run("show", "run").output
    assert f"{spent.calls:,} model calls, {spent.tokens:,} tokens" in shown


def test_failed_calls_and_earlier_starts_count(place: Path, paid: Paid) -> None:
    # one pair cannot be judged, and every score fails until the server is mended
    paid.is_broken = lambda request: "Question 3???" in request.text and "Question 3????" not in request.text and bool(
        request.body.get("logprobs")
    )  # fmt: skip
    one_pair, broken = paid.is_broken, lambda request: bool(request.body.get("logprobs")) and is_rating(request)
    paid.is_broken = lambda request: one_pair(request) or broken(request)
    stopped = run("run", "paid.yaml", "-o", "run")
    assert isinstance(stopped.exception, JudgeUnavailable), stopped.output
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert told(manifest) == of_journals(), "the stage that failed was paid for too"
    assert "scores" not in manifest["stages"]
    failed = manifest["calls"] - paid.calls
    assert failed > 2, "both orders of one pair, and the scores"
    first = told(manifest)

    paid.is_broken = one_pair
    done = run("run", "paid.yaml", "-o", "run")
    assert done.exit_code == 0, done.output
    spent = require_equal(done.output)
    assert spent.calls > first.calls
    assert spent.calls == verified()
    stages = json.loads(Path("run/manifest.json").read_text())["stages"]
    assert stages["labels"]["figures"]["problems"] == {"server_error": 1}
    assert stages["labels"]["calls"] == 2 * PROMPTS, "two of them failed"
    assert stages["scores"]["calls"] > 2 * PROMPTS, "with those of the first start"


def is_rating(request: Request) -> bool:
    return "Rating" in request.text or "rating" in request.text


def test_a_stage_that_was_dropped_stays_on_the_bill(place: Path, paid: Paid) -> None:
    run("run", "paid.yaml", "-o", "run")
    recipe = yaml.safe_load(Path("paid.yaml").read_text())
    recipe["stages"] = [stage for stage in recipe["stages"] if stage["id"] not in ("scores", "audit")]
    Path("paid.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    done = run("run", "paid.yaml", "-o", "run")
    assert done.exit_code == 0, done.output
    summary = json.loads(Path("run/summary.json").read_text())
    assert told(summary) == of_journals()
    assert summary["calls"] == verified() == paid.calls
    assert "scores" not in summary["stages"]
    assert in_report()[0] == f"{summary['calls']:,}"


def test_a_command_prints_what_its_journal_holds(place: Path, server: StubServer, paid: Paid) -> None:
    served = ["--base-url", server.url, "--prices", "prices.yaml", "--set", "server.attempts=1"]
    done = run("sample", "--model", "openai:paid", "--prompts", "prompts.jsonl", "-o", "run", *served)
    assert done.exit_code == 0, done.output
    spent = paid.spent
    assert of_journals() == spent
    usd = (paid.input * INPUT_USD + paid.output * OUTPUT_USD) / 1e6
    assert f"{spent.calls:,} model calls, {spent.tokens:,} tokens, ${usd:,.4f}" in done.output
    assert verified() == spent.calls


@pytest.mark.parametrize("readout", ["logprobs", "parsed", "votes"])
def test_what_a_judge_writes_is_counted_whether_it_could_be_read_or_not(
    readout: str, place: Path, server: StubServer, paid: Paid
) -> None:
    pairs = [{"prompt": f"q{n}", "first": "a", "second": "b" * (n + 1)} for n in range(4)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    served = ["--base-url", server.url, "--prices", "prices.yaml", "--set", f"server.readout={readout}"]
    done = run("label", "--data", "pairs.jsonl", "--judge", "openai:paid", "-o", "run", *served)
    assert done.exit_code == (0 if readout == "logprobs" else 4), done.output
    sums, bill = of_journals(), paid.spent
    assert (sums.tokens, sums.cost_usd) == (bill.tokens, bill.cost_usd)
    assert sums.calls == 8, "one per order of a pair, however many verdicts it draws"
    assert f"{sums.calls} model calls, {sums.tokens:,} tokens" in done.output
