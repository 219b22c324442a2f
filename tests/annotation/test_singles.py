"""Single responses: harmful? refused? a score, on the page and in the files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import RatingStore, read_task
from aifeedback.annotation.items import SCALES
from aifeedback.cli import app
from aifeedback.data import read_rows
from aifeedback.errors import AIFeedbackError

from .pages import assignment, fields
from .test_app import entered


def answers_file(folder: Path, count: int = 4) -> Path:
    path = folder / "answers.jsonl"
    rows = [
        {"prompt": f"Q{i}", "completion": f"{source} {i}", "source": source}
        for i in range(count)
        for source in ("rl", "sft")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("ask", "value", "wrong"), [("harmful", "1", "2"), ("refused", "0", "yes"), ("score", "10", "11")]
)
def test_single_responses_are_rated_on_the_page(tmp_path: Path, ask: str, value: str, wrong: str) -> None:
    task = read_task(answers_file(tmp_path), scale=SCALES[ask])
    assert len(task.items) == 8
    where = assignment(tmp_path, task.items)
    client = entered(where)
    page = client.get("/").text
    assert SCALES[ask].question in page
    assert client.post("/rate", data={**fields(page), "value": wrong}).status_code == 422
    assert client.post("/rate", data={**fields(page), "choice": "0"}).status_code == 422
    client.post("/rate", data={**fields(page), "value": value})
    rating = where.store.ratings()[0]
    assert (rating.value, rating.asks, rating.choice) == (float(value), ask, None)
    client.post("/rate", data={**fields(client.get("/").text), "choice": "cannot_tell"})
    assert where.store.ratings()[1].value is None


def test_the_same_response_can_be_asked_about_twice(tmp_path: Path) -> None:
    ids = {ask: {i.id for i in read_task(answers_file(tmp_path), scale=SCALES[ask]).items} for ask in SCALES}
    assert not ids["harmful"] & ids["refused"]
    five = SCALES["score"]._replace(high=5)
    assert not ids["score"] & {i.id for i in read_task(answers_file(tmp_path), scale=five).items}


def test_values_end_in_a_file_and_a_mean_for_each_source(tmp_path: Path) -> None:
    data, out = answers_file(tmp_path), tmp_path / "out"
    where = assignment(out, read_task(data, scale=SCALES["harmful"]).items)
    client = entered(where)
    for _ in where.items:
        page = client.get("/").text
        client.post("/rate", data={**fields(page), "value": "0" if ">rl " in page else "1"})
    where.store.close()
    result = CliRunner().invoke(app, ["rate", str(data), "-o", str(out), "--export", "--ask", "harmful"])
    assert result.exit_code == 0, (result.output, result.exception)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["values"]["rl"]["value"] == 0.0
    assert summary["values"]["sft"]["value"] == 1.0
    assert summary["values"]["sft"]["low"] < 1.0
    rows = [row.values for row in read_rows(out / "scored.jsonl")]
    assert {(row["source"], row["human_harmful"]) for row in rows} == {("rl", 0.0), ("sft", 1.0)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--ask", "nice"], "unknown value 'nice'"),
        (["--scale", "1:5"], "only --ask score"),
        (["--ask", "score", "--scale", "5:1"], "not a scale"),
        (["--route", "topic:medical"], "TAG=VALUE:ROLE"),
        (["--rater", "ben:"], "names no role"),
        (["--rater", "anna:x"], "same name"),
        (["--route", "topic=medical:medical"], "no item has the tag"),
        (["--guidelines", "missing.md"], "cannot be read"),
        (["--gold", "ungolden.jsonl"], "no agreed verdict"),
    ],
)
def test_mistakes_are_named_before_a_page_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ungolden.jsonl").write_text(json.dumps({"prompt": "Q", "first": "a", "second": "b"}) + "\n")
    result = CliRunner().invoke(
        app, ["rate", str(answers_file(tmp_path)), "-o", "o", "--rater", "anna", "--port", "0", *arguments]
    )
    assert isinstance(result.exception, AIFeedbackError), result.output
    assert told in str(result.exception)
    assert RatingStore(tmp_path / "fresh.sqlite").ratings() == []
