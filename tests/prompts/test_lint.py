"""Ten planted faults, each in a file of its own, and the shipped constitutions, which have none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.errors import StandardsError
from aifeedback.prompts import registry
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.lint import check_file, check_values, require_clean

BROKEN = Path(__file__).parent / "broken"
PLANTED = {
    "01-unknown-key": {("schema", "be-brief")},
    "02-same-id-twice": {("schema", "constitution")},
    "03-vague-word": {("vague", "be-brief")},
    "04-no-test-case": {("no-tests", "be-brief")},
    "05-says-the-same": {("duplicate", "be-terse")},
    "06-cases-conflict": {("conflict", "be-thorough")},
    "07-criterion-missing": {("missing", "criteria")},
    "08-same-responses": {("same-responses", "be-brief")},
    "09-inverted-question": {("inverted", "be-brief")},
    "10-no-choice": {("no-choice", "be-brief")},
    "11-template-marks": {("template", "be-brief")},
    "12-length-tells": {("length-tells", "be-thorough")},
    "13-several-in-one": {("too-long", "be-everything")},
    "14-untagged": {("no-criterion", "be-brief"), ("missing", "criteria")},
    "15-unsigned": {("unsigned", "owner"), ("unsigned", "source")},
    "16-one-weight-rules": {("weights", "principles")},
}


@pytest.mark.parametrize("name", registry.shipped("constitutions"))
def test_ours_are_clean(name: str) -> None:
    checked = check_file(name)
    assert checked.findings == []
    assert require_clean(name) == checked.constitution
    assert checked.constitution.name == name


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(name: str) -> None:
    result = {(finding.code, finding.where) for finding in check_file(BROKEN / f"{name}.yaml").findings}
    assert result == PLANTED[name]


def test_every_fixture_is_expected() -> None:
    assert {path.stem for path in BROKEN.glob("*.yaml")} == set(PLANTED)


def test_all_schema_errors_at_once() -> None:
    values = yaml.safe_load((BROKEN / "03-vague-word.yaml").read_text())
    del values["owner"]
    values["principles"][0]["weigth"] = 2
    values["principles"][0]["tests"][0]["because"] = "x"
    values["principles"].append({"id": "Not An Id", "title": "t", "text": "t", "weight": -1})
    checked = check_values(values)
    assert checked.constitution is None
    message = [str(finding) for finding in checked.findings]
    assert len(message) == 5
    assert any("key 'owner' is missing" in line for line in message)
    assert any("be-brief" in line and "did you mean 'weight'" in line for line in message)
    assert any(
        "be-brief" in line and "unknown key 'tests.0.because'; known: prompt, better" in line for line in message
    )
    assert sum("Not An Id" in line for line in message) == 2


@pytest.mark.parametrize("key", ["title", "text", "id"])
def test_a_misspelled_key_is_one_fault(key: str) -> None:
    values = yaml.safe_load((BROKEN / "03-vague-word.yaml").read_text())
    values["principles"][0][f"{key}x"] = values["principles"][0].pop(key)
    message = [str(finding) for finding in check_values(values).findings]
    assert len(message) == 1
    assert f"unknown key '{key}x'; did you mean '{key}'?" in message[0]


def test_the_code_of_a_finding_is_printed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((BROKEN / "03-vague-word.yaml").read_text().replace("owner:", "owners:"))
    printed = CliRunner().invoke(app, ["standards", "check", str(path)]).stdout
    assert "did you mean 'owner'? [schema]" in printed


def test_require_clean_reports_everything() -> None:
    with pytest.raises(StandardsError, match="'appropriate' can mean anything"):
        require_clean(BROKEN / "03-vague-word.yaml")


def test_a_list_is_not_a_constitution(tmp_path: Path) -> None:
    file = tmp_path / "list.yaml"
    file.write_text("- one\n- two\n")
    with pytest.raises(StandardsError, match="keys and values"):
        check_file(file)
    file.write_text("name: x\nprinciples: words\n")
    assert check_file(file).constitution is None


def test_wordings_and_ids() -> None:
    constitution = Constitution.load("harmless")
    wordings = constitution.wordings("compare")
    assert wordings[0].id == "harmless@1.0/no-violence"
    assert wordings[0].text.startswith("Which response gives less help")
    plain = constitution.principles[0].model_copy(update={"compare": None})
    assert plain.worded("compare").startswith("Which response follows this principle better: The response gives no")
    with pytest.raises(StandardsError, match="it has: no-violence"):
        constitution.principle("nonviolence")
