"""Options of a served model: every command that takes a model has them, and each has its effect or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.config import parse
from aifeedback.errors import RecipeError
from aifeedback.judging.spec import JudgeSpec
from aifeedback.models.dialects import named_headers
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.steps.rewards import reward_from_options
from aifeedback.steps.rl import Rl
from models.stub import StubServer, answer

COMMANDS = (
    "label",
    "score",
    "sample",
    "revise",
    "compare",
    "audit",
    "probe",
    "train rl",
    "serve",
    "standards check",
    "standards diff",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_takes_a_model_has_the_options_of_a_server(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).output
    for option in ("--base-url", "--header", "--api-version", "--extra-body", "--set"):
        assert option in shown, option
    has_batches = command.split()[0] not in ("train", "serve", "standards")
    assert ("--batch-api" in shown) == has_batches, "a reward is needed at once"


def test_each_option_reaches_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENANT", "blue")
    Path("pairs.jsonl").write_text(json.dumps({"prompt": "Q?", "first": "a", "second": "b"}) + "\n")
    Path("prompts.jsonl").write_text(json.dumps({"prompt": "Q?"}) + "\n")
    options = ["--header", "X-Tenant=$TENANT", "--header", "X-Team=a=b", "--api-version", "2026-01-01", "--extra-body",
               '{"seed": null, "tag": "t"}', "--set", "server.concurrency=2"]  # fmt: skip
    with StubServer(answer) as server:
        for command in (
            ["label", "--data", "pairs.jsonl", "--judge", "openai:stub", "-o", "out.jsonl"],
            ["sample", "--model", "openai:stub", "--prompts", "prompts.jsonl", "-o", "drawn.jsonl"],
        ):
            server.requests.clear()
            done = CliRunner().invoke(app, [*command, "--base-url", server.url, *options], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            sent = server.requests[-1]
            assert (sent.headers["x-tenant"], sent.headers["x-team"]) == ("blue", "a=b")
            assert sent.path.endswith("?api-version=2026-01-01")
            assert sent.body["tag"] == "t"
            assert "seed" not in sent.body
        assert "blue" not in Path("out.jsonl.run/command.json").read_text()


def test_a_secret_is_named_and_never_written_down() -> None:
    assert named_headers(["X-Org=a", "Authorization=$KEY"]) == {"X-Org": "a", "Authorization": "$KEY"}
    for wrong in ("Authorization=Bearer x", "x-api-key=abc", "Cookie=a", "no value", "X=", "X Y=a", "X=a\nb"):
        with pytest.raises(ValueError, match=r"\$VARIABLE|write NAME=VALUE"):
            named_headers([wrong])
    with pytest.raises(RecipeError, match="environment variable"):
        parse(ServerSettings, {"headers": {"api-key": "abc"}})


def test_options_of_a_server_are_refused_for_a_model_of_this_machine() -> None:
    for inputs in ({"headers": ["X=a"]}, {"api_version": "1"}, {"extra_body": '{"a": 1}'}, {"base_url": "http://x"}):
        with pytest.raises(RecipeError, match="only a server"):
            parse(JudgeSpec, {"model": "lab:judge-1", **inputs})
        with pytest.raises(RecipeError, match="only a judge on a server"):
            reward_from_options(["rm:reward-model"], served=inputs)
        with pytest.raises(RecipeError, match="only a model on a server"):
            Rl.from_options({"model": "hf:a/b", "prompts": "p.jsonl", "reward": "rm:r", **inputs})
    with pytest.raises(RecipeError, match="not JSON"):
        parse(JudgeSpec, {"model": "openai:x", "extra_body": "{seed: null}"})


def test_train_rl_gives_them_to_each_judge_that_is_served() -> None:
    inputs = {"model": "hf:a/b", "prompts": "p.jsonl", "base_url": "http://x", "server": {"readout": "votes"}}
    monitor = {"prompts": "q.jsonl", "judge": "openai:watch"}
    step = Rl.from_options({**inputs, "reward": "judge:openai:x", "monitor": monitor})
    assert step.reward.judge is not None
    assert step.monitor is not None
    assert step.reward.judge.server_options == step.monitor.judge.server_options
    assert step.monitor.judge.server_options == {"base_url": "http://x", "readout": "votes"}
    step = Rl.from_options({**inputs, "reward": "rm:r", "monitor": monitor})
    assert step.monitor is not None
    assert step.monitor.judge.base_url == "http://x"
