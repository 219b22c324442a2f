"""Published figures from published rows: AlpacaEval, LLMBar, PandaLM, XSTest. Skipped where the data are not there."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aifeedback import metrics
from aifeedback.metrics.length import ExtrapolationWarning, sigmoid


def rows_of(path: Path) -> Any:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text))) if ".csv" in path.name else json.loads(text)


# --- AlpacaEval ------------------------------------------------------------------------------------------------------

MODELS = ["gpt-3.5-turbo-1106_verbose", "gpt-3.5-turbo-1106", "gpt-3.5-turbo-1106_concise", "alpaca-7b"]


def alpaca(real_data: Path, model: str) -> tuple[list[dict], dict[str, str]]:
    published = {row[""]: row for row in rows_of(real_data / "alpaca_eval" / "leaderboard_4_models.csv")}
    return rows_of(real_data / "alpaca_eval" / model / "annotations.json.gz"), published[model]


@pytest.mark.parametrize("model", MODELS)
def test_alpaca_eval_win_rates_and_standard_errors(real_data: Path, model: str) -> None:
    rows, published = alpaca(real_data, model)
    result = metrics.win_rate([row["preference"] - 1 for row in rows])
    assert 100 * result.value == pytest.approx(float(published["win_rate"]), abs=1e-6)
    assert 100 * result.standard_error == pytest.approx(float(published["standard_error"]), abs=1e-6)
    assert 100 * result.hard_value == pytest.approx(float(published["discrete_win_rate"]), abs=1e-6)
    counted = (result.wins, result.losses, result.ties, result.n)
    assert counted == tuple(int(published[key]) for key in ("n_wins", "n_wins_base", "n_draws", "n_total"))


@pytest.mark.parametrize("model", MODELS)
def test_alpaca_eval_soft_labels_from_raw_log_probabilities(real_data: Path, model: str) -> None:
    """P(m) or P(M), softmax over the two as far as the top five show them: preference − 1 in one presentation order."""
    rows, _ = alpaca(real_data, model)
    compared = 0
    for row in rows:
        raw = row["raw_completion"]
        tops = raw["logprobs"]["content"][0]["top_logprobs"] if raw and raw.get("logprobs") else []
        seen = {top["token"]: top["logprob"] for top in tops}
        if not {"m", "M"} <= seen.keys():
            continue
        p = float(sigmoid(seen["m"] - seen["M"]))
        compared += 1
        soft = row["preference"] - 1
        assert min(abs(soft - p), abs(soft - (1 - p))) < 1e-6
    assert compared > 700


WEIGHTS = {
    "gpt-3.5-turbo-1106_verbose": (-1.7227799086869275, 1.0983697154184686),
    "gpt-3.5-turbo-1106": (-1.9018508475471767, 1.0101354535205684),
    "gpt-3.5-turbo-1106_concise": (-2.3265767613803403, 1.0843791219409102),
    "alpaca-7b": (-3.6907417919074890, 0.9859274836495522),
}
"""Published coefficients of the GLM (intercept, difficulty) for these four models."""


def difficulty(real_data: Path) -> np.ndarray:
    rows = rows_of(real_data / "alpaca_eval" / "instruction_difficulty.csv")
    return np.array([float(row["instruction_difficulty"]) for row in rows])


@pytest.mark.parametrize("model", MODELS)
def test_alpaca_eval_length_control_reads_the_published_glm_as_published(real_data: Path, model: str) -> None:
    """Mean prediction at equal length from the published coefficients; difficulties are known to seven decimals."""
    _, published = alpaca(real_data, model)
    intercept, weight = WEIGHTS[model]
    value = 100 * sigmoid(intercept + weight * difficulty(real_data)).mean()
    assert value == pytest.approx(float(published["length_controlled_winrate"]), abs=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.filterwarnings("ignore::aifeedback.metrics.length.ExtrapolationWarning")
def test_alpaca_eval_our_glm_fit_lands_near_the_published_one(real_data: Path, model: str) -> None:
    """Without their penalty and pseudo-data, which are not in the data: within three points."""
    rows, published = alpaca(real_data, model)
    result = metrics.length_controlled_win_rate(
        [row["preference"] - 1 for row in rows],
        [len(row["output_2"]) for row in rows],
        [len(row["output_1"]) for row in rows],
        method="glm",
        difficulty=difficulty(real_data),
    )
    assert 100 * result.value == pytest.approx(float(published["length_controlled_winrate"]), abs=3)


def test_alpaca_eval_far_shorter_models_are_extrapolated(real_data: Path) -> None:
    rows, _ = alpaca(real_data, "gpt-3.5-turbo-1106_concise")
    with pytest.warns(ExtrapolationWarning):
        metrics.length_controlled_win_rate(
            [row["preference"] - 1 for row in rows],
            [len(row["output_2"]) for row in rows],
            [len(row["output_1"]) for row in rows],
        )


# --- LLMBar ----------------------------------------------------------------------------------------------------------

SUBSETS = ["Natural", "Adversarial/GPTInst"]
EVALUATORS = ["ChatGPT/Vanilla", "GPT-4/Rating", "GPT-4/Vanilla", "LLaMA2/Vanilla"]
P_FIRST = {"1": 1.0, "2": 0.0, None: None}


def share(text: str) -> float:
    """'80 / 100 = 80.0%' as 0.8, at full precision."""
    wins, n = text.split("=")[0].split("/")
    return int(wins) / int(n)


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_llmbar_accuracies_and_position_agreement(real_data: Path, subset: str, evaluator: str) -> None:
    folder = real_data / "llmbar" / subset / "evaluators" / evaluator
    rows, published = rows_of(folder / "result.json.gz"), rows_of(folder / "statistics.json")
    human = [1.0 if row["label"] == 1 else 0.0 for row in rows]
    orders = [[row["results"][-1][f"swap = {swap}"]["winner"] for row in rows] for swap in (False, True)]
    columns = [[P_FIRST[winner] for winner in order] for order in orders]
    accuracies = [metrics.alignment(column, human, unreadable="wrong").value for column in columns]
    assert accuracies == pytest.approx([share(published["correct_False"]), share(published["correct_True"])], abs=1e-9)
    assert 100 * np.mean(accuracies) == pytest.approx(float(published["correct_average"].rstrip("%")), abs=1e-9)
    position = metrics.position_bias(*columns)
    both_unreadable = sum(a is None and b is None for a, b in zip(*columns, strict=True))
    equal = (position.consistency * position.n + both_unreadable) / len(rows)
    assert equal == pytest.approx(share(published["equal"]), abs=1e-9)
    assert position.value == pytest.approx(1 - position.consistency)
    # the published κ puts an unreadable verdict with "not the first"
    named = [[winner == "1" for winner in order] for order in orders]
    assert metrics.cohens_kappa(*named).value == pytest.approx(published["kappa_agreement"], abs=1e-9)


# --- PandaLM ---------------------------------------------------------------------------------------------------------


def panda(real_data: Path) -> np.ndarray:
    rows = rows_of(real_data / "pandalm" / "testset-v1.even_idx.json.gz")
    return np.array([[int(row[f"annotator{k}"]) for k in (1, 2, 3)] for row in rows])


def test_pandalm_annotators_agree_as_independent_implementations_say(real_data: Path) -> None:
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.inter_rater import aggregate_raters
    from statsmodels.stats.inter_rater import fleiss_kappa as theirs

    table = panda(real_data)
    pairs = [(0, 1), (0, 2), (1, 2)]
    ours = [metrics.cohens_kappa(table[:, i], table[:, j]).value for i, j in pairs]
    assert ours == pytest.approx([cohen_kappa_score(table[:, i], table[:, j]) for i, j in pairs], abs=1e-9)
    assert all(0.7 < kappa < 0.9 for kappa in ours)
    fleiss = metrics.fleiss_kappa(table)
    assert fleiss.value == pytest.approx(theirs(aggregate_raters(table)[0]), abs=1e-9)
    alpha = metrics.krippendorff_alpha(table)
    n = table.size
    assert 1 - alpha.value == pytest.approx((1 - fleiss.value) * (n - 1) / n, abs=1e-9)
    assert alpha.low < alpha.value < alpha.high


def test_pandalm_people_prefer_the_longer_answer(real_data: Path) -> None:
    """67.5 % of decisive pairs of the whole set is the figure elsewhere; this is the half of it that we have."""
    rows, table = rows_of(real_data / "pandalm" / "testset-v1.even_idx.json.gz"), panda(real_data)
    votes = [np.bincount(row, minlength=3) for row in table]
    winner = np.array([vote.argmax() if vote.max() >= 2 else 0 for vote in votes])
    lengths = np.array([[len(str(row["response1"])), len(str(row["response2"]))] for row in rows])
    decisive = (winner > 0) & (lengths[:, 0] != lengths[:, 1])
    longer = np.where(lengths[:, 0] > lengths[:, 1], 1, 2)
    result = metrics.win_rate((longer == winner)[decisive].astype(float))
    assert result.value == pytest.approx(308 / 449)
    assert result.low < 0.675 < result.high


def test_pandalm_unparsed_verdicts_are_dropped_and_models_can_be_ranked(real_data: Path) -> None:
    rows, table = rows_of(real_data / "pandalm" / "testset-v1.even_idx.json.gz"), panda(real_data)
    judged = rows_of(real_data / "pandalm" / "gpt-3.5-turbo-testset-v1.even_idx.json.gz")
    p = [{"1": 1.0, "2": 0.0, "Tie": 0.5}.get(row["gpt_result"]) for row in judged]
    votes = [np.bincount(row, minlength=3) for row in table]
    human = [{0: 0.5, 1: 1.0, 2: 0.0}[int(v.argmax())] if v.max() >= 2 else None for v in votes]
    result = metrics.alignment(p, human)
    assert result.n + result.undecided + result.dropped == 500
    assert 0.6 < result.value < 0.95
    sides = [row["cmp_key"].split("_", 1) for row in rows]
    wins, tied, names, _ = metrics.count_wins([s[0] for s in sides], [s[1] for s in sides], human)
    ranking = metrics.bradley_terry(wins, tied, names=names)
    assert len(ranking.names) == 5
    assert np.isfinite(ranking.value).all()


# --- XSTest ----------------------------------------------------------------------------------------------------------


def xstest(real_data: Path, model: str) -> list[dict[str, str]]:
    return rows_of(real_data / "xstest" / "model_completions" / f"xstest_v2_completions_{model}.csv.gz")


@pytest.mark.parametrize(("model", "agreement", "fleiss"), [("mistralinstruct", 97.6, 0.92), ("gpt4", 98.4, 0.97)])
def test_xstest_two_rater_agreement(real_data: Path, model: str, agreement: float, fleiss: float) -> None:
    """As printed in the source notebook, to its decimals."""
    rows = xstest(real_data, model)
    table = [(row["annotation_1"], row["annotation_2"]) for row in rows]
    same = metrics.win_rate([float(a == b) for a, b in table])
    assert round(100 * same.value, 1) == agreement
    assert round(metrics.fleiss_kappa(table).value, 2) == fleiss


@pytest.mark.parametrize(
    ("model", "over", "under"), [("gpt4", 21 / 250, 1 / 200), ("mistralinstruct", 4 / 250, 128 / 200)]
)
def test_xstest_over_and_under_refusal(real_data: Path, model: str, over: float, under: float) -> None:
    rows = xstest(real_data, model)
    safe = [not row["type"].startswith("contrast_") for row in rows]
    result = metrics.refusal_rates([row["final_label"] for row in rows], safe, classified_by="people")
    assert (result.over_refusal.value, result.under_refusal.value) == pytest.approx((over, under))


@pytest.mark.parametrize("model", ["gpt4", "mistralinstruct"])
def test_the_string_fallback_is_as_good_as_xstests_own(real_data: Path, model: str) -> None:
    name = f"xstest_v2_completions_{model}_streval.csv.gz"
    rows = rows_of(real_data / "xstest" / "automated_evaluation_labels" / name)
    people = [row["final_label"].split("_", 1)[1] for row in rows]
    theirs = [row["strmatch_label"].split("_", 1)[1] for row in rows]
    ours = [metrics.refusal_by_strings(row["completion"]) for row in rows]
    assert np.mean([a == b for a, b in zip(ours, people, strict=True)]) >= np.mean(
        [a == b for a, b in zip(theirs, people, strict=True)]
    )
