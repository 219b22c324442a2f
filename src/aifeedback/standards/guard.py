"""Judged text is data: how it is written into a judge prompt so that it can never be read as part of the prompt.

Two rules, applied to every judged value when a prompt says ``quote: lines``:

1. *Code points.* A character that is invisible, that breaks lines, or that opens something a tokenizer or a chat
   template would treat as a control token (``<|im_end|>``, ``[INST]``, ``</s>`` …) is written as ``⟦U+3C⟧``. The
   bracket ``⟦`` itself is written that way too, so the mapping is one-to-one and ``unquote`` undoes it.
2. *Lines.* Every line starts with ``> ``. The prompt's own lines (headings, endings, role tags) never do, so no text
   can add one: an echoed verdict, a forged heading or a faked turn stays inside the quotation.

Templates never re-evaluate what they insert, so braces need no rule. Ordinary text comes through unchanged but for the
quotation marks and for ``\\r\\n``, which becomes ``\\n``. Nothing here depends on what the judge makes of the words
inside the quotation; that is measured, not promised.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

MARK = "> "

_INVISIBLE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1 (NEL among them)
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff"
)
_JOINERS = "\u200c\u200d"  # joiners are part of emoji and of several scripts: kept between visible non-ASCII letters
_SELECTORS = "\ufe0e\ufe0f"  # text or emoji style: kept after a visible character
_VISIBLE = rf"[^\s{_INVISIBLE}{_JOINERS}{_SELECTORS}]"
_FOREIGN = rf"[^\x00-\x7f{_INVISIBLE}{_JOINERS}]"

# What known chat templates and tokenizers use as control tokens, after their opening bracket.
_TAGS = (
    r"/?(?:s|bos|eos|pad|unk|cls|sep|mask|bot|human|user|assistant|system|think|thinking|tool_call|tool_response|tools"
    r"|image|audio|video|img|start_of_\w+|end_of_\w+|start_function_\w+|extra_id_\d+|unused_?\d+|reserved\w*|fim_\w+"
    r"|special_?\w*|(?:begin|end)[▁_ ]of[▁_ ]\w+|\w+_token\w*)\s*/?[>＞﹥]"
)
_WORDS = (
    r"/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|TOOLS|IMG\w*|PREFIX|SUFFIX|MIDDLE|CLS|SEP|PAD|UNK|MASK|BOS|EOS"
    r"|gMASK|sMASK|sop|eop|control_\d+|unused_?\d+)[\]］]"
)
_PATTERN = (
    rf"[⟦{_INVISIBLE}]"
    rf"|(?<!{_FOREIGN})[{_JOINERS}]|[{_JOINERS}](?!{_FOREIGN})"
    rf"|(?<!{_VISIBLE})[{_SELECTORS}]"
    r"|[<＜﹤](?=[|｜¦])"
    rf"|[<＜﹤](?=(?i:{_TAGS}))"
    r"|[<＜﹤](?=[<＜﹤]/?SYS[>＞﹥])"
    rf"|[\[［](?=(?i:{_WORDS}))"
)


def escape(text: str, control_tokens: Sequence[str] = ()) -> str:
    """Rule 1 alone: dangerous characters as code points. ``control_tokens``: further ones, of the judge's tokenizer."""
    candidate, dangerous = _patterns(tuple(control_tokens))

    def written(found: re.Match[str]) -> str:
        is_dangerous = dangerous.match(found.string, found.start())
        return f"⟦U+{ord(found[0]):X}⟧" if is_dangerous else found[0]

    return candidate.sub(written, text.replace("\r\n", "\n"))


def quote(text: str, control_tokens: Sequence[str] = ()) -> str:
    """Both rules: the value as it stands in a prompt, one or more lines that each start with ``MARK``."""
    return "\n".join(MARK + line for line in escape(text, control_tokens).split("\n"))


def unquote(quoted: str) -> str:
    """The text that ``quote`` was given, with ``\\r\\n`` as ``\\n``. Raises ValueError for anything else."""
    lines = quoted.split("\n")
    if not all(line.startswith(MARK) for line in lines):
        raise ValueError(f"every quoted line starts with {MARK!r}")
    return unescape("\n".join(line[len(MARK) :] for line in lines))


def unescape(text: str) -> str:
    """The text that ``escape`` was given; code points beyond Unicode stay as they are written."""
    return re.sub(r"⟦U\+([0-9A-F]{1,5}|10[0-9A-F]{4})⟧", lambda m: chr(int(m[1], 16)), text)


@lru_cache(maxsize=64)
def _patterns(control_tokens: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Characters worth a look, as one set that is searched at full speed, and the rule that decides about them."""
    own = [token for token in control_tokens if len(token) > 1]
    starts = "".join(re.escape(token[0]) for token in own)
    rules = "".join(rf"|{re.escape(token[0])}(?={re.escape(token[1:])})" for token in own)
    return re.compile(rf"[⟦<＜﹤\[［{_INVISIBLE}{_JOINERS}{_SELECTORS}{starts}]"), re.compile(_PATTERN + rules)
