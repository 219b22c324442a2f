"""Files of prompts and of completions, and record lists as JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from aifeedback.errors import FileError
from aifeedback.files.pairs import map_columns, prompt_of
from aifeedback.files.report import Ledger, ReadReport, RowFault
from aifeedback.files.tables import Row, read_rows, write_rows
from aifeedback.files.text import (
    answer_text,
    as_messages,
    is_messages,
    is_transcript,
    need_prompt,
    need_text,
    row_tags,
    transcript,
)
from aifeedback.records import Completion, Prompt, Record

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
    """Answers and what they answer; all lists run parallel."""

    prompts: list[Prompt]
    rows: list[Completion]
    report: ReadReport
    inputs: list[Mapping[str, Any]]


def load_prompts(path: str | Path, *, columns: Mapping[str, str] | None = None, limit: int | None = None) -> Prompts:
    """Reads each different prompt of a file once, in order; a file of comparisons gives its prompts.

    Known: ``prompt`` (text, transcript or messages), ``instruction`` and ``input``, ``question``, ``messages`` (up to
    the last user turn), ``turns`` (the first), Prompt records. Raises FileError where the file cannot be used.
    """
    ledger = Ledger(path, "prompts")
    prompts: list[Prompt] = []
    inputs: list[Mapping[str, Any]] = []
    for row in map_columns(path, read_rows(path), columns):
        if limit is not None and len(prompts) >= limit:
            break
        try:
            prompt = _prompt(row)
        except RowFault as fault:
            ledger.skip(row.number, fault.reason, fault.key)
            continue
        if earlier := ledger.earlier(row.number, prompt.id):
            ledger.skip(row.number, f"the same prompt stands in an earlier row (row {earlier})", is_repeat=True)
            continue
        ledger.keep()
        prompts.append(prompt)
        inputs.append(row.values)
    return Prompts(prompts, ledger.report(), inputs)


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
) -> Completions:
    """Reads answers with their prompts. An empty answer is an answer and is kept.

    ``source`` says who wrote them; without it the columns ``source``, ``generator`` or ``model`` do, else 'data'.
    Known: ``prompt``, ``completion`` (or ``response``, ``output``, ``answer``), ``messages`` that end with the
    assistant, transcripts. Raises FileError where the file cannot be used.
    """
    ledger = Ledger(path, "completions")
    prompts: list[Prompt] = []
    completions: list[Completion] = []
    inputs: list[Mapping[str, Any]] = []
    for row in map_columns(path, read_rows(path), columns):
        if limit is not None and len(completions) >= limit:
            break
        try:
            prompt, text = _completion(row)
        except RowFault as fault:
            ledger.skip(row.number, fault.reason, fault.key)
            continue
        who = source or next(
            (str(row.values[c]) for c in _SOURCE_COLUMNS if isinstance(row.values.get(c), str)), "data"
        )
        ledger.keep()
        prompts.append(prompt)
        completions.append(Completion.of(prompt, text, source=who))
        inputs.append(row.values)
    return Completions(prompts, completions, ledger.report(), inputs)


def write_completions(
    path: str | Path, prompts: Iterable[Prompt], completions: Iterable[Completion], said: Iterable[Record] | None = None
) -> int:
    """Writes TRL's ``prompt``, ``completion`` and ``source``; one file is either all text or all messages.

    The columns of ``said``, one record per completion, come after them.
    """
    pairs = list(zip(prompts, completions, strict=True))
    conversational = any(len(p.messages) != 1 or p.messages[0].role != "user" for p, _ in pairs)
    beside = [{} for _ in pairs] if said is None else [record.model_dump(mode="json") for record in said]
    return write_rows(
        path,
        ({**_completion_cells(p, c, conversational), **more} for (p, c), more in zip(pairs, beside, strict=True)),
    )


def write_records(path: str | Path, records: Iterable[Record]) -> int:
    """Writes any records as JSONL, one per line, in order; returns how many."""
    return write_rows(path, (record.model_dump(mode="json", exclude_defaults=False) for record in records))


def read_records(path: str | Path, kind: type[R]) -> list[R]:
    """Reads what ``write_records`` wrote. Strict: raises FileError at the first row that is no ``kind``."""
    records = []
    for row in read_rows(path):
        if row.fault:
            raise FileError(row.fault, file=path, row=row.number, fix="the file was changed or cut off; write it again")
        try:
            records.append(kind.model_validate(row.values))
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            raise FileError(
                f"is no {kind.__name__}: {problem['msg'].lower()}",
                file=path,
                row=row.number,
                key=".".join(map(str, problem["loc"])) or None,
                fix=f"the file should hold {kind.__name__} records as `write_records` writes them",
            ) from None
    return records


def _completion_cells(prompt: Prompt, completion: Completion, conversational: bool) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "prompt": [m.model_dump() for m in prompt.messages] if conversational else prompt.text,
        "completion": [{"role": "assistant", "content": completion.text}] if conversational else completion.text,
        "source": completion.source,
    }
    if prompt.tags:
        cells["tags"] = dict(prompt.tags)
    if prompt.reference is not None:
        cells["reference"] = prompt.reference
    return cells


def _prompt(row: Row) -> Prompt:
    if row.fault:
        raise RowFault(row.fault)
    values = row.values
    if isinstance(values.get("messages"), (list, tuple)):
        return _prompt_of_messages(values)
    if isinstance(values.get("turns"), list) and values["turns"]:
        return Prompt.of(need_text({"turns": values["turns"][0]}, "turns"), tags=row_tags(values))
    if "instruction" in values and isinstance(values.get("input"), str) and values["input"].strip():
        return Prompt.of(f"{need_text(values, 'instruction')}\n\n{values['input']}", tags=row_tags(values))
    if values.get("prompt") in (None, "", []) and (prompt := prompt_of(values)) is not None:
        return prompt
    column = next((c for c in _PROMPT_COLUMNS if c in values), None)
    if column is None:
        if (prompt := prompt_of(values)) is not None:
            return prompt
        raise RowFault("is missing", "prompt")
    tags = {"label": str(values["label"])} if {"label", "focus"} <= set(values) else None  # XSTest
    return need_prompt(values, column, tags=tags).record()


def _prompt_of_messages(values: Mapping[str, Any]) -> Prompt:
    """A dialogue up to its last user turn; a Prompt record is one."""
    if not is_messages(values["messages"]):
        raise RowFault("should be a list of messages with role and content", "messages")
    messages = list(as_messages(values["messages"], "messages"))
    while messages and messages[-1].role != "user":
        messages.pop()
    if not messages:
        raise RowFault("has no user message", "messages")
    reference = values.get("reference") if isinstance(values.get("reference"), str) else None
    return Prompt.of(messages, reference=reference, tags=row_tags(values))


def _completion(row: Row) -> tuple[Prompt, str]:
    if row.fault:
        raise RowFault(row.fault)
    values = row.values
    column = next((c for c in _ANSWER_COLUMNS if c in values), None)
    if column is None and "messages" in values:
        if not is_messages(values["messages"]):
            raise RowFault("should be a list of messages with role and content", "messages")
        messages = as_messages(values["messages"], "messages")
        return Prompt.of(messages[:-1], tags=row_tags(values)), answer_text(messages[-1:], "messages")
    if column is None:
        raise RowFault("is missing", "completion")
    value = values[column]
    if is_transcript(value) and values.get("prompt") in (None, ""):
        turns = transcript(value)
        return Prompt.of(turns[:-1], tags=row_tags(values)), answer_text(turns[-1:], column)
    prompt = _prompt(row)
    if is_messages(value):
        return prompt, answer_text(as_messages(value, column)[-1:], column)
    return prompt, need_text(values, column, empty_is_fine=True)
