"""What goes to an OpenAI-compatible server and what comes back, as pure functions.

Nothing here trusts an answer: every field is checked for type and range before it becomes a number of ours, and what
does not pass is a named problem. Only the list of top log-probabilities is read; the sampled token is ignored, so the
reading does not depend on luck.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from aifeedback.engine.encoding import transcript
from aifeedback.models.readings import SLACK
from aifeedback.protocols import PromptLike
from aifeedback.records import FinishReason, Message, Problem, Sampling

Api = Literal["chat", "completions"]
Continuing = Literal["flags", "native", "fold"]
"""How a chat server continues a started answer. flags: ``continue_final_message`` (vLLM, SGLang). native: it continues
a last assistant message by itself (llama.cpp). fold: it cannot, so the start of the answer ends the user's message."""

TOP = 20
"""Most log-probabilities per position that servers show unless set otherwise (OpenAI's old endpoint: 5)."""
NEVER = -9000.0
"""Servers write about −9999 for 'not in the list' and for zero probability; neither is a reading."""
MOST_TOKENS = 10**9


class Unusable(Exception):
    """An answer that cannot be used. ``tries``: how often to ask at most before it stands; None as budgeted."""

    def __init__(self, problem: Problem, cause: str, *, tries: int | None = None) -> None:
        super().__init__(cause)
        self.problem, self.cause, self.tries = problem, cause, tries


class Usage(NamedTuple):
    """What the server says it used; None where it does not say, or says nonsense."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0


class Text(NamedTuple):
    text: str
    finish_reason: FinishReason


# ---------------------------------------------------------------- requests


def path(prompt: PromptLike, api: Api | Literal["auto"]) -> Api:
    """Messages go to the chat endpoint and text to the completions endpoint, unless one of them is asked for."""
    if api != "auto":
        return api
    return "completions" if isinstance(prompt, str) else "chat"


def prompt_fields(prompt: PromptLike, api: Api, continuing: Continuing, started: str = "") -> dict[str, Any]:
    """The prompt part of a request body; ``started`` is text that the answer already begins with."""
    if api == "completions":
        text = prompt if isinstance(prompt, str) else transcript(prompt)
        return {"prompt": text + started}
    messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else list(prompt)
    if started or messages[-1].role == "assistant":
        begun = messages.pop().content if messages[-1].role == "assistant" else ""
        return _continued(messages, begun + started, continuing)
    return {"messages": [_plain(message) for message in messages]}


def can_continue(api: Api, continuing: Continuing) -> bool:
    """Can the position after further label tokens be read?"""
    return api == "completions" or continuing != "fold"


def _continued(messages: list[Message], begun: str, continuing: Continuing) -> dict[str, Any]:
    if continuing == "fold":
        last = messages[-1] if messages and messages[-1].role == "user" else Message(role="user", content="")
        kept = messages[:-1] if messages and messages[-1].role == "user" else messages
        glue = "\n\n" if last.content else ""
        folded = Message(role="user", content=f"{last.content}{glue}{begun}")
        return {"messages": [_plain(message) for message in [*kept, folded]]}
    fields: dict[str, Any] = {"messages": [*map(_plain, messages), {"role": "assistant", "content": begun}]}
    if continuing == "flags":
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    return fields


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def readout_fields(api: Api, top: int) -> dict[str, Any]:
    """One token, and the log-probabilities of its ``top`` likeliest. At temperature 1 they are the model's own, whether
    a server reports them before or after temperature; which token is drawn does not matter."""
    shown = {"logprobs": True, "top_logprobs": top} if api == "chat" else {"logprobs": top}
    return {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, **shown}


def sampling_fields(sampling: Sampling, seed: int) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "max_tokens": sampling.max_new_tokens,
        "temperature": sampling.temperature,
        "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
        "seed": seed,
    }
    if sampling.top_k is not None:
        fields["top_k"] = sampling.top_k
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    return fields


# ---------------------------------------------------------------- answers


def payload(body: bytes) -> dict[str, Any]:
    """The answer as JSON; raises Unusable for anything but an object without an error."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Unusable(Problem.SERVER_ERROR, f"the answer is not JSON: {_short(body)}") from None
    if not isinstance(found, dict):
        raise Unusable(Problem.SERVER_ERROR, f"the answer is not a JSON object: {_short(body)}")
    if found.get("error"):
        raise Unusable(Problem.SERVER_ERROR, f"the server reports: {_short(body)}")
    return found


def choice(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice; raises Unusable where there is none, or where the model refused."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unusable(Problem.SERVER_ERROR, "the answer holds no choices")
    first = choices[0]
    message = first.get("message")
    if first.get("finish_reason") == "content_filter" or (isinstance(message, dict) and message.get("refusal")):
        raise Unusable(Problem.REFUSED, "the model refused", tries=1)
    return first


def top_table(first: Mapping[str, Any], api: Api) -> dict[str, float]:
    """Token text → log-probability at the first position; texts that several tokens share are summed.

    Raises Unusable (no_logprobs, bad_logprobs) unless the entries can all be probabilities of exclusive tokens.
    """
    logprobs = first.get("logprobs")
    if not isinstance(logprobs, dict):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no log-probabilities")
    entries = _chat_entries(logprobs) if api == "chat" or "content" in logprobs else _legacy_entries(logprobs)
    if not entries:
        raise Unusable(Problem.NO_LOGPROBS, "the server returned an empty list of log-probabilities")
    table: dict[str, float] = {}
    for token, value in entries:
        logprob = _real(value)
        if not isinstance(token, str) or logprob is None or logprob > SLACK:
            raise Unusable(Problem.BAD_LOGPROBS, f"not a log-probability: {token!r}: {str(value)[:40]}"[:200])
        if logprob > NEVER and token:  # control tokens may be shown as empty texts
            table[token] = add_logs(table.get(token), min(logprob, 0.0))
    if math.fsum(math.exp(value) for value in table.values()) > 1.0 + 10 * SLACK:
        raise Unusable(Problem.BAD_LOGPROBS, "the probabilities sum to more than 1")
    return table


def _chat_entries(logprobs: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    content = logprobs.get("content")
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no log-probabilities for its answer")
    shown = content[0].get("top_logprobs")
    if not isinstance(shown, list):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no top log-probabilities")
    if not all(isinstance(entry, dict) for entry in shown):
        raise Unusable(Problem.BAD_LOGPROBS, "an entry of the top log-probabilities is not an object")
    return [(entry.get("token"), entry.get("logprob")) for entry in shown]


def _legacy_entries(logprobs: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    shown = logprobs.get("top_logprobs")
    if not isinstance(shown, list) or not shown:
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no top log-probabilities")
    if not isinstance(shown[0], dict):
        raise Unusable(Problem.BAD_LOGPROBS, "the top log-probabilities are not an object")
    return list(shown[0].items())


def text(first: Mapping[str, Any], api: Api) -> Text:
    """The sampled text; raises Unusable where there is none."""
    message = first.get("message") if api == "chat" else first
    found = message.get("content" if api == "chat" else "text") if isinstance(message, dict) else None
    if not isinstance(found, str):
        raise Unusable(Problem.SERVER_ERROR, "the answer holds no text")
    if not found.strip():
        raise Unusable(Problem.EMPTY, "the answer is empty", tries=3)
    reason = first.get("finish_reason")
    return Text(found, reason if reason in ("stop", "length") else "unknown")


def usage(answer: Mapping[str, Any]) -> Usage:
    found = answer.get("usage")
    if not isinstance(found, dict):
        return Usage()
    details = found.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(_count(found.get("prompt_tokens")), _count(found.get("completion_tokens")), cached or 0)


def _real(value: Any) -> float | None:
    """A number that JSON can hold as a float; None for anything else, NaN and integers beyond all floats included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return None if math.isnan(value) else float(value)
    except OverflowError:
        return None


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_TOKENS
    return value if is_count else None


def _short(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")


def add_logs(first: float | None, second: float) -> float:
    """log(exp(first) + exp(second)); None counts as log 0."""
    if first is None:
        return second
    high, low = max(first, second), min(first, second)
    return min(high + math.log1p(math.exp(low - high)), 0.0)
