"""Labels from top log-probabilities: against enumeration of all token sequences, and against the engine's own event."""

from __future__ import annotations

import math
from random import Random

import pytest

from aifeedback.models.label_logprobs import LabelSet, label_logprobs, to_follow

GRADES = tuple(str(grade) for grade in range(1, 11))


def logs(**probabilities: float) -> dict[str, float]:
    return {token.replace("_", " "): math.log(p) for token, p in probabilities.items()}


def test_one_table_is_enough_for_one_token_labels() -> None:
    pair = LabelSet(("A", "B"))
    table = logs(A=0.6, B=0.3, C=0.05)
    assert to_follow(table, pair) == []
    assert label_logprobs({"": table}, pair) == [math.log(0.6), math.log(0.3)]


def test_a_space_before_counts_with_either_space_only() -> None:
    table = logs(A=0.6, _A=0.2, B=0.1, _B=0.05)
    both = label_logprobs({"": table}, LabelSet(("A", "B")))
    assert [math.exp(p) for p in both if p is not None] == pytest.approx([0.8, 0.15])
    assert label_logprobs({"": table}, LabelSet(("A", "B"), either_space=False)) == [math.log(0.6), math.log(0.1)]
    assert label_logprobs({"": table}, LabelSet((" A", " B"))) == [math.log(0.2), math.log(0.05)]


def test_a_hidden_label_is_none() -> None:
    assert label_logprobs({"": logs(A=0.9)}, LabelSet(("A", "B"))) == [math.log(0.9), None]


def test_ten_of_two_tokens_is_followed_and_taken_from_one() -> None:
    """P("10") = 0.5·0.4, P("1") = 0.5 − that, as the label that "1" is leaves out what goes on to spell "10"."""
    first = {**{g: math.log(0.05) for g in GRADES[1:9]}, "1": math.log(0.5)}
    assert to_follow(first, LabelSet(GRADES)) == ["1"]
    read = label_logprobs({"": first, "1": logs(**{"0": 0.4, "x": 0.6})}, LabelSet(GRADES))
    assert math.exp(read[0] or 0) == pytest.approx(0.3)
    assert math.exp(read[9] or 0) == pytest.approx(0.2)


def test_ten_of_two_tokens_that_cannot_be_followed_leaves_one_and_ten_unknown() -> None:
    first = {g: math.log(0.1) for g in GRADES[:9]}
    read = label_logprobs({"": first}, LabelSet(GRADES))
    assert read[0] is None
    assert read[9] is None
    assert None not in read[1:9]


def test_ten_as_one_token_needs_no_second_look() -> None:
    table = {g: math.log(0.1) for g in GRADES}
    assert to_follow(table, LabelSet(GRADES)) == []
    assert label_logprobs({"": table}, LabelSet(GRADES)) == [math.log(0.1)] * 10


def test_labels_behind_a_lone_space_token() -> None:
    """Tokenizers that write " 1" as "▁" and "1"."""
    first = logs(_=0.9, A=0.05)
    pair = LabelSet(("1", "2"))
    assert to_follow(first, pair) == [" "]
    read = label_logprobs({"": first, " ": logs(**{"1": 0.7, "2": 0.3})}, pair)
    assert [math.exp(p) for p in read if p is not None] == pytest.approx([0.63, 0.27])


def enumerate_label(vocabulary: dict[str, dict[str, float]], label_set: LabelSet, which: int, depth: int) -> float:
    """P(label) by walking every token sequence: some token ends exactly at the label, and no longer label follows."""

    def walk(spelled: str, p: float, left: int) -> float:
        total = 0.0
        for token, q in vocabulary[spelled].items():
            now = spelled + token
            here = p * q
            hit = label_set.which(now) == which
            longer = walk_longer(now, here, left - 1) if hit else 0.0
            total += here - longer if hit else 0.0
            if (left > 1 and label_set.begun(now) and not hit) or (left > 1 and hit and label_set.begun(now)):
                total += walk(now, here, left - 1)
        return total

    def walk_longer(spelled: str, p: float, left: int) -> float:
        if left == 0 or not label_set.begun(spelled):
            return 0.0
        total = 0.0
        for token, q in vocabulary[spelled].items():
            now = spelled + token
            total += p * q if label_set.which(now) is not None else walk_longer(now, p * q, left - 1)
        return total

    return walk("", 1.0, depth)


@pytest.mark.parametrize("seed", range(20))
def test_against_enumeration(seed: int) -> None:
    """Random next-token tables over a small vocabulary in which "1", "0", "10", "100" and " " all occur."""
    draw = Random(seed)
    tokens = ["1", "0", "10", "00", "2", "x", " ", " 1"]
    label_set = LabelSet(("1", "10", "100", "2"), either_space=draw.random() < 0.5)
    vocabulary: dict[str, dict[str, float]] = {}

    def fill(spelled: str, depth: int) -> None:
        weights = [draw.random() for _ in tokens]
        vocabulary[spelled] = {t: w / sum(weights) for t, w in zip(tokens, weights, strict=True)}
        if depth:
            for token in tokens:
                if label_set.begun(spelled + token):
                    fill(spelled + token, depth - 1)

    fill("", 4)
    tables = {s: {t: math.log(p) for t, p in table.items()} for s, table in vocabulary.items()}
    read = label_logprobs(tables, label_set)
    for which, value in enumerate(read):
        expected = enumerate_label(vocabulary, label_set, which, 5)
        assert math.exp(value if value is not None else -1e9) == pytest.approx(expected, abs=1e-12)
    assert math.fsum(math.exp(value) for value in read if value is not None) <= 1.0 + 1e-12
