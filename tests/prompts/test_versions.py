"""Changed wording needs a new version; rubrics and judge prompts are checked too; owner and history reach the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.judging.spec import JudgeSpec
from aifeedback.prompts import registry
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.prompts.lint import check_other
from aifeedback.steps.connect import judge_card
from aifeedback.steps.step import Context

KINDS = {"constitutions": "honest", "rubrics": "general", "judges": "helpful-base"}


def values(kind: str) -> dict[str, Any]:
    return yaml.safe_load(registry.find(kind, KINDS[kind]).read_text(encoding="utf-8"))


def written(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(path)


def reworded(kind: str) -> dict[str, Any]:
    content = values(kind)
    if kind == "judges":
        content["preamble"] += "Be strict.\n"
    else:
        content["principles" if kind == "constitutions" else "criteria"][0]["text"] = "It says what it means."
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_wording_that_changed_under_one_version_ends_with_code_2(kind: str, tmp_path: Path) -> None:
    old, new = written(tmp_path / "old.yaml", values(kind)), written(tmp_path / "new.yaml", reworded(kind))
    told = CliRunner().invoke(app, ["standards", "diff", old, new])
    assert told.exit_code == 2, told.output
    assert "[version]" in told.output
    bumped = written(tmp_path / "new.yaml", {**reworded(kind), "version": "9"})
    assert CliRunner().invoke(app, ["standards", "diff", old, bumped]).exit_code == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["about", "owner", "history"])
def test_what_no_judge_reads_needs_no_new_version(kind: str, key: str, tmp_path: Path) -> None:
    change = [{"version": 1, "at": "2026-01-31", "by": "N. N.", "why": "first"}] if key == "history" else "somebody"
    old = written(tmp_path / "old.yaml", values(kind))
    new = written(tmp_path / "new.yaml", {**values(kind), key: change})
    assert CliRunner().invoke(app, ["standards", "diff", old, new]).exit_code == 0


def test_critique_and_revision_are_wording_too(tmp_path: Path) -> None:
    for key in ("critique", "revise", "weight"):
        content = values("constitutions")
        content["principles"][0][key] = 3 if key == "weight" else "Say it again."
        old = written(tmp_path / "old.yaml", values("constitutions"))
        told = CliRunner().invoke(app, ["standards", "diff", old, written(tmp_path / "new.yaml", content)])
        assert told.exit_code == 2, key


def test_files_of_two_kinds_are_not_compared(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["standards", "diff", "honest", "general"])
    assert "different kinds" in str(told.exception)


def codes(path: Path) -> list[str]:
    found = check_other(path)
    assert found is not None
    return [finding.code for finding in found]


def test_rubrics_are_checked(tmp_path: Path) -> None:
    content = values("rubrics")
    assert codes(Path(written(tmp_path / "r.yaml", content))) == []
    first, second = content["criteria"][:2]
    first["text"] = "The answer is of good quality."
    second["compare"] = "Which response is worse?"
    content["owner"] = ""
    assert codes(Path(written(tmp_path / "r.yaml", content))) == ["vague", "inverted", "unsigned"]
    content["criteria"][0]["wieght"] = 2
    assert codes(Path(written(tmp_path / "r.yaml", content))) == ["schema"]


def test_judge_prompts_are_checked(tmp_path: Path) -> None:
    content = values("judges")
    example = {"context": "Q?", "first": "a longer answer", "second": "short", "label": "1"}
    content |= {"exemplars": [{**example, "context": f"Q{n}?"} for n in range(3)], "owner": ""}
    assert codes(Path(written(tmp_path / "p.yaml", content))) == ["one-label", "length-tells", "unsigned"]
    mirrored = {"context": "Q0?", "first": "short", "second": "a longer answer", "label": "1"}
    content |= {"exemplars": [{**example, "context": "Q0?"}, mirrored], "owner": "N. N."}
    assert codes(Path(written(tmp_path / "p.yaml", content))) == ["conflict"]
    content["exemplars"] = []
    assert codes(Path(written(tmp_path / "p.yaml", content))) == ["no-tests"]


def test_shipped_judge_prompts_have_an_owner() -> None:
    for name in registry.shipped("judges"):
        found = check_other(registry.find("judges", name))
        assert {finding.code for finding in found or ()} <= {"no-tests"}, name


def test_owner_and_history_reach_the_card_and_not_the_digest(tmp_path: Path) -> None:
    plain = values("judges")
    history = [{"version": "1", "at": "2026-01-31", "by": "N. N.", "why": "first"},
               {"version": "2", "at": "2026-02-28", "by": "M. M.", "why": "stricter"}]  # fmt: skip
    path = written(tmp_path / "mine.yaml", {**plain, "owner": "Care", "history": history})
    card = judge_card(JudgeSpec(model="fake:noisy", prompt=path), Context(tmp_path, tmp_path)).prompt
    assert card is not None
    assert card.owner == "Care"
    assert card.history == "1 (2026-01-31, N. N.): first; 2 (2026-02-28, M. M.): stricter"
    assert card.digest == JudgePrompt.load(KINDS["judges"]).digest


def log(*words: str) -> Any:
    return CliRunner().invoke(app, ["standards", "log", *words])


SIGNED = ("--by", "N. N.", "--why", "clearer words")


@pytest.mark.parametrize("kind", KINDS)
def test_every_wording_is_logged_by_somebody_for_a_reason(kind: str, tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", {**values(kind), "version": "1"})
    assert log(file).exit_code == 2, "nothing is logged yet"
    assert log(file, *SIGNED, "--answers", "ticket 7").exit_code == 0
    assert log(file).exit_code == 0
    written(tmp_path / "mine.yaml", {**reworded(kind), "version": "1"})
    assert "[unlogged]" in log(file).output
    assert "give it a new version" in str(log(file, *SIGNED).exception), "another wording under the same version"
    written(tmp_path / "mine.yaml", {**reworded(kind), "version": "2"})
    assert log(file, *SIGNED).exit_code == 0
    assert "answers: ticket 7" in log(file).output
    assert "is logged already" in str(log(file, *SIGNED).exception)


def test_a_new_owner_is_no_new_wording_and_the_title_of_a_criterion_is(tmp_path: Path) -> None:
    for kind in KINDS:
        file = written(tmp_path / f"{kind}.yaml", values(kind))
        assert log(file, *SIGNED).exit_code == 0
        written(tmp_path / f"{kind}.yaml", {**values(kind), "owner": "somebody else", "about": "x"})
        assert log(file).exit_code == 0, kind
    content = values("rubrics")
    old = written(tmp_path / "rubrics.yaml", content)
    content["criteria"][0]["title"] = "Another title"
    new = written(tmp_path / "new.yaml", content)
    assert CliRunner().invoke(app, ["standards", "diff", old, new]).exit_code == 2, "judges that rate read the title"
    written(tmp_path / "rubrics.yaml", content)
    assert log(old).exit_code == 2


@pytest.mark.parametrize("damage", ["edited", "removed", "torn"])
def test_a_log_that_was_edited_is_refused(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "mine.yaml"
    for version in ("1", "2", "3"):
        content = values("constitutions")
        content["principles"][0]["text"] = f"It says what it means in {version} words."
        written(file, {**content, "version": version})
        assert log(str(file), *SIGNED).exit_code == 0
    lines = (tmp_path / "mine.log.jsonl").read_text().splitlines()
    lines = {"edited": [lines[0].replace("N. N.", "M. M."), *lines[1:]], "removed": [lines[0], lines[2]],
             "torn": [*lines[:2], lines[2][:40]]}[damage]  # fmt: skip
    (tmp_path / "mine.log.jsonl").write_text("\n".join(lines))
    assert "was changed, or the one before it was removed" in str(log(str(file)).exception)


def test_flips_of_a_change_are_logged_and_reach_the_page(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", {**values("constitutions"), "version": "9"})
    (tmp_path / "diff.json").write_text('{"flips": {"n": 40, "flipped": ["a", "b"], "mean_shift": 0.1}}')
    (tmp_path / "none.json").write_text('{"flips": null}')
    assert "holds no flips" in str(log(file, *SIGNED, "--flips", str(tmp_path / "none.json")).exception)
    assert log(file, *SIGNED, "--flips", str(tmp_path / "diff.json")).exit_code == 0
    spec = JudgeSpec(model="fake:noisy", prompt="principle", constitution=file)
    (standard,) = judge_card(spec, Context(tmp_path, tmp_path)).standards
    assert (standard.kind, standard.version, standard.owner) == ("constitution", "9", values("constitutions")["owner"])
    assert "N. N.): clearer words; 2 of 40 labels flipped" in str(standard.history)


def test_an_entry_needs_a_name_and_a_reason(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.yaml", values("constitutions"))
    for words in (["--by", "N. N."], ["--why", "so"], ["--answers", "ticket 7"]):
        assert log(file, *words).exit_code != 0
    assert not (tmp_path / "mine.log.jsonl").exists()
