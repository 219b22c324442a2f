"""Exports of the journal and dataset folders: nothing is lost on the way, and others can read them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aifeedback.errors import FileError, JournalError
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal
from aifeedback.models.journal.exports import DatasetCard, export_rows, journal_rows, write_dataset
from aifeedback.models.journaled import Journaled
from models.journal.entries import entry


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path / "journal.sqlite")
    Journaled(FakeModel(), journal).read_labels([f"prompt {n} é" for n in range(25)], ["1", "2"])
    journal.append([entry(1)._replace(outcome="timeout", is_final=False, raw=None)])
    return journal


def test_jsonl_holds_every_call(journal: Journal, tmp_path: Path) -> None:
    assert export_rows(journal_rows(journal), tmp_path / "calls.jsonl") == 26
    rows = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert [row["seq"] for row in rows] == list(range(1, 27))
    assert rows[0]["model"] == "fake:quality"
    assert json.loads(rows[0]["setting"]) == {"labels": ["1", "2"]}
    assert rows[25]["outcome"] == "timeout"
    assert rows[25]["at"] == "2023-11-14T22:13:21.000+00:00"
    assert rows[-1]["link"] == journal.head().link


def test_parquet_holds_the_same(journal: Journal, tmp_path: Path) -> None:
    from pyarrow import parquet

    export_rows(journal_rows(journal), tmp_path / "calls.parquet")
    assert parquet.read_table(tmp_path / "calls.parquet").to_pylist() == list(journal_rows(journal))


def test_a_dataset_folder_loads_elsewhere(journal: Journal, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    card = DatasetCard(
        title="Calls", about="What a judge was asked.", licence="cc-by-4.0", columns={"seq": "its place"}
    )
    assert write_dataset(journal_rows(journal, "labels"), tmp_path / "set", card) == 26
    loaded = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.to_list() == list(journal_rows(journal))
    text = (tmp_path / "set" / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert "| `seq` | its place |" in text
    assert "n<1K" in text


def test_a_damaged_journal_is_not_exported(journal: Journal, tmp_path: Path) -> None:
    journal._connection().execute("UPDATE calls SET answer = '{}' WHERE seq = 20")
    with pytest.raises(JournalError, match="row 20"):
        export_rows(journal_rows(journal), tmp_path / "calls.jsonl")
    assert not (tmp_path / "calls.jsonl").exists()
    assert not list(tmp_path.glob(".calls*"))


def test_other_endings_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"\.jsonl or a \.parquet"):
        export_rows([], tmp_path / "calls.xlsx")
