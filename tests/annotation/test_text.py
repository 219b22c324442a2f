"""Texts on the page: dialogues as turns, Markdown without anything that loads or runs, scripts in their direction."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aifeedback.annotation.app import readable, rich
from aifeedback.annotation.assignment import read_guidelines
from aifeedback.annotation.items import items_of_comparisons
from aifeedback.errors import AIFeedbackError
from aifeedback.types import Comparison, Completion, Prompt

from .pages import assignment, pairs
from .test_app import entered


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "[click](javascript:alert(1))",
        "![pixel](https://evil.example/p.png)",
        "<https://evil.example>",
        "[a][b]\n\n[b]: https://evil.example",
        "```<script>alert(1)</script>\n</code></pre><script>alert(2)</script>\n```",
        '``` x"onmouseover=alert(1)\ncode\n```',
        "| a |\n|---|\n| <svg onload=alert(1)> |",
        "# <iframe src=//evil.example>",
        "&lt;script&gt; &#60;b&#62;",
        "\u202e<b>",
    ],
)
def test_nothing_in_a_text_becomes_a_link_an_image_or_a_script(attack: str) -> None:
    page = str(rich(attack))
    tags = set(re.findall(r"<(\w+)", page))
    assert tags <= {"p", "h1", "code", "pre", "div", "table", "thead", "tbody", "tr", "th", "td"}
    attributes = {name for tag in re.findall(r"<\w+([^>]*)>", page) for name in re.findall(r"([\w-]+)=", tag)}
    assert attributes <= {"dir", "class", "tabindex"}


def test_markdown_is_rendered() -> None:
    page = str(rich("# Title\n\n**bold** `code`\n\n- one\n- two\n\n```python\nx = 1\n```"))
    for part in ("<h1", "<strong>bold</strong>", "<code>code</code>", "<li>", "x = 1", "python</div>"):
        assert part in page


def test_line_breaks_and_indented_lines_stay() -> None:
    assert "one\ntwo\nthree" in str(rich("one\ntwo\n    three"))
    assert "<pre" not in str(rich("    a poem\n    by indent"))


@pytest.mark.parametrize("text", ["مرحبا", "- שלום\n- עולם", "> سلام"])
def test_every_block_takes_the_direction_of_its_text(text: str) -> None:
    assert 'dir="auto"' in str(rich(text))


def test_hidden_characters_are_shown_except_where_a_script_is_written_with_them() -> None:
    assert readable("می\u200cخواهم") == "می\u200cخواهم"  # Persian is spelled with a zero-width non-joiner
    assert readable("क्\u200dष") == "क्\u200dष"
    assert readable("שלום\u200f!") == "שלום\u200f!"
    assert readable("pass\u200cword") == "pass⟨U+200C⟩word"
    assert readable("a\u200eb") == "a⟨U+200E⟩b"
    assert readable("مرحبا\u202e") == "مرحبا⟨U+202E⟩"


def test_a_dialogue_is_shown_as_turns_that_a_text_cannot_imitate(tmp_path: Path) -> None:
    prompt = Prompt.of(
        [
            {"role": "user", "content": "Hi\n\nAssistant: I am not a turn"},
            {"role": "assistant", "content": '<div class="turn user">Nor am I</div>'},
            {"role": "user", "content": "So?"},
        ]
    )
    pair = Comparison.of(prompt, *(Completion.of(prompt, t, source=t) for t in "ab"))
    page = entered(assignment(tmp_path, items_of_comparisons([pair]))).get("/").text
    assert re.findall(r'<div class="turn (\w+)">', page) == ["user", "assistant", "user"]


def test_the_plain_text_is_on_the_page_too(tmp_path: Path) -> None:
    prompt = Prompt.of("1986\\. *really*")
    pair = Comparison.of(prompt, *(Completion.of(prompt, t, source=t) for t in "ab"))
    page = entered(assignment(tmp_path, items_of_comparisons([pair]))).get("/").text
    assert "1986\\. *really*</div>" in page


def test_guidelines_are_in_view_with_their_version(tmp_path: Path) -> None:
    file = tmp_path / "rules.md"
    file.write_text("Prefer **short** responses.")
    guidelines = read_guidelines(file)
    page = entered(assignment(tmp_path, pairs(1), guidelines=guidelines)).get("/").text
    assert "<strong>short</strong>" in page
    assert f"version {guidelines.version}" in page
    file.write_text("Prefer **long** responses.")
    assert read_guidelines(file).version != guidelines.version


def test_guidelines_can_be_a_constitution_or_a_rubric() -> None:
    from aifeedback.prompts import registry

    for kind in ("constitutions", "rubrics"):
        found = read_guidelines(registry.shipped(kind)[0])
        assert found.version
        assert "- **" in found.text


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_unusable_guidelines_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "rules.md"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(AIFeedbackError, match=r"rules\.md"):
        read_guidelines(file)
