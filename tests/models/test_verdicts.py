"""A generated reply of known truth is read right or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.models.verdicts import Parsed, parse_label, parse_score
from aifeedback.types import Problem
from models.replies import score_reply, verdict_reply

LABEL_SETS = (("1", "2"), ("A", "B"), (" 1", " 2"))


def read_generated(count: int, seed: int) -> dict[str, int]:
    """Reads ``count`` generated replies; returns how many were read right, wrong, abstained from though clear …"""
    draw, counted = Random(seed), Counter({"misread": 0, "abstained": 0})
    for number in range(count):
        labels = LABEL_SETS[number % len(LABEL_SETS)]
        names = (labels[0].strip(), labels[1].strip())
        if number % 2:
            reply, truth = score_reply(draw)
            value = parse_score(reply).value
        else:
            reply, named = verdict_reply(draw, names)
            truth = labels[names.index(named)] if named is not None else None
            value = parse_label(reply, labels).value
        if value == truth:
            counted["right" if truth is not None else "rightly abstained"] += 1
        elif value is None:
            counted["abstained"] += 1
            if counted["abstained"] <= 5:
                print("abstained:", repr(reply), "truth", truth)
        else:
            counted["misread"] += 1
            print("MISREAD:", repr(reply), "truth", truth, "read", value)
    return dict(counted)


def within_the_bar(counted: dict[str, int]) -> bool:
    return counted["misread"] == 0 and counted["abstained"] <= 0.01 * (counted["right"] + counted["abstained"])


def test_generated_replies() -> None:
    assert within_the_bar(read_generated(6_000, seed=0))


@pytest.mark.campaign
def test_campaign_a_million_replies() -> None:
    counted = read_generated(int(os.environ.get("R5_REPLIES", "1000000")), seed=1)
    print("", counted)
    assert within_the_bar(counted)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("8/10", 8.0),
        ("7.5", 7.5),
        ("Rating: 3/10", 3.0),
        ("**9**", 9.0),
        ("10", 10.0),
        ("１０", 10.0),
        ("8,5/10", 8.5),
        ("<think>Rating: 2? no.</think>Rating: 6", 6.0),
        ("Clarity: 8/10\nAccuracy: 5/10\nOverall: 6/10", 6.0),
        ("I would not give it a 10. Rating: 4", 4.0),
        ("The rating is 7. Yes, rating: 7/10.", 7.0),
        ("Rating: 7\nConfidence: 9", 7.0),
        ("It gives two examples. It deserves an 8 thanks to them.", 8.0),
        ("I give it a 7 as it is clear", 7.0),
    ],
)
def test_scores(reply: str, score: float) -> None:
    assert parse_score(reply) == Parsed(score)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", Problem.EMPTY),
        (" \n\t", Problem.EMPTY),
        ("**", Problem.EMPTY),
        ("<think>Rating: 2", Problem.EMPTY),
        ("I'm sorry, but I can't rate this.", Problem.REFUSED),
        ("8½", Problem.UNREADABLE),
        ("7^2", Problem.UNREADABLE),
        ("-3", Problem.UNREADABLE),
        ("Rating: 8 or 9", Problem.UNREADABLE),
        ("The rating of 8/10 that others gave is too generous. 5/10.", Problem.UNREADABLE),
        ("3/10 of the time it is wrong", Problem.UNREADABLE),
        ("1e1", Problem.UNREADABLE),
        ("0x8", Problem.UNREADABLE),
        ("8:30", Problem.UNREADABLE),
        ("about 7", Problem.UNREADABLE),
        ("It gives two examples and three reasons.", Problem.UNREADABLE),
        ("It gets 2 facts wrong.", Problem.UNREADABLE),
        ("The response deserves 10 lines of praise.", Problem.UNREADABLE),
        ("Overall score: 3 issues found.", Problem.UNREADABLE),
        ("Rating: N/A", Problem.ABSTAINED),
        ("I cannot judge which", Problem.REFUSED),
    ],
)
def test_no_score(reply: str, problem: Problem) -> None:
    assert parse_score(reply) == Parsed(None, problem)


@pytest.mark.parametrize(
    "reply",
    [
        "Final answer: Response 1 is worse.",
        "Verdict: Response 1 is much worse than Response 2.",
        "I would select Response 1 as the worst.",
        "I choose Response 1 as the weaker one.",
        "My choice: Response 1 is the loser.",
        "Verdict: 1 is incorrect",
        "Verdict: 1 is not better than 2",
    ],
)
def test_what_is_called_worse_is_not_a_choice(reply: str) -> None:
    assert parse_label(reply, ["1", "2"]).value is None


@pytest.mark.parametrize(
    "reply",
    [
        "Response 2 is better as 1 is worse.",
        "Choice: 2 because 1 is bad",
        "Verdict: Response 2 is better, Response 1 is worse.",
        "I prefer 2 as it is the clearer one.",
    ],
)
def test_what_is_called_better_is_a_choice_whatever_the_verdict_on_the_other(reply: str) -> None:
    assert parse_label(reply, ["1", "2"]) == Parsed("2")


def test_a_cut_off_answer_counts_only_by_a_finished_first_line_after_its_thinking() -> None:
    assert parse_score("Rating: 1", finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    assert parse_score("Rating: 7 because it is", finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    assert parse_score("Rating: 7\nIt is", finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    assert parse_score("<think>5?</think>\nRating: 7\nIt is", finish_reason="length") == Parsed(7.0)
    assert parse_score("Rating: 5?\n</think>\nRating: 7\nIt is", finish_reason="length") == Parsed(7.0)
    assert parse_score("<think>5?</think>\nRating: 7", finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    assert parse_score("<think>5?\nRating: 7\nor", finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    for thinking in ("Preferred response: 1\nWait, let me check", "1\nThe dose", "Verdict: 1\n\nThe user wants"):
        assert parse_label(thinking, ["1", "2"], finish_reason="length") == Parsed(None, Problem.TRUNCATED)
    assert parse_label("I prefer Response 1 for style, but", ["1", "2"], finish_reason="length").value is None


def test_labels_that_are_a_scale_are_read_as_scores() -> None:
    grades = [str(grade) for grade in range(1, 11)]
    assert parse_label("Rating: 10/10", grades) == Parsed("10")
    assert parse_label("7.5", grades) == Parsed(None, Problem.UNREADABLE)
    assert parse_label("11", grades).value is None


def test_words_as_labels() -> None:
    assert parse_label("Yes, because it is true", ["Yes", "No"]) == Parsed("Yes")
    assert parse_label("no.", ["Yes", "No"]) == Parsed("No")
    assert parse_label("yes and no", ["Yes", "No"]).value is None
    assert parse_label("Not good", ["Good", "Bad"]).value is None
    assert parse_label("A good answer", ["A", "B"]).value is None
    assert parse_label("YES", ["yes", "Yes"]).value is None


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=300),
    st.sampled_from([["1", "2"], ["A", "B"], ["Yes", "No"], ["", "("]]),
    st.sampled_from(["stop", "length"]),
)
def test_never_fails_and_never_answers_outside(text: str, labels: list[str], finish: str) -> None:
    score = parse_score(text, finish_reason=finish)  # type: ignore[arg-type]
    assert (score.value is None) == (score.problem is not None)
    assert score.value is None or 1.0 <= score.value <= 10.0
    label = parse_label(text, labels, finish_reason=finish)  # type: ignore[arg-type]
    assert label.value is None or label.value in labels


@pytest.mark.parametrize("text", ["rating " * 20_000, "(" * 50_000, "1" * 50_000, "* " * 30_000, "overall a " * 20_000])
def test_long_replies_do_not_take_long(text: str) -> None:
    parse_score(text)
    parse_label(text, ["1", "2"])


def test_recorded_verdicts_of_llmbar_judges(real_data: Path) -> None:
    """1,152 recorded answers in both orders are read as the benchmark's own parser read them, none otherwise."""
    read = 0
    for file in sorted((real_data / "llmbar").glob("*/**/evaluators/*/Vanilla/result.json.gz")):
        for row in json.loads(gzip.decompress(file.read_bytes())):
            for order, names in (("swap = False", ("1", "2")), ("swap = True", ("2", "1"))):
                recorded = row["results"][-1][order]
                value = parse_label(recorded["completion"][0], ["a", "b"]).value
                assert {"a": names[0], "b": names[1], None: None}[value] == recorded["winner"]
                read += 1
    assert read == 1152


def test_recorded_reasons_of_pandalm_judges(real_data: Path) -> None:
    """1,000 recorded free-text reasons: a reason that names a winner names the recorded one, but for two rows in which
    the reason itself says "Response 2 is better" while 1 is recorded."""
    read, contradictions = 0, []
    for judge in ("gpt", "pandalm"):
        file = (
            real_data / "pandalm" / f"{'gpt-3.5-turbo' if judge == 'gpt' else 'pandalm-7b'}-testset-v1.even_idx.json.gz"
        )
        for row in json.loads(gzip.decompress(file.read_bytes())):
            value = parse_label(str(row[f"{judge}_reason"]), ["1", "2"]).value
            read += value is not None
            if value not in (None, str(row[f"{judge}_result"])):
                contradictions.append(row[f"{judge}_reason"])
    assert read > 350
    assert len(contradictions) == 2
    assert all("Response 2 is better because" in reason for reason in contradictions)
