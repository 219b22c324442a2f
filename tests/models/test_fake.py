"""The scripted judge: the same on every machine, blind to order unless told otherwise, biased as told."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.errors import ModelError
from aifeedback.models import connect
from aifeedback.models.fake import NAMED, FakeModel, Taste, judged_pair, last_text
from aifeedback.types import Message, Problem, Sampling

GRADES = [str(grade) for grade in range(1, 11)]


def pair(first: str, second: str, *, quoted: bool = True) -> str:
    if not quoted:
        return (
            f"Example\nResponse 1: x\nResponse 2: y\n\nBetter=1\n\nResponse 1: {first}\nResponse 2: {second}\n\nBetter="
        )
    first, second = ("\n".join(f"> {line}" for line in text.split("\n")) for text in (first, second))
    return f"Judge.\n\nQuestion:\n> why?\n\nResponse 1:\n{first}\n\nResponse 2:\n{second}\n\nBetter:"


def margin(model: FakeModel, prompt: str) -> float:
    logprobs = model.label_logprobs([prompt], ["1", "2"])[0]
    return logprobs[0] - logprobs[1]


@pytest.mark.parametrize("quoted", [True, False])
def test_finds_the_judged_texts(quoted: bool) -> None:
    assert judged_pair(pair("one", "two", quoted=quoted)) == ("one", "two")


def test_finds_texts_of_many_lines() -> None:
    assert judged_pair(pair("one\n\nmore", "two")) == ("one\n\nmore", "two")
    assert judged_pair("no texts here") is None
    assert last_text("Rate.\n\n> the\n> text\n\nRating:") == "the\ntext"


def test_quality_does_not_see_the_order() -> None:
    model = FakeModel("quality")
    assert margin(model, pair("one", "two")) == pytest.approx(-margin(model, pair("two", "one")), abs=1e-12)
    assert margin(model, pair("one", "two")) != 0.0


def test_length_and_position() -> None:
    assert margin(FakeModel("longer"), pair("long " * 20, "short")) > 4
    assert margin(FakeModel("shorter"), pair("long " * 20, "short")) < -4
    assert margin(FakeModel("first"), pair("a", "b")) == pytest.approx(4.0)
    assert margin(FakeModel("second"), pair("a", "b")) == pytest.approx(-4.0)
    assert margin(FakeModel("undecided"), pair("a", "b")) == 0.0
    planted = FakeModel(taste=Taste(quality=1.0, position=1.5))
    both = margin(planted, pair("a", "b")) + margin(planted, pair("b", "a"))
    assert both == pytest.approx(3.0)


def test_answers_are_probabilities_with_the_coverage_it_claims() -> None:
    for labels in (["1", "2"], GRADES, ["good", "bad"], ["x", "y", "z"]):
        readings = FakeModel("noisy", coverage=0.9).read_labels([pair("a", "b"), "rate\n\n> a text"], labels)
        for reading in readings:
            assert np.exp([value for value in reading.logprobs if value is not None]).sum() == pytest.approx(0.9)


def test_the_same_on_every_machine() -> None:
    assert margin(FakeModel("quality"), pair("one", "two")) == pytest.approx(4.8295456, abs=1e-6)
    assert FakeModel().reply(["x"], Sampling(seed=3)) == FakeModel().reply(["x"], Sampling(seed=3))
    replies = {FakeModel().reply(["x"], Sampling(seed=seed))[0].text for seed in range(20)}
    assert len(replies) > 2
    greedy = {FakeModel().reply(["x"], Sampling(temperature=0.0, seed=seed))[0].text for seed in range(20)}
    assert len(greedy) == 1


def test_messages_are_read_as_their_text() -> None:
    model = FakeModel()
    asked = [Message(role="user", content=pair("a", "b")), Message(role="assistant", content="Better:")]
    assert model.read_labels([asked], ["1", "2"])[0].logprobs[0] is not None


def test_faults_come_at_the_set_rate() -> None:
    model = FakeModel(faults={Problem.REFUSED: 0.2, Problem.TIMEOUT: 0.1})
    readings = model.read_labels([f"prompt {n}" for n in range(2000)], ["1", "2"])
    problems = [reading.problem for reading in readings]
    assert problems.count(Problem.REFUSED) == pytest.approx(400, abs=60)
    assert problems.count(Problem.TIMEOUT) == pytest.approx(200, abs=45)
    assert all((reading.problem is None) == (None not in reading.logprobs) for reading in readings)


def test_two_fakes_that_answer_differently_have_different_cards() -> None:
    cards = [FakeModel(name).card for name in NAMED] + [FakeModel(coverage=0.5).card, FakeModel(script=str.upper).card]  # type: ignore[arg-type]
    assert len({card.model_dump_json() for card in cards}) == len(cards)


def test_by_uri() -> None:
    model = connect("fake:longer", coverage=0.5)
    assert model.card.uri == "fake:longer"
    with pytest.raises(ModelError, match=r"no fake model is called 'lnger'"):
        connect("fake:lnger")
