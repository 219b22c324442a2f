"""`aifeedback standards show`: what it prints is the file itself, so that a copy of it can be edited and used."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import StandardsError
from aifeedback.lab import zoo
from aifeedback.prompts import registry

KINDS = ("constitutions", "judges", "rubrics", "exemplars")
SHIPPED = [(kind, name, registry.ROOT / kind / f"{name}.yaml") for kind in KINDS for name in registry.shipped(kind)]
LAB = [
    (kind, f"lab:{path.stem}", path)
    for kind, folder in (("constitutions", zoo.CONSTITUTIONS), ("judges", zoo.PROMPTS))
    for path in sorted(folder.glob("*.yaml"))
]


@pytest.mark.parametrize(("kind", "name", "path"), SHIPPED + LAB)
def test_every_shipped_file_is_printed_byte_for_byte(kind: str, name: str, path: Path) -> None:
    shown = CliRunner().invoke(app, ["standards", "show", name, "--kind", kind])
    assert shown.exit_code == 0
    assert shown.stdout_bytes == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("harmless", registry.ROOT / "constitutions" / "harmless.yaml"),
        ("helpful-detailed", registry.ROOT / "judges" / "helpful-detailed.yaml"),
        ("lab:harmless", zoo.CONSTITUTIONS / "harmless.yaml"),
        ("lab:pairwise", zoo.PROMPTS / "pairwise.yaml"),
    ],
)
def test_without_a_kind_the_first_file_of_that_name_is_printed(name: str, path: Path) -> None:
    assert CliRunner().invoke(app, ["standards", "show", name]).stdout_bytes == path.read_bytes()


def test_an_unknown_name_is_answered_with_everything_there_is() -> None:
    wrong = CliRunner().invoke(app, ["standards", "show", "nope"]).exception
    assert isinstance(wrong, StandardsError)
    for name in ("brand-voice", "summary-rating", "general", "lab:pairwise"):
        assert name in str(wrong)


def test_a_slip_of_the_pen_is_recognised() -> None:
    wrong = CliRunner().invoke(app, ["standards", "show", "helpful-detaild"]).exception
    assert isinstance(wrong, StandardsError)
    assert "did you mean 'helpful-detailed'" in str(wrong)
