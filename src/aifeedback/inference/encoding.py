"""Prompts to token ids: the one place that knows about chat templates, transcripts, BOS and control tokens.

Text that someone wrote never becomes a control token. A tokenizer turns ``<|im_end|>`` in a judged answer into
the very token that ends a turn; here it stays the characters it is. Only the template's own control tokens are tokens.

**Shared text is tokenised once**: texts are cut where their tokenizer would cut them, and each piece is encoded once.

A cut lies between an ASCII letter or digit and a space, behind what a text shares with all others or with one of its
neighbours. It changes no token where (1) normalisation looks at single characters or composes them, which neither side
of a cut does; (2) the pre-tokenizer's first step always ends a piece there, looks no further back, and later steps take
each piece by itself, as does the model; (3) no added token spans it. ``cuts_between_words`` tells which tokenizers
these are: those of GPT-2, Llama 3, Qwen2 and Qwen3, BERT, the lab's own. All others encode every text whole.

A prompt is what the chat template makes of its messages, with the generation prompt (``encode_prompt``). A
response of a policy ends with the token that ends a turn *in that template*, which need not be the tokenizer's EOS. A
reward model reads the finished conversation, exactly the ids of ``apply_chat_template(messages)``, at its last token:
that is where TRL trains reward models and where plain transformers reads them. Without a template, a prompt is its
text (``transcript``) and both kinds end with EOS.

What a trained folder was encoded with is kept in ``training/encoding.json`` and used whenever the folder is loaded.
"""

from __future__ import annotations

import json
import re
import secrets
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from os import PathLike
from pathlib import Path
from typing import Any, cast

from aifeedback.errors import ModelError
from aifeedback.types import Message, PromptLike

FEWEST = 64
"""Characters shared from which a cut pays."""
NORMALIZERS = {"NFC", "Lowercase", "BertNormalizer"}
SPLITS = {"WhitespaceSplit", "Whitespace", "BertPreTokenizer"}
"""Steps that end a piece at every space."""
WITHIN = {"Digits", "Punctuation", "Split", "ByteLevel", *SPLITS}
"""Steps that take each piece by itself."""
MODELS = {"BPE", "WordLevel", "WordPiece"}
PATTERNS = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "(?i:'s", "'d)"),
    *(r" ?\p{L}+", r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?\p{N}+", r"\p{N}", r"\p{N}{1,3}"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"),
    *(r"\s*[\r\n]+", r"\s*[\r\n]", r"\s+(?!\S)", r"\s+"),
}
"""Alternatives of the regular expressions of GPT-2, cl100k, Llama 3, Qwen2: none matches a letter or digit followed by
white space, none looks behind."""
SPANS = re.compile(r"[A-Za-z0-9] ")


def encode_together(backend: Any, texts: Sequence[str], first: list[int]) -> list[list[int]]:
    """Ids of each text by the core of a fast tokenizer that ``cuts_between_words``; all are encoded whole if the first
    one's pieces do not give ``first``, its ids."""
    pieces = pieces_of(texts)
    every = list(dict.fromkeys(chain(*pieces)))
    known = dict(zip(every, encode_whole(backend, every), strict=True))
    joined = [[*chain.from_iterable(known[piece] for piece in of)] for of in pieces]
    return joined if joined[0] == first else encode_whole(backend, texts)


def encode_whole(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Without the places of tokens, which takes a third of the time."""
    return [encoded.ids for encoded in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def pieces_of(texts: Sequence[str]) -> list[list[str]]:
    """Each text in pieces. Neighbours that share a beginning share pieces."""
    shared = [_shared(one, other) for one, other in pairwise(texts)]
    with_all = min(shared, default=0)
    pieces: list[list[str]] = []
    for n, text in enumerate(texts):
        cuts = sorted({0, with_all, *shared[max(n - 1, 0) : n + 1]})
        pieces.append([text[begin:stop] for begin, stop in pairwise([*cuts, len(text)])])
    return pieces


def _shared(one: str, other: str) -> int:
    """The last place to cut within what two texts start with; 0 if no cut is worth it."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    at = one.rfind(" ", 0, low)
    while at >= FEWEST and not (one[at - 1].isascii() and one[at - 1].isalnum()):
        at = one.rfind(" ", 0, at)
    return at if at >= FEWEST else 0


def cuts_between_words(backend: Any) -> bool:
    """Whether a fast tokenizer is of a kind that no token of it spans a letter or digit and a space behind it."""
    model, steps = backend.model, _steps(backend.pre_tokenizer, "pretokenizers")
    while steps and steps[0]["type"] in ("Digits", "Punctuation"):
        steps = steps[1:]
    return (
        type(model).__name__ in MODELS
        and not getattr(model, "dropout", None)
        and all(step["type"] in NORMALIZERS for step in _steps(backend.normalizer, "normalizers"))
        and bool(steps)
        and _ends_words(steps[0])
        and all(step["type"] in WITHIN for step in steps)
        and not any(SPANS.search(token.content) for token in backend.get_added_tokens_decoder().values())
    )


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """A normalizer or pre-tokenizer as it would be saved, one after the other."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return state[inner] if state["type"] == "Sequence" else [state]


def _ends_words(step: dict[str, Any]) -> bool:
    if step["type"] == "Split":
        pattern = step["pattern"].get("Regex", "")
        return step["behavior"] == "Isolated" and not step["invert"] and PATTERNS.issuperset(pattern.split("|"))
    return step["type"] in SPLITS or (step["type"] == "ByteLevel" and bool(step["use_regex"]))


SPEAKER = {"user": "Human", "assistant": "Assistant", "system": "System", "tool": "Tool"}
TAG = re.compile(r"[<\[{|].+[>\]}|]", re.DOTALL)
"""An added token that looks like this controls something, whether or not the tokenizer calls it special."""


def encode_prompt(tokenizer: Any, prompt: PromptLike) -> list[int]:
    """Token ids of a prompt, up to the position where the answer starts.

    Text is taken exactly as it is, after whatever the tokenizer itself puts at the start of a text (BOS); what it puts
    at the end (EOS, SEP) is left out, since the text continues. Messages go through the chat template; a list that ends
    with an assistant message is continued from its end. Without a template, see ``transcript``. A template that refuses
    or leaves out a system message gets it at the head of the first user message.

    The text of a prompt or of a message never yields a control token, whatever it spells.
    Raises ModelError where the chat template refuses the messages, leaves a tool's result out, or shows it as somebody
    else's words.
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
            rendered = self._apply(turns, finished=finished)
            self._require_tool_shown(turns, rendered)
            return turns, rendered
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

    def _require_tool_shown(self, turns: list[tuple[str, str]], rendered: str) -> None:
        """Raises ValueError where a template drops a tool's result, or shows it as another speaker's words."""
        results = [content for role, content in turns if role == "tool"]
        # some templates write it as JSON
        if not all(text.strip() in rendered or json.dumps(text)[1:-1] in rendered for text in results):
            raise ValueError("it leaves out the tool message")
        own = self._apply(turns, finished=True) if results else ""
        for other in ("assistant", "user") if results else ():
            as_other = [(other if role == "tool" else role, content) for role, content in turns]
            try:
                is_same = self._apply(as_other, finished=True) == own
            except Exception:  # the template knows the roles apart
                continue
            if is_same:
                raise ValueError(f"it shows the tool message as the {other}'s words")

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
        for match in [*self.pattern.finditer(rendered), None]:
            text = rendered[at : match.start() if match else None].replace(mark, "")
            lstrip, rstrip = self._flags[match[0]] if match else (False, False)
            text = text.lstrip() if strip_left else text
            text = text.rstrip() if lstrip else text
            if text:
                ids += self._stripped(text, at_start=at == 0)
            if match:
                ids.append(self.control[match[0]])
                at, strip_left = match.end(), rstrip
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
    while match := pattern.search(content, at):
        at = match.start() + 1
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

        Where the generation prompt opens a thinking block, the response continues inside it: an opening of its own is
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
            candidates = [
                (roles, contents)
                for roles in (dialogue, ("system", *dialogue))
                if (contents := _between(text, self._frame(roles))) is not None and (roles[0] == "user" or contents[0])
            ]
            for roles, contents in candidates:
                messages = [Message(role=r, content=c) for r, c in zip(roles, contents, strict=True)]  # type: ignore[arg-type]
                # A dialogue may also be read as one message that spells its further turns: most turns win.
                most = messages if rendered(self.tokenizer, messages) == text else most
            if not candidates:
                break
        return most

    def _frame(self, roles: tuple[str, ...]) -> list[str] | None:
        """What the template writes before, between and after the texts of such messages; None where it refuses them."""
        known = _frames.setdefault(self.tokenizer, {})
        key = (self.tokenizer.chat_template, roles)
        if key not in known:
            marks = [chr(ord(QUESTION) + i) for i in range(len(roles))]
            messages = [Message.model_validate({"role": r, "content": m}) for r, m in zip(roles, marks, strict=True)]
            try:
                is_own_form = len(accepted(self.tokenizer, messages)) == len(messages)
                frame = re.split("|".join(marks), rendered(self.tokenizer, messages)) if is_own_form else []
            except ModelError:
                frame = []
            known[key] = frame if len(frame) == len(roles) + 1 else None
        return known[key]

    def save(self, folder: str | PathLike[str]) -> None:
        """Write ``training/encoding.json``."""
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
    """Give a tokenizer the chat template that its folder was trained with, where that is recorded; return it.

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
    question = [Message(role="user", content=QUESTION)]
    try:
        whole = rendered(tokenizer, [*question, Message(role="assistant", content=ANSWER)], finished=True)
        generation, bare = rendered(tokenizer, question), rendered(tokenizer, question, finished=True)
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
    match = re.search(r"<(\w+)>\s*$", prefill)
    return match[1] if match else None
