"""Batch APIs in commands, recipes and Python: the first start submits and stops, the same start later collects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import aifeedback as af
from aifeedback.cli import app, main
from aifeedback.config import parse
from aifeedback.errors import BatchPending, RecipeError
from aifeedback.judging.spec import JudgeSpec
from aifeedback.steps.label import Label
from aifeedback.steps.rewards import RewardSpec, reward_from_options
from aifeedback.steps.rl import Rl
from models.batch_stub import OpenAIStub
from models.stub import Request, Response, StubServer, as_json, healthy


def reply(request: Request) -> Response:
    grades = tuple(str(grade) for grade in range(1, 11 if "Rating" in request.text else 3))
    body = healthy(request, grades)
    if not request.body.get("logprobs"):
        body["choices"][0] |= {"finish_reason": "stop"}
        body["choices"][0]["message"]["content"] = f"answer {len(request.text)} {request.body.get('seed', 0)}"
    return as_json(body)


@pytest.fixture
def stub() -> OpenAIStub:
    return OpenAIStub(reply)


@pytest.fixture
def server(stub: OpenAIStub) -> Iterator[StubServer]:
    with StubServer(stub) as started:
        yield started


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = [{"prompt": f"Question {n}?", "first": f"a{n}", "second": f"b{n}"} for n in range(6)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in pairs))
    Path("answers.jsonl").write_text(
        "".join(json.dumps({"prompt": r["prompt"], "completion": r["first"]}) + "\n" for r in pairs)
    )
    Path("prices.yaml").write_text('as_of: "2026-01"\nbatch: 0.5\nmodels: {stub: {input: 300.0, output: 1500.0}}\n')
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


LABEL = ("label", "--data", "pairs.jsonl", "--judge", "openai:stub", "-o", "labels.jsonl")


def test_the_command_stops_names_itself_and_collects(
    place: Path,
    stub: OpenAIStub,
    server: StubServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*LABEL, "--base-url", server.url, "--prices", "prices.yaml", "--batch-api"]
    monkeypatch.setattr("sys.argv", ["aifeedback", *command])
    with pytest.raises(SystemExit) as stopped:
        main()
    told = capsys.readouterr().err
    assert stopped.value.code == 7, told
    assert "! Waiting for 12 requests in batch batch_0 (in_progress, 0 of 12 done)." in told
    assert f"aifeedback {' '.join(command)}" in told
    assert "error" not in told
    assert not Path("labels.jsonl").exists()
    stub.finish()
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert "6 of 6 pairs labelled" in done.output
    assert "12 model calls" in done.output
    assert len(stub.batches) == 1
    assert list(Path("labels.jsonl.run/journal.batches").glob("*.json*")) == []
    single = run(*LABEL[:-1], "single.jsonl", "--base-url", server.url)
    assert single.exit_code == 0, single.output
    assert Path("single.jsonl").read_bytes() == Path("labels.jsonl").read_bytes()
    forecast = [
        run(*command, "--dry-run").output,
        run(*[option for option in command if option != "--batch-api"], "--dry-run").output,
    ]
    halved, whole = (float(text.rpartition("$")[2].split()[0].replace(",", "")) for text in forecast)
    assert halved == pytest.approx(whole / 2, abs=0.006)


def test_a_job_under_way_may_change_to_single_calls(place: Path, stub: OpenAIStub, server: StubServer) -> None:
    command = [*LABEL, "--base-url", server.url]
    assert isinstance(run(*command, "--set", "server.batch_api=true").exception, BatchPending)
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert stub.answered == 0


@pytest.mark.parametrize(
    ("command", "batches", "requests"),
    [
        (("label", "--data", "pairs.jsonl", "--judge", "openai:stub", "--prompt", "helpful-detailed", "--prompt",
          "helpful-base"), 2, 24),
        (("label", "--data", "pairs.jsonl", "--judge", "openai:stub", "--set", "judge.batch_size=2", "--set", "batch=2"),
         1, 12),
        (("score", "--data", "answers.jsonl", "--judge", "openai:stub", "--set", "batch=2"), 1, 6),
        (("sample", "--model", "openai:stub", "--prompts", "prompts.jsonl", "--per-prompt", "3"), 3, 18),
        (("compare", "a=openai:stub", "b=openai:stub", "--prompts", "prompts.jsonl", "--judge", "fake:noisy"), 3, 18),
    ],
)  # fmt: skip
def test_one_start_submits_all_that_can_be_asked(
    command: tuple[str, ...], batches: int, requests: int, place: Path, stub: OpenAIStub, server: StubServer
) -> None:
    start = [*command, "-o", "out", "--base-url", server.url, "--batch-api"]
    stopped = run(*start)
    assert isinstance(stopped.exception, BatchPending), stopped.output
    assert (len(stub.batches), len(stub.submitted)) == (batches, requests)
    stub.finish()
    done = run(*start)
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(stub.batches) == batches


def test_rationales_come_first_and_verdicts_after_them(place: Path, stub: OpenAIStub, server: StubServer) -> None:
    start = [*LABEL, "--base-url", server.url, "--batch-api", "--rationale"]
    for batches in (1, 2):
        assert isinstance(run(*start).exception, BatchPending)
        assert (len(stub.batches), len(stub.submitted)) == (batches, 12 * batches)
        stub.finish()
    assert run(*start).exit_code == 0


def test_a_recipe_finishes_what_waits_for_nothing(place: Path, stub: OpenAIStub, server: StubServer) -> None:
    judge = {"model": "openai:stub", "base_url": server.url, "batch_api": True}
    stages = [
        {"id": "labels", "stage": "label", "comparisons": "pairs.jsonl", "judge": judge},
        {"id": "cut", "stage": "split", "prompts": "prompts.jsonl", "test": 2},
        {"id": "scores", "stage": "score", "completions": "answers.jsonl", "judge": judge},
        {"id": "measured", "stage": "evaluate", "data": "@labels/labelled.jsonl"},
    ]
    Path("r.yaml").write_text(yaml.safe_dump({"name": "r", "workers": 1, "stages": stages}))
    stopped = run("run", "r.yaml", "-o", "run")
    assert isinstance(stopped.exception, BatchPending)
    assert "stage 'labels'" in str(stopped.exception)
    assert "stage 'scores'" in str(stopped.exception)
    assert Path("run/stages/cut/done.json").is_file()
    assert not Path("run/stages/labels/done.json").exists()
    assert len(stub.submitted) == 18
    stub.finish()
    done = run("run", "r.yaml", "-o", "run")
    assert done.exit_code == 0, (done.output, done.exception)
    manifest = json.loads(Path("run/manifest.json").read_text())
    assert {stage: found["calls"] for stage, found in manifest["stages"].items()} == {
        "labels": 12, "cut": 0, "scores": 6, "measured": 0,
    }  # fmt: skip


def test_from_python_the_same_call_collects(place: Path, stub: OpenAIStub, server: StubServer) -> None:
    def judged() -> Any:
        judge = af.Judge("openai:stub", base_url=server.url, batch_api=True)
        return judge.compare(af.load_pairs("pairs.jsonl"))

    with pytest.raises(BatchPending, match="12 requests"):
        judged()
    stub.finish()
    assert [p.problem for p in judged()] == [None] * 6


def test_what_needs_answers_at_once_refuses_batches_by_name() -> None:
    served = {"base_url": "http://x", "batch_api": True}
    with pytest.raises(RecipeError, match="batch_api: a reward is needed at once"):
        parse(RewardSpec, reward_from_options(["judge:openai:x"], served=served))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="batch_api: a reward is needed at once"):
        parse(RewardSpec, reward_from_options(["judge:openai:x"], served={"server": {"batch_api": True}}))  # type: ignore[arg-type]
    rl = {"model": "hf:a/b", "prompts": "p.jsonl"}
    with pytest.raises(RecipeError, match="batch_api: a reward is needed at once"):
        Rl.from_options({**rl, "reward": "judge:openai:x", **served})
    monitor = {"prompts": "q.jsonl", "judge": "openai:watch"}
    with pytest.raises(RecipeError, match="batch_api: training waits for the monitor"):
        Rl.from_options({**rl, "reward": "rm:r", "monitor": monitor, **served})
    with pytest.raises(RecipeError, match="batch_api: workers of Ray cannot wait"):
        parse(Label, {"comparisons": "p.jsonl", "judge": {"model": "openai:x", **served}, "engine": "ray"})
    with pytest.raises(RecipeError, match="batch_api: .* is a decision model"):
        parse(JudgeSpec, {"model": "decisions:x", "batch_api": True})
    with pytest.raises(RecipeError, match="batch_api: only a server"):
        parse(JudgeSpec, {"model": "hf:a/b", "batch_api": True})


def test_an_audit_takes_a_batch_for_each_round(place: Path, stub: OpenAIStub, server: StubServer) -> None:
    start = ["audit", "openai:stub", "--data", "pairs.jsonl", "-o", "audit", "--base-url", server.url, "--batch-api",
             "--probe", "position", "--probe", "repeatability"]  # fmt: skip
    for _ in range(4):
        stopped = run(*start)
        if not isinstance(stopped.exception, BatchPending):
            break
        stub.finish()
    assert stopped.exit_code == 0, (stopped.output, stopped.exception)
    assert len(stub.batches) == 2, "the second answers of a judge are asked for by themselves"
