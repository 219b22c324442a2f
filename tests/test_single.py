"""A command started again: what is finished is not done again, what is open is asked again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import RecipeError
from aifeedback.models import fake
from aifeedback.steps import connect
from aifeedback.types import Problem
from models.stub import Request, Response, StubServer, answer

PAIRS = 6


def write(name: str, rows: list[dict[str, str]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    monkeypatch.chdir(tmp_path)
    write(
        "pairs.jsonl", [{"prompt": f"Question {n}?", "first": f"answer {n}", "second": f"o {n}"} for n in range(PAIRS)]
    )

    def run(server: StubServer, *options: str) -> bytes:
        request = [
            "label",
            "--data",
            "pairs.jsonl",
            "--judge",
            "openai:stub",
            "--base-url",
            server.url,
            "-o",
            "out.jsonl",
        ]
        result = CliRunner().invoke(app, [*request, *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return Path("out.jsonl").read_bytes()

    return run


def test_a_finished_command_is_not_done_again(label: Callable[..., bytes]) -> None:
    with StubServer(answer) as server:
        first = label(server)
        Path("out.jsonl").unlink()
        journal = Path("out.jsonl.run/journal.sqlite")
        journal.rename("elsewhere")  # nothing is looked up, let alone asked
        assert label(server) == first
        assert server.count == 2 * PAIRS
        assert not journal.exists()


def test_a_result_is_not_replaced_by_another_job(label: Callable[..., bytes]) -> None:
    """What is done again after the file was deleted finds its answers in the journal."""
    with StubServer(answer) as server:
        every = label(server)
        with pytest.raises(
            RecipeError, match=r"out\.jsonl: already contains a result with different settings \(limit not set, now 2\)"
        ):
            label(server, "--limit", "2")
        assert Path("out.jsonl").read_bytes() == every
        Path("out.jsonl").unlink()
        assert len(label(server, "--limit", "2").splitlines()) == 2
        Path("out.jsonl").unlink()
        assert label(server) == every
        Path("pairs.jsonl").write_text(Path("pairs.jsonl").read_text().replace("Question 0", "Question zero"))
        with pytest.raises(RecipeError, match=r"pairs\.jsonl has changed"):
            label(server)
        Path("out.jsonl").unlink()
        assert b"Question zero" in label(server)
        assert server.count == 2 * PAIRS + 2


def test_a_larger_limit_resumes(label: Callable[..., bytes]) -> None:
    with StubServer(answer) as server:
        few = label(server, "--limit", "2")
        more = label(server, "--limit", "4")
        assert (len(more.splitlines()), more.startswith(few), server.count) == (4, True, 2 * 4)
        with pytest.raises(RecipeError, match=r"limit 4, now 3"):
            label(server, "--limit", "3")
        with pytest.raises(RecipeError, match=r"seed 0, now 1\)"):
            label(server, "--limit", "5", "--seed", "1")
        assert Path("out.jsonl").read_bytes() == more
        every = label(server)
        assert (len(every.splitlines()), every.startswith(more), server.count) == (PAIRS, True, 2 * PAIRS)
        assert label(server) == every


def test_how_requests_are_sent_makes_no_other_job(label: Callable[..., bytes]) -> None:
    with StubServer(answer) as server:
        first = label(server)
        assert label(server, "--set=server.concurrency=1", "--set=server.warm=false") == first


def test_nothing_that_was_there_before_is_replaced(label: Callable[..., bytes]) -> None:
    with StubServer(answer) as server:
        Path("out.jsonl").write_text("my own\n")
        with pytest.raises(RecipeError, match="exists already, and was not made by this command"):
            label(server)
        Path("set").mkdir()
        Path("set/README.md").write_text("my own")
        with pytest.raises(RecipeError, match="set: exists already"):
            label(server, "--format", "dataset", "-o", "set")
        assert not Path("out.jsonl.run").exists()
        assert server.count == 0


def test_what_is_done_is_reported_for_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("answers.jsonl", [{"prompt": f"{n}?", "completion": f"answer {k}"} for n in range(4) for k in range(3)])
    for command in (["pair", "--completions"], ["score", "--judge", "fake:longer", "--data"]):
        request = [*command, "answers.jsonl", "-o", f"{command[0]}.jsonl"]
        first, again = (CliRunner().invoke(app, request, catch_exceptions=False) for _ in range(2))
        assert (first.exit_code, again.exit_code) == (0, 0)
        assert "Already complete" not in first.output
        assert "Already complete" in again.output


def test_what_a_server_left_open_is_requested_again(label: Callable[..., bytes]) -> None:
    is_broken = True

    def sometimes(request: Request) -> Response:
        return Response(b"{}", 500) if is_broken and "answer 3" in request.text else answer(request)

    quick = [f"--set=server.{name}={value}" for name, value in {"attempts": 2, "backoff_first_s": 0.001}.items()]
    with StubServer(sometimes) as server:
        assert b'"problem": "server_error"' in label(server, *quick)
        is_broken = False
        assert b"server_error" not in label(server, *quick)
        known = server.count
        label(server, *quick)
        assert server.count == known


def test_a_critique_that_was_left_open_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("answers.jsonl", [{"prompt": f"{n}?", "completion": f"answer {n}"} for n in range(3)])
    request = ["revise", "--data", "answers.jsonl", "--model", "fake:longer", "-o", "sft.jsonl"]

    def problems(exit_code: int) -> dict[str, int]:
        connect.release_models()
        result = CliRunner().invoke(app, request, catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return json.loads(Path("sft.jsonl.run/figures.json").read_text())["problems"]

    with monkeypatch.context() as dead:
        dead.setattr(fake, "connect", lambda name: fake.FakeModel(name, faults={Problem.SERVER_ERROR: 1.0}))
        assert problems(exit_code=4) == {"server_error": 3}
    assert problems(exit_code=0) == {}
    assert "Already complete" in CliRunner().invoke(app, request, catch_exceptions=False).output


def test_ctrl_c_says_that_the_same_command_resumes(tmp_path: Path) -> None:
    """In a process of its own, since the signal is the operating system's."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"prompt": f"{n}?", "chosen": "a", "rejected": "b"}) + "\n" for n in range(40)))

    def slow(request: Request) -> Response:
        return replace(answer(request), wait_s=0.2)

    with StubServer(slow) as server:
        command = [sys.executable, "-m", "aifeedback", "label", "--data", str(pairs), "--judge", "openai:stub"]
        command += ["--base-url", server.url, "--set", "server.concurrency=1", "-o", str(tmp_path / "labels.jsonl")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.requests) < 3:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, labels = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Rerun to resume" in labels
    assert "Traceback" not in labels


def test_label_reports_how_probable_its_labels_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write("pairs.jsonl", [{"prompt": f"{n}?", "first": f"answer {n}", "second": f"o {n}"} for n in range(4)])
    request = ["label", "--data", "pairs.jsonl", "--judge", "fake:quality", "-o", "out.jsonl", "--json", "told.json"]
    assert "label_mass" in CliRunner().invoke(app, request, catch_exceptions=False).output
    assert json.loads(Path("told.json").read_text())["label_mass"] == pytest.approx(0.97)
