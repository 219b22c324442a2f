"""`check`: tables first, then every problem; calls, cost and time per stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app

RECIPE = """
name: paid
seed: 0
settings: {judge: "openai:gpt-4", pairs: pairs.jsonl}
stages:
  - id: labels
    stage: label
    comparisons: ${pairs}
    judge: {model: "${judge}", base_url: "http://127.0.0.1:9/v1"}
  - id: rm
    stage: reward_model
    model: lab:base
    data: "@labels/labelled.jsonl"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("aifeedback.cli.terminal.console.width", 140)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    rows = [{"prompt": f"Question {i}?", "first": "yes " * 40, "second": "no " * 40} for i in range(50)]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


def check(*arguments: str) -> list[str]:
    result = CliRunner().invoke(app, ["check", "recipe.yaml", *arguments], catch_exceptions=False)
    return [" ".join(line.split()) for line in result.output.splitlines() if line.strip()]


def line(lines: list[str], stage: str) -> list[str]:
    return next(one.split() for one in lines if one.startswith(f"{stage} "))


def earlier(folder: Path, name: str) -> Path:
    """A finished run of the recipe on half as many pairs."""
    run = folder / "runs" / name
    run.mkdir(parents=True)
    done = {
        "labels": {"seconds": 30.0, "calls": 50, "tokens": 9000, "cost_usd": 0.25},
        "rm": {"seconds": 75.0, "calls": 0, "tokens": 0, "cost_usd": 0.0},
    }
    (run / "manifest.json").write_text(json.dumps({"stages": done}))
    return run


def test_the_tables_come_first_and_the_filled_in_recipe_only_on_request(folder: Path) -> None:
    lines = check()
    assert lines[0].startswith("settings")
    assert not any(one.startswith("stages:") for one in lines)
    assert any(one.startswith("stages:") for one in check("--resolved"))


def test_cost_is_that_of_the_price_table_and_time_is_unknown_before_a_run(folder: Path) -> None:
    dry = CliRunner().invoke(
        app,
        "label --data pairs.jsonl --judge openai:gpt-4 --base-url http://127.0.0.1:9/v1 -o x.jsonl --dry-run".split(),
        catch_exceptions=False,
    )
    cost = next(one.split()[-1] for one in dry.output.splitlines() if one.startswith("openai:"))
    lines = check()
    assert line(lines, "labels")[2:5] == ["100", cost, "unknown"]
    assert line(lines, "rm")[2:5] == ["0", "$0.00", "unknown"]
    assert float(cost.removeprefix("$")) > 0
    assert not (folder / "x.jsonl").exists()


def test_time_is_scaled_from_an_earlier_run(folder: Path) -> None:
    """50 calls took 30 s, so 100 take 60 s; training takes as long as before."""
    earlier(folder, "paid")
    lines = check()
    assert line(lines, "labels")[4] == "1:00"
    assert line(lines, "rm")[4] == "1:15"
    assert line(lines, "all")[3] == "2:15"
    assert "time as in runs/paid, scaled to the calls" in lines


def test_a_price_that_no_table_has_is_taken_from_an_earlier_run(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text().replace("gpt-4", "a-model-without-a-price")
    (folder / "recipe.yaml").write_text(text)
    assert line(check(), "labels")[3] == "unknown"
    run = earlier(folder, "elsewhere")
    assert line(check("--like", str(run)), "labels")[3:5] == ["$0.50", "1:00"]


def test_problems_follow_the_tables(folder: Path) -> None:
    (folder / "pairs.jsonl").unlink()
    lines = check()
    place = next(i for i, one in enumerate(lines) if one.startswith("✗"))
    assert place > next(i for i, one in enumerate(lines) if one.startswith("all "))
    assert line(lines, "labels")[2:5] == ["unknown", "unknown", "unknown"]
