"""Prompts to token ids: the one place that knows about chat templates, transcripts, BOS and control tokens.

Text that someone wrote never becomes a control token (R10). A tokenizer turns ``<|im_end|>`` in a judged answer into
the very token that ends a turn; here it stays the characters it is. Only the template's own control tokens are tokens.
"""

from __future__ import annotations

import json
import re
import secrets
import weakref
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

from aifeedback.engine.shared_text import cuts_between_words, encode_together, encode_whole
from aifeedback.errors import ModelError
from aifeedback.protocols import PromptLike
from aifeedback.records import Message

SPEAKER = {"user": "Human", "assistant": "Assistant", "system": "System"}
TAG = re.compile(r"[<\[{|].+[>\]}|]", re.DOTALL)
"""An added token that looks like this controls something, whether or not the tokenizer calls it special."""


def encode_prompt(tokenizer: Any, prompt: PromptLike) -> list[int]:
    """Token ids of a prompt, up to the position where the answer starts.

    Text is taken exactly as it is, after whatever the tokenizer itself puts at the start of a text (BOS); what it puts
    at the end (EOS, SEP) is left out, since the text goes on. Messages go through the chat template; a list that ends
    with an assistant message is continued from its end. Without a template, see ``transcript``. A template that refuses
    a system message gets it at the head of the first user message.

    The text of a prompt or of a message never yields a control token, whatever it spells.
    Raises ModelError where the chat template refuses the messages.
    """
    return encode_prompts(tokenizer, [prompt])[0]


def encode_prompts(tokenizer: Any, prompts: Sequence[PromptLike]) -> list[list[int]]:
    """``encode_prompt`` of each. Plain texts go through the tokenizer together, which takes half the time, or less where
    neighbours share a beginning."""
    codec = _codec(tokenizer)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    texts = [p if isinstance(p, str) else None if has_template else transcript(p) for p in prompts]
    plain = iter(codec.plain_all([text for text in texts if text is not None]))
    return [
        codec.templated(list(cast(Sequence[Message], prompt))) if text is None else codec.prefix + next(plain)
        for prompt, text in zip(prompts, texts, strict=True)
    ]


def encode_completion(tokenizer: Any, text: str, *, allowed: Sequence[str] = ()) -> list[int]:
    """Token ids of a response, without BOS and EOS and without control tokens other than those ``allowed``."""
    codec = _codec(tokenizer)
    marks = [mark for mark in allowed if mark in codec.control]
    if not marks:
        return codec.plain(text)
    parts = re.split(f"({'|'.join(map(re.escape, marks))})", text)
    return [i for part in parts if part for i in ([codec.control[part]] if part in marks else codec.plain(part))]


def encode_conversation(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of a finished conversation in the chat template, as ``apply_chat_template(messages)`` gives them.

    Control tokens are those of the template alone. Raises ModelError where the template refuses the messages.
    """
    return _codec(tokenizer).templated(list(messages), finished=True)


def accepted(tokenizer: Any, messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages in the form that reaches the chat template: a refused system message heads the first user message."""
    turns = [(m.role, m.content) for m in messages]
    return [{"role": role, "content": content} for role, content in _codec(tokenizer).accepted(turns)]


def rendered(tokenizer: Any, messages: Sequence[Message], *, finished: bool = False) -> str:
    """Text that the chat template makes of messages, with a generation prompt unless the conversation is finished."""
    return _codec(tokenizer).rendered([(m.role, m.content) for m in messages], finished=finished)


def control_tokens(tokenizer: Any) -> dict[str, int]:
    """Spelling and id of every control token."""
    return _codec(tokenizer).control


def control_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that text never yields: special ones, and added ones that look like tags; not the unknown."""
    return _codec(tokenizer).ids


def transcript(messages: Sequence[Message]) -> str:
    """A dialogue as plain text for models without a chat template; one user message is its bare text."""
    roles = [m.role for m in messages]
    if roles == ["user"]:
        return messages[0].content
    if roles == ["user", "assistant"]:
        return messages[0].content + messages[1].content
    turns = "".join(f"\n\n{SPEAKER[m.role]}: {m.content}" for m in messages)
    return turns if roles[-1] == "assistant" else f"{turns}\n\nAssistant:"


class _Codec:
    """What one tokenizer does with text; the stripped copies of it are built only when a text needs them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = weakref.proxy(tokenizer)
        self.size = len(tokenizer)
        unknown = tokenizer.unk_token_id
        template = str(getattr(tokenizer, "chat_template", None) or "")
        self.control: dict[str, int] = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if index != unknown and token.content and _controls(token, template)
        }
        self.ids = frozenset(self.control.values())
        self.prefix = self._prefix()

    def _prefix(self) -> list[int]:
        """Ids that the tokenizer puts before every text."""
        full, bare = list(self.tokenizer("a")["input_ids"]), self._raw("a")
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return full[:start]
        return []

    def _raw(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        names = sorted(self.control, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")

    @cached_property
    def _flags(self) -> dict[str, tuple[bool, bool]]:
        """Whether a control token swallows the white space to its left and to its right."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        return {t.content: (t.lstrip, t.rstrip) for t in tokens if t.content in self.control}

    def plain(self, text: str) -> list[int]:
        """Ids of a text without control tokens."""
        return self.plain_all([text])[0]

    def plain_all(self, texts: list[str]) -> list[list[int]]:
        """As ``plain``, of several texts."""
        if not texts:
            return []
        every = self._together(texts)
        return [
            list(ids) if self.ids.isdisjoint(ids) else self._stripped(text, at_start=True)
            for ids, text in zip(every, texts, strict=True)
        ]

    def _together(self, texts: list[str]) -> list[list[int]]:
        """By the tokenizer's core, where that gives the same; what texts share once, where that is known to."""
        first = self._raw(texts[0])
        if len(texts) == 1:
            return [first]
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None or not self._is_bare(backend, texts[0], first):
            return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        return encode_together(backend, texts, first) if self._cuts_between_words else encode_whole(backend, texts)

    @cached_property
    def _cuts_between_words(self) -> bool:
        return cuts_between_words(self.tokenizer.backend_tokenizer)

    def _is_bare(self, backend: Any, text: str, ids: list[int]) -> bool:
        """Whether the core alone gives what the tokenizer gives, ``ids``."""
        cuts_or_fills = backend.truncation or backend.padding or backend.encode_special_tokens
        return not cuts_or_fills and encode_whole(backend, [text]) == [ids]

    def _stripped(self, text: str, *, at_start: bool) -> list[int]:
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
        else:
            ids = (self._first if at_start else self._later).encode(text, add_special_tokens=False).ids
        if not self.ids.isdisjoint(ids):
            raise ModelError(
                "this tokenizer turns plain text into control tokens", fix="use its fast (tokenizer.json) form"
            )
        return ids

    @cached_property
    def _first(self) -> Any:
        return _without_control(self.tokenizer.backend_tokenizer, self.control, at_start=True)

    @cached_property
    def _later(self) -> Any:
        return _without_control(self.tokenizer.backend_tokenizer, self.control, at_start=False)

    def templated(self, messages: list[Message], *, finished: bool = False) -> list[int]:
        """Ids of messages in the chat template; control tokens are those of the template alone."""
        mark = _unused_character(m.content for m in messages)
        turns = [(m.role, _broken(m.content, self.pattern, mark)) for m in messages]
        rendered = self.rendered(turns, finished=finished)
        if mark not in rendered:
            ids = self._raw(rendered)
            # A tokenizer may normalise text into a control token that the text did not spell.
            if sum(i in self.ids for i in ids) == len(self.pattern.findall(rendered)):
                return ids
        return self._pieces(rendered, mark)

    def rendered(self, turns: list[tuple[str, str]], *, finished: bool = False) -> str:
        """Text of the turns in the chat template; raises ModelError where it refuses them."""
        return self._accepted(turns, finished=finished)[1]

    def accepted(self, turns: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """The turns as the template gets them: where it refuses or drops a system message, the first user message
        starts with it."""
        return self._accepted(turns, finished=True)[0]

    def _accepted(self, turns: list[tuple[str, str]], *, finished: bool) -> tuple[list[tuple[str, str]], str]:
        roles = [role for role, _ in turns]
        has_system = roles[:2] == ["system", "user"]
        merged = [("user", f"{turns[0][1]}\n\n{turns[1][1]}"), *turns[2:]] if has_system else turns
        if has_system and self._drops_system:
            turns = merged
        try:
            return turns, self._apply(turns, finished=finished)
        except Exception as refused:  # templates raise what they like
            if has_system and turns is not merged:
                try:
                    return merged, self._apply(merged, finished=finished)
                except Exception:
                    pass
            raise ModelError(
                f"its chat template refuses messages with roles {', '.join(roles)}: {refused}",
                fix="use roles that this model knows, or give the prompt as text",
            ) from None

    @cached_property
    def _drops_system(self) -> bool:
        """Whether the template leaves a system message out without a word."""
        try:
            return "\ue000" not in self._apply([("system", "\ue000"), ("user", "a")], finished=True)
        except Exception:
            return False

    def _apply(self, turns: list[tuple[str, str]], *, finished: bool) -> str:
        # An empty assistant message has no end to continue from: it is the start of an answer.
        if not finished and turns[-1] == ("assistant", ""):
            turns = turns[:-1]
        continues = not finished and turns[-1][0] == "assistant"
        return self.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns],
            tokenize=False,
            add_generation_prompt=not finished and not continues,
            continue_final_message=continues,
        )

    def _pieces(self, rendered: str, mark: str) -> list[int]:
        """As the tokenizer does it: control tokens are cut out first, the text between them is encoded by itself."""
        ids: list[int] = []
        at, strip_left = 0, False
        for found in [*self.pattern.finditer(rendered), None]:
            text = rendered[at : found.start() if found else None].replace(mark, "")
            lstrip, rstrip = self._flags[found[0]] if found else (False, False)
            text = text.lstrip() if strip_left else text
            text = text.rstrip() if lstrip else text
            if text:
                ids += self._stripped(text, at_start=at == 0)
            if found:
                ids.append(self.control[found[0]])
                at, strip_left = found.end(), rstrip
        return ids


_codecs: weakref.WeakKeyDictionary[Any, _Codec] = weakref.WeakKeyDictionary()


def _codec(tokenizer: Any) -> _Codec:
    """Remembered per tokenizer, as long as it lives and has no token more or less."""
    known = _codecs.get(tokenizer)
    if known is None or known.size != len(tokenizer):
        known = _codecs[tokenizer] = _Codec(tokenizer)
    return known


def _controls(token: Any, template: str) -> bool:
    if token.content.isspace():
        return False
    return token.special or bool(TAG.fullmatch(token.content)) or token.content in template


def _broken(content: str, pattern: re.Pattern[str], mark: str) -> str:
    """The content with ``mark`` inside everything that spells a control token, overlapping ones included."""
    places, at = [], 0
    while found := pattern.search(content, at):
        at = found.start() + 1
        places.append(at)
    cuts = [0, *places, len(content)]
    return mark.join(content[a:b] for a, b in pairwise(cuts)) if places else content


def _unused_character(texts: Any) -> str:
    used = set().union(*texts)
    return next(chr(c) for c in range(0xE000, 0xF900) if chr(c) not in used)


def _without_control(backend: Any, control: dict[str, int], *, at_start: bool) -> Any:
    """A copy of a tokenizer in which control tokens have names that no text contains; ids stay as they are.

    ``at_start`` False: for text that comes after a control token.
    """
    from tokenizers import Tokenizer

    nonce = secrets.token_hex(16)
    tree = json.loads(backend.to_str())
    tree["post_processor"] = tree["truncation"] = tree["padding"] = None
    for token in tree["added_tokens"]:
        if token["content"] in control:
            token["content"] = f"{nonce}{token['id']}"
    vocabulary = tree["model"]["vocab"]
    if isinstance(vocabulary, dict):
        tree["model"]["vocab"] = {(f"{nonce}{i}" if t in control else t): i for t, i in vocabulary.items()}
    else:
        tree["model"]["vocab"] = [
            [f"{nonce}{i}", score] if t in control else [t, score] for i, (t, score) in enumerate(vocabulary)
        ]
    if not at_start:
        _never_prepend(tree.get("pre_tokenizer"))
    return Tokenizer.from_str(json.dumps(tree))


def _never_prepend(part: dict[str, Any] | None) -> None:
    """Metaspace's ``first`` puts a space before the first text only, not before text after a control token."""
    for inner in (part or {}).get("pretokenizers", [part] if part else []):
        if inner["type"] == "Metaspace" and inner.get("prepend_scheme") == "first":
            inner["prepend_scheme"] = "never"
