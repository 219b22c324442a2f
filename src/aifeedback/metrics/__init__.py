"""Measurement: numbers in, estimates with intervals out. Nothing here calls a model.

Every result has ``.value``; shares and rates are fractions; a NaN value is unknown and comes with a note. Rows in
which a value is None or NaN are dropped and counted, never filled in. ``p_first`` exactly 0.5 is a tie. Modules are
loaded when one of their names is first used, so importing this package loads neither scipy nor statsmodels.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aifeedback.metrics.agreement import cohens_kappa, fleiss_kappa
    from aifeedback.metrics.calibration import Bin, brier, expected_calibration_error, log_loss, reliability_table
    from aifeedback.metrics.concordance import Concordance, kendalls_w, krippendorff_alpha
    from aifeedback.metrics.independence import Independence, Source, verify_independence
    from aifeedback.metrics.intervals import Estimate, benjamini_hochberg, holm
    from aifeedback.metrics.labels import (
        Agreement,
        Labelled,
        PositionBias,
        Repeatability,
        agreement_difference,
        alignment,
        labelled,
        position_bias,
        repeatability,
        reward_accuracy,
    )
    from aifeedback.metrics.length import (
        ExtrapolationWarning,
        LengthControlled,
        Preferred,
        length_controlled_rate,
        length_controlled_win_rate,
        preferred,
    )
    from aifeedback.metrics.overoptimisation import OverOptimisation, best_of_n_kl, expected_best, over_optimisation
    from aifeedback.metrics.planning import (
        AIPrice,
        Constraints,
        CostPlan,
        HumanPrice,
        Plan,
        ai_label_cost,
        cost_plan,
        human_label_cost,
        plan,
    )
    from aifeedback.metrics.ppi import (
        PredictionPowered,
        SampleSize,
        prediction_powered_mean,
        prediction_powered_sample,
        prediction_powered_win_rate,
        rogan_gladen,
        sample_size,
    )
    from aifeedback.metrics.ranking import (
        Ranking,
        Transitivity,
        Wins,
        bradley_terry,
        count_wins,
        rank_policies,
        transitivity,
    )
    from aifeedback.metrics.safety import RefusalRates, harmless_rate, refusal_by_strings, refusal_rates
    from aifeedback.metrics.slices import Cell, Sample, Slice, by_slice, coverage
    from aifeedback.metrics.win_rates import (
        Answered,
        Difference,
        WinRate,
        answered,
        compare_all_win_rates,
        compare_unpaired,
        compare_win_rates,
        win_rate,
    )

_HOME = {
    "Answered": "win_rates",
    "answered": "win_rates",
    "Labelled": "labels",
    "labelled": "labels",
    "Preferred": "length",
    "preferred": "length",
    "compare_unpaired": "win_rates",
    "cohens_kappa": "agreement",
    "fleiss_kappa": "agreement",
    "Bin": "calibration",
    "brier": "calibration",
    "expected_calibration_error": "calibration",
    "log_loss": "calibration",
    "reliability_table": "calibration",
    "AIPrice": "planning",
    "CostPlan": "planning",
    "HumanPrice": "planning",
    "ai_label_cost": "planning",
    "cost_plan": "planning",
    "human_label_cost": "planning",
    "Estimate": "intervals",
    "Independence": "independence",
    "Source": "independence",
    "verify_independence": "independence",
    "Concordance": "concordance",
    "kendalls_w": "concordance",
    "krippendorff_alpha": "concordance",
    "Agreement": "labels",
    "PositionBias": "labels",
    "agreement_difference": "labels",
    "alignment": "labels",
    "position_bias": "labels",
    "reward_accuracy": "labels",
    "ExtrapolationWarning": "length",
    "LengthControlled": "length",
    "length_controlled_rate": "length",
    "length_controlled_win_rate": "length",
    "benjamini_hochberg": "intervals",
    "holm": "intervals",
    "OverOptimisation": "overoptimisation",
    "best_of_n_kl": "overoptimisation",
    "expected_best": "overoptimisation",
    "over_optimisation": "overoptimisation",
    "PredictionPowered": "ppi",
    "SampleSize": "ppi",
    "prediction_powered_mean": "ppi",
    "prediction_powered_sample": "ppi",
    "prediction_powered_win_rate": "ppi",
    "rogan_gladen": "ppi",
    "sample_size": "ppi",
    "Constraints": "planning",
    "Plan": "planning",
    "plan": "planning",
    "Ranking": "ranking",
    "Transitivity": "ranking",
    "Wins": "ranking",
    "bradley_terry": "ranking",
    "count_wins": "ranking",
    "rank_policies": "ranking",
    "transitivity": "ranking",
    "Repeatability": "labels",
    "repeatability": "labels",
    "RefusalRates": "safety",
    "harmless_rate": "safety",
    "refusal_by_strings": "safety",
    "refusal_rates": "safety",
    "Cell": "slices",
    "Sample": "slices",
    "Slice": "slices",
    "by_slice": "slices",
    "coverage": "slices",
    "Difference": "win_rates",
    "WinRate": "win_rates",
    "compare_all_win_rates": "win_rates",
    "compare_win_rates": "win_rates",
    "win_rate": "win_rates",
}

__all__ = [
    "AIPrice",
    "Agreement",
    "Answered",
    "Bin",
    "Cell",
    "Concordance",
    "Constraints",
    "CostPlan",
    "Difference",
    "Estimate",
    "ExtrapolationWarning",
    "HumanPrice",
    "Independence",
    "Labelled",
    "LengthControlled",
    "OverOptimisation",
    "Plan",
    "PositionBias",
    "PredictionPowered",
    "Preferred",
    "Ranking",
    "RefusalRates",
    "Repeatability",
    "Sample",
    "SampleSize",
    "Slice",
    "Source",
    "Transitivity",
    "WinRate",
    "Wins",
    "agreement_difference",
    "ai_label_cost",
    "alignment",
    "answered",
    "benjamini_hochberg",
    "best_of_n_kl",
    "bradley_terry",
    "brier",
    "by_slice",
    "cohens_kappa",
    "compare_all_win_rates",
    "compare_unpaired",
    "compare_win_rates",
    "cost_plan",
    "count_wins",
    "coverage",
    "expected_best",
    "expected_calibration_error",
    "fleiss_kappa",
    "harmless_rate",
    "holm",
    "human_label_cost",
    "kendalls_w",
    "krippendorff_alpha",
    "labelled",
    "length_controlled_rate",
    "length_controlled_win_rate",
    "log_loss",
    "over_optimisation",
    "plan",
    "position_bias",
    "prediction_powered_mean",
    "prediction_powered_sample",
    "prediction_powered_win_rate",
    "preferred",
    "rank_policies",
    "refusal_by_strings",
    "refusal_rates",
    "reliability_table",
    "repeatability",
    "reward_accuracy",
    "rogan_gladen",
    "sample_size",
    "transitivity",
    "verify_independence",
    "win_rate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
