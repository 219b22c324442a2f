"""Text and message lists in cells: validated and split into prompt and response, with no part lost.

A row may spread one conversation over several columns: a system message, earlier turns, dialogues that repeat the
prompt in front of the response. All of it becomes the prompt, or the row is skipped with the column named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.data.tables import RowFault, is_blank, is_missing, kind_of, parsed
from aifeedback.types import Message, Prompt, prompt_id

Messages = tuple[Message, ...]

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System): ?")
_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "function": "tool", "ipython": "tool", "observation": "tool", "tool_response": "tool",
}  # fmt: skip
TAG_COLUMNS = ("topic", "language", "group", "split", "category", "subset", "domain", "difficulty", "locale", "type",
               "dataset", "subreddit")  # fmt: skip
_TAG_NAMES = frozenset(TAG_COLUMNS)

SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
HISTORY_COLUMNS = ("history", "chat_history", "conversation_history")
DIALOGUE_COLUMNS = ("conversations", "messages", "conversation", "dialogue", "dialog", "turns")
_REQUEST_COLUMNS = ("context", "input", "instruction", "question", "query", "documents", "tools", "functions")
_PARTS_OF_A_REQUEST = frozenset((*SYSTEM_COLUMNS, *HISTORY_COLUMNS, *_REQUEST_COLUMNS))
PARTS_OF_A_PAIR = _PARTS_OF_A_REQUEST | frozenset(DIALOGUE_COLUMNS)
_BESIDE_TEXT = ("tool_calls", "function_call", "tools", "images", "audio", "reasoning_content", "reasoning",
                "thinking")  # fmt: skip
"""Parts of a message that a record of plain text cannot hold."""
_TURN_KEYS = (("user", "assistant"), ("human", "assistant"), ("human", "gpt"), ("prompt", "response"),
              ("prompt", "completion"), ("question", "answer"), ("instruction", "output"), ("input", "output"),
              ("query", "response"))  # fmt: skip


# ── cells ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def need_text(row: Mapping[str, Any], key: str, *, empty_is_fine: bool = False) -> str:
    """The text in a cell; a message list of one response gives its content."""
    if key not in row:
        raise RowFault("is missing", key)
    value = row[key]
    if isinstance(value, str):
        if not value.strip() and not empty_is_fine:
            raise RowFault("is empty", key)
        return value
    if is_messages(value):
        messages = as_messages(value, key)
        if len(messages) != 1:
            raise RowFault("should contain one message", key)
        return messages[0].content
    if is_missing(value):
        raise RowFault("is empty", key)
    raise RowFault(f"should be text, is {kind_of(value)}", key)


class PromptCell(NamedTuple):
    """A prompt as a file has it, checked. The record and its id, which cost more than reading, are made on demand."""

    content: str | Messages
    tags: Mapping[str, str] = {}
    reference: str | None = None
    is_chat: bool = False

    @property
    def messages(self) -> Messages:
        return (Message(role="user", content=self.content),) if isinstance(self.content, str) else self.content

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """(role, content) of every message: equal turns, equal prompt."""
        if isinstance(self.content, str):
            return (("user", self.content),)
        return tuple((m.role, m.content) for m in self.content)

    @property
    def id(self) -> str:
        return prompt_id(self.turns)

    def record(self) -> Prompt:
        return Prompt.of(self.content, reference=self.reference, tags=self.tags, is_chat=self.is_chat)


def need_prompt(row: Mapping[str, Any], key: str, *, tags: Mapping[str, str] | None = None) -> PromptCell:
    """The prompt in a cell: text, a transcript with Human/Assistant turns, or a message list."""
    if key not in row:
        raise RowFault("is missing", key)
    value = row[key]
    tags = {**row_tags(row), **tags} if tags else row_tags(row)
    reference = row.get("reference") if isinstance(row.get("reference"), str) else None
    if isinstance(value, str) and value.startswith("\n\n") and _TURN.match(value):
        turns = list(transcript(value))
        while turns and turns[-1].role == "assistant" and not turns[-1].content.strip():
            turns.pop()  # the open 'Assistant:' that asks for the response
        if not turns:
            raise RowFault("is empty", key)
        return PromptCell(tuple(turns), tags, reference, is_chat=True)
    if is_messages(value):
        return PromptCell(as_messages(value, key), tags, reference, is_chat=True)
    if isinstance(value, str) or is_missing(value):
        return PromptCell(need_text(row, key), tags, reference)
    raise RowFault(f"should be text or messages, is {kind_of(value)}", key)


def is_messages(value: Any) -> bool:
    return (
        not isinstance(value, str)
        and isinstance(value, Sequence)
        and len(value) > 0
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def as_messages(value: Any, key: str) -> Messages:
    """A message list with roles user, assistant, system, tool; ShareGPT's from/value and text parts are understood."""
    messages = []
    for item in value:
        role = _ROLES.get(str(item.get("role", item.get("from"))).lower())
        if role is None:
            raise RowFault(f"has a message of unknown role '{item.get('role', item.get('from'))}'", key)
        beside = next((part for part in _BESIDE_TEXT if not is_blank(item.get(part))), None)
        if beside:
            raise RowFault(f"has a message with '{beside}', which is not text", key)
        messages.append(Message(role=role, content=_content(item.get("content", item.get("value")), key)))  # type: ignore[arg-type]
    if not any(m.content.strip() for m in messages):
        raise RowFault("is empty", key)
    return tuple(messages)


def _content(value: Any, key: str) -> str:
    """A message's text; of a list of parts, the texts in order."""
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)):
        raise RowFault(f"has a message whose content is {kind_of(value)}", key)
    texts = []
    for part in value:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = str(part.get("type") or "text") if isinstance(part, Mapping) else "text"
        if not isinstance(text, str) or kind not in ("text", "input_text", "output_text"):
            raise RowFault(f"has a message part of type '{kind}', which is not text", key)
        texts.append(text)
    return "\n".join(texts)


def row_tags(row: Mapping[str, Any]) -> dict[str, str]:
    """What is known about a prompt beside its text: the ``tags`` column, and columns of well-known names."""
    cell = row.get("tags")
    if isinstance(cell, str) and cell.startswith("{"):
        try:
            cell = json.loads(cell)
        except ValueError:
            cell = None
    tags: dict[str, str] = {}
    if not _TAG_NAMES.isdisjoint(row):
        named = [name for name in TAG_COLUMNS if name in row]
        tags = {name: str(row[name]) for name in named if isinstance(row[name], (str, int)) and row[name] != ""}
    if isinstance(cell, Mapping):
        tags.update({str(k): str(v) for k, v in cell.items() if v is not None})
    return tags


# ── transcripts ───────────────────────────────────────────────────────────────────────────────────────────────────


def transcript(text: str) -> Messages:
    """The turns of a text marked ``\\n\\nHuman:`` and ``\\n\\nAssistant:``; neighbours of one role are joined."""
    parts = _TURN.split(text)
    turns: list[tuple[str, str]] = []
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = _ROLES[speaker.lower()]
        if turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{content}".strip())
        else:
            turns.append((role, content.strip()))
    return tuple(Message(role=role, content=content) for role, content in turns)  # type: ignore[arg-type]


def is_transcript(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value


def has_turns(value: Any) -> bool:
    """Whether a text holds turns marked as in a transcript, wherever they begin."""
    return isinstance(value, str) and ("\n\nHuman:" in value or "\n\nAssistant:" in value)


def split_plain(one: str, other: str) -> tuple[str, str, str]:
    """The shared beginning up to its last white space, as TRL takes an implicit prompt, and the two rests."""
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    cut = max(one.rfind(" ", 0, end), one.rfind("\n", 0, end))
    if cut <= 0 or not one[:cut].strip():
        raise RowFault("'prompt' is missing and the two texts do not share a beginning", "prompt")
    return one[:cut].rstrip(), one[cut:].strip(), other[cut:].strip()


# ── responses in their dialogue ───────────────────────────────────────────────────────────────────────────────────


def side(row: Mapping[str, Any], key: str, prompt: PromptCell | None, *, empty_is_fine: bool = False) -> str | Messages:
    """A response cell: plain text, or the messages that it holds and that end with the response."""
    value = row.get(key)
    if isinstance(value, Mapping) and is_messages([value]):
        return as_messages([value], key)
    if is_messages(value):
        return as_messages(value, key)
    if is_transcript(value):
        return transcript(str(value))
    if isinstance(value, str) and prompt is not None and not isinstance(prompt.content, str):
        text = value.strip()
        if has_turns(text):  # it goes on with the turns of the prompt's transcript
            return transcript(text if _TURN.match(text) else f"Assistant: {text}")
    return need_text(row, key, empty_is_fine=empty_is_fine)


def in_dialogue(prompt: PromptCell | None, response: str | Messages, key: str) -> tuple[Messages, str]:
    """The dialogue in front of a response, from the prompt and what the response cell repeats or adds; the response."""
    before = prompt.messages if prompt else ()
    if isinstance(response, str):
        return before, response
    if response[-1].role != "assistant":
        raise RowFault("should end with an assistant message", key)
    own, text = response[:-1], response[-1].content
    if not own or holds(before[len(before) - len(own) :], own):
        return before, text
    if not before or holds(own, before):
        return own, text
    if before[0].role == "system" and holds(own, before[1:]):
        return before[:1] + own, text
    if own[0].role == "assistant":
        return before + own, text
    raise RowFault("is a dialogue that does not contain the prompt", key)


def of_two_sides(
    prompt: PromptCell | None, one: str | Messages, other: str | Messages, keys: tuple[str, str], row: Mapping[str, Any]
) -> tuple[PromptCell, str, str]:
    """The prompt that two responses share, and the responses. Dialogues must agree in all but their last turn."""
    if prompt is not None and isinstance(one, str) and isinstance(other, str):
        return prompt, one, other
    (shared, first), (also, second) = in_dialogue(prompt, one, keys[0]), in_dialogue(prompt, other, keys[1])
    if not _same(shared, also):
        if prompt is None and (not shared or not also or not _same(shared[:1], also[:1])):
            what = "Assistant turn" if is_transcript(row.get(keys[0])) else "message"
            raise RowFault(f"the two dialogues share no {what}, so no common prompt", keys[0])
        raise RowFault(
            "the two dialogues differ before their last turn, so they share no prompt", keys[1], is_unsupported=True
        )
    if not shared:
        raise RowFault("the dialogue has no message before the response", keys[0])
    is_chat = not (isinstance(one, str) and isinstance(other, str))
    return placed(prompt, shared, is_chat, row), first, second


def placed(prompt: PromptCell | None, dialogue: Messages, is_chat: bool, row: Mapping[str, Any]) -> PromptCell:
    """The prompt with the whole dialogue in front of a response."""
    if prompt is None:
        return PromptCell(dialogue, row_tags(row), is_chat=is_chat)
    if dialogue != prompt.messages:
        prompt = prompt._replace(content=dialogue)
    return prompt._replace(is_chat=prompt.is_chat or is_chat)


def _same(one: Messages, other: Messages) -> bool:
    return len(one) == len(other) and all(
        a.role == b.role and a.content.strip() == b.content.strip() for a, b in zip(one, other, strict=True)
    )


def holds(whole: Messages, part: Messages) -> bool:
    """Whether ``part`` stands in ``whole``, message after message."""
    return any(_same(whole[i : i + len(part)], part) for i in range(len(whole) - len(part) + 1))


# ── parts of the conversation in columns of their own ─────────────────────────────────────────────────────────────


def with_context(row: Mapping[str, Any], prompt: PromptCell, own: Collection[str] = ()) -> PromptCell:
    """The prompt with the system message and the earlier turns of the row, where they have columns of their own.

    ``own`` are the columns that the format reads itself.
    """
    systems = [key for key in SYSTEM_COLUMNS if key in row and key not in own]
    histories = [key for key in HISTORY_COLUMNS if key in row and key not in own]
    if not systems and not histories:
        return prompt
    messages = prompt.messages
    for key in histories:
        earlier = () if is_blank(row[key]) or _is_in(row[key], messages) else _history(row[key], key)
        if earlier and not holds(messages, earlier):
            head = 1 if messages[0].role == "system" else 0
            messages = messages[:head] + earlier + messages[head:]
    for key in systems:
        if is_blank(row[key]):
            continue
        text = need_text(row, key)
        known = [m.content.strip() for m in messages if m.role == "system"]
        if known and text.strip() not in known:
            raise RowFault("differs from the system message of the dialogue", key)
        if not known:
            messages = (Message(role="system", content=text), *messages)
    if "comparison_id" in row and messages == prompt.messages:
        return prompt  # written by us: the parts are in the prompt, which has its form
    # every row of the file has the columns: all are written in one form, also those in which they are empty
    return prompt._replace(content=messages, is_chat=True)


def _is_in(value: Any, messages: Messages) -> bool:
    """Whether a text is one of the messages already: the format's own prompt, in a file that was written anew."""
    return isinstance(value, str) and any(m.content.strip() == value.strip() for m in messages)


def _history(value: Any, key: str) -> Messages:
    """Earlier turns: messages, (user, assistant) pairs, a transcript, or any of these written as text."""
    if isinstance(value, str):
        if _TURN.match(value.lstrip()):
            return transcript("\n\n" + value.lstrip())
        value = parsed(value)
    if is_messages(value):
        return as_messages(value, key)
    if not isinstance(value, (list, tuple)):
        raise RowFault("is not a list of earlier turns", key)
    turns = list(value)
    if all(isinstance(turn, str) for turn in turns) and len(turns) % 2 == 0:
        turns = list(zip(turns[::2], turns[1::2], strict=True))
    return tuple(message for turn in turns for message in _exchange(turn, key))


def _exchange(turn: Any, key: str) -> Iterator[Message]:
    if isinstance(turn, Mapping):
        names = next(
            (names for names in _TURN_KEYS if set(names) == {k for k, v in turn.items() if v is not None}), None
        )
        turn = [turn[name] for name in names] if names else None
    is_pair = isinstance(turn, (list, tuple)) and len(turn) == 2
    if not is_pair or not all(text is None or isinstance(text, str) for text in turn):
        raise RowFault("is not a list of (user, assistant) turns", key)
    for role, text in zip(("user", "assistant"), turn, strict=True):
        if text:
            yield Message(role=role, content=text)  # type: ignore[arg-type]


def require_used(
    row: Mapping[str, Any], prompt: PromptCell, own: Collection[str] = (), responses: Collection[str] | None = None
) -> None:
    """Raises RowFault at a column that holds a part of the conversation which is in neither prompt nor responses.

    Without ``responses`` only parts of the request count, not whole dialogues, which may end in one.
    """
    names = _PARTS_OF_A_REQUEST if responses is None else PARTS_OF_A_PAIR
    if names.isdisjoint(row):
        return
    used = ""
    for key in row:
        if key not in names or key in own or is_blank(row[key]):
            continue
        used = used or _squeezed("\n".join((*(content for _, content in prompt.turns), *(responses or ()))))
        if key in ("tools", "functions") or not all(_occurs(part, used) for part in _parts(row[key])):
            raise RowFault("looks like a part of the conversation, and this format has no place for it", key)


def _occurs(part: str, text: str) -> bool:
    """Whether a part stands in a text as whole words."""
    return part in text and re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def _parts(value: Any) -> Iterator[str]:
    """Every text in a cell, without the names of roles and kinds."""
    if isinstance(value, str):
        deeper = parsed(value) if value.lstrip()[:1] in ("[", "{") else value
        if isinstance(deeper, (list, dict)):
            yield from _parts(deeper)
        elif _TURN.match(value.lstrip()):
            yield from (_squeezed(m.content) for m in transcript("\n\n" + value.lstrip()))
        else:
            yield _squeezed(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in ("role", "from", "type"):
                yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    elif not is_missing(value) and not isinstance(value, (bool, int, float)):
        yield _squeezed(str(value))


def _squeezed(text: str) -> str:
    return " ".join(text.split())
