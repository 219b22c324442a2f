"""Every library that is missing is named before the first call, with the one line that installs it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import MissingExtra
from aifeedback.pipeline import checks

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTIONS = {
    "markdown_it": "markdown-it-py",
    "multipart": "python-multipart",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""Module → distribution, where their names differ by more than a dash."""
BROUGHT = {
    "annotated_types": "pydantic", "anyio": "fastapi", "markupsafe": "jinja2", "pydantic_core": "pydantic",
    "starlette": "fastapi", "tqdm": "transformers",
}  # fmt: skip
"""Module → the dependency that always brings it."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=;]", requirement)[0].replace("-", "_").lower() for requirement in requirements}


def distribution(module: str) -> str:
    return DISTRIBUTIONS.get(module, module).replace("-", "_")


def test_every_extra_is_declared_with_the_modules_that_it_installs() -> None:
    declared = PROJECT["optional-dependencies"]
    for extra, modules in checks.EXTRAS.items():
        assert {distribution(module) for module in modules} == names(declared[extra]) - {"aifeedback"}
    everything = re.search(r"\[(.*)\]", declared["all"][0])
    assert everything is not None
    assert set(everything[1].split(",")) == set(checks.EXTRAS)


def test_every_third_party_import_is_a_dependency() -> None:
    known = names(PROJECT["dependencies"]) | {distribution(m) for modules in checks.EXTRAS.values() for m in modules}
    unknown = {}
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            result = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            result += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            for module in {name.partition(".")[0] for name in result} - set(sys.stdlib_module_names) - {"aifeedback"}:
                if distribution(BROUGHT.get(module, module)) not in known:
                    unknown[module] = file.name
    assert unknown == {}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation without any extra, and some files."""
    optional = {module for modules in checks.EXTRAS.values() for module in modules}
    real = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in optional else real(name))
    (tmp_path / "pairs.jsonl").write_text(
        "".join(f"{json.dumps({'prompt': f'p{i}', 'first': 'a', 'second': 'b', 'label': 1})}\n" for i in range(3))
    )
    (tmp_path / "own.yaml").write_text(
        "name: own\nstages:\n"
        "- {id: labels, stage: label, comparisons: pairs.jsonl, judge: 'lab:judge'}\n"
        "- {id: more, stage: label, comparisons: data.parquet, judge: 'fake:quality', engine: ray}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "extras"),
    [
        ("run own.yaml -o out", "local,hub,ray"),
        ("label --data pairs.jsonl --judge fake:quality --judge lab:judge -o out.jsonl", "local"),
        ("train rl --policy lab:base --prompts pairs.jsonl --reward rm:R --set train.lora={} --engine trl -o out",
         "local,hub,trl"),
        ("train dpo --model lab:base --data pairs.jsonl --trackers wandb -o out", "local,track"),
        ("train reward --model lab:base --data pairs.parquet -o out", "local,hub"),
        ("audit lab:judge --data owner/name -o out", "local,hub"),
        ("label --data pairs.jsonl --judge lab:judge -o out.parquet", "local,hub"),
        ("serve judge:lab:judge", "web"),
        ("rate pairs.jsonl --rater anna -o out", "web"),
        ("lab build base -o out", "local"),
        ("label --data pairs.jsonl --judge fake:quality -o out.parquet", "hub"),
    ],
)  # fmt: skip
def test_all_missing_libraries_are_named_in_one_line_before_anything_is_written(
    without: Path, command: str, extras: str
) -> None:
    before = sorted(without.iterdir())
    ran = CliRunner().invoke(app, command.split())
    assert isinstance(ran.exception, MissingExtra), ran.output
    assert ran.exception.exit_code == 2
    assert str(ran.exception).endswith(f"not installed\n  → pip install 'aifeedback[{extras}]'")
    assert sorted(without.iterdir()) == before


def test_check_lists_missing_libraries_beside_the_other_problems(without: Path) -> None:
    ran = CliRunner().invoke(app, ["check", "own.yaml"])
    assert ran.exit_code == 2
    assert "pip install 'aifeedback[local,hub,ray]'" in ran.output
    assert "data.parquet: no such file" in ran.output


def test_one_and_several_missing_libraries() -> None:
    assert str(MissingExtra("trl", "trl")) == "trl is not installed\n  → pip install 'aifeedback[trl]'"
    assert str(MissingExtra("torch, trl", "local,trl")).startswith("torch, trl are not installed")


WITHOUT = """
import importlib.abc, sys

MISSING = sys.argv.pop(1).split(",")

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from aifeedback.cli import main
main()
"""


def test_commands_of_the_base_installation_import_no_extra(tmp_path: Path) -> None:
    """In a process of its own: what counts is whatever a command imports on its way."""
    row = {"first": "Hi.", "second": "Bye.", "label": 1, "p_first": 0.9, "judge": "openai:m"}
    lines = [json.dumps(row | {"prompt": f"Say {i}."}) for i in range(6)]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    extras = ",".join(module for modules in checks.EXTRAS.values() for module in modules)
    for words in (["evaluate", "--data", "labels.jsonl"], ["draw", "labels.jsonl", "-n", "2", "-o", "drawn.jsonl"]):
        command = [sys.executable, "-c", WITHOUT, extras, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
