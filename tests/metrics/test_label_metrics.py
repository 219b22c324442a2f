"""Every labelled row counts or is counted; prompts widen intervals; what was left out of a comparison is named."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.metrics import answered, labelled, preferred, win_rate
from aifeedback.reports.examples import pick_examples
from aifeedback.types import Comparison, Completion, Preference, Prompt


@pytest.mark.filterwarnings("ignore")
def test_identical_responses_are_ties_and_count() -> None:
    # 6 wins and 4 pairs of identical responses: (6 + 4/2) / 10
    result = labelled([1.0] * 6 + [None] * 4, ["good"] * 6 + ["same"] * 4, ["bad"] * 6 + ["same"] * 4)
    assert (result.rows, result.unknown, result.identical) == (10, 0, 4)
    assert result.win_rate_of_first.value == 0.8
    assert result.win_rate_of_first.n == 10
    # whatever a label says of two identical responses, it is the order that it prefers
    assert labelled([1.0], ["same"], ["same"]).win_rate_of_first.value == 0.5


@pytest.mark.filterwarnings("ignore")
def test_an_empty_response_counts_with_its_label_and_has_no_length_ratio() -> None:
    result = labelled([1.0, 0.0, None, 0.5], ["long one", "", "x", "  "], ["short", "words", "y", ""])
    assert (result.rows, result.empty, result.unknown) == (4, 2, 1)
    assert result.win_rate_of_first.n == 3
    assert result.length_controlled.n == 1
    assert result.length_controlled.dropped == 3


def test_agreement_is_there_where_a_human_label_is() -> None:
    first, second = [f"a{i}" for i in range(40)], [f"b{i}" for i in range(40)]
    labels = [float(i % 2) for i in range(40)]
    assert labelled(labels, first, second).alignment is None
    assert "alignment" not in labelled(labels, first, second, [None] * 40).as_dict()
    result = labelled(labels, first, second, labels)
    assert result.alignment is not None
    assert result.alignment.value == 1.0
    assert result.as_dict()["kappa"]["value"] == 1.0


def test_rows_of_one_prompt_are_not_independent() -> None:
    rng = np.random.default_rng(0)
    lean = np.repeat(rng.random(40), 6)
    labels, human = (rng.random(240) < lean).astype(float), (rng.random(240) < 0.5).astype(float)
    prompts = np.repeat(np.arange(40), 6)
    texts = [f"a{i}" for i in range(240)], ["x" * (i % 7 + 1) for i in range(240)]
    alone, shared = labelled(labels, *texts, human), labelled(labels, *texts, human, prompts=prompts)

    def width(estimate: object) -> float:
        return estimate.high - estimate.low  # type: ignore[attr-defined]

    assert width(shared.win_rate_of_first) > 1.3 * width(alone.win_rate_of_first)
    assert shared.win_rate_of_first.high == win_rate(labels, prompts=prompts).high
    assert width(shared.length_controlled) > 1.2 * width(alone.length_controlled)


def test_one_comparison_of_policies_raw_and_length_controlled_by_the_chosen_form() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.integers(50, 200, 300), rng.integers(50, 200, 300)
    p = np.where(a > b, 0.7, 0.3)
    result, spline = preferred(p, a, b), preferred(p, a, b, method="spline")
    assert result.win_rate == win_rate(p, hard=True)
    assert "spline" in spline.length_controlled.method
    assert set(result.as_dict()) == {"win_rate", "length_controlled"}
    soft = preferred(p, a, b, hard=False)
    assert soft.win_rate.value == pytest.approx(p.mean())


def test_prompts_without_a_response_are_counted_as_left_out() -> None:
    reference = ["r"] * 12
    result = answered({"sft": reference, "two": ["x", "y", *[None] * 10], "all": ["z"] * 12}, "sft")
    assert (result["two"].prompts, result["two"].answered, result["two"].compared, result["two"].left_out) == (
        12,
        2,
        2,
        10,
    )
    assert "10 of 12 prompts left out" in result["two"].note
    assert result["all"].note == result["sft"].note == ""
    gap = answered({"sft": [None, "r"], "b": ["x", "y"]}, "sft")
    assert (gap["b"].answered, gap["b"].compared) == (2, 1)


def example_rules(p_first: list[float | None]) -> list[str]:
    prompt = Prompt.of("Q")
    rows = [Comparison.of(prompt, Completion.of(prompt, f"a{i}", source="a"), Completion.of(prompt, f"b{i}", source="b"))
            for i in range(len(p_first))]  # fmt: skip
    labels = [Preference(comparison_id=c.id, source="j", p_first=p, problem=None if p is not None else "missing")
              for c, p in zip(rows, p_first, strict=True)]  # fmt: skip
    return [e["rule"].split(" ")[2] for e in pick_examples(rows, labels, first="a", second="b")]


def test_an_example_of_a_loss_is_a_loss() -> None:
    assert example_rules([1.0, 0.9, 0.8]) == ["won", "chance:"]
    assert example_rules([0.0, 0.1, 0.2]) == ["lost", "chance:"]
    assert "won" not in example_rules([0.5, 0.5, None])
    assert example_rules([1.0, 0.0, 0.5])[:2] == ["won", "lost"]
