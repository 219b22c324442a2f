from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.lab import gold, samples, simulated_raters, tokenizer
from aifeedback.lab.oracles import NAMES, oracle
from aifeedback.lab.oracles import people as people_of
from aifeedback.types import Comparison, Completion, Problem, Prompt

POST = (
    "post : so my aunt has broken our lamp . it happened at work on monday . now i feel sad . they blame being busy . "
    "every friday we eat together . is it right to forgive them ? tl;dr :"
)
FACTS = {
    "person": "aunt", "problem": "broken", "thing": "lamp", "place": "work", "day": "monday",
    "feeling": "sad", "excuse": "busy", "question": "forgive",
}  # fmt: skip


def test_the_facts_of_a_post_are_read_from_its_text() -> None:
    assert gold.facts_of(POST) == FACTS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # all facts: 3 + 7.5·7.5/7.5 = 10.5, at most 10
        (
            "my aunt has broken our lamp at work on monday . i feel sad . they blame being busy . ought i to forgive them ?",
            10.0,
        ),
        # person, problem, thing, question = 5 of 7.5: 3 + 5
        ("my aunt has broken our lamp . is it time to forgive them ?", 8.0),
        # the same with a wrong thing: 3 + 4 − 2
        ("my aunt has broken our bike . is it time to forgive them ?", 5.0),
        # the same with a filler: 8 − .8
        ("my aunt has broken our lamp . is it time to forgive them ? thanks for reading this .", 7.2),
        # the same with a repeated sentence: 8 − 1
        ("my aunt has broken our lamp . is it time to forgive them ? is it time to forgive them ?", 7.0),
        # the core, then a cut sentence: 3 + 3 − 1.2
        ("my aunt has broken our lamp . is it time", 4.8),
        # an order the grammar does not know counts as broken: nothing is stated
        ("broken my aunt has our lamp .", 1.0),
        ("", 1.0),
    ],
)
def test_gold_scores_worked_out_by_hand(text: str, expected: float) -> None:
    assert gold.score(FACTS, text) == pytest.approx(expected)


@given(st.lists(st.sampled_from(tokenizer.vocabulary()), max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_has_a_score_between_1_and_10(tokens: list[str]) -> None:
    assert 1.0 <= gold.score(FACTS, " ".join(tokens)) <= 10.0


def test_few_candidates_sit_on_the_floor() -> None:
    rows = samples.demonstrations(1000, split="test", seed=1)
    scores = [gold.score(gold.facts_of(p), c.text) for p, c in rows]
    assert sum(s <= 1.0 for s in scores) < 0.05 * len(scores)


def _compare(first: str, second: str) -> Comparison:
    prompt = Prompt.of(POST)
    return Comparison.of(prompt, *(Completion.of(prompt, t, source="test") for t in (first, second)))


def test_gold_labels_are_certain_and_an_exact_tie_is_a_half() -> None:
    better, worse = "my aunt has broken our lamp .", "my aunt has broken our bike ."
    labels = gold.GoldLabeler().label([_compare(better, worse), _compare(worse, better), _compare(better, better)])
    assert [p.p_first for p in labels] == [1.0, 0.0, 0.5]


def test_people_agree_with_gold_on_three_of_four_pairs_and_mirror_a_swap() -> None:
    rows = samples.comparisons(1200, split="test", seed=2)
    truth = gold.GoldLabeler().label(rows)
    crowd = simulated_raters.SimulatedPeople(seed=7)
    votes = crowd.label(rows)
    known = [(v.p_first, t.p_first) for v, t in zip(votes, truth, strict=True) if t.p_first != 0.5]
    assert 0.71 < sum(v == t for v, t in known) / len(known) < 0.79
    assert votes == crowd.label(rows)
    assert [1 - v.p_first for v in votes if v.p_first is not None] == [
        p.p_first for p in crowd.label([c.swapped() for c in rows])
    ]
    assert votes != simulated_raters.SimulatedPeople(seed=8).label(rows)


def test_a_vote_does_not_depend_on_who_wrote_the_texts() -> None:
    prompt = Prompt.of(POST)

    def pair(source: str) -> Comparison:
        texts = ("my aunt has broken our lamp .", "my aunt has broken our bike .")
        return Comparison.of(prompt, *(Completion.of(prompt, t, source=source) for t in texts))

    votes = {
        source: [simulated_raters.SimulatedPeople(seed=s).label([pair(source)])[0].p_first for s in range(20)]
        for source in "ab"
    }
    assert votes["a"] == votes["b"]
    assert len(set(votes["a"])) == 2


@pytest.mark.parametrize("name", NAMES)
def test_nobody_of_the_lab_says_anything_about_a_foreign_prompt(name: str) -> None:
    """The second answer is a sentence of the lab's world: there are no facts to hold it against."""
    prompt = Prompt.of("What is 2 + 2?")
    answers = [Completion.of(prompt, text, source="s") for text in ("four", "my boss has ruined our jacket .")]
    pair = Comparison.of(prompt, *answers)
    for judge in (oracle(name), people_of(name, 0)):
        [label] = judge.label([pair])
        assert (label.p_first, label.problem) == (None, Problem.ABSTAINED)
    for score in oracle(name).score([prompt, prompt], answers):
        assert (score.value, score.problem) == (None, Problem.ABSTAINED)
    if name != "lab":
        assert oracle(name).assess([prompt], answers[:1])[0][1:] == (None, None, None)
