"""Public data sets by short name: found where a copy lies, never guessed, and always said where to get one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from aifeedback import data
from aifeedback.cli import app
from aifeedback.data.catalogue import KNOWN
from aifeedback.errors import FileError
from aifeedback.refs import Ref

PAIR = {"input": "Name a colour.", "output_1": "Blue.", "output_2": "Seven.", "label": 1}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder, empty."""
    monkeypatch.setenv("AIFEEDBACK_DATA", str(tmp_path / "sets"))
    return tmp_path / "sets"


def put(path: Path, rows: object) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("place", ["llmbar/Natural", "llmbar/Dataset/LLMBar/Natural"])
def test_a_copy_is_found_in_a_checkout_of_the_source(folder: Path, place: str) -> None:
    file = put(folder / place / "dataset.json", [PAIR])
    assert Ref("llmbar-natural").path == file
    assert Ref("llmbar-natural").problem() is None
    read = data.read_comparisons("llmbar-natural")
    assert read.human == [1.0]
    assert data.read_prompts("llmbar-natural")[0].text == "Name a colour."


def test_a_file_of_that_name_comes_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder / "llmbar/Natural/dataset.json", [PAIR])
    put(tmp_path / "here" / "llmbar-natural" / "rows.json", [PAIR | {"label": 2}])
    monkeypatch.chdir(tmp_path / "here")
    assert data.read_comparisons("llmbar-natural").human == [0.0]


def test_a_set_that_is_not_there_says_where_to_get_it(folder: Path) -> None:
    said = Ref("pandalm").problem()
    assert said is not None
    for part in ("pandalm", KNOWN["pandalm"].source, str(folder / "pandalm"), "AIFEEDBACK_DATA"):
        assert part in said
    with pytest.raises(FileError, match="pandalm"):
        data.read_comparisons("pandalm")


def test_what_the_hub_holds_as_files_comes_from_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, object]]] = []

    def load_dataset(name: str, **which: object) -> list[dict[str, str]]:
        asked.append((name, which))
        start = "\n\nHuman: Hello\n\nAssistant:"
        return [{"chosen": f"{start} Good day.", "rejected": f"{start} Go away."}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert Ref("hh-harmless").problem() is None
    assert data.read_comparisons("hh-harmless").report.kept == 1
    assert asked == [("Anthropic/hh-rlhf", {"split": "test", "data_dir": "harmless-base"})]


def test_an_id_of_the_hub_is_not_a_mistake_but_a_mistyped_path_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("owner/name", "owner/name#test", "owner/name#config/test", "data/name#test"):
        assert Ref(name).problem() is None, name
    for name in ("data/pairs", "data/pairs.jsonl", "owner/pairs.jsonl", "pairs.jsonl", "llmbar-naturall"):
        assert Ref(name).problem() == f"{name}: no such file"


def test_on_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(folder / "llmbar/Natural/dataset.json", [PAIR | {"input": f"Name colour {n}."} for n in range(12)])
    asked = ["label", "--data", "llmbar-natural", "--judge", "fake:noisy", "-o", "labels.jsonl"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert len(Path("labels.jsonl").read_text().splitlines()) == 12


SIZES = {"hh-harmless": 2312, "llmbar-natural": 100, "llmbar-gptinst": 92, "pandalm": 500}


@pytest.mark.parametrize("name", SIZES)
def test_the_real_sets_load_by_name(real_data: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("AIFEEDBACK_DATA", str(real_data))
    read = data.read_comparisons(name)
    assert read.report.rows == SIZES[name]
    assert read.report.kept + len(read.report.skipped) == SIZES[name]
    assert read.report.kept > 0.9 * SIZES[name]  # PandaLM has 29 empty answers
    assert all(human is not None for human in read.human)
