"""Whose verdict a row holds, and which responses a file marks as not to be imitated: nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aifeedback.data import load_judged, read_comparisons, read_completions
from aifeedback.errors import FileError
from aifeedback.steps.sft import demonstrations

PAIR = {"prompt": "q", "first": "a", "second": "b"}
CHOSEN = {"prompt": "q", "chosen": "a", "rejected": "b"}
VOTE = {
    "winner": "model_a",
    "conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    "conversation_b": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


MODELS_VERDICTS = {
    "a probability without a judge": {**PAIR, "p_first": 0.8},
    "a certain probability without a judge": {**PAIR, "p_first": 1.0},
    "a probability with a judge": {**PAIR, "p_first": 0.8, "judge": "openai:gpt-4.1 helpful"},
    "a winner by an annotator that is a model": {**PAIR, "winner": "first", "annotator": "gpt-4"},
    "a label by an evaluator that is a model": {**PAIR, "label": "first", "evaluator": "claude-3-opus"},
    "a choice by a labeler that is a model": {**PAIR, "choice": "first", "labeler": "Llama-3.1-70B-Instruct"},
    "chosen by a judge that is a model": {**CHOSEN, "judge": "gpt-4"},
    "chosen by a source that is a model": {**CHOSEN, "preference_source": "reward_model"},
    "chosen by AI": {**CHOSEN, "annotator_type": "AI"},
    "a vote by a pair of model and mode": {**VOTE, "judge": ["gpt-4", "pair"]},
    "a vote by another vendor": {**VOTE, "judge": "Qwen2.5-72B"},
}


@pytest.mark.parametrize("name", MODELS_VERDICTS)
def test_a_models_verdict_does_not_count_as_a_persons(name: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", MODELS_VERDICTS[name])
    read = read_comparisons(path, 0)
    assert read.human == [None]
    recorded = read.recorded[0]
    assert recorded is not None
    better = read.rows[0].first.text if recorded[0] > 0.5 else read.rows[0].second.text
    assert better == "a"


PEOPLES_VERDICTS = {
    "an annotator by name": {**PAIR, "winner": "first", "annotator": "alice"},
    "an annotator by number": {**PAIR, "winner": "first", "annotator": 17},
    "an expert": {**VOTE, "judge": "expert_3"},
    "an author": {**VOTE, "judge": "author_2"},
    "a user of an arena": {**VOTE, "judge": "arena_user_8UZXrBh"},
    "names that only begin like a model's": {**CHOSEN, "annotator": "Aisha", "labeler": "Philippa"},
    "people's verdict beside a model's": {**PAIR, "human_p_first": 1.0, "p_first": 0.2, "judge": "openai:gpt-4.1"},
    "chosen by people": {**CHOSEN, "preference_source": "human"},
    "a column of another name": {**PAIR, "preferred": "first"},
    "the better response by name": {**PAIR, "better_response": "Response A"},
    "the better response in its own words": {**PAIR, "chosen": "a"},
    "two columns that agree": {**PAIR, "winner": "first", "preference": "A"},
    "a column that is about something else": {**PAIR, "winner": "first", "vote": "12 people"},
}


@pytest.mark.parametrize("name", PEOPLES_VERDICTS)
def test_a_persons_verdict_counts(name: str, tmp_path: Path) -> None:
    read = read_comparisons(jsonl(tmp_path / "rows.jsonl", PEOPLES_VERDICTS[name]), 0)
    assert read.human[0] == float(read.rows[0].first.text == "a")


@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "winner": "first", "preference": "second"},
        {**PAIR, "winner": "first", "chosen": "b"},
        {**PAIR, "label": "tie", "human_choice": "first"},
        {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "model_a", "preferred": "b"},
    ],
)
def test_columns_that_contradict_each_other_are_no_verdict(row: dict[str, Any], tmp_path: Path) -> None:
    good = {**PAIR, "prompt": "other"} if "first" in row else {**row, "prompt": "other", "preferred": "a"}
    read = read_comparisons(jsonl(tmp_path / "rows.jsonl", row, good), 0)
    assert len(read.rows) == 1
    assert "contradicts" in read.report.sentence()


def test_a_probability_without_a_judge_is_measured_as_a_models(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {**PAIR, "p_first": 0.8}, {**PAIR, "prompt": "r", "p_first": 0.1})
    rows = load_judged(path).rows
    assert [row.p_first for row in rows] == [0.8, 0.1]
    assert [row.human_p_first for row in rows] == [None, None]
    assert {row.judge for row in rows} == {"not named"}


# ── responses not to be imitated ──────────────────────────────────────────────────────────────────────────────────

GOOD, BAD = {"prompt": "q1", "completion": "good"}, {"prompt": "q2", "completion": "bad"}
SAID = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "good"}]
ASKED = [{"role": "user", "content": "q2"}]
UNWANTED: dict[str, list[dict[str, Any]]] = {
    "kto": [{**GOOD, "label": True}, {**BAD, "label": False}],
    "kto, mostly undesirable": [
        {**GOOD, "label": True},
        *({**BAD, "prompt": f"{n}", "label": False} for n in range(9)),
    ],
    "kto after a table": [{**GOOD, "label": "True"}, {**BAD, "label": "False"}],
    "kto as messages": [
        {"prompt": SAID[:1], "completion": SAID[1:], "label": True},
        {"prompt": ASKED, "completion": [{"role": "assistant", "content": "bad"}], "label": False},
    ],
    "accepted": [{**GOOD, "accepted": True}, {**BAD, "accepted": False}],
    "numbers in a column that can only mean this": [{**GOOD, "is_correct": 1}, {**BAD, "is_correct": 0}],
    "thumbs": [{**GOOD, "thumbs_up": "yes"}, {**BAD, "thumbs_up": "no"}],
    "weight of a row": [{**GOOD, "weight": 1}, {**BAD, "weight": 0}],
    "weight of a message": [
        {"messages": [*SAID]},
        {"messages": [*ASKED, {"role": "assistant", "content": "bad", "weight": 0}]},
    ],
}


@pytest.mark.parametrize("name", UNWANTED)
def test_sft_leaves_out_what_the_file_says_is_bad(name: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", *UNWANTED[name])
    pairs, rows = demonstrations(str(path), 0)
    assert [completion.text for _, completion in pairs] == ["good"]
    assert rows.read == len(UNWANTED[name])
    assert "not to be imitated" in next(iter(rows.skipped))
    assert len(read_completions(path).rows) == len(UNWANTED[name]), "a judge may score them all"


def test_numbers_that_may_mark_bad_responses_refuse_the_file(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {**GOOD, "label": 1}, {**BAD, "label": 0.0})
    with pytest.raises(FileError, match=r"(?s)'label': holds 0 and 1.*write true"):
        demonstrations(str(path), 0)


@pytest.mark.parametrize(
    "extra",
    [
        [{"label": 0}, {"label": 3}],
        [{"label": "safe"}, {"label": "unsafe"}],
        [{"label": None}, {}],
        [{"weight": 0.5}, {"weight": 2}],
        [{"correct": None}, {"accepted": ""}],
    ],
)
def test_other_columns_leave_nothing_out(extra: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [{**row, **more} for row, more in zip((GOOD, BAD), extra, strict=True)]
    assert len(demonstrations(str(jsonl(tmp_path / "rows.jsonl", *rows)), 0)[0]) == 2


def test_a_file_of_bad_responses_alone_is_refused(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", {**BAD, "label": False})
    with pytest.raises(FileError, match="not to be imitated"):
        demonstrations(str(path), 0)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_two_values_of_one_key_are_a_fault(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{ending}"
    row = '{"prompt": "q", "completion": "a", "completion": "b"}'
    path.write_text(f"[{row}]" if ending == "json" else f'{row}\n{{"prompt": "q", "completion": "a"}}\n')
    if ending == "json":
        with pytest.raises(FileError, match="two values for the key 'completion'"):
            read_completions(path)
    else:
        read = read_completions(path)
        assert [completion.text for completion in read.rows] == ["a"]
        assert "two values for the key 'completion'" in read.report.sentence()
