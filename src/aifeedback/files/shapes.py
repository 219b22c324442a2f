"""The formats of preference files, each known by its columns: one row in, pairs out. First match wins.

A pair says which answer is better as ``p_first`` (a person's choice is 0 or 1, a tie 0.5, several votes their share)
and who said so; ``None`` where the file does not say. ``shuffled`` asks for a storage order drawn by seed, because
the file itself always puts the better one first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

from aifeedback.files.report import RowFault
from aifeedback.files.tables import kind_of
from aifeedback.files.text import (
    PromptCell,
    answer_text,
    as_messages,
    is_messages,
    is_transcript,
    need_prompt,
    need_text,
    row_tags,
    split_messages,
    split_plain,
    split_transcripts,
)

HUMAN = "human"


class Pair(NamedTuple):
    prompt: PromptCell
    first: str
    second: str
    p_first: float | None = None
    by: str | None = None
    sources: tuple[str, str] = ("data", "data")
    shuffled: bool = False


class Shape(NamedTuple):
    """One format: its name, the columns that give it away, and how a row of it is read."""

    name: str
    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any], str | None], Iterable[Pair]]
    also: Callable[[Mapping[str, Any]], bool] = lambda row: True
    criteria: Callable[[Mapping[str, Any]], Iterable[str]] = lambda row: ()
    """Which verdicts there are to choose among, told by one row; none where a pair has only one."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        return all(column in row for column in self.columns) and self.also(row)


def shape_of(row: Mapping[str, Any]) -> Shape | None:
    return next((shape for shape in SHAPES if shape.fits(row)), None)


def choice(value: Any, key: str, *, first: Iterable[Any], second: Iterable[Any], tie: Iterable[Any] = ()) -> float:
    """A verdict as p_first; values are compared as lower-case text."""
    told = str(value).strip().lower()
    for options, p_first in ((first, 1.0), (second, 0.0), (tie, 0.5)):
        if told in {str(option).lower() for option in options}:
            return p_first
    raise RowFault(f"holds '{told}', which names neither answer", key)


def number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or value is None:
        raise RowFault(f"should be a number, is {kind_of(value)}", key)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise RowFault(f"should be a number, is {str(value)[:40]!r}", key) from None


# ── pairs with a chosen and a rejected answer ─────────────────────────────────────────────────────────────────────


def _chosen(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """TRL's columns: with or without a prompt, text or messages; RewardBench adds models and a subset."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    sources = (str(row.get("chosen_model") or "data"), str(row.get("rejected_model") or "data"))
    if row.get("prompt") not in (None, "", []):
        prompt = need_prompt(row, "prompt")
        first, second = _answer(row, "chosen", prompt), _answer(row, "rejected", prompt)
    elif is_transcript(chosen) and is_transcript(rejected):
        shared, first, second = split_transcripts(str(chosen), str(rejected))
        prompt = PromptCell(shared, row_tags(row))
    elif is_messages(chosen) and is_messages(rejected):
        shared, first, second = split_messages(
            as_messages(chosen, "chosen"), as_messages(rejected, "rejected"), "chosen"
        )
        prompt = PromptCell(shared, row_tags(row))
    else:
        shared, first, second = split_plain(need_text(row, "chosen"), need_text(row, "rejected"))
        prompt = PromptCell(shared, row_tags(row))
    yield Pair(prompt, first, second, 1.0, HUMAN, sources, shuffled=True)


def _answer(row: Mapping[str, Any], key: str, prompt: PromptCell) -> str:
    """An answer cell; a message list may repeat the prompt in front of the answer."""
    if not is_messages(row.get(key)):
        return need_text(row, key)
    messages = as_messages(row[key], key)
    shared = len(prompt.turns)
    if len(messages) > shared and PromptCell(messages[:shared]).turns == prompt.turns:
        messages = messages[shared:]
    elif len(messages) > 1 and messages[0].role != "assistant":
        messages = messages[-1:]
    return answer_text(messages, key)


def _options(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    prompt, first, second = split_transcripts(need_text(row, "text_correct"), need_text(row, "text_incorrect"))
    yield Pair(PromptCell(prompt, row_tags(row)), first, second, 1.0, HUMAN, shuffled=True)


# ── two answers in storage order, with or without a verdict ───────────────────────────────────────────────────────


def _stored(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """Ours: ``prompt``, ``first``, ``second``; a verdict, where there is one, is about storage order."""
    by, p_first = None, None
    if row.get("human_p_first") is not None:
        by, p_first = HUMAN, number(row, "human_p_first")
    elif row.get("p_first") is not None:
        by, p_first = str(row.get("judge") or HUMAN), number(row, "p_first")
    elif row.get("label") not in (None, ""):
        by = HUMAN
        p_first = choice(
            row["label"], "label", first=("first", "1", "a"), second=("second", "2", "b"), tie=("tie", "0.5", "equal")
        )
    if p_first is not None and not 0.0 <= p_first <= 1.0:
        raise RowFault(f"should be a probability in [0, 1], is {p_first}", "p_first")
    prompt = need_prompt(row, "prompt")
    sources = (str(row.get("first_source") or "data"), str(row.get("second_source") or "data"))
    yield Pair(prompt, _answer(row, "first", prompt), _answer(row, "second", prompt), p_first, by, sources)


def _ours(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """A Comparison record as a run folder stores it."""
    record = row["prompt"]
    if not isinstance(reference := record.get("reference"), str | None):
        raise RowFault(f"should be text, is {kind_of(reference)}", "reference")
    prompt = PromptCell(as_messages(record["messages"], "prompt"), row_tags(record), reference)
    first, second = row["first"], row["second"]
    sources = (str(first.get("source", "data")), str(second.get("source", "data")))
    yield Pair(prompt, need_text(first, "text"), need_text(second, "text"), None, None, sources)


def _summaries(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """``summarize_from_feedback`` comparisons; ``extra.confidence`` runs from 1 to 9 and becomes a tag."""
    info, summaries = row["info"], row["summaries"]
    if not isinstance(info, Mapping) or not isinstance(summaries, list) or len(summaries) != 2:
        raise RowFault("should hold two summaries of one post", "summaries")
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
    sources = tuple(str(summary.get("policy") or "data") for summary in summaries)
    p_first = choice(row.get("choice"), "choice", first=(0,), second=(1,))
    yield Pair(PromptCell(text, tags), first, second, p_first, HUMAN, sources)  # type: ignore[arg-type]


def _safe_pairs(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """PKU-SafeRLHF: ``better`` (default) or ``safer`` answer."""
    key = f"{criterion or 'better'}_response_id"
    p_first = choice(row.get(key), key, first=(0,), second=(1,))
    prompt = need_prompt(
        row, "prompt", tags={"safe": f"{row.get('is_response_0_safe')}/{row.get('is_response_1_safe')}"}
    )
    sources = (str(row.get("response_0_source") or "data"), str(row.get("response_1_source") or "data"))
    yield Pair(prompt, need_text(row, "response_0"), need_text(row, "response_1"), p_first, HUMAN, sources)


def _votes(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """MT-bench and arena votes: two conversations whose user turns agree. Turn 2 is judged as the whole rest."""
    a, b = as_messages(row["conversation_a"], "conversation_a"), as_messages(row["conversation_b"], "conversation_b")
    last = 2 * int(number(row, "turn")) if row.get("turn") is not None else max(len(a), len(b))
    prompt, first, second = split_messages(a[:last], b[:last], "conversation_a")
    p_first = choice(
        row.get("winner"),
        "winner",
        first=("model_a",),
        second=("model_b",),
        tie=("tie", "tie (bothbad)", "tie (inconsistent)"),
    )
    judge = str(row.get("judge") or HUMAN)
    by = judge if "gpt" in judge.lower() or "claude" in judge.lower() else HUMAN
    tags = row_tags(row) | ({"turn": str(row["turn"])} if row.get("turn") is not None else {})
    yield Pair(PromptCell(prompt, tags), first, second, p_first, by, (str(row.get("model_a")), str(row.get("model_b"))))


def _annotators(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """PandaLM: three people per pair; p_first is the mean of their votes, a tie counting half."""
    votes = [
        choice(row[key], key, first=(1,), second=(2,), tie=(0,)) for key in sorted(row) if key.startswith("annotator")
    ]
    sources = tuple(str(row.get("cmp_key") or "data_data").split("_", 1))
    prompt = PromptCell(_instruction(row), row_tags(row))
    p_first = sum(votes) / len(votes)
    yield Pair(prompt, need_text(row, "response1"), need_text(row, "response2"), p_first, HUMAN, sources)  # type: ignore[arg-type]


def _instruction(row: Mapping[str, Any]) -> str:
    instruction = need_text(row, "instruction")
    extra = row.get("input")
    return f"{instruction}\n\n{extra}" if isinstance(extra, str) and extra.strip() else instruction


def _labelled_outputs(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """LLMBar: an objective label, 1 or 2."""
    p_first = choice(row["label"], "label", first=(1,), second=(2,))
    prompt = PromptCell(need_text(row, "input"), row_tags(row))
    yield Pair(prompt, need_text(row, "output_1"), need_text(row, "output_2"), p_first, HUMAN)


def _annotations(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """AlpacaEval: ``preference`` is 1 + P(output_2 is better), said by the annotator (a model)."""
    p_first = None
    if row.get("preference") is not None:
        p_first = 2.0 - number(row, "preference")
        if not 0.0 <= p_first <= 1.0:
            raise RowFault(f"should lie in [1, 2], is {row['preference']}", "preference")
    sources = (str(row.get("generator_1") or "data"), str(row.get("generator_2") or "data"))
    by = str(row.get("annotator") or "annotator") if p_first is not None else None
    prompt = PromptCell(need_text(row, "instruction"), row_tags(row))
    yield Pair(prompt, need_text(row, "output_1"), need_text(row, "output_2"), p_first, by, sources)


def _strengths(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """HelpSteer2 and 3 preferences: a strength from −3 (first much better) to 3; 0 is a tie."""
    strength = next(key for key in ("overall_preference", "preference_strength") if key in row)
    names = ("response1", "response2") if "response1" in row else ("response_1", "response_2")
    value = number(row, strength)
    if not -3 <= value <= 3:
        raise RowFault(f"should lie in [-3, 3], is {value}", strength)
    p_first = 0.5 if value == 0 else float(value < 0)
    prompt = need_prompt(row, "context" if "context" in row else "prompt", tags={"strength": str(abs(int(value)))})
    yield Pair(prompt, need_text(row, names[0]), need_text(row, names[1]), p_first, HUMAN)


def _rated(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """HelpSteer2 ratings: ``reader`` joins neighbouring rows of one prompt into ``_rows``; higher is better."""
    key = criterion or "helpfulness"
    for one, other in combinations(row["_rows"], 2):
        a, b = number(one, key), number(other, key)
        p_first = 0.5 if a == b else float(a > b)
        yield Pair(need_prompt(one, "prompt"), need_text(one, "response"), need_text(other, "response"), p_first, HUMAN)


def _scored(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """UltraFeedback: every pair of answers; the scores are a model's (GPT-4), so no person's choice is claimed."""
    prompt = PromptCell(need_text(row, "instruction"), row_tags(row) | {"source": str(row.get("source"))})
    key = criterion or "overall_score"
    for one, other in combinations(row["completions"], 2):
        a, b = _rating(one, key), _rating(other, key)
        p_first = None if a is None or b is None else 0.5 if a == b else float(a > b)
        sources = (str(one.get("model") or "data"), str(other.get("model") or "data"))
        by = "gpt-4 (UltraFeedback)" if p_first is not None else None
        yield Pair(prompt, need_text(one, "response"), need_text(other, "response"), p_first, by, sources)


def _rating(completion: Mapping[str, Any], key: str) -> float | None:
    """An overall score, or the rating of one aspect; None where the file says N/A."""
    value = completion.get(key)
    if value is None:
        value = ((completion.get("annotations") or {}).get(key) or {}).get("Rating")
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _references(row: Mapping[str, Any], criterion: str | None) -> Iterable[Pair]:
    """SHP: ``labels`` is 1 where the first answer has the higher score."""
    p_first = choice(row["labels"], "labels", first=(1,), second=(0,))
    yield Pair(
        need_prompt(row, "history"), need_text(row, "human_ref_A"), need_text(row, "human_ref_B"), p_first, HUMAN
    )


def _safer(row: Mapping[str, Any]) -> Iterable[str]:
    del row
    return ("better", "safer")


def _ratings(row: Mapping[str, Any]) -> Iterable[str]:
    """HelpSteer2: every column that is a number."""
    return [key for key, value in row["_rows"][0].items() if type(value) in (int, float)]


def _scores(row: Mapping[str, Any]) -> Iterable[str]:
    """UltraFeedback: every score of an answer, and every aspect it is rated on."""
    first = row["completions"][0] if row["completions"] else {}
    return [*(key for key, value in first.items() if type(value) in (int, float)), *(first.get("annotations") or {})]


def _is_record(row: Mapping[str, Any]) -> bool:
    return isinstance(row["prompt"], Mapping) and "messages" in row["prompt"] and isinstance(row["first"], Mapping)


SHAPES: tuple[Shape, ...] = (
    Shape("comparison records", ("prompt", "first", "second"), _ours, _is_record),
    Shape("prompt, first, second", ("prompt", "first", "second"), _stored),
    Shape("summarize_from_feedback", ("info", "summaries", "choice"), _summaries),
    Shape("PKU-SafeRLHF", ("prompt", "response_0", "response_1", "better_response_id"), _safe_pairs, criteria=_safer),
    Shape("votes on conversations", ("conversation_a", "conversation_b", "winner"), _votes),
    Shape("PandaLM", ("instruction", "response1", "response2", "annotator1"), _annotators),
    Shape("HelpSteer3", ("context", "response1", "response2", "overall_preference"), _strengths),
    Shape("HelpSteer2 preference", ("prompt", "response_1", "response_2", "preference_strength"), _strengths),
    Shape("HelpSteer2", ("_rows",), _rated, criteria=_ratings),
    Shape("LLMBar", ("input", "output_1", "output_2", "label"), _labelled_outputs),
    Shape("AlpacaEval annotations", ("instruction", "output_1", "output_2"), _annotations),
    Shape("UltraFeedback", ("instruction", "completions"), _scored, criteria=_scores),
    Shape("SHP", ("history", "human_ref_A", "human_ref_B", "labels"), _references),
    Shape("correct and incorrect dialogues", ("text_correct", "text_incorrect"), _options),
    Shape("chosen, rejected", ("chosen", "rejected"), _chosen),
)
