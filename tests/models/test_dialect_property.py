"""Whatever dialect a server speaks, a label is the right one or unknown by name, in every readout."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.errors import ModelError
from aifeedback.models.dialects import FINISH, REFUSED, THINKING
from aifeedback.models.label_logprobs import LabelSet
from aifeedback.models.openai import wire
from aifeedback.models.openai.budget import Price, Spending
from aifeedback.models.openai.client import Answer, Caller, CallFailed, Limits
from aifeedback.models.openai.requests import NO_VOTES, Asker, Job
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.models.verdicts import parse_label
from aifeedback.types import Message, Problem, Reading
from models import dialect_replies as replies

LABELS = ["1", "2"]
ROWS = [(family, pair) for family, pairs in replies.MARKS.items() for pair in pairs]
SEEDS = st.integers(min_value=0, max_value=2**32)
FEW = settings(max_examples=20, deadline=None)


class Direct:
    """Stands for the HTTP client: hands a body to the reader, settles its cost, and never waits."""

    def __init__(self, answer: Callable[[], dict[str, Any]]) -> None:
        self.answer, self.answered, self.count = answer, 0, 0

    async def post(self, path: str, body: Any, read: Any, *, charge: Any, max_tokens: int, key: str) -> Answer[Any]:
        if not await charge.open(max_tokens):
            raise CallFailed(Problem.OVER_BUDGET, ("cap",), attempts=0, seconds=0.0)
        self.count += 1
        found = self.answer()
        charge.close(wire.usage(found))
        try:
            return Answer(read(found), found, 1, 0.0, ())
        except wire.Unusable as unusable:
            raise CallFailed(unusable.problem, (unusable.cause,), attempts=1, seconds=0.0) from None


def reading(answer: Callable[[], dict[str, Any]], readout: str, spending: Spending | None = None) -> Reading:
    """What one question gives under a readout."""
    options = ServerSettings(base_url="http://127.0.0.1:9/v1", readout=readout, votes=3)  # type: ignore[arg-type]
    asker = Asker("stub", options, "flags", Direct(answer), spending or Spending(None))  # type: ignore[arg-type]
    job = Job(0, [Message(role="user", content="which?")], 6)
    asked: Coroutine[Any, Any, Any]
    asked = asker.read(job, LabelSet(("1", "2"))) if readout == "logprobs" else asker.vote(job, LABELS)
    return asyncio.run(asked).answer


def body(text: Any, reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}], **more}


def named(found: Reading) -> str | None:
    """The label that a written reading names."""
    assert (found.problem is None) == (None not in found.logprobs)
    best = [label for label, p in zip(LABELS, found.logprobs, strict=True) if p is not None and p > NO_VOTES]
    assert len(best) <= 1, "one text gave two labels"
    return best[0] if best else None


def sides(draw: Random) -> tuple[str, str]:
    return ("1", "2") if draw.random() < 0.5 else ("2", "1")


# ---------------------------------------------------------------- thinking


def check_marks(pair: tuple[str, str], seed: int) -> bool:
    draw = Random(seed)
    right, wrong = sides(draw)
    reply = replies.marked(draw, pair, right, wrong)
    readout = draw.choice(["parsed", "votes"])
    found = named(reading(lambda: body(reply), readout))
    assert found in (right, None), reply
    cut = reply[: draw.randrange(len(reply))]
    for text, reason in ((cut, "length"), (reply, "length")):
        assert named(reading(lambda text=text, reason=reason: body(text, reason), readout)) in (right, None), text
    unclosed = f"{pair[0]}{replies.thoughts(draw, wrong)}"
    if pair[0] not in ("Here is my thought process:\n", "## Thinking\n", "Thinking...\n"):
        assert parse_label(unclosed, LABELS).value is None, unclosed
    return found == right


def test_every_family_of_marks_has_examples() -> None:
    assert {marks.family for marks in THINKING} | {"channels"} == set(replies.MARKS)


@pytest.mark.parametrize(("family", "pair"), ROWS)
def test_thinking_never_gives_the_label(family: str, pair: tuple[str, str]) -> None:
    read = [check_marks(pair, seed) for seed in range(12)]
    assert sum(read) >= 8, f"{family}: hardly anything is read"


@FEW
@given(st.sampled_from(replies.UNKNOWN), SEEDS)
def test_a_mark_that_no_table_knows_never_gives_a_wrong_label(pair: tuple[str, str], seed: int) -> None:
    check_unknown_mark(pair, seed)


def check_unknown_mark(pair: tuple[str, str], seed: int) -> None:
    draw = Random(seed)
    right, wrong = sides(draw)
    reply = f"{pair[0]}{replies.thoughts(draw, wrong)}{pair[1]}\n{replies.verdict(draw, right, wrong)}"
    assert named(reading(lambda: body(reply), "parsed")) in (right, None), reply


ORDERS = (
    "{v}<think>{t}</think>", "{v}\n<|channel|>analysis<|message|>{t}<|end|>", "<think>{t}</think>{v}<think>{t}</think>",
    "<|channel|>final<|message|>{v}<|end|><|start|>assistant<|channel|>analysis<|message|>{t}<|end|>",
    "<|channel|>analysis<|message|>{t}<|end|>", "<|channel|>analysis<|message|>Say <|channel|>final<|message|>{w}<|end|>",
    "<|channel|>commentary<|message|>{t}<|end|><|start|>assistant<|channel|>final<|message|>{v}", "{t}</think>{v}",
    "{t}</think>{t}</think>\n{v}", "<think>{t}</think><think></think>{v}", "<think>\n\n</think>\n\n{v}", "<think/>{v}",
    "<think>{t}\n{v}", "<think>{t}</think>", "```\n<think>{t}</think>\n```\n{v}", "<think>`</think>` {t}</think>{v}",
    "<think><reasoning>{t}</think>{v}", "<think>{t}<reasoning>{t}</reasoning>{t}</think>{v}",
)  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_marks_in_other_orders(order: str) -> None:
    for seed in range(8):
        check_order(order, seed)


def check_order(order: str, seed: int) -> None:
    draw = Random(seed)
    right, wrong = sides(draw)
    parts = {"v": replies.verdict(draw, right, wrong), "t": replies.thoughts(draw, wrong), "w": wrong}
    reply = re.sub(r"\{([vtw])\}", lambda m: parts[m[1]], order)
    assert named(reading(lambda: body(reply), draw.choice(["parsed", "votes"]))) in (right, None), reply


# ---------------------------------------------------------------- finish reasons


@FEW
@given(SEEDS)
def test_only_a_clean_end_is_a_whole_answer(seed: int) -> None:
    check_reason(seed)


def check_reason(seed: int) -> None:
    draw = Random(seed)
    reason, end = replies.reasons(draw)
    for readout in ("parsed", "votes"):
        found = reading(lambda: body("Answer: 1", reason), readout)  # may be cut from "Answer: 1 or 2"
        assert (named(found) == "1") == (end == "stop"), reason
    entries, mass = replies.tokens(draw)
    shown = body("1", reason)
    shown["choices"][0]["logprobs"] = {"content": [{"token": "1", "logprob": -1.0, "top_logprobs": entries}]}
    found = reading(lambda: shown, "logprobs")
    assert found.problem in (
        {Problem.REFUSED} if end == "filtered" else {Problem.SERVER_ERROR} if end == "aborted" else {None}
    )
    if found.problem is None:
        assert found.logprobs == pytest.approx([math.log(mass[label]) for label in LABELS], abs=2e-3)


def test_every_finish_reason_has_an_end() -> None:
    assert set(FINISH) == {"stop", "length", "tool", "filtered"}


# ---------------------------------------------------------------- tokens and usage


@FEW
@given(SEEDS)
def test_tokens_in_every_form_give_the_true_mass(seed: int) -> None:
    check_tokens(seed)


def check_tokens(seed: int) -> None:
    draw = Random(seed)
    entries, mass = replies.tokens(draw)
    shown = body("1", "length")
    shown["choices"][0]["logprobs"] = {"content": [{"token": "1", "logprob": -1.0, "top_logprobs": entries}]}
    found = reading(lambda: shown, "logprobs")
    assert found.problem in (None, Problem.BAD_LOGPROBS)
    if found.problem is None:
        assert found.logprobs == pytest.approx([math.log(mass[label]) for label in LABELS], abs=1e-9)


@FEW
@given(SEEDS, st.sampled_from(["logprobs", "votes", "parsed"]))
def test_the_cap_is_never_passed(seed: int, readout: str) -> None:
    check_cap(seed, readout)


def check_cap(seed: int, readout: str) -> None:
    draw = Random(seed)
    price = Price(input=1.0, output=4.0)
    billed: list[float] = []
    form, prompt, answer = replies.usage(draw)
    dearest = (prompt * 1.0 + answer * 4.0) / 1e6

    def answering() -> dict[str, Any]:
        billed.append(dearest)
        return body("1", "stop", usage=form)

    cap = dearest * draw.uniform(1.0, 10.0)
    spending = Spending(price, cap_usd=cap)
    for _ in range(12):
        reading(answering, readout, spending)
    assert math.fsum(billed) <= cap * (1 + 1e-9), form


# ---------------------------------------------------------------- refused parameters

SPOKEN_OF = (
    "Requested top_logprobs of 20 exceeds the limit",
    "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
    "max_tokens is too large: 256", "temperature and top_p cannot both be specified", "top_p is not supported",
    "top_k is not permitted",
    "temperature must be greater than 0", "unknown field seed", "stop: array too long", "continue_final_message is not allowed",
    "response_format is not supported",
    "messages with role 'tool' need tool_call_id",
    "This is a chat model, use v1/chat/completions", "the model has no chat template",
)  # fmt: skip


@pytest.mark.parametrize("words", SPOKEN_OF)
@pytest.mark.parametrize("readout", ["logprobs", "votes", "parsed"])
def test_a_refused_parameter_names_a_setting_that_exists(words: str, readout: str) -> None:
    for seed in range(4):
        check_refusal(words, readout, seed)


def check_refusal(words: str, readout: str, seed: int) -> None:
    caller = Caller("http://127.0.0.1:9/v1", None, Limits(attempts=3, backoff_first_s=1e-3, backoff_most_s=1e-3))
    said = replies.refusals(Random(seed), words)

    async def refused(*_: Any) -> Any:
        return caller._refusal(400, {}, said)  # the private door spares a server for each of some thousand refusals

    caller._attempt = refused  # type: ignore[method-assign]
    options = ServerSettings(base_url="http://127.0.0.1:9/v1", readout=readout)  # type: ignore[arg-type]
    asker = Asker("stub", options, "flags", caller, Spending(None))
    job = Job(0, [Message(role="user", content="which?")], 6)
    asked = asker.read(job, LabelSet(("1", "2"))) if readout == "logprobs" else asker.vote(job, LABELS)
    with pytest.raises(ModelError) as caught:
        asyncio.run(asked)
    assert settings_named(str(caught.value)) or "leave those rows out" in str(caught.value), words


def settings_named(message: str) -> set[str]:
    return {
        word for word in re.findall(r"\b[a-z_]+\b", message.partition("→")[2]) if word in ServerSettings.model_fields
    }


def test_every_row_of_refused_parameters_is_tried() -> None:
    rows = {
        next((n for n, (pattern, _) in enumerate(REFUSED) if re.search(pattern, words, re.I | re.S)), None)
        for words in SPOKEN_OF
    }
    assert rows == set(range(len(REFUSED)))


# ---------------------------------------------------------------- at full size


@pytest.mark.campaign
@pytest.mark.parametrize(("family", "pair"), ROWS)
def test_campaign_thinking(family: str, pair: tuple[str, str]) -> None:
    assert sum(check_marks(pair, seed) for seed in range(1000)) >= 700, family


@pytest.mark.campaign
def test_campaign_the_rest() -> None:
    for seed in range(1000):
        for pair in replies.UNKNOWN:
            check_unknown_mark(pair, seed)
        for order in ORDERS:
            check_order(order, seed)
        for _ in range(4):
            check_reason(seed * 4 + _)
            check_tokens(seed * 4 + _)
        for readout in ("logprobs", "votes", "parsed"):
            check_cap(seed, readout)
            for words in SPOKEN_OF if seed < 84 else ():
                check_refusal(words, readout, seed)
