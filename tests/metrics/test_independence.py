"""Whoever trained the policy cannot vouch for it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.metrics import verify_independence
from aifeedback.metrics.independence import Source

names = st.text("abcdefgh", min_size=1, max_size=4)
cards = st.builds(Source, name=names, model=names, revision=names, family=names)
PEOPLE = Source("people", "people:us", "people")
GOLD = Source("gold", "gold:lab", "oracle")


def card(uri: str = "hf:judge", revision: str = "r1", family: str = "alpha") -> Source:
    return Source(uri, uri, revision=revision, family=family)


@pytest.mark.parametrize(
    ("evidence", "because"),
    [
        (card(), "gave the training feedback"),
        (card(uri="HF:Judge ", revision="r2"), "gave the training feedback"),
        (card(uri="hf:copy", family="beta"), "under another name"),
        (card(uri="hf:bigger", revision="r9", family=" ALPHA"), "family"),
        (card(uri="hf:other", revision="r9", family="unknown"), "is unknown"),
    ],
)
def test_the_training_judge_in_any_guise_is_unverified(evidence: Source, because: str) -> None:
    result = verify_independence([card()], [evidence])
    assert not result.is_verified
    assert because in result.reason


def test_one_independent_source_verifies_and_the_others_are_named() -> None:
    result = verify_independence([card()], [card(), card("openai:other", "r7", "beta")])
    assert result.is_verified
    assert result.independent == ("openai:other",)
    assert result.dependent == ("hf:judge",)


def test_people_always_count_and_the_gold_function_unless_it_trained() -> None:
    assert verify_independence([card()], [PEOPLE]).is_verified
    assert verify_independence([PEOPLE], [PEOPLE]).is_verified
    assert verify_independence([card()], [GOLD]).is_verified
    assert not verify_independence([GOLD], [GOLD]).is_verified


def test_independence_is_shown_never_assumed() -> None:
    assert not verify_independence([card()], []).is_verified
    assert not verify_independence([], [card()]).is_verified


@given(st.lists(cards, min_size=1, max_size=4), st.data())
@settings(max_examples=50, deadline=None)
def test_training_judges_and_their_families_never_verify(trained_by: list[Source], data: st.DataObject) -> None:
    """100 % of cases: evidence drawn from the trainers, or from models of their families."""
    relatives = st.sampled_from(trained_by).flatmap(
        lambda c: st.one_of(
            st.just(c), st.builds(Source, name=names, model=names, revision=names, family=st.just(c.family.upper()))
        )
    )
    evidence = data.draw(st.lists(relatives, min_size=1, max_size=4))
    result = verify_independence(trained_by, evidence)
    assert not result.is_verified
    assert result.independent == ()


@given(st.lists(cards, min_size=1, max_size=3), st.lists(cards, min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_more_evidence_never_unverifies(trained_by: list[Source], evidence: list[Source]) -> None:
    before = verify_independence(trained_by, evidence).is_verified
    assert verify_independence(trained_by, [*evidence, PEOPLE]).is_verified
    assert verify_independence(trained_by, evidence[:1]).is_verified <= before
