"""Constitutions put to the test with a judge that reads their words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from aifeedback.judging.pairwise import use_of
from aifeedback.judging.principles import (
    compare_versions,
    constitutional_judge,
    coverage,
    flips,
    inspect,
    labeler_for,
    overlaps,
    run_cases,
    try_out,
)
from aifeedback.prompts.constitution import Constitution
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Preference, Problem, Prompt

from .judge_stub import StubModel, better_longer

PROMPT = JudgePrompt.load("principle")


def brevity_or_length(text: str) -> tuple[float, float] | Problem:
    """Prefers the shorter response when asked for fewer words, the longer when asked for more; else no idea."""
    question = text.split("Question:\n")[1]
    if "unanswerable" in question:
        return Problem.REFUSED
    longer = better_longer(text)
    if "fewer words" in question:
        return longer[::-1]
    return longer if "more words" in question else (-1.0, -1.0)


def principle(name: str, question: str, *, shorter_wins: bool = True) -> dict:
    short, long = "Four.", "Two and two, when you add them up, are four."
    better, worse = (short, long) if shorter_wins else (long, short)
    case = {"prompt": "What is two and two?", "better": better, "worse": worse, "reason": "as it should be"}
    text = f"A text about {name} that is like no other text, {name} {name}."
    return {"id": name, "title": name, "text": text, "compare": question, "tags": ["relevance"], "tests": [case]}


def constitution(*principles: dict, **changes: object) -> Constitution:
    values = {"name": "trial", "version": "1", "owner": "o", "source": "s", "criteria": ["relevance"]}
    return Constitution.read({**values, "principles": list(principles), **changes})


BRIEF = principle("brief", "Which response has fewer words?")
TERSE = principle("terse", "Of the two, which one has fewer words?")
LONG = principle("long", "Which response has more words?", shorter_wins=False)
BLIND = principle("blind", "Which response is bluer?")
DEAF = principle("deaf", "Which response is unanswerable?")


def comparisons(count: int = 24) -> list[Comparison]:
    made = []
    for i in range(count):
        prompt = Prompt.of(f"question {i}", tags={"topic": "odd" if i % 2 else "even"})
        texts = ("word " * (i + 2), "word") if i % 3 else ("word", "word " * (i + 2))
        first, second = (Completion.of(prompt, text, source=s) for text, s in zip(texts, "ab", strict=True))
        made.append(Comparison.of(prompt, first, second))
    return made


def test_each_principle_is_tried_on_its_own_cases() -> None:
    judge = labeler_for(StubModel(brevity_or_length), PROMPT)
    results = {r.principle_id: r for r in run_cases(constitution(BRIEF, LONG, BLIND, DEAF), judge)}
    assert results["trial@1/brief"].can_apply
    assert results["trial@1/long"].can_apply
    blind = results["trial@1/blind"]
    assert (blind.can_apply, blind.right, blind.mean_p_better) == (False, 0, 0.5)
    deaf = results["trial@1/deaf"]
    assert (deaf.can_apply, deaf.unknown, deaf.mean_p_better) == (False, 1, None)
    assert deaf.cases[0].problem is Problem.REFUSED


def test_which_response_is_stored_first_alternates() -> None:
    brief = {**BRIEF, "tests": BRIEF["tests"] * 4}
    model = StubModel(lambda text: (-0.1, -3.0))
    [result] = run_cases(constitution(brief), labeler_for(model, PROMPT))
    assert [c.preference.judgements[0].p_first > 0.5 for c in result.cases] == [True] * 4
    assert result.mean_position_gap > 0.5
    assert result.right == 0, "one half is no decision"


def test_redundancy_and_conflict() -> None:
    trial = try_out(constitution(BRIEF, TERSE, LONG), labeler_for(StubModel(brevity_or_length), PROMPT), comparisons())
    by_pair = {(o.one.rsplit("/")[-1], o.other.rsplit("/")[-1]): o for o in overlaps(trial)}
    same = by_pair["brief", "terse"]
    assert same.is_redundant()
    assert (same.n, same.disagree) == (24, 0)
    opposed = by_pair["brief", "long"]
    assert not opposed.is_redundant()
    assert opposed.conflict_share == 1.0
    assert opposed.n_both_decisive > 15


def test_coverage_by_topic() -> None:
    result = coverage(
        try_out(constitution(BRIEF, BLIND), labeler_for(StubModel(brevity_or_length), PROMPT), comparisons())
    )
    assert [(c.topic, c.n, c.is_covered) for c in result] == [("even", 12, True), ("odd", 12, True)]
    assert all(c.decisive_share["trial@1/blind"] == 0 for c in result)
    blind = coverage(try_out(constitution(BLIND), labeler_for(StubModel(brevity_or_length), PROMPT), comparisons(4)))
    assert not any(c.is_covered for c in blind)


def test_changing_one_principle_in_the_file_changes_its_labels(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    old = {**constitution(BRIEF, BLIND, use="averaged").model_dump(mode="json")}
    file.write_text(yaml.safe_dump(old))
    before = Constitution.load(file)
    file.write_text(file.read_text().replace("fewer words", "more words").replace("version: '1'", "version: '2'"))
    after = Constitution.load(file)
    judge = constitutional_judge(StubModel(brevity_or_length), PROMPT)
    result = compare_versions(before, after, judge, comparisons())
    assert [str(c) for c in result.changes] == [
        "~ version: '1' → '2'",
        "~ brief.compare: 'Which response has fewer words?' → 'Which response has more words?'",
    ]
    assert result.flips.share == 1.0
    assert result.flips.n == 24
    p_before, p_after = judge(before).label(comparisons()), judge(after).label(comparisons())
    for comparison, p, q in zip(comparisons(), p_before, p_after, strict=True):
        longer_first = len(comparison.first.text) > len(comparison.second.text)
        assert (p.p_first < 0.5 < q.p_first) == longer_first
        assert p.judgements[0].principle_id == "trial@1/brief"
        assert q.judgements[0].principle_id == "trial@2/brief"
    assert result.figures()["flips"]["share"] == 1.0


def test_flips_count_what_was_lost_and_gained() -> None:
    def label(p: float | None) -> Preference:
        return Preference(comparison_id="x", source="s", p_first=p, problem=None if p is not None else Problem.TIMEOUT)

    before, after = [label(p) for p in (0.9, 0.4, None, 0.2)], [label(p) for p in (0.7, 0.6, 0.3, None)]
    result = flips(before, after)
    assert (result.n, len(result.flipped), result.lost, result.gained) == (2, 1, 1, 1)
    assert result.mean_shift == pytest.approx(0.0)


def test_a_whole_inspection(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(constitution(BRIEF, LONG).model_dump(mode="json")))
    judge = labeler_for(StubModel(brevity_or_length), PROMPT)
    measured = inspect(file, judge, comparisons())
    assert {f.code for f in measured.findings} == {"conflict"}
    assert all(result.can_apply for result in measured.results)
    assert not measured.is_clean, "they want opposite winners of one pair"
    figures = measured.figures()
    assert figures["overlaps"][0]["conflict_share"] == 1.0
    assert figures["principles"][0]["cases"][0]["is_right"]
    assert inspect(file).results == []


@pytest.mark.parametrize("how", ["drawn", "averaged", "together"])
def test_a_constitution_says_how_it_is_used(how: str) -> None:
    used = use_of(constitution(BRIEF, LONG, BLIND, use=how, per_pair=2))
    assert used.how == how
    assert len(used.of("some pair")) == {"drawn": 2, "averaged": 3, "together": 1}[how]
