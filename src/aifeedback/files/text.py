"""Text and message lists as they stand in cells: checked, split into prompt and answer, told in words when wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aifeedback.files.report import RowFault
from aifeedback.files.tables import kind_of
from aifeedback.records import Message, Prompt, prompt_id

Messages = tuple[Message, ...]

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|System): ?")
_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "system": "system",
}  # fmt: skip
TAG_COLUMNS = ("topic", "language", "group", "split", "category", "subset", "domain", "difficulty", "locale", "type",
               "dataset", "subreddit")  # fmt: skip
_TAG_NAMES = frozenset(TAG_COLUMNS)


def need_text(row: Mapping[str, Any], key: str, *, empty_is_fine: bool = False) -> str:
    """The text in a cell; a message list of one answer gives its content."""
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
            raise RowFault("should hold one message", key)
        return messages[0].content
    raise RowFault(f"should be text, is {kind_of(value)}", key)


class PromptCell(NamedTuple):
    """A prompt as a file has it, checked. The record and its id, which cost more than reading, are made when asked for."""

    content: str | Messages
    tags: Mapping[str, str] = {}
    reference: str | None = None

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
        return Prompt.of(self.content, reference=self.reference, tags=self.tags)


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
            turns.pop()  # the open 'Assistant:' that asks for the answer
        if not turns:
            raise RowFault("is empty", key)
        return PromptCell(tuple(turns), tags, reference)
    if isinstance(value, str):
        if not value.strip():
            raise RowFault("is empty", key)
        return PromptCell(value, tags, reference)
    if is_messages(value):
        return PromptCell(as_messages(value, key), tags, reference)
    raise RowFault(f"should be text or messages, is {kind_of(value)}", key)


def is_messages(value: Any) -> bool:
    return (
        not isinstance(value, str)
        and isinstance(value, Sequence)
        and len(value) > 0
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def as_messages(value: Any, key: str) -> Messages:
    """A message list with roles user, assistant, system; ShareGPT's from/value is understood."""
    messages = []
    for item in value:
        role = _ROLES.get(str(item.get("role", item.get("from"))).lower())
        content = item.get("content", item.get("value"))
        if role is None:
            raise RowFault(f"has a message of unknown role '{item.get('role', item.get('from'))}'", key)
        if not isinstance(content, str):
            raise RowFault(f"has a message whose content is {kind_of(content)}", key)
        messages.append(Message(role=role, content=content))  # type: ignore[arg-type]
    if not any(m.content.strip() for m in messages):
        raise RowFault("is empty", key)
    return tuple(messages)


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


def split_transcripts(one: str, other: str) -> tuple[Messages, str, str]:
    """The shared dialogue and the two answers: cut at the last Assistant turn that both have in common."""
    shared = _shared_beginning(one, other)
    cut = shared.rfind("\n\nAssistant:")
    if cut < 0:
        raise RowFault("the two dialogues share no Assistant turn, so no common prompt", "chosen")
    end = cut + len("\n\nAssistant:")
    prompt = transcript(one[:cut])
    if not prompt:
        raise RowFault("no Human turn before the answers", "chosen")
    return prompt, one[end:].strip(), other[end:].strip()


def _shared_beginning(one: str, other: str) -> str:
    end = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:end]


def split_messages(one: Messages, other: Messages, key: str) -> tuple[Messages, str, str]:
    """The shared messages and the two answers, each of which must be one assistant message."""
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    # two equal answers share everything: the last message is still the answer
    shared = min(shared, len(one) - 1, len(other) - 1)
    if shared == 0:
        raise RowFault("the two dialogues share no message, so no common prompt", key)
    return one[:shared], answer_text(one[shared:], key), answer_text(other[shared:], key)


def split_plain(one: str, other: str) -> tuple[str, str, str]:
    """The shared beginning up to its last white space, as TRL takes an implicit prompt, and the two rests."""
    shared = _shared_beginning(one, other)
    cut = max(shared.rfind(" "), shared.rfind("\n"))
    if cut <= 0 or not shared[:cut].strip():
        raise RowFault("there is no 'prompt' and the two texts share no beginning", "prompt")
    return one[:cut].rstrip(), one[cut:].strip(), other[cut:].strip()


def answer_text(messages: Messages, key: str) -> str:
    """One answer as text; a continued dialogue as a transcript that starts with the answer."""
    if not messages or messages[0].role != "assistant":
        raise RowFault("should end with an assistant message", key)
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    rest = "".join(f"\n\n{names[m.role]}: {m.content}" for m in messages[1:])
    return messages[0].content + rest


def row_tags(row: Mapping[str, Any]) -> dict[str, str]:
    """What is known about a prompt beside its text: the ``tags`` column, and columns of well-known names."""
    given = row.get("tags")
    if isinstance(given, str) and given.startswith("{"):
        try:
            given = json.loads(given)
        except json.JSONDecodeError:
            given = None
    tags: dict[str, str] = {}
    if not _TAG_NAMES.isdisjoint(row):
        named = [name for name in TAG_COLUMNS if name in row]
        tags = {name: str(row[name]) for name in named if isinstance(row[name], (str, int)) and row[name] != ""}
    if isinstance(given, Mapping):
        tags.update({str(k): str(v) for k, v in given.items() if v is not None})
    return tags
