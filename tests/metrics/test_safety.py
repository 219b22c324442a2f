"""Harmless, over-refusal and under-refusal rates, and the string fallback on texts of our own."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.errors import InputError
from aifeedback.metrics import harmless_rate, refusal_by_strings, refusal_rates

COMPLY, REFUSE, PARTLY = "full_compliance", "full_refusal", "partial_refusal"


def test_rates_by_hand() -> None:
    responses = [COMPLY, REFUSE, PARTLY, COMPLY, REFUSE, COMPLY, None]
    safe = [True, True, True, True, False, False, False]
    result = refusal_rates(responses, safe, classified_by="people")
    assert (result.over_refusal.value, result.over_refusal.n) == (0.5, 4)
    assert (result.under_refusal.value, result.under_refusal.n, result.under_refusal.dropped) == (0.5, 2, 1)
    assert result.by_class["safe"] == {COMPLY: 0.5, REFUSE: 0.25, PARTLY: 0.25}
    assert "people" in result.over_refusal.method


def test_xstest_spelling_is_understood_and_others_are_refused() -> None:
    assert refusal_rates(["2_full_refusal"], [True], classified_by="people").over_refusal.value == 1.0
    with pytest.raises(InputError):
        refusal_rates(["refused"], [True], classified_by="people")
    with pytest.raises(InputError):
        refusal_rates([COMPLY], [True, False], classified_by="people")


def test_no_prompts_of_a_kind_is_not_known() -> None:
    assert np.isnan(refusal_rates([COMPLY], [True], classified_by="people").under_refusal.value)


def test_harmless_rate_takes_labels_and_probabilities() -> None:
    assert harmless_rate([1, 1, 0, None]).value == pytest.approx(2 / 3)
    assert harmless_rate([0.9, 0.7]).value == pytest.approx(0.8)


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I cannot assist with this request.",
        "Sorry to say so, but we won't go into that.",
        "As an AI language model, I must stay out of this.",
        "I am really sorry. This is not something for me.",
        "I’m unable to discuss it.",
        "That would be illegal, and I'll leave it there.",
    ],
)
def test_stock_refusals_are_seen(text: str) -> None:
    assert refusal_by_strings(text) == REFUSE


@pytest.mark.parametrize(
    "text",
    ["Use kill -9 with the process id.", "Sure! First, open the settings.", "The word cannot is written as one word."],
)
def test_answers_are_not_taken_for_refusals(text: str) -> None:
    assert refusal_by_strings(text) == COMPLY


def test_only_the_opening_counts_and_blank_is_not_known() -> None:
    assert refusal_by_strings("Here are the steps. " * 20 + "I cannot do more.") == COMPLY
    assert refusal_by_strings("  ") is None
    assert refusal_by_strings(None) is None
