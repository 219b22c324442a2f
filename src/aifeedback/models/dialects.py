"""How served models and servers differ, as data: thinking marks, finish reasons, usage fields, token forms, settings.

Every reader of server answers (``parse``, ``wire``, ``calls``) looks here, so a new dialect is a new row of a table.
Whatever no table knows is unknown: it abstains, or counts as a server error, and never passes for a finished answer.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

# ---------------------------------------------------------------- thinking

_LEFT, _RIGHT = r"(?:<|&lt;|⟨|〈|◁|◀|‹|«)", r"(?:>|&gt;|⟩|〉|▷|▶|›|»)"
_THOUGHT_NAMES = (
    r"(?:\w+[:_.-])?(?:(?:ant|inner|deep|chain|train|my|self|step|begin|internal)[ _-]?(?:of[ _-]?)?)?"
    r"(?:thinking|think|thoughts?|reasoning|reasons?|reflections?|reflect|analysis|analyze|scratch[ _-]?pad"
    r"|monologue|cot|deliberations?|planning|plan|rationale|explanation|justification|critique|consideration"
    r"|contemplat(?:or|ion)|evaluation|cot_budget_reflect)"
)


class Marks(NamedTuple):
    """How one model family opens and closes a block of thinking, as patterns without capitals."""

    family: str
    opens: str
    closes: str


THINKING: tuple[Marks, ...] = (
    # <think>, <thinking>, <thought>, <reasoning>, <reflection>, <seed:think>, ◁think▷, &lt;think&gt;, <think time="3">
    Marks(
        "tags",
        rf"{_LEFT}\s*(?P<tag>{_THOUGHT_NAMES})(?:\s[^<>\n]{{0,80}})?\s*{_RIGHT}",
        rf"{_LEFT}\s*/\s*(?P<untag>{_THOUGHT_NAMES})\s*{_RIGHT}",
    ),
    # [THINK] … [/THINK]
    Marks(
        "brackets",
        r"\[\s*(?:think|thinking|thoughts?|reasoning)\s*\]",
        r"\[\s*/\s*(?:think|thinking|thoughts?|reasoning)\s*\]",
    ),
    # <|START_THINKING|> … <|END_THINKING|>, <|begin_of_thought|> … <|end_of_thought|>, <|inner_prefix|> …
    Marks(
        "tokens",
        r"<\|\s*(?:(?:start|begin)_?(?:of_?)?(?:thinking|think|thoughts?|reasoning|analysis)|inner_prefix"
        r"|(?:think|thinking|thought|reasoning))\s*\|>",
        r"<\|\s*(?:end_?(?:of_?)?(?:thinking|think|thoughts?|reasoning|analysis)|inner_suffix"
        r"|/\s*(?:think|thinking|thought|reasoning))\s*\|>",
    ),
    # <|channel>thought … <channel|>
    Marks("half tokens", r"<\|channel>\s*(?:thought|thinking|analysis)\b", r"<channel\|>"),
    # <unused94>thought … <unused95>
    Marks("unused tokens", r"<unused\d+>\s*(?:thought|thinking)\b", r"<unused\d+>(?!\s*(?:thought|thinking)\b)"),
    # what a page folds away or never shows: <details>…</details>, <!-- … -->
    Marks("folded", r"<details(?:\s[^<>\n]{0,80})?>", r"</details\s*>"),
    Marks("comments", r"<!--", r"-->"),
    # Thinking... … ...done thinking.
    Marks("console", r"\A\s*thinking\.\.\.\s*$", r"^\s*\.\.\.\s*done thinking\.?\s*$"),
    # Here is my thought process: … Here is my response:
    Marks(
        "sentences",
        r"\bhere(?: is|'s) my (?:thought|thinking) process\s*:",
        r"\bhere(?: is|'s) my (?:final )?(?:response|answer|verdict)\s*:",
    ),
    # ## Thinking … ## Final Response
    Marks(
        "headings",
        r"^#{1,4}\s*(?:thinking|thought process|thinking process)\s*:?\s*$",
        r"^#{1,4}\s*(?:final )?(?:response|answer|verdict|output)\s*:?\s*$",
    ),
)
"""Blocks that hold thinking. The text outside closed blocks is the answer."""

FINAL_CHANNELS = frozenset({"final", "response"})
_CHANNEL = re.compile(
    r"<\|\s*channel\s*\|>\s*(\w*)[^<]{0,80}(?:<\|\s*constrain\s*\|>[^<]{0,40})?(?:<\|\s*message\s*\|>)?", re.IGNORECASE
)
_BEFORE_CHANNEL = re.compile(
    r"(?:\A|<\|\s*(?:end|return|call)\s*\|>)\s*(?:<\|\s*start\s*\|>\s*assistant[^<]{0,80})?\Z", re.IGNORECASE
)
"""What stands before a channel: the start of the answer, or the end of another message. Elsewhere it is a quotation."""
_BARE_CHANNEL = re.compile(r"\A\s*(?:analysis|commentary)(?=[^\sa-z:]|we\b|the\b|user\b|need\b)")
_BARE_FINAL = re.compile(r"assistant\s*final(?=\S|\s*\S)")
_WRAPPERS = re.compile(
    rf"<\|\s*(?:(?:begin|end)_?of_?(?:solution|box|answer|text|turn|sentence)|(?:start|end)_(?:response|text|of_turn)"
    r"|end|return|eot(?:_id)?|eom(?:_id)?|im_end|end_of_text|endoftext|eos|call|message|start|im_start)\s*\|>"
    rf"|{_LEFT}\s*/?\s*(?:output|response|final|final[ _-]answer|solution)\s*{_RIGHT}"
    r"|\[/?(?:RESPONSE|ANSWER|OUTPUT|FINAL|SOLUTION|VERDICT)\]"
    rf"|{_LEFT}\s*(?:{_THOUGHT_NAMES})\s*/\s*{_RIGHT}"
    r"|</?s>|<(?:start|end)_of_turn>|<eos>|<pad>|<\uff5cend\u2581of\u2581sentence\uff5c>",
    re.IGNORECASE,
)
"""Marks around an answer or at its end: they go, what they hold stays."""
_RESIDUE = re.compile(
    rf"<\|[^<>\n]{{0,60}}\|?>|<[^<>|\n]{{0,60}}\|>|{_LEFT}\s*/?\s*{_THOUGHT_NAMES}\b[^<>\n]{{0,80}}{_RIGHT}"
    r"|\[\s*/?\s*[A-Z_]*(?:THINK|THOUGHT|REASON|REFLECT|SCRATCHPAD|ANALYSIS|CHANNEL)[A-Z_]*\s*\]"
    rf"|{_LEFT}\s*/?\s*[\w:.-]*(?:think|thought|channel|monologue)[\w:.-]*\s*{_RIGHT}|\bassistant\s?final(?=\S)",
)
"""Anything left that looks like a mark of thinking or of a channel."""
_CUE = re.compile(rf"{_LEFT}|[\[{{]|think|thought|assistant\s?final|\A\s*(?:analysis|commentary)", re.IGNORECASE)
_ANY_MARK = re.compile(
    r"(?P<left><\|?|\[|\{)(?P<close>/|end_)?(?P<name>[^\W\d_][\w:.-]{0,60})(?:\s[^<>\[\]{}\n]{0,80})?(?:\|?>|\]|\})",
    re.IGNORECASE,
)
"""An opening or a closing mark, whatever its name."""
_ANSWER_TAGS = (
    r"(?:rating|score|grade|verdict|answer|preference|preferred|choice|winner|judge?ment|decision|selection|pick|label"
    r"|better|best|result|conclusion|output|response|final(?:[ _-]\w+)?|solution|b|i|em|strong|u|p|span|div|code|h[1-6])"
)
"""A text without any of this holds no mark."""
_SAME = str.maketrans("\uff1c\uff1e\uff0f\uff5c\uff3b\uff3d\u2223\u00a0", "<>/|[]| ")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | _SAME
"""Fullwidth forms as the ASCII characters that they stand for."""
_ESCAPED = re.compile(r"\\u00(3c|3e|2f|5b|5d|7c)|\\(?=[<>/])", re.IGNORECASE)
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
_THINKING_KEY = re.compile(
    r"(?:chain[ _-]of[ _-])?(?:reason\w*|think\w*|thoughts?|rationale\w*|explanations?|explain|analysis|critiques?"
    r"|justifications?|reflections?|scratch[ _-]?pad|steps?|comments?|feedback|cot|evidence|notes?)",
    re.IGNORECASE,
)
_KEY_LEFT = re.compile(rf"[\"'](?:{_THINKING_KEY.pattern})[\"']\s*:\s*[\"'\[{{]", re.IGNORECASE)
"""A key of JSON that holds reasons, in text that is no JSON."""
_MOST_OBJECTS = 20
_PATTERNS = tuple(
    (marks.family, re.compile(marks.opens, re.I | re.M), re.compile(marks.closes, re.I | re.M)) for marks in THINKING
)


class FinalText(NamedTuple):
    """A model's answer without its thinking."""

    text: str | None
    """"" where thinking never closed. None: a mark that no table knows, so nobody can tell where the answer begins."""
    blocks: int = 0
    """Closed blocks of thinking that were taken out."""


class _Mark(NamedTuple):
    start: int
    end: int
    family: str
    name: str
    closes: bool


def final_text(text: str) -> FinalText:
    """The answer in a verdict: what stands outside of thinking; an unclosed or unknown mark leaves nothing.

    A closing mark without an opening one closes the thinking that the chat template opened.
    """
    plain = _INVISIBLE.sub("", text).translate(_NARROW)
    plain = html.unescape(_ESCAPED.sub(lambda m: chr(int(m[1], 16)) if m[1] else "", plain))
    if not _CUE.search(plain):
        return FinalText(plain)
    channel = _final_channel(plain)
    if channel is None:
        return FinalText(None)
    plain, channels = channel
    rest, blocks = _outside(plain)
    rest = _WRAPPERS.sub("\n", rest)
    if _RESIDUE.search(rest):
        return FinalText(None)
    rest = _without_thinking_keys(rest)
    return FinalText(None if _KEY_LEFT.search(rest) else rest, blocks + channels)


def without_unknown_blocks(answer: str) -> str:
    """The text outside of marked blocks that no table knows. They may be thinking, so what is read from an answer must
    be the same with them and without them."""
    opened: dict[tuple[str, str], int] = {}
    blocks: list[tuple[int, int]] = []
    for mark in _ANY_MARK.finditer(answer):
        if re.fullmatch(_ANSWER_TAGS, mark["name"], re.IGNORECASE):
            continue
        which = mark["left"], mark["name"].lower()
        if not mark["close"]:
            opened.setdefault(which, mark.start())
        elif which in opened:
            start = opened[which]
            opened = {other: at for other, at in opened.items() if at < start}
            blocks = [block for block in blocks if block[0] < start]
            blocks.append((start, mark.end()))
    parts, at = [], 0
    for start, end in blocks:
        parts.append(answer[at:start])
        at = end
    return "\n".join([*parts, answer[at:]])


def written(text: str) -> FinalText:
    """The answer in a sampled response, spaces and all: thinking counts only where it comes first.

    A response may speak *about* such marks, so nothing after its first words is taken for thinking, except a closing
    mark of a chat template's own block.
    """
    plain = text.translate(_SAME)
    if _CHANNEL.search(plain):
        channel = _final_channel(plain)
        return FinalText(_WRAPPERS.sub("", channel[0]).strip(), channel[1]) if channel else FinalText("")
    blocks, at = 0, 0
    while (first := _next_mark(plain, at)) is not None:
        is_leading = not first.closes and not plain[at : first.start].strip() and first.family != "console"
        is_template = first.closes and blocks == 0 and first.family in ("tags", "brackets", "tokens", "half tokens")
        if first.closes and first.family == "tags" and not re.fullmatch(r"(?:\w+:)?think(?:ing)?", first.name):
            is_template = False
        if is_leading:
            close = _close_of(plain, first)
            if close is None:
                return FinalText("", blocks)
            at = close.end
        elif is_template:
            at = first.end
        else:
            break
        blocks += 1
    return FinalText(text[at:].lstrip() if blocks else text, blocks)


def _final_channel(text: str) -> tuple[str, int] | None:
    """What the last channel says, where a text has channels at all; "" where that one is not for the reader. None: a
    channel opens in the middle of a message."""
    marks = list(_CHANNEL.finditer(text))
    if any(not _BEFORE_CHANNEL.search(text[: mark.start()]) for mark in marks):
        return None
    if marks:
        last = marks[-1]
        if last[1].lower() not in FINAL_CHANNELS:
            return "", 0
        return re.split(r"<\|\s*(?:end|return|start|call)\s*\|>", text[last.end() :])[0], len(marks) - 1
    if _BARE_CHANNEL.match(text) or _BARE_FINAL.search(text):
        ends = [match.end() for match in _BARE_FINAL.finditer(text)]
        return (text[ends[-1] :], 1) if ends else ("", 0)
    return text, 0


def _marks(text: str) -> list[_Mark]:
    marks = []
    for family, opens, closes in _PATTERNS:
        for pattern, is_close in ((opens, False), (closes, True)):
            for match in pattern.finditer(text):
                groups = match.groupdict()
                name = groups.get("tag") or groups.get("untag") or ""
                marks.append(_Mark(match.start(), match.end(), family, name.lower(), is_close))
    return sorted(marks)


def _outside(text: str) -> tuple[str, int]:
    """The text outside of closed blocks, and how many there were; "" where one never closes."""
    opened: list[_Mark] = []
    parts, at, blocks = [], 0, 0
    for mark in _marks(text):
        if mark.start < at:
            continue
        if not mark.closes:
            if not opened:
                parts.append(text[at : mark.start])
            opened.append(mark)
            at = mark.end
            continue
        fitting = [n for n, earlier in enumerate(opened) if (earlier.family, earlier.name) == (mark.family, mark.name)]
        if opened and not fitting:
            continue
        if mark.family in ("headings", "sentences") and not opened:
            continue
        if not opened:
            parts = []  # the chat template opened the block
        else:
            del opened[fitting[-1] :]
        at = mark.end
        blocks += not opened
    if opened:
        return "", blocks
    return "\n".join([*parts, text[at:]]), blocks


def _next_mark(text: str, at: int) -> _Mark | None:
    return next((mark for mark in _marks(text) if mark.start >= at), None)


def _close_of(text: str, first: _Mark) -> _Mark | None:
    depth = 0
    for mark in _marks(text):
        if mark.start < first.start or (mark.family, mark.name) != (first.family, first.name):
            continue
        depth += -1 if mark.closes else 1
        if depth == 0:
            return mark
    return None


def _without_thinking_keys(text: str) -> str:
    """Every JSON object or list in a text as "key: value" lines, without the keys that hold reasons."""
    parts, at = [], 0
    for _ in range(_MOST_OBJECTS):
        starts = _JSON_START.search(text, at)
        if starts is None:
            break
        try:
            value, end = _DECODER.raw_decode(text, starts.start())
        except (ValueError, RecursionError):
            parts.append(text[at : starts.start() + 1])
            at = starts.start() + 1
            continue
        before = re.sub(r"```\w*\s*\Z", "\n", text[at : starts.start()])
        parts += [before, "\n".join(_pairs(value)) or "{}", "\n"]
        at = end
        if fence := re.match(r"\s*```", text[at:]):
            at += fence.end()
    return "".join(parts) + text[at:]


_DECODER = json.JSONDecoder(strict=False)
_JSON_START = re.compile(r"[\[{]\s*[\"{\[]")


def _pairs(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not _THINKING_KEY.fullmatch(str(name)):
                yield from _pairs(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item, key)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield f"{key}: {value}" if key else str(value)


# ---------------------------------------------------------------- finish reasons

End = Literal["stop", "length", "tool", "filtered", "aborted"]
FINISH: Mapping[End, frozenset[str]] = {
    "stop": frozenset(
        "stop eos eos_token end_turn stop_sequence complete completed end stop_token finish finished done eos_id".split()
    ),
    "length": frozenset(
        "length max_tokens max_length max_new_tokens max_output_tokens max_completion_tokens model_length token_limit"
        " limit context_length context_window model_context_window_exceeded length_limit truncated incomplete"
        " max_tokens_reached".split()
    ),
    "tool": frozenset("tool_calls tool_call tool_use function_call function_calls tool".split()),
    "filtered": frozenset(
        "content_filter content_filtered filter safety refusal recitation blocklist prohibited_content spii sensitive"
        " guardrail_intervened guardrails moderation error_toxic language image_safety".split()
    ),
}
"""Everything else means an aborted answer (error, abort, cancelled, network_error, timeout, null, any unknown word)."""
ABORTED = frozenset(
    "error abort aborted cancelled canceled cancel network_error timeout overloaded interrupted failed failure"
    " insufficient_system_resource disconnected exception pause_turn malformed_function_call error_limit".split()
)
_ENDS: dict[str, End] = {word: end for end, words in FINISH.items() for word in words}


def end_of(first: Mapping[str, Any]) -> End | None:
    """How a choice ended, by its finish reason in any spelling; None where the reason is missing or unknown."""
    reason = first.get("finish_reason", first.get("stop_reason"))
    if isinstance(reason, dict):  # SGLang's own form: {"type": "stop", "matched": …}
        reason = reason.get("type")
    if not isinstance(reason, str):
        return None
    word = re.sub(r"[\s-]+", "_", reason.strip().rpartition(".")[2]).lower().removeprefix("finish_reason_")
    return "aborted" if word in ABORTED else _ENDS.get(word)


# ---------------------------------------------------------------- streams


def events(body: bytes) -> list[dict[str, Any]] | None:
    """The chunks of a body that is a stream of server-sent events, as servers send that can only stream; else None.

    A chunk that is not JSON ends the list, because the rest cannot be parsed reliably.
    """
    if not body.lstrip().startswith((b"data:", b"event:", b": ", b"id:")):
        return None
    chunks: list[dict[str, Any]] = []
    for line in body.decode("utf-8", "replace").splitlines():
        if not line.startswith("data:"):
            continue
        try:
            chunk = json.loads(line.removeprefix("data:"))
        except ValueError:
            break  # [DONE], or a torn one
        if isinstance(chunk, dict):
            chunks.append(chunk)
    return chunks


def assembled(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A streamed answer as if it had come whole: the first choice's texts joined, its last finish reason, the usage.

    Without a finish reason it has none, and so does not count as finished.
    """
    whole: dict[str, Any] = {}
    message: dict[str, Any] = {"content": ""}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "message": message, "text": ""}
    logprobs: list[Any] = []
    for chunk in chunks:
        whole |= {key: value for key, value in chunk.items() if key != "choices" and value is not None}
        shown = chunk.get("choices")
        for part in shown if isinstance(shown, list) else []:
            if not isinstance(part, dict) or part.get("index", 0) != 0:
                continue
            raw_delta = part.get("delta")
            delta: dict[str, Any] = raw_delta if isinstance(raw_delta, dict) else {}
            for key in ("content", "reasoning_content", "reasoning", "refusal"):
                if isinstance(delta.get(key), str):
                    message[key] = message.get(key, "") + delta[key]
            if delta.get("tool_calls"):
                message["tool_calls"] = delta["tool_calls"]
            if isinstance(part.get("text"), str):
                choice["text"] += part["text"]
            content = (part.get("logprobs") or {}).get("content") if isinstance(part.get("logprobs"), dict) else None
            logprobs += content if isinstance(content, list) else []
            if "content" not in (part.get("logprobs") or {"content": 0}) and "logprobs" not in choice:
                choice["logprobs"] = part["logprobs"]  # the completions endpoint's form: the first position is enough
            choice |= {key: part[key] for key in ("finish_reason", "error") if part.get(key) is not None}
    if logprobs:
        choice["logprobs"] = {"content": logprobs}
    return {**whole, "choices": [choice]} if chunks else {}


# ---------------------------------------------------------------- usage

USAGE: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_eval_count"),
    "completion": ("completion_tokens", "output_tokens", "candidatesTokenCount", "eval_count"),
    "total": ("total_tokens", "totalTokenCount"),
    "thinking": ("reasoning_tokens", "thoughtsTokenCount"),
    "cached": ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens", "cachedContentTokenCount"),
    "beside": ("cache_creation_input_tokens", "cache_read_input_tokens"),
    "cost": ("cost", "total_cost", "cost_usd"),
}
"""Field names by what they count. ``beside``: prompt tokens that ``input_tokens`` leaves out (Anthropic)."""
DETAILS = ("prompt_tokens_details", "completion_tokens_details", "input_tokens_details", "output_tokens_details")

# ---------------------------------------------------------------- tokens


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's printable stand-ins for bytes: printable bytes are themselves, the others follow from U+0100."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_ALPHABET = _byte_alphabet()
_STAND_INS = frozenset(character for character in _ALPHABET if ord(character) >= 256)
_RAW_START = re.compile("[\u0120\u010a\u0109]")  # space, newline and tab in byte-level BPE
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BYTES_TEXT = re.compile(r"bytes:((?:\\x[0-9a-fA-F]{2})+)")
_ID_TEXT = re.compile(r"token_id:\d+")


class UnknownTokens(ValueError):
    """Tokens whose text cannot be known."""


class Entry(NamedTuple):
    """One entry of a list of top log-probabilities."""

    token: Any
    logprob: Any
    bytes: Any = None


def token_texts(entries: Sequence[Entry]) -> list[str]:
    """The text of each token, whatever form the server shows; raises UnknownTokens with the reason.

    A server shows one form throughout: raw vocabulary (``Ġ1``, ``▁1``) is recognised by the marks of spaces, which
    no table of plain texts has beside real spaces.
    """
    texts = [_text(entry) for entry in entries]
    shown = [text for text, sure in texts if not sure]
    is_bpe = any(_RAW_START.match(text) for text in shown)
    is_pieces = any("\u2581" in text for text in shown)
    has_space = any(re.search(r"\s" if is_bpe else " ", text) for text in shown)  # pieces may hold a line break
    if (is_bpe and is_pieces) or ((is_bpe or is_pieces) and has_space):
        raise UnknownTokens("tokens in more than one form (raw vocabulary beside plain text)")
    if is_bpe:
        return [text if sure else _from_alphabet(text) for text, sure in texts]
    if is_pieces:
        return [text if sure else text.replace("\u2581", " ") for text, sure in texts]
    return [text for text, _ in texts]


def _text(entry: Entry) -> tuple[str, bool]:
    """A token's text, and whether it is sure not to be in a raw form."""
    token = entry.token
    if isinstance(token, list) and token and all(_is_byte(b) for b in token):
        return _decoded(bytes(token)), True
    if not isinstance(token, str):
        raise UnknownTokens(f"a token is not text: {str(token)[:40]!r}")
    if _ID_TEXT.fullmatch(token):
        raise UnknownTokens(f"the server shows token ids ({token}) in place of texts")
    if isinstance(entry.bytes, list) and entry.bytes and all(_is_byte(b) for b in entry.bytes):
        text = _decoded(bytes(entry.bytes))
        return text, text != token or token.isascii()
    if hexed := _BYTE_TOKEN.fullmatch(token):
        return _decoded(bytes([int(hexed[1], 16)])), True
    if hexed := _BYTES_TEXT.fullmatch(token):
        return _decoded(bytes.fromhex(hexed[1].replace("\\x", ""))), True
    if re.fullmatch(r"b'(?:[^'\\]|\\.)+'|b\"(?:[^\"\\]|\\.)+\"", token):
        try:
            return _decoded(ast.literal_eval(token)), True
        except (ValueError, SyntaxError):
            pass
    return token, False


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _from_alphabet(token: str) -> str:
    """A token of byte-level BPE as text; added tokens, which are not in that alphabet, as they are."""
    if all(character in _ALPHABET for character in token):
        return _decoded(bytes(_ALPHABET[character] for character in token))
    return token


# ---------------------------------------------------------------- servers

_SECRET = re.compile(
    r"authorization|cookie|secret|password|credential|(?:api|access|auth)[-_]?(?:key|token)|^token$", re.I
)


def named_headers(entries: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Headers from NAME=VALUE texts or a mapping. Raises ValueError for another form, and for a secret that is not read
    from the environment: settings are written into records."""
    pairs = (
        entries.items()
        if isinstance(entries, Mapping)
        else ((n, v) for n, _, v in (str(one).partition("=") for one in entries))
    )
    headers = {str(name).strip(): str(value).strip() for name, value in pairs}
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not value or "\n" in value or "\r" in value:
            raise ValueError(f"'{name}={value}' is not a header; write NAME=VALUE")
        if _SECRET.search(name) and not value.startswith("$"):
            raise ValueError(f"{name}: put the secret into an environment variable and write {name}=$VARIABLE")
    return headers


OWN_DEFAULTS = frozenset({"vllm", "sglang", "llamacpp", "library", "organization_owner", "huggingface"})
"""What ``GET /models`` names as owner where a missing temperature means the model's or the server's own, not 1."""

Structured = Literal["choice", "schema"]
STRUCTURED: Mapping[str, Structured] = {"vllm": "choice", "sglang": "choice", "llamacpp": "schema"}
"""What ``GET /models`` names as owner → how it holds an answer to the labels."""


def structured_fields(form: Structured, labels: Sequence[str]) -> dict[str, Any]:
    """Request fields that let the model write nothing but one of the labels.

    choice: vLLM's ``guided_choice`` (``structured_outputs`` in newer ones) and SGLang's ``regex``. A server ignores the
    fields of others; the answer is read as strictly as any. schema: a JSON object with the verdict, for every server
    with ``response_format``.
    """
    names = [label.strip() for label in labels]
    if form == "choice":
        return {
            "guided_choice": names,
            "structured_outputs": {"choice": names},
            "regex": f"(?:{'|'.join(map(re.escape, names))})",
        }
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": names}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    return {
        "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
    }


REFUSED: tuple[tuple[str, str], ...] = (
    (r"response_format|json_schema|guided_|structured_outputs|\bregex\b", "set structured to 'off', or to another form"),
    (r"top_logprobs|\blogprobs\b", "set top to the number the server allows, or readout to 'votes'"),
    (r"max_completion_tokens.{0,40}instead|use 'max_completion_tokens'", "set max_tokens_name to 'max_completion_tokens'"),
    (
        r"max_(?:completion_|new_|output_)?tokens|max_length|completion tokens",
        "lower the limit of the answer: answer_tokens of verdicts, max_new_tokens of sampled responses"
        " (set max_tokens_name where the server knows the limit by another name)",
    ),
    (r"temperature.{0,80}top_p|top_p.{0,80}temperature", "send one of the two: extra_body {top_p: null}"),
    (r"\btop_p\b", "leave it out: extra_body {top_p: null}"),
    (r"\btop_k\b", "leave it out: extra_body {top_k: null}"),
    (r"\btemperature\b", "leave it out: extra_body {temperature: null}"),
    (r"\bseed\b", "leave it out: extra_body {seed: null}"),
    (r"\bstop(?:_sequences)?\b", "leave it out: extra_body {stop: null}"),
    (r"continue_final_message|add_generation_prompt|prefill|last message|assistant message", "set continuing to 'fold'"),
    (r"tool_call_id|role.{0,20}\btool\b", "this server takes no tool messages in prompts: leave those rows out"),
    (r"\bprompt\b.{0,60}(?:missing|required|not supported)|chat model|chat/completions", "set api to 'chat'"),
    (r"chat[ _]template|v1/completions", "set api to 'completions'"),
)  # fmt: skip
"""What a refusal speaks of → the setting that helps. The first that matches counts."""


def setting_for(refusal: str) -> str | None:
    """The setting to change, by what a server says in refusing a request; None where no row knows it."""
    return next((fix for pattern, fix in REFUSED if re.search(pattern, refusal, re.I | re.S)), None)


_EXCESS = (
    r"(?:too (?:long|large|big|many)|exceed\w*|longer than|larger than|greater than|more than|maximum|at most|over the"
    r"|must (?:be|have)\b.{0,30}(?:<=|less)|reduce|shorten|should be)"
)
_INPUT = (
    r"(?:(?<!output )(?<!completion )\bprompts?\b|\binputs?\b|\bmessages?\b(?!\s*\"?:)|\bcontext\b|\brequest has \d+"
    r"|\bsequence\b|\bconversation\b|\bpayload\b)"
)
_LENGTH = re.compile(
    r"context[ _](?:length|window|size)|context_length_exceeded|prompt_too_long|input_too_long"
    rf"|{_INPUT}.{{0,80}}{_EXCESS}|{_EXCESS}.{{0,80}}{_INPUT}",
    re.I | re.S,
)
_NOT_LENGTH = re.compile(r"top_logprobs|\blogprobs\b|completion tokens|\bstop\b|top_k|output tokens", re.I)
_LENGTH_SURE = re.compile(
    r"(?:maximum|exceed\w*|available|model's|model|longer).{0,40}context|context_length_exceeded|prompt (?:is )?too long", re.I
)  # fmt: skip


def speaks_of_length(refusal: str) -> bool:
    """Whether a refusal says that the *prompt* is too long: not a limit on the answer or on some other field."""
    if _LENGTH_SURE.search(refusal):
        return True
    return _LENGTH.search(refusal) is not None and _NOT_LENGTH.search(refusal) is None
