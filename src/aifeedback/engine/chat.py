"""How one model folder turns prompts and responses into token ids: every trainer, reward and server uses this record.

A prompt is what the chat template makes of its messages, with the generation prompt (``encoding.encode_prompt``). A
response of a policy ends with the token that ends a turn *in that template*, which need not be the tokenizer's EOS. A
reward model reads the finished conversation, exactly the ids of ``apply_chat_template(messages)``, at its last token:
that is where TRL trains reward models and where plain transformers reads them. Without a template, a prompt is its
text (``encoding.transcript``) and both kinds end with EOS.

What a trained folder was encoded with is kept in ``training/encoding.json`` and used whenever the folder is loaded.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from aifeedback.engine.encoding import (
    accepted,
    control_tokens,
    encode_completion,
    encode_conversation,
    encode_prompt,
    encode_prompts,
    rendered,
    transcript,
)
from aifeedback.errors import ModelError
from aifeedback.records import Message

FILE = Path("training") / "encoding.json"
QUESTION, ANSWER = "\ue000", "\ue001"
"""Stand-ins for texts when a template is tried out: private-use characters, which no template contains."""


MOST_TURNS = 200
"""Longest dialogue that is read back from rendered text."""

_frames: weakref.WeakKeyDictionary[Any, dict[Any, list[str] | None]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Encoding:
    """Prompts and responses of one tokenizer as token ids, and back."""

    tokenizer: Any
    prefill: str
    """What the generation prompt already writes of the response, such as ``<think>`` and a line break; mostly empty."""
    end: int
    """Token that ends a response."""
    stops: frozenset[int]
    """Every token that ends a response while sampling."""

    @classmethod
    def of(cls, tokenizer: Any, model: Any = None) -> Encoding:
        """The encoding of a tokenizer; ``model`` adds the stop tokens of its generation settings.

        Raises ModelError where no token could end a response.
        """
        prefill, end = _turn(tokenizer) if has_template(tokenizer) else ("", None)
        configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        configured = configured if isinstance(configured, list | tuple) else [configured]
        stops = frozenset(int(i) for i in (end, tokenizer.eos_token_id, *configured) if i is not None)
        if not stops:
            raise ModelError(
                "the tokenizer has no EOS token, so no answer could end", fix="set eos_token in its folder"
            )
        own = end if end is not None else tokenizer.eos_token_id
        return cls(tokenizer, prefill, min(stops) if own is None else own, stops)

    @property
    def control(self) -> dict[str, int]:
        """Spelling and id of every control token."""
        return control_tokens(self.tokenizer)

    @property
    def end_marks(self) -> tuple[str, ...]:
        """Spellings of the tokens that may follow a response: those that end it, and padding."""
        ids = {*self.stops, self.pad}
        return tuple(sorted(text for text, index in self.control.items() if index in ids))

    @property
    def pad(self) -> int:
        """Token that fills up rows."""
        return self.end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids up to where the response starts."""
        return encode_prompt(self.tokenizer, messages)

    def prompts(self, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
        """``prompt`` of each, faster."""
        return encode_prompts(self.tokenizer, prompts)

    def response(self, text: str, *, ended: bool = True) -> list[int]:
        """Ids of a response after its prompt, with the token that ends it if it ended by itself.

        Where the generation prompt opens a thinking block, the response goes on inside it: an opening of its own is
        not repeated, and a response that does not think closes the block first.
        """
        name = _opened(self.prefill)
        opening, closing = f"<{name}>", f"</{name}>"
        if self.prefill and text.startswith(self.prefill):
            text = text[len(self.prefill) :]
        elif name and text.lstrip().startswith(opening):
            text = text.lstrip()[len(opening) :].removeprefix("\n" if self.prefill.endswith("\n") else "")
        elif name and closing not in text:
            text = f"\n{closing}\n\n{text}"
        marks = (opening, closing) if name else ()
        return [*encode_completion(self.tokenizer, text, allowed=marks), *([self.end] if ended else [])]

    def conversation(self, messages: Sequence[Message], text: str) -> list[int]:
        """Ids of a prompt and its finished response, as a reward model reads them."""
        if has_template(self.tokenizer):
            return encode_conversation(self.tokenizer, [*messages, Message(role="assistant", content=text)])
        return [*self.prompt(messages), *self.response(text)]

    def text(self, ids: Sequence[int], *, prefilled: bool = True) -> str:
        """The response that ids spell, from its first character on: what the generation prompt wrote comes first."""
        return self.texts([ids], prefilled=prefilled)[0]

    def texts(self, rows: Sequence[Sequence[int]], *, prefilled: bool = True) -> list[str]:
        """``text`` of each row."""
        bare = [list(ids[:-1]) if len(ids) and ids[-1] in self.stops else list(ids) for ids in rows]
        decoded = self.tokenizer.batch_decode(bare, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [self.prefill + text for text in decoded] if prefilled and self.prefill else decoded

    def messages(self, messages: Sequence[Message]) -> list[dict[str, str]] | str:
        """A prompt for code that applies the chat template itself, such as TRL: messages, or text without a template."""
        return accepted(self.tokenizer, messages) if has_template(self.tokenizer) else transcript(messages)

    def parse(self, text: str) -> list[Message] | None:
        """The messages of a prompt that the chat template rendered, generation prompt included.

        None where the template does not make exactly this text of any messages (texts that it trims come back trimmed).
        """
        if not has_template(self.tokenizer):
            return None
        most: list[Message] | None = None
        for turns in range(MOST_TURNS // 2):
            dialogue = ("user", *("assistant", "user") * turns)
            found = [
                (roles, contents)
                for roles in (dialogue, ("system", *dialogue))
                if (contents := _between(text, self._frame(roles))) is not None and (roles[0] == "user" or contents[0])
            ]
            for roles, contents in found:
                messages = [Message(role=r, content=c) for r, c in zip(roles, contents, strict=True)]  # type: ignore[arg-type]
                # A dialogue may also be read as one message that spells its further turns: most turns win.
                most = messages if rendered(self.tokenizer, messages) == text else most
            if not found:
                break
        return most

    def _frame(self, roles: tuple[str, ...]) -> list[str] | None:
        """What the template writes before, between and after the texts of such messages; None where it refuses them."""
        known = _frames.setdefault(self.tokenizer, {})
        key = (self.tokenizer.chat_template, roles)
        if key not in known:
            marks = [chr(ord(QUESTION) + i) for i in range(len(roles))]
            asked = [Message.model_validate({"role": r, "content": m}) for r, m in zip(roles, marks, strict=True)]
            try:
                is_own_form = len(accepted(self.tokenizer, asked)) == len(asked)
                frame = re.split("|".join(marks), rendered(self.tokenizer, asked)) if is_own_form else []
            except ModelError:
                frame = []
            known[key] = frame if len(frame) == len(roles) + 1 else None
        return known[key]

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes ``training/encoding.json``."""
        name = self.tokenizer.convert_ids_to_tokens
        facts = {
            "chat_template": getattr(self.tokenizer, "chat_template", None),
            "prefill": self.prefill,
            "end": name(self.end),
            "stops": sorted(str(name(i)) for i in self.stops),
        }
        file = Path(folder) / FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def restore_template(tokenizer: Any, folder: str | PathLike[str]) -> Any:
    """Gives a tokenizer the chat template that its folder was trained with, where that is recorded; returns it.

    Raises ModelError for a record that cannot be read.
    """
    file = Path(folder) / FILE
    if file.is_file():
        try:
            tokenizer.chat_template = json.loads(file.read_text(encoding="utf-8"))["chat_template"]
        except (ValueError, KeyError, TypeError) as broken:
            raise ModelError(
                f"not a record of an encoding ({broken})", file=file, fix="restore it, or train the folder again"
            ) from broken
    return tokenizer


def has_template(tokenizer: Any) -> bool:
    """Whether messages have a form of their own."""
    return bool(getattr(tokenizer, "chat_template", None))


def _between(text: str, frame: list[str] | None) -> list[str] | None:
    """The texts between the parts of a frame; None where the text does not have these parts in this order."""
    if frame is None or not text.startswith(frame[0]) or not text.endswith(frame[-1]):
        return None
    contents, at = [], len(frame[0])
    for part in frame[1:-1]:
        place = text.find(part, at)
        if place < 0:
            return None
        contents.append(text[at:place])
        at = place + len(part)
    last = len(text) - len(frame[-1])
    return [*contents, text[at:last]] if at <= last else None


def _turn(tokenizer: Any) -> tuple[str, int | None]:
    """What the template's generation prompt writes of a response, and the token that it ends a response with."""
    asked = [Message(role="user", content=QUESTION)]
    try:
        whole = rendered(tokenizer, [*asked, Message(role="assistant", content=ANSWER)], finished=True)
        generation, bare = rendered(tokenizer, asked), rendered(tokenizer, asked, finished=True)
    except ModelError:
        return "", None
    before, _, after = whole.partition(ANSWER)
    control = control_tokens(tokenizer)
    names = sorted(control, key=len, reverse=True)
    ending = re.search("|".join(map(re.escape, names)), after) if names else None
    return _prefill(before, generation, bare), control[ending[0]] if ending else None


def _prefill(before: str, generation: str, bare: str) -> str:
    if not before.startswith(bare) or not generation.startswith(bare):
        return ""
    header, written = before[len(bare) :], generation[len(bare) :]
    if header.strip():
        if written.startswith(header):
            return written[len(header) :]
    elif re.fullmatch(r"\s*<(?!assistant|model)\w+>\s*", written):
        return written
    # Some templates close an empty thinking block in finished turns.
    opening = re.search(r"<(\w+)>\s*$", written)
    is_closed = opening is not None and header.startswith(written) and f"</{opening[1]}>" in header[len(written) :]
    return written[opening.start() :] if opening and is_closed else ""


def _opened(prefill: str) -> str | None:
    found = re.search(r"<(\w+)>\s*$", prefill)
    return found[1] if found else None
