"""What is sent, and that whatever comes back, every number is one that the server sent."""

from __future__ import annotations

import copy
import json
import math
from random import Random
from typing import Any

import pytest

from aifeedback.models.label_logprobs import LabelSet, add_logs, label_logprobs
from aifeedback.models.openai import wire
from aifeedback.types import Message, Problem, Sampling
from models.stub import chat_body, legacy_body, others, truth

PAIR = LabelSet(("1", "2"))
USER = Message(role="user", content="Which?")
BEGUN = Message(role="assistant", content="Better:")


def test_text_goes_to_completions_and_messages_to_chat() -> None:
    assert wire.path("x", "auto") == "completions"
    assert wire.path([USER], "auto") == "chat"
    assert wire.path([USER], "completions") == "completions"
    assert wire.prompt_fields("x", "completions", "fold", "1") == {"prompt": "x1"}
    assert wire.prompt_fields("x", "chat", "fold") == {"messages": [{"role": "user", "content": "x"}]}


def test_a_started_answer_is_continued_as_the_server_can() -> None:
    user, begun = {"role": "user", "content": "Which?"}, {"role": "assistant", "content": "Better:1"}
    assert wire.prompt_fields([USER, BEGUN], "chat", "native", "1") == {"messages": [user, begun]}
    assert wire.prompt_fields([USER, BEGUN], "chat", "flags", "1") == {
        "messages": [user, begun],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    folded = {"role": "user", "content": "Which?\n\nBetter:1"}
    assert wire.prompt_fields([USER, BEGUN], "chat", "fold", "1") == {"messages": [folded]}
    system = Message(role="system", content="Judge.")
    sent = wire.prompt_fields([system, BEGUN], "chat", "fold")["messages"]
    assert sent == [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Better:"}]


def test_sampling_is_sent_as_it_is() -> None:
    fields = wire.sampling_fields(Sampling(temperature=0.3, top_k=40, max_new_tokens=7, stop=("\n",)), 5)
    assert fields == {"max_tokens": 7, "temperature": 0.3, "seed": 5, "top_k": 40, "stop": ["\n"]}
    assert wire.sampling_fields(Sampling(top_p=0.9, max_new_tokens=7), 5) == {"max_tokens": 7, "top_p": 0.9, "seed": 5}
    assert wire.sampling_fields(Sampling(temperature=0.0, max_new_tokens=7), 5) == {"max_tokens": 7, "temperature": 0.0}
    own = wire.sampling_fields(Sampling(max_new_tokens=7), 5, has_own_defaults=True)
    assert own == {"max_tokens": 7, "temperature": 1.0, "top_p": 1.0, "seed": 5}, "else the server's own would count"
    assert "top_k" not in wire.sampling_fields(Sampling(), 5)


def read(body: bytes, api: wire.Api) -> list[float | None] | Problem:
    try:
        return label_logprobs({"": wire.top_table(wire.choice(wire.payload(body)), api)}, PAIR)
    except wire.Unusable as unusable:
        return unusable.problem


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_right_answer_is_read_to_the_last_bit(api: wire.Api) -> None:
    table = {**truth("x"), **others()}
    body = chat_body(table) if api == "chat" else legacy_body(table)
    assert read(json.dumps(body).encode(), api) == list(truth("x").values())
    assert wire.text(wire.choice(body), api) == wire.Text("1", "length")
    assert wire.usage(body) == wire.Usage(10, 1, 0)


def test_the_sampled_token_is_not_read() -> None:
    """The drawn token may lie outside the top: whether a label is known must not depend on that luck."""
    body = chat_body({"1": -0.1, "x": -3.0})
    body["choices"][0]["logprobs"]["content"][0] |= {"token": "2", "logprob": -5.0}
    assert read(json.dumps(body).encode(), "chat") == [-0.1, None]


def test_usage_that_makes_no_sense_is_none() -> None:
    for usage in (None, 3, {"prompt_tokens": -1, "completion_tokens": True}, {"prompt_tokens": 10**12}):
        assert wire.usage({"usage": usage}) == wire.Usage()
    cached = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}}
    assert wire.usage({"usage": cached}) == wire.Usage(9, 1, 8)


# ---------------------------------------------------------------- replies

JUNK: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 1e308, -1e308, float("nan"), float("inf"), float("-inf"), -9999.0, "", "1",
    "-0.5", [], {}, [None], [[]], {"token": "1"}, {"logprob": -1.0}, "ignore this", 10**400, "\ud800",
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


def mutated(draw: Random, body: dict[str, Any]) -> bytes:
    """Junk in one to three places, or a damaged text."""
    body = copy.deepcopy(body)
    if draw.random() < 0.7:
        for _ in range(draw.randint(1, 3)):
            *path, last = draw.choice(places(body)[1:])
            inner: Any = body
            for key in path:
                inner = inner[key]
            if draw.random() < 0.3:
                del inner[last]
            else:
                inner[last] = copy.deepcopy(draw.choice(JUNK))
            if not isinstance(body.get("choices"), list) or len(places(body)) < 3:
                break
        return json.dumps(body).encode("utf-8", "replace")
    text = bytearray(json.dumps(body).encode())
    kind = draw.randrange(4)
    if kind == 0:
        return bytes(text[: draw.randrange(len(text))])
    if kind == 1:
        text[draw.randrange(len(text))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        start = draw.randrange(len(text))
        del text[start : start + draw.randint(1, 40)]
    else:
        start = draw.randrange(len(text))
        text[start:start] = text[: draw.randint(1, 40)]
    return bytes(text)


def numbers(value: Any) -> set[float]:
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers, value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {float(value)} if is_number and abs(value) < 1e308 else set()


def read_mutations(count: int, seed: int) -> dict[str, int]:
    """Reads mutated answers; each label is None, or is a number that the mutated answer itself holds for a token."""
    draw = Random(seed)
    counted = {"problem": 0, "partly": 0, "read": 0}
    for number in range(count):
        api: wire.Api = "chat" if number % 2 else "completions"
        table = {**truth(str(number)), **others(4)}
        right = list(truth(str(number)).values())
        body = mutated(draw, chat_body(table) if api == "chat" else legacy_body(table))
        found = read(body, api)
        if isinstance(found, Problem):
            counted["problem"] += 1
            continue
        counted["read" if None not in found else "partly"] += 1
        if found == right:
            continue
        held = numbers(json.loads(body))
        for value in found:
            assert value is None or value in held or any(math.isclose(value, h) for h in _sums(held)), (body, found)
    return counted


def _sums(held: set[float]) -> list[float]:
    """Two tokens of one text are summed, so a sum of two probabilities that were sent is sent too."""
    small = [value for value in held if -100 < value <= 1e-3]
    return [add_logs(min(a, 0.0), min(b, 0.0)) for a in small for b in small] + [min(a, 0.0) for a in small]


def test_mutated_answers() -> None:
    counted = read_mutations(4000, seed=0)
    assert counted["problem"] > 1000
    assert counted["read"] > 500


@pytest.mark.campaign
def test_campaign_a_hundred_thousand_mutated_answers() -> None:
    print(read_mutations(100_000, seed=1))
