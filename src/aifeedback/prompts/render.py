"""Judge prompt + values = what the model reads. One place decides every space and newline.

Plain text:  preamble ⏎⏎ exemplar ⏎⏎ … ⏎⏎ sample ⏎⏎ ending          (⏎⏎ stands for ``between``)
With a rationale, step 1 ends in ``rationale_request``; step 2 is step 1 + lead + rationale ⏎⏎ ending, so that it
shares every token of step 1. As messages, everything up to the sample (and the request) is one user message, and what
follows is the start of the answer.

**Quoting.** Judged text is data: it is written so that it can never be read as part of the prompt.

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
from collections.abc import Mapping, Sequence
from functools import lru_cache
from os import PathLike
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aifeedback.errors import StandardsError
from aifeedback.prompts.judge_prompt import OPTIONAL, VARIABLES, Exemplar, JudgePrompt
from aifeedback.types import Message, Model, Prompt, PromptLike

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

    def written(match: re.Match[str]) -> str:
        is_dangerous = dangerous.match(match.string, match.start())
        return f"⟦U+{ord(match[0]):X}⟧" if is_dangerous else match[0]

    return candidate.sub(written, text.replace("\r\n", "\n"))


def quote(text: str, control_tokens: Sequence[str] = ()) -> str:
    """Both rules: the value as a prompt shows it, one or more lines that each start with ``MARK``."""
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


ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
)
PARTS = ("preamble", "sample", "ending", "rationale_request")


class Renderer:
    """Renders one judge prompt for one way of talking to a model; templates are compiled once."""

    def __init__(self, prompt: JudgePrompt, *, chat: bool, control_tokens: Sequence[str] = ()) -> None:
        self.prompt, self.chat = prompt, chat
        self._control_tokens = tuple(control_tokens)
        self._templates: dict[str, Template] = {
            part: ENVIRONMENT.from_string(getattr(prompt, part) or "") for part in PARTS
        }
        self._heads: dict[tuple[str | None, bool], list[str]] = {}

    def verdict(
        self,
        context: Prompt | str,
        values: Mapping[str, str],
        *,
        principle: str | None = None,
        rationale: str | None = None,
    ) -> PromptLike:
        """The prompt whose next token is the label; after ``rationale`` where one is given (step 2)."""
        ending = self._part("ending", principle)
        question = self._question(context, values, principle, with_rationale=rationale is not None)
        if rationale is None:
            return self._as_prompt(question, ending)
        return self._as_prompt(question, self._after_request(rationale, ending), self.prompt.rationale_lead)

    def request(self, context: Prompt | str, values: Mapping[str, str], *, principle: str | None = None) -> PromptLike:
        """The prompt that asks for a rationale (step 1)."""
        return self._as_prompt(self._question(context, values, principle, with_rationale=True), None)

    def answer(self, context: Prompt | str, values: Mapping[str, str], *, principle: str | None = None) -> PromptLike:
        """The prompt after which a critique or a revision is written."""
        return self.verdict(context, values, principle=principle)

    def _question(
        self, context: Prompt | str, values: Mapping[str, str], principle: str | None, *, with_rationale: bool
    ) -> str:
        parts = [*self._head(principle, with_rationale), self._sample(context, values, principle)]
        if with_rationale:
            parts.append(self._part("rationale_request", principle))
        return self.prompt.between.join(part for part in parts if part)

    def _as_prompt(self, question: str, answer: str | None, lead: str | None = None) -> PromptLike:
        if not self.chat:
            glue = self.prompt.between if lead is None else lead
            return question if answer is None else question + glue + answer
        user = Message(role="user", content=question)
        return [user] if answer is None else [user, Message(role="assistant", content=answer)]

    def _after_request(self, rationale: str, ending: str) -> str:
        text = rationale.strip()
        if self.prompt.quote == "lines":
            text = escape(text, self._control_tokens)
        return text + self.prompt.between + ending

    def _head(self, principle: str | None, with_rationale: bool) -> list[str]:
        """Preamble and exemplars: equal for every item of a job, so rendered once."""
        key = (principle, with_rationale)
        if key not in self._heads:
            solved = [self._solved(example, principle, with_rationale) for example in self.prompt.shown]
            self._heads[key] = [self._part("preamble", principle), *solved]
        return self._heads[key]

    def _solved(self, example: Exemplar, principle: str | None, with_rationale: bool) -> str:
        values, principle = example.values(), example.principle or principle
        parts = [self._sample(values.pop("context", ""), values, principle)]
        if with_rationale and example.rationale is not None:
            request = self._part("rationale_request", principle)
            parts.append(request + self.prompt.rationale_lead + example.rationale.strip())
        ending = self._part("ending", principle)
        # A critique or a revision is text after a heading; a label follows its ending at once.
        glue = "" if self.prompt.labels else " "
        parts.append(ending + glue + example.label)
        return self.prompt.between.join(parts)

    def _sample(self, context: Prompt | str, values: Mapping[str, str], principle: str | None) -> str:
        shown = {key: self._data(text) for key, text in values.items()}
        return self._templates["sample"].render(**shown, context=self._context(context), **_wording(principle))

    def _part(self, part: str, principle: str | None) -> str:
        return self._templates[part].render(**_wording(principle))

    def _context(self, context: Prompt | str) -> str:
        """A dialogue keeps its turns as headings of the prompt; what was said in them is data."""
        if isinstance(context, str):
            return self._data(context)
        is_dialogue = len(context.messages) > 1
        if not is_dialogue or self.prompt.quote == "none":
            return self._data(context.text)
        return "\n".join(f"{m.role.capitalize()}:\n{self._data(m.content)}" for m in context.messages)

    def _data(self, text: str) -> str:
        return quote(text, self._control_tokens) if self.prompt.quote == "lines" else text


def _wording(principle: str | None) -> dict[str, str]:
    return {} if principle is None else {"principle": principle}


def uses_chat(prompt: JudgePrompt, model: Model, chat: bool | None = None) -> bool:
    """Messages or plain text: what the caller says, else the prompt, else ('auto') whether the model has a template.

    A model tells by an optional attribute ``has_chat_template``; one that does not say is given plain text.
    """
    if chat is not None:
        return chat
    return bool(getattr(model, "has_chat_template", False)) if prompt.chat == "auto" else prompt.chat


def control_tokens(model: Model) -> tuple[str, ...]:
    """The special tokens of a model's own tokenizer, where it tells them by an attribute ``special_tokens``."""
    return tuple(getattr(model, "special_tokens", ()))


def needs_principle(prompt: JudgePrompt) -> bool:
    """Does any part of the prompt show a principle?"""
    return any("principle" in _variables(getattr(prompt, part) or "") for part in PARTS)


def uses_critiques(prompt: JudgePrompt) -> bool:
    """Does a pairwise prompt show critiques of the two responses?"""
    return bool(_variables(prompt.sample) & OPTIONAL.get(prompt.task, frozenset()))


def check_templates(prompt: JudgePrompt, file: str | PathLike[str] | None) -> None:
    """Raises StandardsError, with file and key, for any template that could fail or mislead at labelling time."""
    known = VARIABLES[prompt.task]
    optional = OPTIONAL.get(prompt.task, frozenset())
    for part in PARTS:
        allowed = (known | optional if part == "sample" else frozenset()) | {"principle"}
        used = _variables(getattr(prompt, part) or "", file=file, key=part)
        if used - allowed:
            what = f"unknown variable '{min(used - allowed)}' in {part}"
            raise StandardsError(what, file=file, key=part, fix=f"it can show: {', '.join(sorted(allowed))}")
        if part == "sample" and known - {"context"} - used:
            what = f"the sample never shows '{min(known - {'context'} - used)}'"
            raise StandardsError(what, file=file, key=part)
    _try_out(prompt, known | optional, file)


def _try_out(prompt: JudgePrompt, known: frozenset[str], file: str | PathLike[str] | None) -> None:
    """Render the sample once; under ``quote: lines`` each value must have lines to itself."""
    probes = {name: f"probe {name}\nsecond line" for name in known}
    shown = {name: quote(text) if prompt.quote == "lines" else text for name, text in probes.items()}
    try:
        rendered = ENVIRONMENT.from_string(prompt.sample).render(**shown, principle="probe principle")
    except (TemplateError, TypeError, ValueError, ArithmeticError) as broken:
        raise StandardsError(f"the template fails: {broken}", file=file, key="sample") from None
    if prompt.quote == "none":
        return
    lines = rendered.split("\n")
    for name in sorted(known & _variables(prompt.sample)):
        if f"> probe {name}" not in lines:
            raise StandardsError(
                f"'{{{{ {name} }}}}' shares its line with other text, so judged text could pass for the prompt's own",
                file=file,
                key="sample",
                fix="put it on a separate line, or set 'quote: none' for a model that needs bare words",
            )


def _variables(source: str, *, file: str | PathLike[str] | None = None, key: str | None = None) -> frozenset[str]:
    try:
        return frozenset(meta.find_undeclared_variables(ENVIRONMENT.parse(source)))
    except TemplateError as broken:
        line: Any = getattr(broken, "lineno", None)
        raise StandardsError(f"not a valid template (line {line}): {broken}", file=file, key=key) from None
