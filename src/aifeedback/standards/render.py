"""Judge prompt + values = what the model reads. One place decides every space and newline.

Plain text:  preamble ⏎⏎ exemplar ⏎⏎ … ⏎⏎ sample ⏎⏎ ending          (⏎⏎ stands for ``between``)
With a rationale, step 1 ends in ``rationale_request``; step 2 is step 1 + lead + rationale ⏎⏎ ending, so that it
shares every token of step 1. As messages, everything up to the sample (and the request) is one user message, and what
follows is the start of the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from aifeedback.errors import StandardsError
from aifeedback.protocols import Model, PromptLike
from aifeedback.records import Message, Prompt
from aifeedback.standards.guard import escape, quote
from aifeedback.standards.judge import OPTIONAL, VARIABLES, Exemplar, JudgePrompt

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
        asked = self._asked(context, values, principle, with_rationale=rationale is not None)
        if rationale is None:
            return self._as_prompt(asked, ending)
        return self._as_prompt(asked, self._after_request(rationale, ending), self.prompt.rationale_lead)

    def request(self, context: Prompt | str, values: Mapping[str, str], *, principle: str | None = None) -> PromptLike:
        """The prompt that asks for a rationale (step 1)."""
        return self._as_prompt(self._asked(context, values, principle, with_rationale=True), None)

    def answer(self, context: Prompt | str, values: Mapping[str, str], *, principle: str | None = None) -> PromptLike:
        """The prompt after which a critique or a revision is written."""
        return self.verdict(context, values, principle=principle)

    def _asked(
        self, context: Prompt | str, values: Mapping[str, str], principle: str | None, *, with_rationale: bool
    ) -> str:
        parts = [*self._head(principle, with_rationale), self._sample(context, values, principle)]
        if with_rationale:
            parts.append(self._part("rationale_request", principle))
        return self.prompt.between.join(part for part in parts if part)

    def _as_prompt(self, asked: str, answer: str | None, lead: str | None = None) -> PromptLike:
        if not self.chat:
            glue = self.prompt.between if lead is None else lead
            return asked if answer is None else asked + glue + answer
        user = Message(role="user", content=asked)
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
    """Renders the sample once; under ``quote: lines`` each value must stand on lines of its own."""
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
                fix="put it on a line of its own, or set 'quote: none' for a model that needs bare words",
            )


def _variables(source: str, *, file: str | PathLike[str] | None = None, key: str | None = None) -> frozenset[str]:
    try:
        return frozenset(meta.find_undeclared_variables(ENVIRONMENT.parse(source)))
    except TemplateError as broken:
        line: Any = getattr(broken, "lineno", None)
        raise StandardsError(f"not a valid template (line {line}): {broken}", file=file, key=key) from None
