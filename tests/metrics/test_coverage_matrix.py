"""Win rates by slice: one correction over all slices and samples; grey where too few, red where certainly worse."""

from __future__ import annotations

import numpy as np
import pytest

from aifeedback.metrics.slices import JOINT, Cell, Sample, coverage

LANGUAGES, TOPICS = ("de", "en"), ("art", "law")


def sample(seed: int, rate: dict[tuple[str, str], float], n: int = 60, usual: float = 0.7) -> Sample:
    g = np.random.default_rng(seed)
    tags = [(language, topic) for language in LANGUAGES for topic in TOPICS for _ in range(n)]
    values = [float(g.random() < rate.get(tag, usual)) for tag in tags]
    return Sample(values, {"language": [tag[0] for tag in tags], "topic": [tag[1] for tag in tags]})


def by_name(cells: list[Cell]) -> dict[tuple[str, str], Cell]:
    return {(cell.dimension, cell.name): cell for cell in cells}


def test_a_cell_that_loses_is_below_half_and_below_the_rest() -> None:
    found = by_name(coverage({"p": sample(0, {("de", "law"): 0.1})})["p"])
    cell = found[f"language{JOINT}topic", f"de{JOINT}law"]
    assert (cell.is_worse, cell.is_below_half, cell.is_few) == (True, True, False)
    assert not found[f"language{JOINT}topic", f"en{JOINT}art"].is_worse


def test_a_policy_that_wins_everywhere_alike_has_no_red_cell() -> None:
    red = [c for seed in range(40) for c in coverage({"p": sample(seed, {})})["p"] if c.is_worse or c.is_below_half]
    assert len(red) <= 5, "at most one in twenty worlds by chance"


def test_all_slices_and_samples_share_one_correction() -> None:
    alone = coverage({"p": sample(0, {("de", "law"): 0.4})})["p"]
    among = coverage({"p": sample(0, {("de", "law"): 0.4}), "q": sample(1, {}), "r": sample(2, {})})["p"]
    assert all(b.p_adjusted >= a.p_adjusted - 1e-12 for a, b in zip(alone, among, strict=True))
    assert any(b.p_adjusted > a.p_adjusted for a, b in zip(alone, among, strict=True))


def test_few_rows_are_grey_and_never_red() -> None:
    values, tags = [1.0] * 60 + [0.0] * 29, ["en"] * 60 + ["de"] * 29
    found = by_name(coverage({"p": Sample(values, {"language": tags})})["p"])
    small = found["language", "de"]
    assert (small.n, small.value, small.is_few, small.is_worse, small.is_below_half) == (29, 0.0, True, False, False)
    assert np.isnan(small.p_value)
    assert not by_name(coverage({"p": Sample(values, {"language": tags})}, min_rows=29)["p"])["language", "de"].is_few


def test_a_combination_without_any_row_is_a_grey_cell() -> None:
    tags = {"language": ["de"] * 40 + ["en"] * 40, "topic": ["art"] * 40 + ["law"] * 40}
    found = by_name(coverage({"p": Sample([1.0] * 80, tags)})["p"])
    empty = found[f"language{JOINT}topic", f"de{JOINT}law"]
    assert (empty.n, empty.is_few) == (0, True)
    assert np.isnan(empty.value)


def test_a_row_without_a_tag_is_in_no_slice_of_it() -> None:
    found = by_name(coverage({"p": Sample([1.0, 0.0, 1.0], {"a": ["x", None, "x"], "b": ["y", "y", None]})})["p"])
    assert (found["a", "x"].n, found["b", "y"].n, found[f"a{JOINT}b", f"x{JOINT}y"].n) == (2, 2, 1)


def test_rows_of_one_prompt_do_not_make_a_slice_certain() -> None:
    """Eight prompts, each judged ten times alike: as many rows as eighty prompts, the evidence of eight."""
    values = [0.0] * 40 + [1.0] * 40
    tags = {"language": ["de"] * 40 + ["en"] * 40}
    ids = [i // 10 for i in range(80)]
    rows = by_name(coverage({"p": Sample(values, tags)})["p"])["language", "de"]
    clustered = by_name(coverage({"p": Sample(values, tags, ids)})["p"])["language", "de"]
    assert rows.is_below_half
    assert not clustered.is_below_half
    assert clustered.high > rows.high


def test_unknown_values_are_dropped_and_counted() -> None:
    found = by_name(coverage({"p": Sample([1.0, None, 0.0], {"a": ["x", "x", "x"]})})["p"])  # type: ignore[list-item]
    assert (found["a", "x"].n, found["a", "x"].dropped) == (2, 1)


@pytest.mark.parametrize("seed", range(3))
def test_a_policy_that_beats_half_but_less_than_elsewhere_is_worse_without_losing(seed: int) -> None:
    rates = {("de", "art"): 0.62, ("de", "law"): 0.62}
    found = by_name(coverage({"p": sample(seed, rates, n=400, usual=0.9)})["p"])["language", "de"]
    assert (found.is_worse, found.is_below_half) == (True, False)
