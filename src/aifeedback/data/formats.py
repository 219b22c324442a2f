"""The formats of preference files, each identified by its columns: one row in, pairs out. The first match wins.

A pair says which response is better as ``p_first`` (a person's choice is 0 or 1, a tie 0.5, several votes their share)
and whose verdict it is; ``None`` if the file does not say. ``shuffled`` requests a storage order drawn by seed, because
the file itself always puts the better response first.

An index is only a verdict where the format fixes its meaning. Where it does not, the whole file decides: 1 and 2 name
the two responses; a 0 could be the first response, or a tie, or "the first is not better", so the file is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

from aifeedback import extensions
from aifeedback.data.tables import FORMATS, Row, RowFault, is_blank, is_missing, kind_of, name_in, parsed, split_format
from aifeedback.data.transcripts import (
    DIALOGUE_COLUMNS,
    Messages,
    PromptCell,
    as_messages,
    is_messages,
    need_prompt,
    need_text,
    of_two_sides,
    row_tags,
    side,
    split_plain,
)
from aifeedback.errors import FileError, InputError
from aifeedback.types import Message, Problem

ONE_OR_TWO: Mapping[int, float] = {1: 1.0, 2: 0.0}
ZERO_OR_ONE: Mapping[int, float] = {0: 1.0, 1: 0.0}
"""The index of the better response."""
FIRST_IS_BETTER: Mapping[int, float] = {1: 1.0, 0: 0.0}
TIE_OR_NUMBER: Mapping[int, float] = {0: 0.5, 1: 1.0, 2: 0.0}

_NOUNS = ("model", "response", "answer", "output", "completion", "assistant", "option")
_FIRST = {"first", "a", *(f"{noun} {name}" for noun in _NOUNS for name in ("a", "1"))}
_SECOND = {"second", "b", *(f"{noun} {name}" for noun in _NOUNS for name in ("b", "2"))}
_TIES = {"equal", "equally good", "equally bad", "same", "draw", "tied", "both", "neither", "none of them",
         "no preference", "bothbad", "bothgood"}  # fmt: skip
_UNKNOWN = {"cannot tell", "can't tell", "unsure", "unknown", "not sure", "skip", "skipped"}
_PLAUSIBLE = (0, 1, 2)
"""Indices that some convention gives to two responses; any other number is a fault of its row alone."""


def read_verdict(value: Any, key: str, indices: Mapping[int, float] | None = None) -> float | None:
    """A verdict as ``p_first``; None where the cell is empty or says that the rater could not tell. Raises RowFault."""
    if is_blank(value):
        return None
    index = as_index(value)
    if index is not None and indices and index in indices:
        return indices[index]
    words = re.sub(r"[\s_()\-.]+", " ", str(value).lower()).strip()
    if words in _UNKNOWN:
        return None
    if words in _FIRST:
        return 1.0
    if words in _SECOND:
        return 0.0
    if words in _TIES or words.startswith(("tie ", "both ")) or words == "tie" or _number(value) == 0.5:
        return 0.5
    raise RowFault(f"holds {_shown(value)}, which names neither response", key)


def as_index(value: Any) -> int | None:
    """A whole number, also as a float or as text; None for anything else, true and false included."""
    number = _number(value)
    return int(number) if number is not None and number.is_integer() else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    return f"'{value.strip().lower()[:40]}'" if isinstance(value, str) else kind_of(value)


class Indices:
    """Watches the index column of a file while it is read, and refuses the file once its indices are ambiguous."""

    def __init__(self, file: str | Path, columns: Iterable[str], indices: Mapping[int, float] | None) -> None:
        self.file, self.columns, self.indices = file, tuple(columns), indices or {}
        self._seen: dict[str, set[int]] = {}

    def see(self, row: Row) -> None:
        """Raises FileError at an index that the format's convention does not have."""
        for column in self.columns:
            value = row.values.get(column)
            index = int(value) if isinstance(value, bool) else as_index(value)
            if index is None:
                continue
            if isinstance(value, bool) or (index in _PLAUSIBLE and index not in self.indices):
                shown = str(value).lower() if isinstance(value, bool) else str(index)
                raise self._ambiguous(
                    f"holds {shown}, which could mean either response{self._expected()}", column, row.number
                )
            self._seen.setdefault(column, set()).add(index)

    def close(self) -> None:
        """Raises FileError if no other index than 1 was seen: the columns do not say from where it is counted."""
        for column, seen in self._seen.items():
            if seen == {1}:
                raise self._ambiguous(
                    "holds no other index than 1, which could mean the first response or, counted from 0, the second",
                    column,
                    None,
                )

    def _expected(self) -> str:
        return f" (this format uses {', '.join(map(str, sorted(self.indices)))})" if self.indices else ""

    def _ambiguous(self, what: str, column: str, row: int | None) -> FileError:
        fix = (
            "write the verdict in words ('first', 'second', 'tie'), or as a column 'human_p_first':"
            " 1.0 where the first response is better, 0.0 where the second is, 0.5 for a tie"
        )
        return FileError(what, file=self.file, row=row, key=column, fix=fix)


HUMAN = "human"
UNNAMED = "not named"
"""Who gave a probability that comes without the name of a judge: no person, as far as the file says."""
_BY_COLUMNS = ("judge", "annotator", "annotator_type", "labeler", "labeller", "evaluator", "grader", "label_source",
               "preference_source", "feedback_source", "annotated_by", "judged_by")  # fmt: skip
_MODEL_NAME = re.compile(
    r"(?:^|[^a-z])(?:(?:chat|instruct)?gpt|claude|gemini|gemma|palm|llama|vicuna|alpaca|qwen|qwq|mi[sx]tral|deepseek"
    r"|command[ _-]?r|phi|grok|kimi|glm|nemotron|prometheus|llm|ai|bot|rm|model|auto|automatic|machine|synthetic"
    r"|rlaif|o[134])(?![a-z])|(?:gpt|llama|qwen|gemma)[-_ ]?\d|reward[ _-]?model|^(?:hf|openai|anthropic|systemone"
    r"|decisions|lab|fake|python):",
    re.IGNORECASE,
)


def judged_by(row: Mapping[str, Any]) -> str:
    """Who gave a row's verdict: the model that one of the usual columns names, else people."""
    for column in _BY_COLUMNS:
        if column in row and not is_blank(row[column]) and _MODEL_NAME.search(str(row[column])):
            return str(row[column])
    return HUMAN


class Stored(NamedTuple):
    """A label as ``write_labelled`` writes it, beside the verdict of people."""

    p_first: float | None
    judge: str
    position_gap: float | None = None
    problem: Problem | None = None


class Pair(NamedTuple):
    prompt: PromptCell
    first: str
    second: str
    p_first: float | None = None
    by: str | None = None
    sources: tuple[str, str] = ("data", "data")
    shuffled: bool = False
    label: Stored | None = None


class Shape(NamedTuple):
    """One format: its name, the columns that identify it, and how a row of it is read."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str | None], Iterable[Pair]]
    also: Callable[[Mapping[str, Any]], bool] = lambda row: True
    criteria: Callable[[Mapping[str, Any]], Iterable[str]] = lambda row: ()
    """Which verdicts one row offers to choose among; none if a pair has only one."""
    verdicts: tuple[str, ...] = ()
    """Columns whose verdict may be an index."""
    indices: Mapping[int, float] | None = None
    """What an index in them means, as p_first."""
    is_numbered: bool = True
    """Whether the columns themselves say which response has which index."""
    is_settled: Callable[[Mapping[str, Any]], bool] = lambda row: False
    """Whether a row has its verdict elsewhere, so that the columns of ``verdicts`` mean something else."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        return all(column in row for column in self.columns) and self.also(row)


def shape_of(row: Mapping[str, Any]) -> Shape | None:
    """The first format that fits the row: the shipped ones, then those of installed packages."""
    return next((shape for shape in (*SHAPES, *_installed()) if shape.fits(row)), None)


def named_shape(path: str | Path) -> Shape | None:
    """The format that a file's name begins with; None where its columns decide. Raises InputError."""
    name, _ = split_format(path)
    return _outside(name) if name else None


@cache
def _installed() -> tuple[Shape, ...]:
    return tuple(_outside(name) for name in extensions.registered(FORMATS))


def _outside(name: str) -> Shape:
    shape = extensions.find(FORMATS, name)
    if not isinstance(shape, Shape):
        raise InputError(f"'{name}' is not a format", fix="name a Shape (aifeedback.data.formats)")
    return shape


def number(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number; None where the cell holds nothing. Raises RowFault."""
    value = row.get(key)
    if is_blank(value):
        return None
    if isinstance(value, bool):
        raise RowFault(f"should be a number, is {kind_of(value)}", key)
    try:
        as_float = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise RowFault(f"should be a number, is {str(value)[:40]!r}", key) from None
    if not math.isfinite(as_float):
        raise RowFault("should be a finite number", key)
    return as_float


def _verdict(p_first: float | None, by: str = HUMAN) -> tuple[float | None, str | None]:
    """The fields ``p_first`` and ``by`` of a pair: nobody's verdict where there is none."""
    return p_first, by if p_first is not None else None


# ── pairs with a chosen and a rejected answer ─────────────────────────────────────────────────────────────────────


def _chosen(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """TRL's columns: with or without a prompt, text or messages; RewardBench adds models, a subset and lists."""
    prompt = request(row)
    sources = tuple(name_in(row, f"{key}_model", name_in(row, f"{key}-model")) for key in ("chosen", "rejected"))
    verdict = _verdict_of_scores(row)
    for one, other in product(_alternatives(row, "chosen"), _alternatives(row, "rejected")):
        cells = {**row, "chosen": one, "rejected": other}
        better, worse = side(cells, "chosen", prompt), side(cells, "rejected", prompt)
        if prompt is None and isinstance(better, str) and isinstance(worse, str):
            shared, first, second = split_plain(better, worse)
            prompt_cell = PromptCell(shared, row_tags(row))
        else:
            prompt_cell, first, second = of_two_sides(prompt, better, worse, ("chosen", "rejected"), cells)
        yield Pair(prompt_cell, first, second, *verdict, sources, shuffled=True)  # type: ignore[arg-type]


def _alternatives(row: Mapping[str, Any], key: str) -> Sequence[Any]:
    """The responses of one side: one, or the several texts of RewardBench 2."""
    value = row.get(key)
    is_list = isinstance(value, (list, tuple)) and value and all(isinstance(text, str) for text in value)
    return value if is_list else (value,)  # type: ignore[return-value]


_SCORES = tuple(
    (form.format("chosen"), form.format("rejected"))
    for form in ("score_{}", "{}_score", "{}_rating", "{}-rating", "rating_{}", "{}_avg_rating")
)


def _verdict_of_scores(row: Mapping[str, Any]) -> tuple[float, str]:
    """People's verdict, unless both responses carry a score: then a model chose, and equal scores are a tie."""
    for one, other in _SCORES:
        if one in row and other in row:
            better, worse = number(row, one), number(row, other)
            if better is not None and worse is not None:
                return (0.5 if better == worse else 1.0), f"scores ({one})"
    return 1.0, HUMAN


def request(row: Mapping[str, Any], *, dialogues: Sequence[str] = DIALOGUE_COLUMNS) -> PromptCell | None:
    """The prompt of a row under the names that files use for it; None if the row has none."""
    if not is_missing(row.get("prompt")) and row["prompt"] != []:
        return need_prompt(row, "prompt")
    if not is_blank(row.get("instruction")):
        return PromptCell(_instruction(row), row_tags(row))
    column = next((c for c in ("question", "query") if not is_blank(row.get(c))), None)
    column = column or next((c for c in dialogues if is_messages(row.get(c))), None)
    return need_prompt(row, column) if column else None


def _options(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    keys = ("text_correct", "text_incorrect")
    prompt, first, second = of_two_sides(None, side(row, keys[0], None), side(row, keys[1], None), keys, row)
    yield Pair(prompt, first, second, 1.0, HUMAN, shuffled=True)


# ── two responses in storage order, with or without a verdict ─────────────────────────────────────────────────────

LABELS = ("label", "winner", "preference", "choice")


def _stored(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """Ours: ``prompt``, ``first``, ``second``; a verdict, if there is one, is about storage order."""
    label = _label(row)
    if not is_blank(row.get("human_p_first")):
        p_first, by = _probability(row, "human_p_first"), HUMAN
    elif not is_blank(row.get("p_first")):
        p_first, by = _probability(row, "p_first"), name_in(row, "judge", UNNAMED)
    elif _is_settled(row):
        p_first, by = None, None
    else:
        p_first, by = _verdict(_named_verdict(row, ("first", "second"), ONE_OR_TWO))
    sources = (name_in(row, "first_source"), name_in(row, "second_source"))
    prompt = need_prompt(row, "prompt")
    one, other = (side(row, key, prompt, empty_is_fine=True) for key in ("first", "second"))
    prompt, first, second = of_two_sides(prompt, one, other, ("first", "second"), row)
    yield Pair(prompt, first, second, p_first, by, sources, label=label)


_FURTHER_LABELS = ("preferred", "preferred_response", "better", "better_response", "verdict", "vote", "human_preference",
                   "human_label", "human_choice", "chosen")  # fmt: skip


def _named_verdict(
    row: Mapping[str, Any], responses: tuple[str, str], indices: Mapping[int, float] | None = None
) -> float | None:
    """The verdict of a row's verdict columns; of further ones where they name a response, or repeat its text.

    Raises RowFault where two columns contradict each other.
    """
    verdicts: dict[str, float] = {}
    for key in LABELS:
        if is_blank(row.get(key)):
            continue
        try:
            verdict = read_verdict(row[key], key, indices)
        except RowFault:
            if not verdicts:
                raise
            continue
        if verdict is not None:
            verdicts[key] = verdict
    for key in _FURTHER_LABELS:
        value = row.get(key)
        if not isinstance(value, str) or is_blank(value):
            continue
        texts = [str(row.get(response)).strip() for response in responses]
        if value.strip() in texts and texts[0] != texts[1]:
            verdicts[key] = float(value.strip() == texts[0])
            continue
        try:
            verdict = read_verdict(value, key)
        except RowFault:
            continue
        if verdict is not None:
            verdicts[key] = verdict
    first = next(iter(verdicts), None)
    if other := next((key for key in verdicts if first and verdicts[key] != verdicts[first]), None):
        raise RowFault(f"contradicts '{first}'", other)
    return verdicts[first] if first else None


def _is_settled(row: Mapping[str, Any]) -> bool:
    """Whether a row was written by this package, or has a probability: its other verdict columns are the input's own."""
    return "comparison_id" in row or not is_blank(row.get("p_first")) or not is_blank(row.get("human_p_first"))


def _label(row: Mapping[str, Any]) -> Stored | None:
    """The label of a file that this package wrote; None if ``p_first`` and ``judge`` are missing or mean something else."""
    if "p_first" not in row or not isinstance(row.get("judge"), str) or is_blank(row["judge"]):
        return None
    named = row.get("problem")
    problem = Problem(named) if isinstance(named, str) and named in set(Problem) else None
    p_first = _probability(row, "p_first")
    gap = number(row, "position_gap") if p_first is not None else None
    return Stored(p_first, row["judge"], gap, problem if p_first is None else None)


def _probability(row: Mapping[str, Any], key: str) -> float | None:
    p_first = number(row, key)
    if p_first is not None and not 0.0 <= p_first <= 1.0:
        raise RowFault(f"should be a probability in [0, 1], is {p_first}", key)
    return p_first


def _ours(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """A Comparison record as a run folder stores it."""
    record = row["prompt"]
    if not isinstance(reference := record.get("reference"), str | None):
        raise RowFault(f"should be text, is {kind_of(reference)}", "reference")
    messages = as_messages(record["messages"], "prompt")
    prompt = PromptCell(messages, row_tags(record), reference, is_chat=bool(record.get("is_chat")))
    first, second = row["first"], row["second"]
    sources = (name_in(first, "source"), name_in(second, "source"))
    yield Pair(prompt, need_text(first, "text"), need_text(second, "text"), None, None, sources)


def _summaries(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """``summarize_from_feedback`` comparisons; ``extra.confidence`` runs from 1 to 9 and becomes a tag."""
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, Mapping) or not isinstance(summaries, list) or len(summaries) != 2:
        raise RowFault("should contain two summaries of one post", "summaries")
    tags = row_tags(row)
    confidence = (row.get("extra") or {}).get("confidence")
    if confidence is not None:
        tags["confidence"] = str(confidence)
    if info.get("post"):
        head = [f"SUBREDDIT: r/{info['subreddit']}"] if info.get("subreddit") else []
        text = "\n".join([*head, f"TITLE: {info.get('title') or ''}", f"POST: {info['post']}", "TL;DR:"])
        tags.update({"topic": str(info["subreddit"])} if info.get("subreddit") else {})
    else:
        text = need_text(info, "article") + "\n\nTL;DR:"
    first, second = (need_text(summary, "text").strip() for summary in summaries)
    sources = tuple(name_in(summary, "policy") for summary in summaries)
    p_first = read_verdict(row.get("choice"), "choice", ZERO_OR_ONE)
    yield Pair(PromptCell(text, tags), first, second, *_verdict(p_first), sources)  # type: ignore[arg-type]


def _safe_pairs(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """PKU-SafeRLHF: ``better`` (default) or ``safer`` response."""
    key = f"{criterion or 'better'}_response_id"
    p_first = read_verdict(row.get(key), key, ZERO_OR_ONE)
    safe = f"{row.get('is_response_0_safe')}/{row.get('is_response_1_safe')}"
    prompt = need_prompt(row, "prompt", tags={"safe": safe})
    sources = (name_in(row, "response_0_source"), name_in(row, "response_1_source"))
    yield Pair(prompt, need_text(row, "response_0"), need_text(row, "response_1"), *_verdict(p_first), sources)


def _votes(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """MT-bench and arena votes: two conversations that agree in all but their last turn."""
    keys = ("conversation_a", "conversation_b")
    for key in keys:
        if not is_messages(row[key]):
            raise RowFault("should be a list of messages with role and content", key)
    a, b = (as_messages(row[key], key) for key in keys)
    turn = number(row, "turn")
    if turn is not None:
        a, b = a[: 2 * int(turn)], b[: 2 * int(turn)]
    prompt, first, second = of_two_sides(None, a, b, keys, row)
    tags = row_tags(row) | ({"turn": f"{turn:g}"} if turn is not None else {})
    verdict = _verdict(read_verdict(row.get("winner"), "winner"))
    yield Pair(prompt._replace(tags=tags), first, second, *verdict, (name_in(row, "model_a"), name_in(row, "model_b")))


def _battles(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """``response_a`` and ``response_b``; LMArena's battles hold lists of turns and one column per verdict."""
    keys = ("response_a", "response_b")
    requests, one, other = (_turns(row[key]) for key in ("prompt", *keys))
    if requests is None or one is None or other is None:
        prompt = need_prompt(row, "prompt")
        prompt, first, second = of_two_sides(prompt, side(row, keys[0], prompt), side(row, keys[1], prompt), keys, row)
    else:
        a, b = (_alternating(requests, texts, key) for texts, key in zip((one, other), keys, strict=True))
        prompt, first, second = of_two_sides(None, a, b, keys, row)
        prompt = prompt._replace(is_chat=False) if len(requests) == 1 else prompt
    sources = (name_in(row, "model_a"), name_in(row, "model_b"))
    yield Pair(prompt, first, second, *_verdict(_winner(row)), sources)


def _turns(value: Any) -> list[str] | None:
    """The texts of a list of turns, also written as JSON; None for anything else."""
    turns = parsed(value) if isinstance(value, str) and value.startswith("[") else value
    return turns if isinstance(turns, list) and turns and all(isinstance(text, str) for text in turns) else None


def _alternating(requests: Sequence[str], responses: Sequence[str], key: str) -> Messages:
    if len(requests) != len(responses):
        raise RowFault(f"should hold {len(requests)} turns like the prompt, holds {len(responses)}", key)
    return tuple(
        message
        for request, response in zip(requests, responses, strict=True)
        for message in (Message(role="user", content=request), Message(role="assistant", content=response))
    )


def _winner(row: Mapping[str, Any]) -> float | None:
    """The verdict of one column, or of three that hold 1 for the verdict and 0 for the others."""
    flags = [number(row, key) for key in ("winner_model_a", "winner_model_b", "winner_tie") if key in row]
    if len(flags) < 3:
        return _named_verdict(row, ("response_a", "response_b"))
    if sorted(flag or 0.0 for flag in flags) != [0.0, 0.0, 1.0]:
        if all(flag is None for flag in flags):
            return None
        raise RowFault("does not name one verdict together with winner_model_b and winner_tie", "winner_model_a")
    return (1.0, 0.0, 0.5)[flags.index(1.0)]


def _annotators(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """PandaLM: three people per pair; p_first is the mean of their votes, a tie counting half."""
    verdicts = [read_verdict(row[key], key, TIE_OR_NUMBER) for key in sorted(row) if key.startswith("annotator")]
    votes = [vote for vote in verdicts if vote is not None]
    one, _, other = name_in(row, "cmp_key", "data_data").partition("_")
    prompt = PromptCell(_instruction(row), row_tags(row))
    verdict = _verdict(sum(votes) / len(votes) if votes else None)
    yield Pair(prompt, need_text(row, "response1"), need_text(row, "response2"), *verdict, (one, other or "data"))


def _instruction(row: Mapping[str, Any]) -> str:
    """An instruction and what it is about, as Alpaca's and Dolly's rows have them."""
    instruction = need_text(row, "instruction")
    extra = next((row[key] for key in ("input", "context") if not is_blank(row.get(key))), None)
    return f"{instruction}\n\n{extra}" if isinstance(extra, str) else instruction


def _labelled_outputs(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """LLMBar: an objective label, 1 or 2."""
    verdict = _verdict(read_verdict(row["label"], "label", ONE_OR_TWO))
    request = _instruction(row) if not is_blank(row.get("instruction")) else need_text(row, "input")
    prompt = PromptCell(request, row_tags(row))
    yield Pair(prompt, need_text(row, "output_1"), need_text(row, "output_2"), *verdict)


def _annotations(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """AlpacaEval: ``preference`` is 1 + P(output_2 is better), a model's verdict; ``label`` is a person's."""
    preference = number(row, "preference")
    if preference is not None and not 1.0 <= preference <= 2.0:
        raise RowFault(f"should be in [1, 2], is {row['preference']}", "preference")
    sources = (name_in(row, "generator_1"), name_in(row, "generator_2"))
    verdict = _verdict(None if preference is None else 2.0 - preference, name_in(row, "annotator", "annotator"))
    if preference is None:
        verdict = _verdict(read_verdict(row.get("label"), "label", ONE_OR_TWO))
    prompt = PromptCell(_instruction(row), row_tags(row))
    yield Pair(prompt, need_text(row, "output_1"), need_text(row, "output_2"), *verdict, sources)


def _strengths(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """HelpSteer2 and 3 preferences: a strength from −3 (first much better) to 3; 0 is a tie."""
    strength = next(key for key in ("overall_preference", "preference_strength") if key in row)
    names = ("response1", "response2") if "response1" in row else ("response_1", "response_2")
    value = number(row, strength)
    if value is not None and not -3 <= value <= 3:
        raise RowFault(f"should be in [-3, 3], is {value}", strength)
    p_first = None if value is None else 0.5 if value == 0 else float(value < 0)
    tags = {} if value is None else {"strength": str(abs(int(value)))}
    prompt = need_prompt(row, "context" if strength == "overall_preference" else "prompt", tags=tags)
    yield Pair(prompt, need_text(row, names[0]), need_text(row, names[1]), *_verdict(p_first))


def _rated(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """HelpSteer2 ratings: the reader joins neighbouring rows of one prompt into ``_rows``; higher is better."""
    key = criterion or "helpfulness"
    for one, other in combinations(row["_rows"], 2):
        verdict = _verdict(_higher(number(one, key), number(other, key)))
        yield Pair(need_prompt(one, "prompt"), need_text(one, "response"), need_text(other, "response"), *verdict)


def _higher(one: float | None, other: float | None) -> float | None:
    """Which of two ratings is higher, as p_first; None where one of them is missing."""
    if one is None or other is None:
        return None
    return 0.5 if one == other else float(one > other)


def _scored(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """UltraFeedback: every pair of responses; the scores are a model's (GPT-4), so no person's choice is claimed."""
    prompt = PromptCell(need_text(row, "instruction"), row_tags(row) | {"source": str(row.get("source"))})
    key = criterion or "overall_score"
    for one, other in combinations(_completions(row), 2):
        sources = (name_in(one, "model"), name_in(other, "model"))
        verdict = _verdict(_higher(_rating(one, key), _rating(other, key)), "gpt-4 (UltraFeedback)")
        yield Pair(prompt, need_text(one, "response"), need_text(other, "response"), *verdict, sources)


def _completions(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    value = row["completions"]
    value = parsed(value) if isinstance(value, str) else value
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) for one in value):
        raise RowFault("should be a list of responses with their scores", "completions")
    return value


def _rating(completion: Mapping[str, Any], key: str) -> float | None:
    """An overall score, or the rating of one aspect; None where the file says N/A."""
    value = completion.get(key)
    if value is None:
        value = ((completion.get("annotations") or {}).get(key) or {}).get("Rating")
    try:
        rating = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return rating if math.isfinite(rating) else None


def _references(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """SHP: ``labels`` is 1 where the first response has the higher score."""
    verdict = _verdict(read_verdict(row["labels"], "labels", FIRST_IS_BETTER))
    yield Pair(need_prompt(row, "history"), need_text(row, "human_ref_A"), need_text(row, "human_ref_B"), *verdict)


def _safer(row: Mapping[str, Any]) -> Iterable[str]:
    del row
    return ("better", "safer")


def _ratings(row: Mapping[str, Any]) -> Iterable[str]:
    """HelpSteer2: every column that is a number."""
    return [key for key, value in row["_rows"][0].items() if type(value) in (int, float)]


def _scores(row: Mapping[str, Any]) -> Iterable[str]:
    """UltraFeedback: every score of a response, and every aspect it is rated on."""
    completions = _completions(row)
    first = completions[0] if completions else {}
    return [*(key for key, value in first.items() if type(value) in (int, float)), *(first.get("annotations") or {})]


def _is_record(row: Mapping[str, Any]) -> bool:
    return isinstance(row["prompt"], Mapping) and "messages" in row["prompt"] and isinstance(row["first"], Mapping)


SHAPES: tuple[Shape, ...] = (
    Shape("comparison records", ("prompt", "first", "second"), _ours, _is_record),
    Shape(
        "prompt, first, second",
        ("prompt", "first", "second"),
        _stored,
        verdicts=LABELS,
        indices=ONE_OR_TWO,
        is_numbered=False,
        is_settled=_is_settled,
    ),
    Shape(
        "summarize_from_feedback",
        ("info", "summaries", "choice"),
        _summaries,
        verdicts=("choice",),
        indices=ZERO_OR_ONE,
    ),
    Shape(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        _safe_pairs,
        criteria=_safer,
        verdicts=("better_response_id", "safer_response_id"),
        indices=ZERO_OR_ONE,
    ),
    Shape("votes on conversations", ("conversation_a", "conversation_b", "winner"), _votes, verdicts=("winner",)),
    Shape("response_a, response_b", ("prompt", "response_a", "response_b"), _battles, verdicts=LABELS),
    Shape("PandaLM", ("instruction", "response1", "response2", "annotator1"), _annotators),
    Shape("HelpSteer3", ("context", "response1", "response2", "overall_preference"), _strengths),
    Shape("HelpSteer2 preference", ("prompt", "response_1", "response_2", "preference_strength"), _strengths),
    Shape("HelpSteer2", ("_rows",), _rated, criteria=_ratings),
    Shape(
        "LLMBar", ("input", "output_1", "output_2", "label"), _labelled_outputs, verdicts=("label",), indices=ONE_OR_TWO
    ),
    Shape(
        "AlpacaEval annotations",
        ("instruction", "output_1", "output_2"),
        _annotations,
        verdicts=("label",),
        indices=ONE_OR_TWO,
    ),
    Shape("UltraFeedback", ("instruction", "completions"), _scored, criteria=_scores),
    Shape(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        _references,
        verdicts=("labels",),
        indices=FIRST_IS_BETTER,
    ),
    Shape("correct and incorrect dialogues", ("text_correct", "text_incorrect"), _options),
    Shape("chosen, rejected", ("chosen", "rejected"), _chosen),
)
