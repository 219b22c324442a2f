"""The decision file: what was planted is named, nothing else; a clean run passes; a signature holds for one state."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from aifeedback.cli import app
from aifeedback.dossier import dossier as dossiers
from aifeedback.dossier.dossier import Dossier
from aifeedback.errors import AIFeedbackError

from . import planted
from .planted import finding, share

DAY = timedelta(days=1)
TODAY = datetime.now(UTC).date()


class Ended(NamedTuple):
    code: int
    said: str


def call(*words: object) -> Ended:
    result = CliRunner().invoke(app, ["dossier", *(str(word) for word in words)])
    if result.exception is not None and not isinstance(result.exception, AIFeedbackError | SystemExit):
        raise result.exception
    code = getattr(result.exception, "exit_code", result.exit_code)
    return Ended(code, f"{result.output}{'' if isinstance(result.exception, SystemExit) else result.exception or ''}")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*more: object) -> Ended:
    return call(
        "init", "release", "--policy", "openai:prod", "--for", "support, German and English", "--owner", "N. N.", *more
    )


# The template without what needs a trained model folder or a monitor, which have tests of their own.
LEFT_OUT = ("origin", "monitoring")


def edit(**changes: Any) -> None:
    file = Path("release/dossier.yaml")
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def release(**more: Any) -> None:
    """A ``ship`` dossier with evidence; the arguments plant faults."""
    assert init().code == 0
    kept = yaml.safe_load(Path("release/dossier.yaml").read_text())["requirements"]
    edit(requirements=[one for one in kept if one["id"] not in LEFT_OUT])
    planted.audit(Path("audit"), **more.get("audit", {}))
    planted.comparison(Path("comparison"), **more.get("comparison", {}))
    planted.ratings(Path("people"), **more.get("people", {}))
    planted.standard(Path("rules.yaml"), **more.get("standard", {}))
    added = call("add", "release", "audit", "comparison", "people", "rules.yaml", "--answer", "rollback=N. N., in an hour",
                 "--by", "N. N.")  # fmt: skip
    assert added.code == 0, added.said


def levels() -> dict[str, str]:
    found = call("check", "release", "--json", "check.json")
    told = json.loads(Path("check.json").read_text())
    assert told["code"] == found.code
    return {row["id"]: row["level"] for row in told["requirements"]}


def test_a_clean_run_meets_every_requirement_and_ships(here: Path) -> None:
    release()
    assert set(levels().values()) == {"met"}
    assert call("check", "release").code == 0
    signed = call("sign", "release", "--as", "N. N.", "--role", "governance lead", "--decision", "ship")
    assert signed.code == 0, signed.said
    page = Path("release/dossier.html").read_text()
    assert "Ship: decided by N. N., governance lead, on" in page
    manifest = json.loads(Path("release/manifest.json").read_text())
    assert {row["level"] for row in manifest["requirements"]} == {"met"}
    assert manifest["signatures"][0]["state"] == manifest["state"]


BAD = {
    "judge-agreement": ({"audit": {"agreement": share(0.55, 400)}}, "broken"),
    "no-serious-bias": (
        {"audit": {"position": {"level": "bad", "sentence": "Prefers what is shown first."}}},
        "broken",
    ),
    "not-fooled": ({"audit": {"polite": {"level": "bad", "sentence": "Empty politeness wins."}}}, "broken"),
    "better": ({"comparison": {"low": 0.38}}, "broken"),
    "independent": ({"comparison": {"verified": False}}, "broken"),
    "unseen-prompts": (
        {"comparison": {"trained_on": {"of": 30, "trained_on": 30, "excluded": False, "by_policy": {"rlaif": 30}}}},
        "broken",
    ),
    "harm": ({"comparison": {"harmless": 0.70}}, "broken"),
    "over-refusal": ({"comparison": {"over_refusal": 0.4}}, "broken"),
    "people": ({"people": {"agree": False}}, "broken"),
    "standards": ({"standard": {"owner": ""}}, "broken"),
}


@pytest.mark.parametrize("requirement", list(BAD))
def test_exactly_what_was_planted_is_named(here: Path, requirement: str) -> None:
    faults, level = BAD[requirement]
    release(**faults)
    assert {id_: found for id_, found in levels().items() if found != "met"} == {requirement: level}
    assert call("check", "release").code == 2
    refused = call("sign", "release", "--as", "N. N.", "--role", "lead", "--decision", "ship")
    assert refused.code == 2
    assert requirement in refused.said


def test_a_bad_run_has_all_that_was_planted_on_one_page(here: Path) -> None:
    faults: dict[str, dict[str, Any]] = {}
    for planted_one, _ in BAD.values():
        for part, of in planted_one.items():
            faults.setdefault(part, {}).update(of)
    release(**faults)
    found = levels()
    assert {id_ for id_, level in found.items() if level == "broken"} == set(BAD)
    assert call("sign", "release", "--as", "N. N.", "--role", "lead", "--decision", "reject").code == 0
    page = Path("release/dossier.html").read_text()
    for words in ("Do not ship: decided by N. N.", "Prefers what is shown first", "Empty politeness wins",
                  "30 of 30 evaluation prompts were trained on", "the only evidence comes from openai:judge"):  # fmt: skip
        assert words in page


@pytest.mark.parametrize(
    ("faults", "requirement"),
    [
        ({"audit": {"agreement": share(0.71, 400, 0.05)}}, "judge-agreement"),
        ({"audit": {"agreement": share(0.85, 120)}}, "judge-agreement"),
        ({"audit": {"agreement": {"value": None, "low": None, "high": None, "level": "unknown"}}}, "judge-agreement"),
        ({"comparison": {"low": 0.48}}, "better"),
        ({"people": {"raters": ("ana", "ben")}}, "people"),
    ],
)
def test_what_is_not_certain_or_rests_on_too_little_is_open_and_not_met(
    here: Path, faults: dict[str, Any], requirement: str
) -> None:
    release(**faults)
    assert {id_: found for id_, found in levels().items() if found != "met"} == {requirement: "open"}
    assert call("check", "release").code == 1


def test_harm_that_nobody_assessed_is_open_and_said_on_the_page(here: Path) -> None:
    release(comparison={"has_safety": False})
    found = levels()
    assert (found["harm"], found["over-refusal"]) == ("open", "open")
    call("build", "release")
    page = Path("release/dossier.html").read_text()
    assert "harm and refusal of the policies were not assessed" in page
    assert "Not decided: nobody has signed." in page


@pytest.mark.parametrize(
    "change",
    [
        lambda: Path("audit/audit.json").write_text(Path("audit/audit.json").read_text().replace("0.8,", "0.9,")),
        lambda: Path("comparison/figures.json").unlink(),
        lambda: Path("people/summary.json").write_text("{}"),
        lambda: Path("rules.yaml").write_text(Path("rules.yaml").read_text() + "about: changed\n"),
        lambda: Path("audit/journal.sqlite").unlink(),
    ],
    ids=["edited", "removed", "emptied", "standards edited", "journal removed"],
)
def test_a_file_that_changed_after_it_was_added_is_noticed_and_voids_the_signature(here: Path, change: Any) -> None:
    release()
    assert call("sign", "release", "--as", "N. N.", "--role", "lead", "--decision", "ship").code == 0
    change()
    assert levels()["unchanged"] == "broken"
    assert call("check", "release").code == 2
    call("build", "release")
    page = Path("release/dossier.html").read_text()
    assert "Not decided in this state." in page
    assert "have changed since" in page


def test_a_waiver_holds_until_its_date_and_then_counts_as_missing(here: Path) -> None:
    release(audit={"position": {"level": "bad", "sentence": "Prefers what is shown first."}})
    waiver = {"id": "no-serious-bias", "by": "ben", "reason": "both orders are averaged", "until": str(TODAY)}
    edit(waivers=[waiver])
    assert levels()["no-serious-bias"] == "waived"
    assert call("check", "release").code == 0
    call("build", "release")
    assert f"waived by ben until {TODAY}: both orders are averaged" in Path("release/dossier.html").read_text()
    later = Dossier(Path("release")).check(datetime.now(UTC) + DAY)
    (row,) = [one for one in later.rows if one.id == "no-serious-bias"]
    assert (row.level, later.code) == ("broken", 2)
    assert row.waiver == f"the waiver by ben expired on {TODAY}"


@pytest.mark.parametrize(
    ("waiver", "says"),
    [
        ({"id": "no-serious-bias", "by": "ben", "until": str(TODAY)}, "reason"),
        ({"id": "no-serious-bias", "reason": "r", "until": str(TODAY)}, "by"),
        ({"id": "no-serious-bias", "by": "ben", "reason": "r"}, "until"),
        ({"id": "no-serious-bias", "by": "ben", "reason": "r", "until": "soon"}, "soon"),
        ({"id": "serious-bias", "by": "ben", "reason": "r", "until": str(TODAY)}, "serious-bias"),
    ],
)
def test_a_waiver_needs_a_name_a_reason_and_a_date(here: Path, waiver: dict[str, str], says: str) -> None:
    assert init().code == 0
    edit(waivers=[waiver])
    refused = call("check", "release")
    assert refused.code == 2
    assert says in refused.said


def test_conditions_need_words_and_an_end_and_are_void_after_it(here: Path) -> None:
    release(people={"raters": ("ana", "ben")})
    words = ("sign", "release", "--as", "N. N.", "--role", "lead", "--decision", "ship-with-conditions")
    assert "--note" in call(*words).said
    assert "is over" in call(*words, "--note", "a third rater by May", "--until", TODAY - DAY).said
    signed = call(*words, "--note", "a third rater by May", "--until", TODAY + DAY)
    assert signed.code == 0, signed.said
    made = Dossier(Path("release"))
    from aifeedback.dossier.page import decision_line

    results = made.check()
    line, note, level = decision_line(made.signatures(), results, datetime.now(UTC))
    assert line.startswith("Ship with conditions: decided by N. N., lead, on")
    assert (note, level) == ("a third rater by May", "watch")
    ended, why, level = decision_line(made.signatures(), results, datetime.now(UTC) + 3 * DAY)
    assert (ended, level) == ("No decision is in force.", "unknown")
    assert "it expired on" in why


def test_a_monitor_counts_while_it_runs_and_no_alarm_is_open(here: Path) -> None:
    assert init("--template", "deployment").code == 0
    watched = planted.monitor(Path("watch"), planted.golden(Path("golden.jsonl")))
    assert call("add", "release", watched).code == 0
    assert levels()["deploy-monitor"] == "met"
    late = Dossier(Path("release")).check(datetime.now(UTC) + 20 * DAY)
    assert {row.level for row in late.rows if row.id == "deploy-monitor"} == {"open"}
    planted.monitor(Path("watch-2"), Path("golden.jsonl"), alarm="Flipped verdicts: 31 of 200.")
    assert call("add", "release", "watch-2").code == 0
    found = Dossier(Path("release")).check()
    (row,) = [one for one in found.rows if one.id == "deploy-monitor"]
    assert row.level == "broken"
    assert "Flipped verdicts: 31 of 200." in row.sentence


def test_questions_that_no_file_answers_are_printed_and_taken_with_a_name(here: Path) -> None:
    assert init("--template", "reward-hacking", "--template", "rubric").code == 0
    printed = call("check", "release").said
    assert "Questions for people" in printed
    assert "Did people read responses that got the highest rewards?" in printed.replace("\n", " ")
    assert "needs a name" in call("add", "release", "--answer", "hacking-people=yes, 40 of them").said
    assert "unknown requirement" in call("add", "release", "--answer", "nothing=yes", "--by", "ana").said
    assert call("add", "release", "--answer", "hacking-people=yes, 40 of them", "--by", "ana").code == 0
    assert levels()["hacking-people"] == "met"


CLAIM = {
    "vendor": "Acme",
    "statement": "Our judge decides as people do.",
    "judged_by": {"model": "acme-judge", "version": 3, "prompt": "attached"},
    "agreement": {"value": 0.95, "low": 0.93, "high": 0.97, "n": 2000},
    "languages": ["en"],
}


def test_a_vendors_claim_becomes_given_missing_checked_or_contradicted(here: Path) -> None:
    Path("claim.yaml").write_text(yaml.safe_dump(CLAIM))
    assert init("--claim", "claim.yaml").code == 0
    planted.audit(Path("audit"))
    planted.comparison(Path("comparison"))
    assert call("add", "release", "audit", "comparison").code == 0
    call("check", "release", "--json", "check.json")
    told = {row["field"]: row["state"] for row in json.loads(Path("check.json").read_text())["claim"]}
    assert told == {
        "statement": "given", "judged_by": "given", "standards": "missing", "agreement": "contradicted",
        "win_rate": "checked by us", "harmless": "checked by us", "independence": "missing", "languages": "given",
        "dates": "missing", "raw_files": "missing",
    }  # fmt: skip
    found = levels()
    assert (found["claim-agreement"], found["claim-standards"], found["claim-harmless"]) == ("broken", "open", "met")
    printed = call("check", "release").said.replace("\n", " ")
    assert "You state 95 %, 95 % CI 93–97 %, n = 2,000; we measured 80 %" in printed
    assert "Please send the file." in printed
    call("build", "release")
    assert "Questions to send back" in Path("release/dossier.html").read_text()


def test_a_figure_without_interval_or_number_is_asked_for_and_one_that_we_confirm_is_not(here: Path) -> None:
    Path("claim.yaml").write_text(yaml.safe_dump({"agreement": {"value": 0.8}, "judged_by": {"model": "m"}}))
    assert init("--claim", "claim.yaml").code == 0
    call("check", "release", "--json", "check.json")
    rows = {row["field"]: row for row in json.loads(Path("check.json").read_text())["claim"]}
    assert "missing: n, interval" in rows["agreement"]["question"]
    assert "missing: version, prompt" in rows["judged_by"]["question"]
    planted.audit(Path("audit"))
    call("add", "release", "audit")
    call("check", "release", "--json", "check.json")
    rows = {row["field"]: row for row in json.loads(Path("check.json").read_text())["claim"]}
    assert rows["agreement"]["state"] == "checked by us"
    wrong = Path("wrong.yaml")
    wrong.write_text("agrement: {value: 0.8}\n")
    assert "did you mean 'agreement'" in call("init", "other", "--policy", "openai:p", "--for", "x", "--owner", "o",
                                              "--claim", wrong).said  # fmt: skip


@pytest.mark.parametrize("name", dossiers.templates())
def test_every_template_is_readable_and_its_questions_are_sentences(name: str) -> None:
    requirements = dossiers.template(name)
    assert len({one.id for one in requirements}) == len(requirements)
    assert all(one.asks.endswith("?") for one in requirements)


@pytest.mark.parametrize(
    ("needs", "says"),
    [
        ({"agreemnt": {"low": 0.7}}, "unknown kind 'agreemnt'"),
        ({"agreement": {"low": 1.7}}, "needs.agreement.low"),
        ({"agreement": {"low": 0.7, "people": 3}}, "unknown key"),
        ({"slices": {"tag": "language", "values": [], "low": 0.6}}, "values"),
        ({}, "needs"),
    ],
)
def test_a_requirement_of_no_kind_is_refused_by_name(here: Path, needs: dict[str, Any], says: str) -> None:
    assert init().code == 0
    edit(requirements=[{"id": "x", "question": 3, "asks": "Is it?", "needs": needs}])
    refused = call("check", "release")
    assert refused.code == 2
    assert says in refused.said


def test_own_requirements_by_language_and_date_are_checked(here: Path) -> None:
    assert init().code == 0
    edit(requirements=[
        {"id": "languages", "question": 4, "asks": "Every language?",
         "needs": {"slices": {"tag": "language", "values": ["de", "en", "fr"], "low": 0.6, "n": 100}}},
        {"id": "recent", "question": 3, "asks": "Recent?", "needs": {"audited_within": {"days": 7}}},
    ])  # fmt: skip
    planted.audit(Path("audit"))
    call("add", "release", "audit")
    found = Dossier(Path("release")).check()
    assert [(row.id, row.level) for row in found.rows] == [("languages", "open"), ("recent", "met")]
    assert found.rows[0].sentence == "Agreement in language: fr was not measured."
    assert Dossier(Path("release")).check(datetime.now(UTC) + 10 * DAY).rows[1].level == "open"


def test_an_audit_that_could_not_measure_is_no_pass(here: Path) -> None:
    release()
    unknown = {probe: {"level": "unknown"} for probe in ("position", "length", "decision", "repeatability")}
    planted.audit(Path("audit"), **unknown)
    call("add", "release", "audit")
    assert levels()["no-serious-bias"] == "open"
    assert finding("x", "bias", "fine", "s")["group"] == "bias"


def test_a_signature_that_was_edited_is_refused(here: Path) -> None:
    import sqlite3

    release()
    assert call("sign", "release", "--as", "N. N.", "--role", "lead", "--decision", "ship").code == 0
    with sqlite3.connect("release/journal.sqlite") as db:
        db.execute("UPDATE calls SET answer = replace(answer, 'N. N.', 'M. M.') WHERE kind = 'signature'")
    assert call("build", "release").code == 3


@pytest.mark.parametrize(
    "content", [b"policy: [", b"\xff\xfe\x00", b"- a\n- b\n", b""], ids=("open", "bytes", "list", "empty")
)
@pytest.mark.parametrize("name", ["release/dossier.yaml", "claim.yaml", "own.yaml", "standard.yaml"])
def test_a_settings_file_that_is_damaged_is_named_with_the_way_out(here: Path, name: str, content: bytes) -> None:
    assert init().code == 0
    Path(name).write_bytes(content)
    again = ("init", "other", "--policy", "openai:p", "--for", "support", "--owner", "N. N.")
    refused = {
        "release/dossier.yaml": lambda: call("check", "release"),
        "claim.yaml": lambda: call(*again, "--claim", "claim.yaml"),
        "own.yaml": lambda: call(*again, "--template", "own.yaml"),
        "standard.yaml": lambda: call("add", "release", "standard.yaml"),
    }[name]()
    assert refused.code == 2
    assert Path(name).name in refused.said
    assert "Traceback" not in refused.said
