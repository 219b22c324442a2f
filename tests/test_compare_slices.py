"""``compare --by``: terminal, figures and page have the slices; a tag that no prompt has is refused before any call."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The new policy's responses are longer, but not in German law: a judge of length says so."""
    monkeypatch.chdir(tmp_path)
    files: dict[str, list[dict[str, str]]] = {"prompts": [], "old": [], "new": []}
    for i in range(160):
        tags = {"language": "de" if i % 2 else "en", "topic": "law" if i % 4 > 1 else "art"}
        loses = tags == {"language": "de", "topic": "law"}
        files["prompts"].append({"prompt": f"Question {i}?", **tags})
        files["old"].append({"prompt": f"Question {i}?", "completion": f"A response {i} of usual length."})
        text = f"Short {i}." if loses else f"A response {i} of a length that is quite unusual here, as one can see."
        files["new"].append({"prompt": f"Question {i}?", "completion": text})
    for name, rows in files.items():
        Path(f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path


COMPARE = [
    "compare",
    "old=old.jsonl",
    "new=new.jsonl",
    "--prompts",
    "prompts.jsonl",
    "--judge",
    "fake:longer",
    "-o",
    "out",
]


def test_the_cell_that_loses_is_named_in_terminal_figures_and_page(place: Path) -> None:
    ran = CliRunner().invoke(app, [*COMPARE, "--by", "tag:language,tag:topic"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    slices = json.loads(Path("out/figures.json").read_text())["slices"]
    assert slices["dimensions"] == ["language", "topic"]
    cells = {(cell["dimension"], cell["name"]): cell for cell in slices["cells"]["new"]}
    assert len(cells) == 8
    lost = cells["language × topic", "de × law"]
    assert (lost["value"], lost["n"], lost["is_below_half"]) == (0.0, 40, True)
    assert not cells["language × topic", "en × law"]["is_worse"]
    assert "new: de × law (below the rest and loses to the reference)" in " ".join(ran.output.split())
    page = Path("out/report.html").read_text()
    assert "By slice" in page
    assert 'class="level bad" title="below the rest and loses to the reference"' in page


def test_small_slices_are_grey(place: Path) -> None:
    ran = CliRunner().invoke(
        app, [*COMPARE, "--by", "tag:language", "--by", "topic", "--slice-rows", "50"], catch_exceptions=False
    )
    assert ran.exit_code == 0, ran.output
    cells = json.loads(Path("out/figures.json").read_text())["slices"]["cells"]["new"]
    assert {cell["is_few"] for cell in cells if "×" in cell["dimension"]} == {True}
    assert 'title="too few to test"' in Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("by", "message"),
    [("tag:dialect", "no prompt has the tag 'dialect'"), ("prompt:language", "is not a tag"), ("tag:", "is not a tag")],
)
def test_a_wrong_slice_is_refused_before_any_call(place: Path, by: str, message: str) -> None:
    ran = CliRunner().invoke(app, [*COMPARE, "--by", by])
    assert ran.exit_code != 0
    assert message in " ".join(f"{ran.output} {ran.exception}".split())
    assert not Path("out/journal.sqlite").exists()


def test_without_by_nothing_changes(place: Path) -> None:
    assert CliRunner().invoke(app, COMPARE, catch_exceptions=False).exit_code == 0
    assert "slices" not in json.loads(Path("out/figures.json").read_text())
    assert "By slice" not in Path("out/report.html").read_text()
