"""The page of an audit: its finding as the headline, an answer per section, levels that say nothing, what is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aifeedback.audit.finding import Finding
from aifeedback.audit.judge import JudgeAudit
from aifeedback.reports import figures
from aifeedback.reports.judge_report import alarms, answer, best, headline, metric, write_judge_report


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(draw: object, *, width: float, height: float, alt: str) -> str:
        return "<svg ></svg>"

    monkeypatch.setattr(figures, "drawn", blank)


def finding(probe: str, group: Any, value: float = 0.5, level: Any = "fine", **more: Any) -> Finding:
    title = more.pop("title", probe.capitalize())
    sentence = more.pop("sentence", f"It is {100 * value:.1f}.")
    return Finding(probe, group, title, sentence, value, value - 0.02, value + 0.02, 100, level=level, **more)


def audit(*findings: Finding, name: str = "lab:judge", who: Mapping[str, Any] | None = None) -> JudgeAudit:
    return JudgeAudit(name, findings, pairs=100, unreadable=0, asked=300, seconds=1.0, who=who or {})


AGREES = finding("agreement", "agreement", 0.77, ideal=1.0, title="Agreement with people")
POSITION = finding("position", "bias", 0.4, "bad", ideal=0.0)
FOOLED = finding("delimiters", "attack", 0.06, "bad", ideal=0.0, unit="points", title="Spoofed delimiters")
SURE = finding("decision", "decision", 0.9, title="How sure it is")


def test_the_finding_is_the_headline() -> None:
    assert headline([audit(AGREES, SURE)]) == (
        "lab:judge agrees with people on 77 % of the pairs, 95 % CI 75–79 % and shows no serious fault in 2 findings."
    )
    assert "has 2 serious faults: spoofed delimiters and position" in headline([audit(AGREES, POSITION, FOOLED)])
    guess = replace(AGREES, value=0.52, low=0.42, high=0.62)
    assert "52 % of the pairs, 95 % CI 42–62 %, not distinguishable from guessing" in headline([audit(guess)])
    unknown = Finding("agreement", "agreement", "Agreement with people", "Not measured: no human labels.")
    assert headline([audit(unknown, POSITION)]).startswith("the agreement of lab:judge with people was not measured")
    two = headline([audit(AGREES, POSITION), audit(AGREES, name="lab:judge-b")])
    assert two.startswith(
        "lab:judge agrees with people on 77 % of the pairs and has 1 serious fault: position; lab:judge-b"
    )


@pytest.mark.parametrize("probe", ["decision", "label mass"])
def test_a_judge_that_hardly_decides_is_not_praised(probe: str, tmp_path: Path) -> None:
    """Its other findings say nothing, whatever the level is called; none of them counts as fine."""
    silent = [replace(POSITION, level="uninformative"), replace(FOOLED, level="uninformative")]
    found = audit(finding(probe, "decision", 0.003, "bad", title="Label mass"), AGREES, *silent)
    assert "lab:judge hardly decides (label mass: 0 %)" in headline([found])
    assert answer([found], "bias") == "lab:judge: 1 finding not informative, since the judge hardly decides."
    html = write_judge_report([found], tmp_path / "report.html").read_text(encoding="utf-8")
    assert html.count('class="level uninformative"') == 4  # at a glance and in the tables
    assert 'uninformative" title="It is 40.0.">? 40 %' in html


def test_what_to_watch_is_sorted_by_consequence() -> None:
    watched = finding("constants", "attack", 0.2, "watch", ideal=0.0)
    weak = finding("repeatability", "consistency", 0.2, "bad", ideal=1.0)
    undecided = replace(SURE, value=0.5, level="bad")
    found = alarms(audit(watched, weak, POSITION, FOOLED, AGREES, undecided))
    assert [f.probe for f in found] == ["decision", "delimiters", "position", "repeatability", "constants"]


def test_each_section_opens_with_its_answer(tmp_path: Path) -> None:
    found = audit(
        AGREES, POSITION, FOOLED, SURE, Finding("transitivity", "consistency", "Transitivity", "Not measured.")
    )
    assert answer([found], "bias") == "lab:judge: serious: position 40 %."
    assert answer([found], "attack") == "lab:judge: serious: spoofed delimiters +6.0."
    assert answer([found], "decision") == "lab:judge: no significant fault in 1 finding."
    assert answer([found], "consistency") == "lab:judge: not measured."
    assert answer([found], "agreement").startswith("lab:judge: 77.0 % (95 % CI 75.0–79.0 %, n = 100) of the pairs")
    html = write_judge_report([found], tmp_path / "report.html").read_text(encoding="utf-8")
    sections = html.split("<h2>")[1:-1]
    assert all('<p class="answer-line"><strong>' in section for section in sections)
    assert "4 of 5 findings could be measured." in html


def test_numbers_have_a_direction_and_a_real_minus_sign(tmp_path: Path) -> None:
    lost = finding(
        "padding", "bias", -0.075, "bad", ideal=0.0, unit="points", sentence="It loses -7.5 points (-9.7 to -5.3)."
    )
    assert metric(lost) == "−7.5 points (95 % CI −9.5 to −5.5, n = 100)"
    assert [best([("j", f)]) for f in (AGREES, POSITION, lost, SURE)] == ["100 %", "0 %", "0", "100 %"]
    html = write_judge_report([audit(AGREES, lost)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "It loses −7.5 points (−9.7 to −5.3)." in html
    assert "-7.5" not in html[html.index("<main>") :]


def test_no_fault_comes_with_what_could_have_been_missed(tmp_path: Path) -> None:
    fine = finding("tone", "bias", 0.001, ideal=0.0, unit="points", detectable=0.031)
    html = write_judge_report([audit(fine, replace(fine, probe="x", level="bad"))], tmp_path / "r.html").read_text(
        "utf-8"
    )
    assert html.count("a shift below 3.1 points could go unnoticed") == 1


def test_only_examples_that_a_probe_marks_are_blurred(tmp_path: Path) -> None:
    examples = ({"prompt": "how do i sort a list?"}, {"prompt": "how do i hurt them?", "sensitive": True})
    html = write_judge_report([audit(replace(POSITION, examples=examples))], tmp_path / "r.html").read_text("utf-8")
    assert html.count('class="veil hidden"') == 1
    assert html.index("how do i hurt them?") > html.index('class="veil hidden"') > html.index("how do i sort a list?")
    assert "True" not in html[html.index("<main>") :]


def test_the_head_of_the_page_has_what_the_folder_records(tmp_path: Path) -> None:
    prompt = {"name": "lab-pairwise", "digest": "ce3e"}
    who = {"model": "lab:judge", "family": "lab-a", "revision": "687d", "prompt": prompt}
    html = write_judge_report([audit(AGREES, who=who)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>data</dt><dd>not recorded</dd>" in html
    command = {"settings": {"data": "pairs.jsonl"}, "seed": 7, "inputs": {"pairs.jsonl": "06fb"}}
    (tmp_path / "command.json").write_text(json.dumps(command), encoding="utf-8")
    html = write_judge_report([audit(AGREES, who=who)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>data</dt><dd>pairs.jsonl (06fb)</dd>" in html
    assert "<dt>seed</dt><dd>7</dd>" in html
    assert "lab:judge, revision 687d, prompt lab-pairwise ce3e" in html


def test_the_journals_state_is_at_the_head_of_the_page(tmp_path: Path) -> None:
    from aifeedback.models.journal import Journal
    from aifeedback.reports.provenance import read_origin
    from models.journal.entries import entry

    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.append([entry(number) for number in range(3)])
        head = journal.head()
    (tmp_path / "journal-again.sqlite").write_bytes(b"not a database")
    states = read_origin(tmp_path).journals
    assert [(s.calls, s.head, s.last) for s in states] == [(3, head.link, 1_700_000_002.0)]
    html = write_judge_report([audit(AGREES)], tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"journal.sqlite: 3 calls, head {head.link}" in html
    assert "2023-11-14 22:13 UTC (last model call)" in html
