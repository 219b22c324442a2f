"""Ids of records: canonical, the same on every machine and in every version."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aifeedback.types import Comparison, Completion, Prompt, content_id

TEXT = st.text(st.characters(codec=None, exclude_categories=()))


@given(st.lists(TEXT | st.integers() | st.none() | st.lists(TEXT) | st.dictionaries(TEXT, st.floats(allow_nan=False))))
def test_an_id_is_the_digest_of_canonical_json(parts: list[object]) -> None:
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
    assert content_id(*parts) == digest[:16]


@pytest.mark.parametrize("text", ["", 'quoted "text"', "line\nbreak\t\\", "\u2028 é 你好 \x00\x1f", "\ud800"])
def test_texts_alone_are_not_a_special_case(text: str) -> None:
    digest = hashlib.sha256(json.dumps([text], ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()
    assert content_id(text) == digest[:16]


def test_ids_that_journals_and_files_hold_stay_as_they_are() -> None:
    prompt = Prompt.of("What is a good name for a cat?")
    first, second = (Completion.of(prompt, text, source="people") for text in ("Tom.", "Dog."))
    assert prompt.id == "cdca6d4e37a1d370"
    assert first.id == "b9f9e76defe27062"
    assert Comparison.of(prompt, first, second).id == "e4f2b0ec77c60307"


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), TEXT), min_size=1))
def test_a_prompt_is_the_digest_of_its_messages(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        prompt = Prompt.of(messages)
    except ValueError:  # text that is no Unicode
        return
    assert prompt.id == content_id("prompt", messages)
