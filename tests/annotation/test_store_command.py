"""`rate --store URL` keeps ratings in PostgreSQL and exports them as from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.annotation import RatingStore, read_task
from aifeedback.cli import app
from aifeedback.errors import InputError

from .postgres import Server
from .test_people import rated


def test_ratings_in_postgres_are_exported_as_those_in_a_file(postgres: Server, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"Q{i}", "first": f"a{i}", "second": f"b{i}"}) + "\n" for i in range(4))
    )
    url = postgres.new_database("command")
    ratings = [rated(item, "anna", "first") for item in read_task(data).items]
    for name, place in (("file", str(tmp_path / "file" / "ratings.sqlite")), ("postgres", url)):
        store = RatingStore(place)
        for rating in ratings:
            store.add(rating)
        store.close()
        store = ["--store", url] if name == "postgres" else []
        result = CliRunner().invoke(app, ["rate", str(data), "-o", str(tmp_path / name), "--export", *store])
        assert result.exit_code == 0, (result.output, result.exception)
    for file in ("labelled.jsonl", "ratings.jsonl", "summary.json"):
        assert (tmp_path / "file" / file).read_text() == (tmp_path / "postgres" / file).read_text()
    assert not (tmp_path / "postgres" / "ratings.sqlite").exists()
    assert url not in (tmp_path / "postgres" / "command.json").read_text()


@pytest.mark.parametrize("url", ["mysql://host/db", "ratings.sqlite"])
def test_another_store_than_postgres_is_refused(tmp_path: Path, url: str) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "Q", "first": "a", "second": "b"}) + "\n")
    result = CliRunner().invoke(app, ["rate", str(data), "-o", str(tmp_path / "o"), "--rater", "a", "--store", url])
    assert isinstance(result.exception, InputError)
    assert "not a PostgreSQL URL" in str(result.exception)
