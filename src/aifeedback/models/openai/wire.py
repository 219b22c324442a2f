"""What goes to an OpenAI-compatible server and what comes back, as pure functions.

Nothing here trusts an answer: every field is checked for type and range before it becomes a number, and what
does not pass is a named problem. Only the list of top log-probabilities is read; the sampled token is ignored, so the
reading does not depend on luck.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from aifeedback.errors import ModelError
from aifeedback.inference.encoding import transcript
from aifeedback.models import dialects
from aifeedback.models.label_logprobs import SLACK, add_logs
from aifeedback.types import FinishReason, Message, Problem, PromptLike, Sampling

Api = Literal["chat", "completions", "messages"]
"""messages: Anthropic's."""
Continuing = Literal["flags", "native", "fold"]
"""How a chat server continues a started answer. flags: ``continue_final_message`` (vLLM, SGLang). native: it continues
a last assistant message by itself (llama.cpp). fold: it cannot, so the start of the answer ends the user's message."""

TOP = 20
"""Most log-probabilities per position that servers show unless set otherwise (OpenAI's old endpoint: 5)."""
NEVER = -9000.0
"""Servers write about −9999 for 'not in the list' and for zero probability; neither is a reading."""
MOST_TOKENS = 10**9
FEW = 3
"""Tries for an answer that another try is unlikely to improve."""
CUT = "the token limit was reached before any answer, in thinking that is not shown; raise answer_tokens"


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
    cost_usd: float | None = None
    """Where the server reports what the call cost."""


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
    if api == "messages":
        return _anthropic(messages, continuing, started)
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


def _anthropic(messages: list[Message], continuing: Continuing, started: str) -> dict[str, Any]:
    """The system message has a field of its own. Raises ModelError for messages that this format has no place for."""
    system = [m.content for m in itertools.takewhile(lambda m: m.role == "system", messages)]
    turns = messages[len(system) :]
    if other := next((m.role for m in turns if m.role in ("system", "tool")), None):
        what = (
            f"the Messages format has no place for a {other} message {'after the first' if other == 'system' else ''}"
        )
        raise ModelError(what.strip(), fix="leave those rows out, or judge them with another model")
    if started or not turns or turns[-1].role == "assistant":
        begun = turns.pop().content if turns and turns[-1].role == "assistant" else ""
        fields = _continued(turns, begun + started, "fold" if continuing == "fold" else "native")
    else:
        fields = {"messages": [_plain(message) for message in turns]}
    return {**({"system": "\n\n".join(system)} if system else {}), **fields}


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


NEUTRAL: Mapping[str, float] = {"temperature": 1.0, "top_p": 1.0}
"""Sampling from the model's own distribution. Sent only to servers that would otherwise use settings of their own."""


def readout_fields(api: Api, top: int, *, has_own_defaults: bool = False) -> dict[str, Any]:
    """One token, and the log-probabilities of its ``top`` likeliest. At temperature 1 they are the model's own, whether
    a server reports them before or after temperature; which token is drawn does not matter."""
    shown = {"logprobs": True, "top_logprobs": top} if api == "chat" else {"logprobs": top}
    return {"max_tokens": 1, **(NEUTRAL if has_own_defaults else {}), **shown}


def sampling_fields(
    sampling: Sampling, seed: int, *, has_own_defaults: bool = False, api: Api = "chat"
) -> dict[str, Any]:
    """Only what the sampling sets beyond the neutral values, and a seed where there is anything to draw."""
    wanted = {"temperature": sampling.temperature, "top_p": 1.0 if sampling.top_p is None else sampling.top_p}
    fields: dict[str, Any] = {"max_tokens": sampling.max_new_tokens}
    fields |= {name: value for name, value in wanted.items() if has_own_defaults or value != NEUTRAL[name]}
    if sampling.temperature > 0 and api != "messages":
        fields["seed"] = seed
    if sampling.top_k is not None:
        fields["top_k"] = sampling.top_k
    if sampling.stop:
        fields["stop_sequences" if api == "messages" else "stop"] = list(sampling.stop)
    return fields


# ---------------------------------------------------------------- answers


def payload(body: bytes) -> dict[str, Any]:
    """The answer as JSON; raises Unusable for anything but an object without an error."""
    if (streamed := dialects.events(body)) is not None:
        return sound(dialects.assembled(streamed))
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Unusable(Problem.SERVER_ERROR, f"the answer is not JSON: {_short(body)}", tries=_tries(body)) from None
    return sound(content)


def sound(content: Any) -> dict[str, Any]:
    """A decoded answer; raises Unusable for anything but an object without an error."""
    if not isinstance(content, dict):
        raise Unusable(Problem.SERVER_ERROR, f"the answer is not a JSON object: {_shown(content)}")
    if content.get("error"):
        raise Unusable(Problem.SERVER_ERROR, f"the server reports: {_shown(content)}")
    return content


def choice(answer: Mapping[str, Any], api: Api = "chat") -> dict[str, Any]:
    """The first choice; raises Unusable where there is none, or where the model refused."""
    choices = answer.get("choices")
    if api == "messages" and "content" in answer:
        choices = [{"message": {"content": answer["content"]}, "finish_reason": answer.get("stop_reason")}]
    if not isinstance(choices, list) or not choices or not all(isinstance(one, dict) for one in choices):
        raise Unusable(Problem.SERVER_ERROR, f"the answer holds no choices: {_shown(answer)}"[:300], tries=FEW)
    first = next((one for one in choices if one.get("index") == 0), choices[0])
    message = first.get("message")
    broken = first.get("error") or (isinstance(message, dict) and message.get("error"))
    if broken:
        raise Unusable(Problem.SERVER_ERROR, f"the server reports for its answer: {str(broken)[:200]}")
    end = dialects.end_of(first)
    if end == "filtered" or (isinstance(message, dict) and (message.get("refusal") or _refuses(message))):
        raise Unusable(Problem.REFUSED, "the model refused", tries=1)
    if end == "aborted":
        raise Unusable(Problem.SERVER_ERROR, f"the answer was aborted (finish_reason {_reason(first)})")
    return first


def _refuses(message: Mapping[str, Any]) -> bool:
    """Whether the content is a list of parts of which one is a refusal, and none a text."""
    content = message.get("content")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return any(part.get("type") == "refusal" for part in parts) and not _joined(content)


def _reason(first: Mapping[str, Any]) -> str:
    return repr(first.get("finish_reason", first.get("stop_reason")))[:60]


def top_table(first: Mapping[str, Any], api: Api) -> dict[str, float]:
    """Token text → log-probability at the first position. An entry listed more than once counts once; texts that
    several tokens share are summed.

    Raises Unusable (no_logprobs, bad_logprobs) unless the entries can all be probabilities of exclusive tokens.
    """
    logprobs = first.get("logprobs")
    if not isinstance(logprobs, dict):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no log-probabilities", tries=FEW)
    entries = _chat_entries(logprobs) if api == "chat" or "content" in logprobs else _legacy_entries(logprobs)
    if not entries:
        raise Unusable(Problem.NO_LOGPROBS, "the server returned an empty list of log-probabilities", tries=FEW)
    try:
        texts = dialects.token_texts(entries)
    except dialects.UnknownTokens as unknown:
        raise Unusable(Problem.BAD_LOGPROBS, str(unknown), tries=FEW) from None
    table: dict[str, float] = {}
    counted: set[tuple[Any, ...]] = set()
    for entry, token in zip(entries, texts, strict=True):
        logprob = _real(entry.logprob)
        if logprob is None or logprob > SLACK:
            what = f"not a log-probability: {entry.token!r}: {str(entry.logprob)[:40]}"[:200]
            raise Unusable(Problem.BAD_LOGPROBS, what, tries=FEW)
        identity = (str(entry.token), str(entry.bytes), round(logprob, 3))
        if logprob > NEVER and token and identity not in counted:  # control tokens may be shown as empty texts
            counted.add(identity)
            table[token] = add_logs(table.get(token), min(logprob, 0.0))
    if math.fsum(math.exp(value) for value in table.values()) > 1.0 + 10 * SLACK:
        raise Unusable(Problem.BAD_LOGPROBS, "the probabilities sum to more than 1", tries=FEW)
    return table


def _chat_entries(logprobs: Mapping[str, Any]) -> list[dialects.Entry]:
    content = logprobs.get("content")
    if not isinstance(content, list) or not content or not isinstance(content[0], dict):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no log-probabilities for its answer", tries=FEW)
    shown = content[0].get("top_logprobs")
    if not isinstance(shown, list):
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no top log-probabilities", tries=FEW)
    if not all(isinstance(entry, dict) for entry in shown):
        raise Unusable(Problem.BAD_LOGPROBS, "an entry of the top log-probabilities is not an object", tries=FEW)
    return [dialects.Entry(entry.get("token"), entry.get("logprob"), entry.get("bytes")) for entry in shown]


def _legacy_entries(logprobs: Mapping[str, Any]) -> list[dialects.Entry]:
    shown = logprobs.get("top_logprobs")
    if not isinstance(shown, list) or not shown:
        raise Unusable(Problem.NO_LOGPROBS, "the server returned no top log-probabilities", tries=FEW)
    if not isinstance(shown[0], dict):
        raise Unusable(Problem.BAD_LOGPROBS, "the top log-probabilities are not an object", tries=FEW)
    return [dialects.Entry(token, value) for token, value in shown[0].items()]


def text(first: Mapping[str, Any], api: Api) -> Text:
    """The sampled text; raises Unusable where there is none."""
    message = first if api == "completions" else first.get("message")
    key = "text" if api == "completions" else "content"
    if not isinstance(message, dict) or (key not in message and not _thoughts(message)):
        raise Unusable(Problem.SERVER_ERROR, "the answer holds no text")
    content, end = _joined(message.get(key)), dialects.end_of(first)
    if end is None:
        cause = f"the answer does not say that it is finished (finish_reason {_reason(first)})"
        raise Unusable(Problem.SERVER_ERROR, cause, tries=FEW)
    if end == "tool":
        raise Unusable(Problem.UNREADABLE, "the model called a tool and gave no answer", tries=1)
    if content is None:
        raise Unusable(Problem.SERVER_ERROR, "the answer holds no text", tries=FEW)
    if not content.strip():
        if end == "length":
            raise Unusable(Problem.TRUNCATED, CUT, tries=1)
        raise Unusable(Problem.EMPTY, "the answer is empty", tries=FEW)
    return Text(_storable(content), end if end in ("stop", "length") else "unknown")


def _storable(content: str) -> str:
    """The text with half surrogate pairs, which no file can hold, as the replacement character."""
    if content.isascii():
        return content
    return content.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def at_its_limit(sample: Text, used: Usage, max_tokens: int) -> Text:
    """The text as cut where it is exactly as long as the limit: some servers call that a clean end."""
    is_full = sample.finish_reason == "stop" and used.completion_tokens == max_tokens > 1
    return sample._replace(finish_reason="length") if is_full else sample


def _thoughts(message: Mapping[str, Any]) -> bool:
    """Whether a message holds thinking in a field beside its content."""
    return any(isinstance(message.get(key), str | list) for key in ("reasoning_content", "reasoning", "thinking"))


def _joined(content: Any) -> str | None:
    """Content as one text: a text, nothing ("" for null), or a list of parts of which those with text count."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        return None
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif part.get("type", "text") in ("text", "output_text"):
            inner = part.get("text")
            value = inner.get("value") if isinstance(inner, dict) else inner
            if not isinstance(value, str):
                return None
            texts.append(value)
    return "".join(texts)


def usage(answer: Mapping[str, Any]) -> Usage:
    """What a call used. Answer tokens are whatever the total holds beyond the prompt where that is more than the server
    counts as answer: some count thinking in the total only."""
    fields = next((f for f in map(answer.get, ("usage", "usageMetadata")) if isinstance(f, dict)), None)
    if fields is None:
        return Usage()
    merged = dict(fields)
    for details in dialects.DETAILS:
        if isinstance(fields.get(details), dict):
            merged = {**fields[details], **merged}
    counts = {what: _first_count(merged, names) for what, names in dialects.USAGE.items() if what != "cost"}
    prompt, completion, total = counts["prompt"], counts["completion"], counts["total"]
    if prompt is not None and "input_tokens" in fields and "prompt_tokens" not in fields:
        prompt += sum(_count(merged.get(name)) or 0 for name in dialects.USAGE["beside"])
    if prompt is None and total is not None and completion is not None and total >= completion:
        prompt = total - completion
    beyond = total - prompt if total is not None and prompt is not None else None
    answers = [n for n in (completion, beyond, counts["thinking"]) if n is not None and n >= 0]
    cost = next((c for name in dialects.USAGE["cost"] if (c := _dollars(fields.get(name))) is not None), None)
    return Usage(prompt, max(answers) if answers else None, counts["cached"] or 0, cost)


def _first_count(fields: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((count for name in names if (count := _count(fields.get(name))) is not None), None)


def _dollars(value: Any) -> float | None:
    amount = _real(value.get("total_cost") if isinstance(value, dict) else value)
    return amount if amount is not None and 0.0 < amount < 1e6 else None


def _real(value: Any) -> float | None:
    """A number that JSON can hold as a float; None for anything else, NaN and integers beyond all floats included."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return None if math.isnan(value) else float(value)
    except OverflowError:
        return None


def _count(value: Any) -> int | None:
    """A number of tokens, as a whole number, a float without a fraction, or digits."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        return _count(int(value))
    if isinstance(value, float) and value.is_integer():
        return _count(int(value))
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MOST_TOKENS else None


def _tries(body: bytes) -> int | None:
    """A web page is what a wrong address answers, every time."""
    return FEW if body.lstrip()[:1] == b"<" else None


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:300]


def _short(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")
