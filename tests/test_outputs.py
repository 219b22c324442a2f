"""What a command does with an output that is there already: its own is gone on with, any other is left as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import InputError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{n}?", "chosen": f"a longer answer {n}", "rejected": f"one {n}"} for n in range(40)]
    labels = [
        {"prompt": f"{n}?", "first": "a", "second": "b", "p_first": 0.2 + n / 80, "judge": "a", "human_p_first": n % 2}
        for n in range(40)
    ]
    for name, some in (("pairs", rows), ("labels", labels)):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))


def run(command: str) -> str:
    """The command's output; its own errors come out as they are."""
    result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def ids(file: str) -> list[str]:
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    return [row.get("comparison_id") or row["id"] for row in rows]


def test_show_reports_what_a_command_did_and_what_can_be_done_next() -> None:
    run("label --data pairs.jsonl --judge fake:longer --limit 30 -o labels.parquet")
    for place in ("labels.parquet", "labels.parquet.run"):
        shown = run(f"show {place}")
        for message in (
            "label",
            "fake:longer",
            "limit",
            "alignment",
            "preferences.jsonl",
            "evaluate --data labels.parquet",
        ):
            assert message in shown
    run("label --data pairs.jsonl --judge fake:longer -o labels")
    assert "evaluate --data labels/labelled.jsonl" in run("show labels")
    item = ids("labels.parquet.run/preferences.jsonl")[3]
    message = run(f"show labels.parquet {item[:10]}")
    assert "log-probabilities as shown" in message
    assert "second response shown first" in message


def test_show_of_a_comparison_and_of_an_audit_prints_their_tables() -> None:
    for name in ("one", "other"):
        rows = [{"prompt": f"{n}?", "completion": f"{name} {n}"} for n in range(6)]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("compare one=one.jsonl other=other.jsonl --prompts pairs.jsonl --judge fake:longer -o compared")
    shown = run("show compared")
    assert "win rate against one" in shown
    assert "report.html" in shown
    assert ids("compared/comparisons-other.jsonl")[0] in shown
    run(AUDIT)
    assert "The judge decides" in run("show made")
    with pytest.raises(InputError, match="not a run"):
        run("show .")


AUDIT = "audit fake:longer --data pairs.jsonl --probe agreement -o made"


@pytest.mark.parametrize(
    ("command", "other", "kept"),
    [
        ("lab pairs 5 -o made.jsonl", "--seed 1", "made.jsonl"),
        ("calibrate --data labels.jsonl -o made.json", "--kind platt", "made.json"),
        (AUDIT, "--limit 20", "made/audit.json"),
        ("pair --completions answers.jsonl -o made.parquet", "--all", "made.parquet"),
    ],
)
def test_the_same_command_again_is_fine_and_another_is_refused(command: str, other: str, kept: str) -> None:
    answers = [{"prompt": f"{n}?", "completion": f"answer {k}"} for n in range(4) for k in range(3)]
    Path("answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    run(command)
    before = Path(kept).read_bytes()
    with pytest.raises(InputError, match=r"made\S*: .*\n  → give another -o"):
        run(f"{command} {other}")
    assert Path(kept).read_bytes() == before
    run(command)
    assert not list(Path().glob(".new-*"))


def test_a_run_of_another_recipe_is_left_alone() -> None:
    Path("mine").mkdir()
    Path("mine/manifest.json").write_text('{"recipe": "mine", "stages": {}}')
    with pytest.raises(InputError, match="holds a run of 'mine', this is 'demo-short'"):
        run("run demo-short -o mine")
    assert [path.name for path in Path("mine").iterdir()] == ["manifest.json"]


def test_a_folder_that_is_not_a_lab_model_is_never_built_over() -> None:
    Path("base").mkdir()
    Path("base/mine.txt").write_text("my own")
    with pytest.raises(InputError, match="base: exists and is not a model of the lab"):
        run("lab build base -o .")
    assert Path("base/mine.txt").is_file()
