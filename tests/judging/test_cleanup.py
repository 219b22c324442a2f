"""Trailing symbols go, and are counted."""

from __future__ import annotations

import pytest

from aifeedback.judging.sampling import clean_up
from aifeedback.types import Completion, Prompt


def test_what_went_is_counted() -> None:
    prompt = Prompt.of("post")
    texts = ["fine.", "fine. . . ..  ", "word  \n", "", "... ", "e.g."]
    result = clean_up([prompt] * 6, [Completion.of(prompt, text, source="policy") for text in texts])
    assert [c.text for c in result.completions] == ["fine.", "fine.", "word", "", "", "e.g."]
    assert (result.changed, result.characters) == (3, 9 + 3 + 4)
    assert result.share == pytest.approx(16 / sum(len(text) for text in texts))
    assert result.endings == {" . . ..  ": 1, "  \n": 1, "... ": 1}
    assert {c.source for c in result.completions} == {"policy"}
    assert clean_up([], []).share is None


def test_a_sentence_keeps_its_period_as_it_is_written() -> None:
    prompt = Prompt.of("post")
    texts = ["she is sad .", "she is sad . .", "she is sad.\n.", "she is sad\n."]
    result = clean_up([prompt] * 4, [Completion.of(prompt, text, source="policy") for text in texts])
    assert [c.text for c in result.completions] == ["she is sad .", "she is sad .", "she is sad.", "she is sad"]
