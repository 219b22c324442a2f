"""Files of prompts and of completions, and record lists as JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from aifeedback.data.formats import Shape, as_index, named_shape, request
from aifeedback.data.pairs import map_columns, prompt_of
from aifeedback.data.tables import ReadLog, ReadReport, Row, RowFault, is_blank, is_missing, read_rows, write_rows
from aifeedback.data.transcripts import (
    DIALOGUE_COLUMNS,
    PromptCell,
    as_messages,
    has_turns,
    holds,
    in_dialogue,
    is_messages,
    is_transcript,
    need_prompt,
    need_text,
    placed,
    require_used,
    row_tags,
    side,
    with_context,
)
from aifeedback.errors import FileError
from aifeedback.types import Completion, Prompt, Record

R = TypeVar("R", bound=Record)

_PROMPT_COLUMNS = ("prompt", "instruction", "question", "query", "context", "post", "text")
_ANSWER_COLUMNS = ("completion", "response", "output", "answer")
_SOURCE_COLUMNS = ("source", "generator", "model")


class Prompts(NamedTuple):
    rows: list[Prompt]
    report: ReadReport
    inputs: list[Mapping[str, Any]]
    """The row as it stood in the file, parallel to ``rows``."""


class Completions(NamedTuple):
    """Responses and their prompts; all lists are parallel."""

    prompts: list[Prompt]
    rows: list[Completion]
    report: ReadReport
    inputs: list[Mapping[str, Any]]


def load_prompts(path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Prompts:
    """Read each different prompt of a file once, in order; a file of comparisons gives its prompts.

    Known: ``prompt`` (text, transcript or messages), ``instruction`` and ``input``, ``question``, ``messages`` (up to
    the last user turn), ``turns`` (the first), Prompt records. Raises FileError where the file cannot be used.
    """
    log = ReadLog(path, "prompts")
    shape = named_shape(path)
    prompts: list[Prompt] = []
    inputs: list[Mapping[str, Any]] = []
    for row in map_columns(path, read_rows(path), columns):
        if limit is not None and len(prompts) >= limit:
            break
        try:
            prompt = _prompt(row, shape)
        except RowFault as fault:
            log.skip_fault(row.number, fault)
            continue
        if earlier := log.earlier(row.number, prompt.id):
            log.skip(row.number, f"duplicate prompt (first in row {earlier})", is_repeat=True)
            continue
        log.keep()
        prompts.append(prompt)
        inputs.append(row.values)
    return Prompts(prompts, log.report(), inputs)


def read_prompts(
    path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None
) -> list[Prompt]:
    """``load_prompts(...).rows``: the prompts alone."""
    return load_prompts(path, columns=columns, limit=limit).rows


def read_completions(
    path: str | Path,
    *,
    source: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    only_wanted: bool = False,
) -> Completions:
    """Read responses with their prompts. An empty response is a response and is kept.

    ``only_wanted`` skips what the file marks as not to be imitated: KTO's ``label: false``, ``weight: 0``.

    ``source`` says who wrote them; without it the columns ``source``, ``generator`` or ``model`` do, else 'data'.
    Known: ``prompt``, ``completion`` (or ``response``, ``output``, ``answer``), ``messages`` or ``conversations``
    that end with the assistant, transcripts; earlier turns and system messages become part of the prompt. Raises
    FileError if the file cannot be used.
    """
    log = ReadLog(path, "completions")
    prompts: list[Prompt] = []
    completions: list[Completion] = []
    inputs: list[Mapping[str, Any]] = []
    numbers: set[int] = set()
    for row in map_columns(path, read_rows(path), columns):
        if limit is not None and len(completions) >= limit:
            break
        try:
            prompt, text = _completion(row)
            if only_wanted:
                require_wanted(row.values, numbers)
        except RowFault as fault:
            log.skip_fault(row.number, fault)
            continue
        who = source or next(
            (str(row.values[c]) for c in _SOURCE_COLUMNS if isinstance(row.values.get(c), str)), "data"
        )
        log.keep()
        prompts.append(prompt)
        completions.append(Completion.of(prompt, text, source=who))
        inputs.append(row.values)
    if 0 in numbers and numbers <= {0, 1}:
        fix = "write true for responses to imitate and false for others, or rename the column"
        raise FileError("holds 0 and 1, which could mark responses not to be imitated", file=path, key="label", fix=fix)
    return Completions(prompts, completions, log.report(), inputs)


_MARKS = ("label", "desirable", "is_desirable", "accepted", "is_accepted", "good", "is_good", "correct", "is_correct",
          "thumbs_up", "kto_tag")  # fmt: skip
"""Columns that say whether a response is to be imitated."""


def require_wanted(values: Mapping[str, Any], numbers: set[int]) -> None:
    """Raises RowFault for a response that its row marks as not to be imitated. Numbers in ``label`` go into
    ``numbers``: whether they mark anything is decided over the whole file."""
    for key in _MARKS:
        value = values.get(key)
        word = str(value).strip().lower()
        number = as_index(value)
        if key == "label" and number is not None:
            numbers.add(number)
        elif value is False or word in ("false", "no", "undesirable", "rejected") or number == 0:
            raise RowFault("marks the response as not to be imitated", key, is_unsupported=True)
    dialogue = next(
        (values[key] for key in (*_ANSWER_COLUMNS, *DIALOGUE_COLUMNS) if is_messages(values.get(key))), None
    )
    weights = [values.get("weight"), dialogue[-1].get("weight") if dialogue else None]
    if any(not isinstance(weight, bool) and as_index(weight) == 0 for weight in weights):
        raise RowFault("is 0: the response is not to be imitated", "weight", is_unsupported=True)


def write_completions(
    path: str | Path,
    prompts: Iterable[Prompt],
    completions: Iterable[Completion],
    beside: Iterable[Record] | None = None,
) -> int:
    """Write TRL's ``prompt``, ``completion`` and ``source``, as messages where the prompt came so or is a dialogue.

    The columns of ``beside``, one record per completion, come after them.
    """
    pairs = list(zip(prompts, completions, strict=True))
    more = [{} for _ in pairs] if beside is None else [record.model_dump(mode="json") for record in beside]
    return write_rows(path, ({**_completion_cells(p, c), **cells} for (p, c), cells in zip(pairs, more, strict=True)))


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Write any records as JSONL, one per line, in order; return how many."""
    return write_rows(path, (record.model_dump(mode="json", exclude_defaults=False) for record in records))


def read_records(path: str | Path, kind: type[R]) -> list[R]:
    """Read what ``write_records`` wrote. Strict: raises FileError at the first row that is not a ``kind``."""
    records = []
    for row in read_rows(path):
        if row.fault:
            raise FileError(row.fault, file=path, row=row.number, fix="the file was changed or cut off; write it again")
        try:
            records.append(kind.model_validate(row.values))
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            raise FileError(
                f"not a {kind.__name__}: {problem['msg'].lower()}",
                file=path,
                row=row.number,
                key=".".join(map(str, problem["loc"])) or None,
                fix=f"the file should hold {kind.__name__} records as `write_records` writes them",
            ) from None
    return records


def _completion_cells(prompt: Prompt, completion: Completion) -> dict[str, Any]:
    is_chat = prompt.is_chat or prompt.is_dialogue
    cells: dict[str, Any] = {
        "prompt": [m.model_dump() for m in prompt.messages] if is_chat else prompt.text,
        "completion": [{"role": "assistant", "content": completion.text}] if is_chat else completion.text,
        "source": completion.source,
    }
    if prompt.tags:
        cells["tags"] = dict(prompt.tags)
    if prompt.reference is not None:
        cells["reference"] = prompt.reference
    return cells


def _prompt(row: Row, shape: Shape | None = None) -> Prompt:
    if row.fault:
        raise RowFault(row.fault)
    if shape is not None and (whole := prompt_of(row.values, shape)) is not None:
        return whole.record()
    return _prompt_cell(row.values).record()


def _prompt_cell(values: Mapping[str, Any]) -> PromptCell:
    """The prompt of a row, with the parts of it that have columns of their own. Raises RowFault."""
    if _is_pair_of_dialogues(values) and (whole := prompt_of(values)) is not None:
        return whole  # the dialogues may hold turns that the prompt's own column lacks
    cell, own = _named_prompt(values)
    if cell is None:
        if (whole := prompt_of(values)) is not None:
            return whole
        raise RowFault("is missing", "prompt")
    cell = with_context(values, cell, own)
    require_used(values, cell, own)
    return cell


def _is_pair_of_dialogues(values: Mapping[str, Any]) -> bool:
    cells = [values.get(key) for key in ("chosen", "rejected", "first", "second")]
    return any(has_turns(cell) or is_messages(cell) for cell in cells)


def _named_prompt(values: Mapping[str, Any]) -> tuple[PromptCell | None, tuple[str, ...]]:
    """The prompt under one of its usual names and the columns it was read from; None if there is none of them."""
    dialogue = next((c for c in DIALOGUE_COLUMNS if is_messages(values.get(c))), None)
    if dialogue:
        cell = _up_to_the_last_request(values, dialogue)
        if not is_blank(values.get("prompt")) and not holds(cell.messages, need_prompt(values, "prompt").messages):
            raise RowFault("is a dialogue that does not contain the prompt", dialogue)
        return cell, (dialogue,)
    if "messages" in values and isinstance(values["messages"], (list, tuple)):
        raise RowFault("should be a list of messages with role and content", "messages")
    if isinstance(values.get("turns"), list) and values["turns"]:
        first = need_text({"turns": values["turns"][0]}, "turns")
        return PromptCell(first, row_tags(values)), ("turns",)
    if is_missing(values.get("prompt")) and not is_blank(values.get("instruction")):
        return request(values), ("instruction", "input")
    is_empty = "prompt" in values and (is_missing(values["prompt"]) or values["prompt"] == [])
    if is_empty and prompt_of(values) is not None:
        return None, ()
    column = next((c for c in _PROMPT_COLUMNS if c in values), None)
    if column is None:
        return None, ()
    tags = {"label": str(values["label"])} if {"label", "focus"} <= set(values) else None  # XSTest
    return need_prompt(values, column, tags=tags), (column,)


def _up_to_the_last_request(values: Mapping[str, Any], column: str) -> PromptCell:
    """A dialogue up to what was last said to the assistant, by the user or by a tool; a Prompt record is one."""
    messages = list(as_messages(values[column], column))
    while messages and messages[-1].role not in ("user", "tool"):
        messages.pop()
    if not any(message.role == "user" for message in messages):
        raise RowFault("has no user message", column)
    reference = values.get("reference") if isinstance(values.get("reference"), str) else None
    is_record = column == "messages" and "id" in values and "tags" in values
    is_chat = bool(values.get("is_chat")) if is_record else True
    return PromptCell(tuple(messages), row_tags(values), reference, is_chat)


def _completion(row: Row) -> tuple[Prompt, str]:
    """A prompt and its response: the last assistant turn, with everything before it in the prompt."""
    if row.fault:
        raise RowFault(row.fault)
    values = row.values
    column = next((c for c in _ANSWER_COLUMNS if c in values), None)
    if column is None:
        column = next((c for c in DIALOGUE_COLUMNS if not is_blank(values.get(c))), None)
        if column is None:
            raise RowFault("is missing", "completion")
        if not is_messages(values[column]):
            raise RowFault("should be a list of messages with role and content", column)
    value = values[column]
    is_whole = column in DIALOGUE_COLUMNS or (is_transcript(value) and is_missing(values.get("prompt")))
    cell = request(values, dialogues=()) if is_whole else _request_of(values)
    response = side(values, column, cell, empty_is_fine=True)
    dialogue, text = in_dialogue(cell, response, column)
    if not dialogue:
        raise RowFault("is missing", "prompt")
    prompt = placed(cell, dialogue, not isinstance(response, str), values)
    own = (column,) if is_whole else ()
    prompt = with_context(values, prompt, own)
    require_used(values, prompt, own, (text,))
    return prompt.record(), text


def _request_of(values: Mapping[str, Any]) -> PromptCell:
    """What a response column answers. Raises RowFault."""
    cell, _ = _named_prompt(values)
    if cell is None:
        cell = prompt_of(values)
    if cell is None:
        raise RowFault("is missing", "prompt")
    return cell
