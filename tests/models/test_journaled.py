"""The cache: what was asked once is not asked again, and any change of the question is a miss."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal, content_key, prompt_hash, setting_digest
from aifeedback.models.journaled import Answered, Journaled
from aifeedback.types import Message, ModelCard, Problem, PromptLike, Reading, Reply, Sampling

PROMPTS: list[PromptLike] = [f"question {n}" for n in range(10)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


def test_the_second_time_nothing_is_asked_and_the_answer_is_the_same(journal: Journal) -> None:
    model = FakeModel()
    first = Journaled(model, journal).read_labels(PROMPTS, ["1", "2"])
    assert model.calls == 10
    assert Journaled(model, journal).read_labels(PROMPTS, ["1", "2"]) == first
    assert model.calls == 10
    assert [r.model_copy(update={"call_id": None}) for r in first] == model.read_labels(PROMPTS, ["1", "2"])
    assert len({r.call_id for r in first}) == 10


def test_replies_are_cached_by_their_sampling(journal: Journal) -> None:
    model = FakeModel()
    cached = Journaled(model, journal)
    first = cached.reply(PROMPTS, Sampling(seed=1))
    cached.reply(PROMPTS, Sampling(seed=2))
    assert model.calls == 20
    assert cached.reply(PROMPTS, Sampling(seed=1)) == first
    assert model.calls == 20


def test_equal_prompts_in_one_call_are_asked_once(journal: Journal) -> None:
    model = FakeModel()
    readings = Journaled(model, journal, batch=3).read_labels(["a", "b", "a", "a", "c", "b"], ["1", "2"])
    assert model.calls == 3
    assert readings[0] == readings[2] == readings[3]
    assert readings[1] == readings[5]


def test_batches_lie_at_fixed_places_so_a_resumed_run_computes_the_same_ones(journal: Journal) -> None:
    seen: list[list[PromptLike]] = []

    class Watched(FakeModel):
        def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
            seen.append(list(prompts))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return super().read_labels(prompts, labels)

    model = Watched()
    with pytest.raises(KeyboardInterrupt):
        Journaled(model, journal, batch=4).read_labels(PROMPTS, ["1", "2"])
    Journaled(model, journal, batch=4).read_labels(PROMPTS, ["1", "2"])
    assert seen == [PROMPTS[:4], PROMPTS[4:8], PROMPTS[8:], PROMPTS[8:]]


class Streams(FakeModel):
    """Hands over answers one by one, last first; counts how many are handed over and not yet committed."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal

    def iter_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> Generator[list[Answered]]:
        for place in reversed(range(len(prompts))):
            before = self.journal.head().rows
            yield [Answered(place, self.read_labels([prompts[place]], labels)[0], 0.5, {"top": {"1": -0.1}})]
            assert self.journal.head().rows == before + 1

    def iter_replies(self, prompts: Sequence[PromptLike], sampling: Sampling) -> Generator[list[Answered]]:
        yield [Answered(place, reply) for place, reply in enumerate(self.reply(prompts, sampling))]


def test_a_streaming_model_is_committed_as_it_answers(journal: Journal) -> None:
    model = Streams(journal)
    readings = Journaled(model, journal).read_labels(PROMPTS, ["1", "2"])
    assert [r.logprobs for r in readings] == [r.logprobs for r in FakeModel().read_labels(PROMPTS, ["1", "2"])]
    rows = list(journal.rows())
    assert [row.entry.seconds for row in rows] == [0.5] * 10
    assert rows[0].entry.raw == '{"top":{"1":-0.1}}'


def test_transit_problems_stay_open_and_answers_with_problems_do_not(journal: Journal) -> None:
    for problem, is_asked_again in [
        (Problem.TIMEOUT, True),
        (Problem.SERVER_ERROR, True),
        (Problem.NO_LOGPROBS, True),
        (Problem.REFUSED, False),
        (Problem.LABEL_HIDDEN, False),
        (Problem.TOO_LONG, False),
    ]:
        model = FakeModel(faults={problem: 1.0})
        first = Journaled(model, journal).read_labels(PROMPTS, ["1", "2"])
        assert all(r.problem is problem and r.logprobs == (None, None) and r.call_id for r in first)
        Journaled(model, journal).read_labels(PROMPTS, ["1", "2"])
        assert model.calls == (20 if is_asked_again else 10)


def test_what_the_spend_cap_forbade_is_not_a_call(journal: Journal) -> None:
    model = FakeModel(faults={Problem.OVER_BUDGET: 1.0})
    cached = Journaled(model, journal)
    readings = cached.read_labels(PROMPTS, ["1", "2"])
    assert all(r.problem is Problem.OVER_BUDGET for r in readings)
    assert journal.head().rows == 0
    assert cached.new_questions == 0


def test_another_process_answering_first_is_believed(journal: Journal) -> None:
    """Two runs ask the same question at once; both end up with the answer that was committed first."""
    other = Journal(journal.path)

    class Slow(FakeModel):
        def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
            Journaled(FakeModel("quality"), other).read_labels(prompts, labels)
            return [Reading(logprobs=(-3.0, -4.0)) for _ in prompts]

    late = Journaled(Slow("quality"), journal).read_labels(PROMPTS, ["1", "2"])
    assert late == Journaled(FakeModel("quality"), journal).read_labels(PROMPTS, ["1", "2"])
    assert (-3.0, -4.0) not in [r.logprobs for r in late]
    assert journal.verify().rows == 10


def test_numbers_come_back_to_the_last_bit(journal: Journal) -> None:
    awkward = (-0.1 - 0.2, -1e-17, -1e9, -123456.789e-5, None)

    class Awkward(FakeModel):
        def read_labels(self, prompts: Sequence[PromptLike], labels: Sequence[str]) -> list[Reading]:
            return [Reading(logprobs=awkward, coverage=0.1 + 0.2, cost_usd=1e-7, problem=Problem.LABEL_HIDDEN)]

    Journaled(Awkward(), journal).read_labels(["x"], list("abcde"))
    reading = Journaled(Awkward(), journal).read_labels(["x"], list("abcde"))[0]
    assert reading.logprobs == awkward
    assert (reading.coverage, reading.cost_usd) == (0.1 + 0.2, 1e-7)


def test_odd_text_goes_through(journal: Journal) -> None:
    odd = ["", "\x00", "\ud800 lone", "😀" * 50, "é", "e\u0301", " a", "a ", "a\r\n", "a\n"]
    cached = Journaled(FakeModel(script=lambda text, seed: "\ud800\x00" + text), journal)
    first = cached.reply(odd, Sampling())
    assert len({reply.call_id for reply in first}) == len(odd)
    assert cached.reply(odd, Sampling()) == first
    assert isinstance(first[0], Reply)


# ---------------------------------------------------------------- every change is a miss

CARD = ModelCard(uri="hf:judge", revision="abc", family="llama", parameters=5, context_window=4096)


def key(card: ModelCard, kind: str, setting: object, prompt: PromptLike) -> bytes:
    """The content key that Journaled would use, through the journal itself."""
    new_questions: list[bytes] = []

    class Spy:
        def find(self, keys: Sequence[bytes]) -> dict[bytes, object]:
            new_questions.extend(keys)
            raise KeyError

    class Carded(FakeModel):
        @property
        def card(self) -> ModelCard:
            return card

    cached = Journaled(Carded(), Spy())  # type: ignore[arg-type]
    ask = cached.read_labels if kind == "labels" else cached.reply
    with pytest.raises(KeyError):
        ask([prompt], setting)  # type: ignore[arg-type]
    return new_questions[0]


words = st.text(max_size=20)
cards = st.builds(
    ModelCard,
    uri=words,
    revision=words,
    family=words,
    parameters=st.none() | st.integers(1, 10),
    context_window=st.none() | st.integers(1, 10),
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0]),
    top_k=st.none() | st.integers(1, 3),
    top_p=st.none() | st.sampled_from([0.5, 1.0]),
    max_new_tokens=st.integers(1, 3),
    stop=st.lists(words, max_size=2).map(tuple),
    seed=st.integers(0, 3),
)
label_sets = st.lists(words, min_size=1, max_size=4)
prompts = words | st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=words), min_size=1, max_size=3
)
questions = st.tuples(cards, st.just("labels"), label_sets, prompts) | st.tuples(
    cards, st.just("reply"), samplings, prompts
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(questions, questions)
def test_keys_are_equal_only_for_equal_questions(one: tuple, other: tuple) -> None:
    assert (key(*one) == key(*other)) == (one == other)


def test_every_named_change_is_a_miss() -> None:
    """Model, revision, endpoint, labels and their order, decoding, template, exemplars and their order, order shown."""
    first, second = "Example: A\nBetter=1", "Example: B\nBetter=2"

    def prompt(*, preamble: str = "Judge.", exemplars: tuple[str, ...] = (first, second), swapped: bool = False) -> str:
        shown = ("beta", "alpha") if swapped else ("alpha", "beta")
        return "\n\n".join([preamble, *exemplars, f"Response 1 - {shown[0]}\nResponse 2 - {shown[1]}", "Better="])

    variants: list[tuple] = [
        (CARD, "labels", ["1", "2"], prompt()),
        (CARD.model_copy(update={"uri": "hf:other"}), "labels", ["1", "2"], prompt()),
        (CARD.model_copy(update={"revision": "abd"}), "labels", ["1", "2"], prompt()),
        (CARD.model_copy(update={"revision": "http://a/v1 abc"}), "labels", ["1", "2"], prompt()),
        (CARD.model_copy(update={"revision": "http://b/v1 abc"}), "labels", ["1", "2"], prompt()),
        (CARD.model_copy(update={"context_window": 8192}), "labels", ["1", "2"], prompt()),
        (CARD, "labels", ["2", "1"], prompt()),
        (CARD, "labels", ["1", "2", "3"], prompt()),
        (CARD, "labels", [" 1", "2"], prompt()),
        (CARD, "labels", ["1", "2"], prompt(preamble="Judge!")),
        (CARD, "labels", ["1", "2"], prompt(exemplars=(second, first))),
        (CARD, "labels", ["1", "2"], prompt(exemplars=(first,))),
        (CARD, "labels", ["1", "2"], prompt(swapped=True)),
        (CARD, "labels", ["1", "2"], [Message(role="user", content=prompt())]),
        (CARD, "labels", ["1", "2"], [Message(role="user", content=prompt()), Message(role="assistant", content="")]),
        (CARD, "reply", Sampling(), prompt()),
        (CARD, "reply", Sampling(temperature=0.9), prompt()),
        (CARD, "reply", Sampling(seed=1), prompt()),
        (CARD, "reply", Sampling(top_k=40), prompt()),
        (CARD, "reply", Sampling(stop=("\n",)), prompt()),
        (CARD, "reply", Sampling(max_new_tokens=127), prompt()),
    ]
    keys = [key(*variant) for variant in variants]
    assert not [pair for pair in itertools.combinations(keys, 2) if pair[0] == pair[1]]


def test_the_key_does_not_depend_on_this_process() -> None:
    """A worked key, so that journals written by earlier versions keep being found."""
    setting = setting_digest('{"card":"x"}')
    assert (
        content_key(setting, prompt_hash("hello")).hex()
        == "914143c04415a86e030dd0347c3387e776a41cd529aa884d59fa7808f0004fd9"
    )
