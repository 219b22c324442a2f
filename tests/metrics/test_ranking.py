"""Bradley–Terry against a logistic regression, and cycles counted by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from aifeedback.errors import InputError
from aifeedback.metrics import bradley_terry, count_wins, rank_policies, transitivity

WINS = np.array([[0, 8, 9], [2, 0, 6], [1, 4, 0]])


def logistic(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s_j − s_0 for j ≥ 1 and their errors: one binomial row per pair, design +1 for i and −1 for j."""
    rows, counts = [], []
    for i, j in itertools.combinations(range(len(wins)), 2):
        row = np.zeros(len(wins))
        row[[i, j]] = 1, -1
        rows.append(row[1:])
        counts.append([wins[i, j], wins[j, i]])
    fit = sm.GLM(np.array(counts), np.array(rows), family=sm.families.Binomial()).fit()
    return fit.params, fit.bse


@pytest.mark.parametrize("seed", range(5))
def test_strengths_and_errors_equal_a_logistic_regression(seed: int) -> None:
    wins = np.random.default_rng(seed).integers(1, 30, size=(5, 5))
    ours, (params, errors) = bradley_terry(wins), logistic(wins)
    assert ours.value[1:] - ours.value[0] == pytest.approx(params, abs=1e-7)
    covariance = ours.covariance
    gaps = [covariance[j, j] + covariance[0, 0] - 2 * covariance[0, j] for j in range(1, 5)]
    assert np.sqrt(gaps) == pytest.approx(errors, rel=1e-5)
    assert ours.value.sum() == pytest.approx(0, abs=1e-9)


def test_two_items_are_the_log_odds() -> None:
    result = bradley_terry([[0, 30], [10, 0]], names=["a", "b"])
    assert result.value == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    assert result.order == ("a", "b")
    assert result.win_probabilities()[0, 1] == pytest.approx(0.75)
    # var of the log odds is 1/30 + 1/10; each strength is half of it
    assert result.standard_errors == pytest.approx([np.sqrt(1 / 30 + 1 / 10) / 2] * 2)


def test_ties_are_split_or_dropped() -> None:
    tied = np.array([[0, 4, 0], [4, 0, 2], [0, 2, 0]])
    split = bradley_terry(WINS, tied)
    assert split.value == pytest.approx(bradley_terry(WINS + tied / 2).value)
    assert split.n == WINS.sum() + 6
    assert bradley_terry(WINS, tied, ties="drop").value == pytest.approx(bradley_terry(WINS).value)


def test_an_unbeaten_item_is_placed_above_the_ranked_ones_and_named() -> None:
    result = bradley_terry([[0, 5, 5], [0, 0, 3], [0, 2, 0]], names=["best", "b", "c"])
    assert np.isnan(result.value[0])
    assert result.value[1:] == pytest.approx(bradley_terry([[0, 3], [2, 0]]).value)  # 5 games of b and c alone
    assert "best" in result.notes[0]
    assert result.places == ("above", "ranked", "ranked")
    assert result.order == ("best", "b", "c")
    assert result.n == 5
    assert result.as_dict()["value"][0] is None


def test_a_winless_item_is_placed_below_and_the_rest_keeps_its_strengths() -> None:
    wins = np.zeros((4, 4))
    wins[:3, :3], wins[:3, 3] = WINS, 4
    result = bradley_terry(wins, names=list("abcz"))
    assert result.value[:3] == pytest.approx(bradley_terry(WINS).value)
    assert result.order == ("a", "b", "c", "z")
    assert result.places[3] == "below"


def test_two_islands_and_a_chain_without_any_cycle() -> None:
    islands = np.zeros((5, 5))
    islands[0, 1], islands[1, 0], islands[2, 3], islands[3, 2], islands[3, 4] = 5, 4, 2, 1, 1
    result = bradley_terry(islands, names=list("abcde"))
    assert result.places == ("ranked", "ranked", "apart", "apart", "apart")  # the island of more comparisons
    chain = bradley_terry([[0, 0, 1], [1, 0, 0], [0, 0, 0]], names=["middle", "top", "bottom"])
    assert np.isnan(chain.value).all()
    assert chain.order == ("top", "middle", "bottom")
    assert chain.notes


def test_ranking_from_rows_with_a_policy_that_lost_everything() -> None:
    first, second, p, prompts = games(200, seed=3)
    lost = [name for name in "abc" for _ in range(200)]
    result = rank_policies(
        [*first, *lost], [*second, *["z"] * 600], [*p, *[1.0] * 600], prompts=[*prompts, *list(range(200)) * 3]
    )
    alone = rank_policies(first, second, p, prompts=prompts)
    assert result.order == (*alone.order, "z")
    assert result.value[:3] == pytest.approx(alone.value)
    assert result.standard_errors[:3] == pytest.approx(alone.standard_errors)


def test_reversing_all_results_reverses_the_strengths() -> None:
    assert bradley_terry(WINS.T).value == pytest.approx(-bradley_terry(WINS).value)


def test_counting_wins_from_rows() -> None:
    wins, tied, names, dropped = count_wins(["a", "b", "a", "c"], ["b", "a", "c", "a"], [1.0, 0.5, None, 0.2])
    assert names == ("a", "b", "c")
    assert wins.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]
    assert tied.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert dropped == 1
    soft = count_wins(["a"], ["b"], [0.8], soft=True)
    assert soft.wins == pytest.approx(np.array([[0, 0.8], [0.2, 0]]))


def games(prompts: int, seed: int, shared: float = 0.0) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Every two of three policies on each prompt; with ``shared`` a policy's answer is as good in both its games."""
    g = np.random.default_rng(seed)
    own = np.array([0.5, 0.0, -0.5]) + shared * g.normal(size=(prompts, 3))
    pairs = [(0, 1), (0, 2), (1, 2)]
    noise = g.logistic(size=(prompts, 3)) * (1 if not shared else 0.3)
    p = np.array([[float(own[k, i] - own[k, j] + noise[k, m] > 0) for m, (i, j) in enumerate(pairs)]
                  for k in range(prompts)])  # fmt: skip
    first, second = zip(*[("abc"[i], "abc"[j]) for _ in range(prompts) for i, j in pairs], strict=True)
    return list(first), list(second), p.ravel(), np.repeat(np.arange(prompts), 3)


def test_ranking_from_rows_is_the_same_and_independent_rows_have_nearly_the_same_errors() -> None:
    first, second, p, prompts = games(2000, seed=1)
    plain, clustered = rank_policies(first, second, p), rank_policies(first, second, p, prompts=prompts)
    assert plain.order == clustered.order == ("a", "b", "c")
    assert plain.value == pytest.approx(bradley_terry(count_wins(first, second, p).wins).value)
    assert clustered.value == pytest.approx(plain.value)
    assert clustered.standard_errors == pytest.approx(plain.standard_errors, rel=0.06)


def test_rows_that_are_only_repeated_add_nothing() -> None:
    first, second, p, prompts = games(300, seed=2)
    once = rank_policies(first, second, p, prompts=prompts)
    thrice = rank_policies(first * 3, second * 3, np.tile(p, 3), prompts=np.tile(prompts, 3))
    assert thrice.standard_errors == pytest.approx(once.standard_errors)
    assert rank_policies(first * 3, second * 3, np.tile(p, 3)).standard_errors[0] < once.standard_errors[0] * 0.7


def test_answers_shared_between_games_widen_the_interval_as_they_should() -> None:
    """Against the spread of the strength over fresh draws of 200 prompts."""
    result = [rank_policies(*(rows := games(200, seed=s, shared=1.0))[:3], prompts=rows[3]) for s in range(150)]
    spread = np.std([ranking.value[0] for ranking in result])
    assert np.mean([ranking.standard_errors[0] for ranking in result]) == pytest.approx(spread, rel=0.15)
    plain = rank_policies(*games(200, seed=0, shared=1.0)[:3])
    assert plain.standard_errors[0] < 0.93 * spread


@pytest.mark.parametrize("bad", [[[0, 1]], [[0, -1], [1, 0]], [[0, np.nan], [1, 0]]])
def test_bad_tables_are_refused(bad: list) -> None:
    with pytest.raises(InputError):
        bradley_terry(bad)


def preferences(order: list[int]) -> np.ndarray:
    place = np.argsort(order)
    return np.where(np.subtract.outer(place, place) < 0, 0.9, np.where(np.eye(len(order)) > 0, 0.5, 0.1))


@given(st.permutations(list(range(5))))
@settings(max_examples=20, deadline=None)
def test_an_order_has_no_cycle(order: list[int]) -> None:
    result = transitivity(preferences(order))
    assert (result.value, result.cycles, result.n) == (1.0, 0, 10)


def test_one_reversed_preference_makes_the_cycles_one_can_count() -> None:
    # a > b > c > d but d beats a: triples abd (a>b>d>a) and acd (a>c>d>a) are cycles, abc and bcd are not
    table = preferences([0, 1, 2, 3])
    table[0, 3], table[3, 0] = 0.2, 0.8
    result = transitivity(table)
    assert (result.value, result.cycles) == (0.5, 2)


def test_ties_and_unknown_leave_a_triple_undecided() -> None:
    table = preferences([0, 1, 2, 3])
    table[0, 1] = table[1, 0] = 0.5
    table[2, 3] = table[3, 2] = np.nan
    result = transitivity(table)
    assert (result.n, result.undecided) == (0, 4)
    assert np.isnan(result.value)


def test_coin_flips_give_three_quarters() -> None:
    generator = np.random.default_rng(0)
    upper = np.triu((generator.random((400, 4, 4)) < 0.5).astype(float), 1)
    tables = np.where(upper + np.swapaxes(1 - upper, 1, 2) >= 0, upper, 0)
    tables[:, *np.tril_indices(4)] = np.nan
    result = transitivity(tables)
    assert result.low < 0.75 < result.high
