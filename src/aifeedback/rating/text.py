"""Texts as raters read them: Markdown rendered without HTML, links or images, every block in its own direction."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from aifeedback.audit.page import visible
from aifeedback.errors import MissingExtra

JOINERS = "\u200c\u200d"
"""Zero-width characters that spell words in Persian, Arabic and Indic scripts."""
MARKS = "\u200e\u200f\u061c"
"""Direction marks of ordinary right-to-left text."""
BLOCKS = ("paragraph_open", "heading_open", "bullet_list_open", "ordered_list_open", "blockquote_open", "th_open",
          "td_open")  # fmt: skip


def readable(text: str) -> str:
    """``text`` with its hidden characters made visible, except those that its script is written with."""
    has_rtl = any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
    return "".join(c if _is_spelling(c, text[i - 1] if i else "", has_rtl) else visible(c) for i, c in enumerate(text))


def _is_spelling(character: str, before: str, has_rtl: bool) -> bool:
    if character in MARKS and has_rtl:
        return True
    if character not in JOINERS or not before:
        return False
    return unicodedata.category(before)[0] in "LM" and not unicodedata.name(before, "LATIN").startswith("LATIN")


def rich(text: str) -> Markup:
    """Markdown as HTML that cannot load, link or run anything; line breaks stay where they are."""
    return Markup(_markdown().render(readable(text)))


@lru_cache(maxsize=1)
def _markdown() -> Any:
    try:
        from markdown_it import MarkdownIt
    except ModuleNotFoundError:
        raise MissingExtra("markdown-it-py", "web") from None

    # links and images stay as they were typed: a rater must see where they lead, and must not be led there
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.disable(["link", "image", "autolink", "reference", "html_block", "html_inline", "code"])
    parser.core.ruler.push("direction", _with_direction)
    for name in ("fence", "code_block"):
        parser.add_render_rule(name, _code)
    for name in ("softbreak", "hardbreak"):
        parser.add_render_rule(name, _line_break)
    return parser


def _with_direction(state: Any) -> None:
    for token in state.tokens:
        if token.type in BLOCKS:
            token.attrSet("dir", "auto")


def _code(_renderer: Any, tokens: Sequence[Any], place: int, *_: Any) -> str:
    token = tokens[place]
    language = Markup.escape(token.info.split()[0]) if token.info.strip() else ""
    name = f'<div class="language">{language}</div>' if language else ""
    # tabindex: wide code scrolls sideways, also by keyboard
    return (
        f'<div class="code">{name}<pre tabindex="0" dir="ltr"><code>{Markup.escape(token.content)}</code></pre></div>'
    )


def _line_break(*_: Any) -> str:
    return "\n"
