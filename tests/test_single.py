"""A command started again: what is finished is not done again, what is open is asked again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from models.stub import Request, Response, StubServer, answer

PAIRS = 6


@pytest.fixture
def label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., bytes]:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Question {n}?", "first": f"answer {n}", "second": f"other {n}"} for n in range(PAIRS)]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(server: StubServer, *options: str) -> bytes:
        asked = [
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
        result = CliRunner().invoke(app, [*asked, *options], catch_exceptions=False)
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


def test_other_settings_or_inputs_are_other_work(label: Callable[..., bytes]) -> None:
    with StubServer(answer) as server:
        label(server, "--limit", "2")
        assert len(label(server).splitlines()) == PAIRS
        Path("pairs.jsonl").write_text(Path("pairs.jsonl").read_text().replace("Question 0", "Question zero"))
        assert b"Question zero" in label(server)
        assert server.count == 2 * PAIRS + 2


def test_what_a_server_left_open_is_asked_again(label: Callable[..., bytes]) -> None:
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
