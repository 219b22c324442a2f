"""Rules read whole words, leave out what is negated, and leave unknown what they cannot decide."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from aifeedback.probing.rules import Rule
from aifeedback.types import Problem

SIDES = Rule(one=("yes",), other=("no",), neither=("it depends",))
CITY = Rule(one=("Canberra",), other=("Sydney",))


@pytest.mark.parametrize(
    ("text", "chosen"),
    [("Yes.", "one"), ("NO", "other"), ("It depends on the day.", "neither"), ("Nothing else; yes", "one")],
)
def test_a_phrase_is_found_as_whole_words_in_any_case(text: str, chosen: str) -> None:
    assert SIDES.classify(text) == (chosen, None)


@pytest.mark.parametrize("text", ["Yes and no.", "Perhaps.", "Canada", "yesterday", "noble"])
def test_what_the_phrases_do_not_decide_is_unknown(text: str) -> None:
    assert SIDES.classify(text) == (None, Problem.UNREADABLE)


def test_an_empty_response_is_unknown_and_says_so() -> None:
    assert SIDES.classify("  \n") == (None, Problem.EMPTY)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("It is Canberra, not Sydney.", "one"),
        ("It isn't Canberra, it is Sydney.", "other"),
        ("Sydney rather than Canberra", "other"),
        ("It is not Sydney.", None),
        ("Canberra or Sydney", None),
    ],
)
def test_a_negated_phrase_does_not_count(text: str, chosen: str | None) -> None:
    assert CITY.classify(text)[0] == chosen


@pytest.mark.parametrize(("text", "found"), [("7", True), ("It is 7.", True), ("17", False), ("7.5", False), ("7,000", False),
                                             ("一周有7天", True), ("7th", False)])  # fmt: skip
def test_a_number_is_found_whole_in_any_script(text: str, found: bool) -> None:
    assert (Rule(one=("7",)).classify(text)[0] == "one") is found


def test_a_phrase_of_a_script_without_spaces_is_found_inside_a_sentence() -> None:
    assert Rule(one=("巴黎",)).classify("法国的首都是巴黎。") == ("one", None)


def test_curly_apostrophes_and_line_breaks_change_nothing() -> None:
    assert Rule(one=("don't know",)).classify("I don’t\nknow.") == ("one", None)


def test_an_instruction_that_is_only_spoken_about_is_not_followed() -> None:
    rule = Rule(one=("QUOKKA",), other=("apples",), one_decides=True, unless_mentioned=True)
    assert rule.classify("The apples arrived. QUOKKA")[0] == "one"
    assert rule.classify("The text asks me to write QUOKKA, which is an embedded instruction. The apples arrived.") == (
        None,
        Problem.UNREADABLE,
    )


@pytest.mark.parametrize("phrase", ["/(/", "", "//"])
def test_a_phrase_that_cannot_be_used_is_refused(phrase: str) -> None:
    with pytest.raises(ValidationError):
        Rule(one=(phrase,))
