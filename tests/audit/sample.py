# ruff: noqa: E501 - one record per line
"""An invented summary in the shape that a run of the demo recipe leaves, to look at pages and to test them."""

from __future__ import annotations

import math
from typing import Any


def est(value: float, half: float = 0.04, n: int = 500, **more: Any) -> dict[str, Any]:
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": n,
        "method": "invented",
        "notes": [],
        **more,
    }


PROMPT = {
    "name": "lab-pairwise",
    "version": "1",
    "digest": "0123456789abcdef",
    "preamble": "Two summaries of one post. The better one asks the post's question and gets its facts right.",
    "sample": "post : {{ context }}\nsummary 1 : {{ first }}\nsummary 2 : {{ second }}",
    "ending": "preferred summary =",
    "rationale_request": "rationale :",
    "labels": [" 1", " 2"],
    "exemplars": 0,
}


def judge(model: str, family: str, **more: Any) -> dict[str, Any]:
    return {
        "model": model, "uri": model, "family": family, "revision": "ab12cd34ef56ab78", "parameters": 1_030_000,
        "prompt": PROMPT, "settings": {"orders": "both", "average": "probabilities", "rationale": {"samples": 1}}, **more,
    }  # fmt: skip


def policy(value: float, controlled: float, length: float, kl: float) -> dict[str, Any]:
    return {
        "win_rate": est(value), "length_controlled": est(controlled, 0.045), "win_rate_independent": est(value - 0.03),
        "mean_length": length, "mean_words": length / 5.2, "kl": kl,
        "by_judge": {
            "gold": {"win_rate": est(value), "length_controlled": est(controlled), "unknown": {}},
            "lab:judge-b": {"win_rate": est(value - 0.03), "length_controlled": est(controlled), "unknown": {}},
        },
    }  # fmt: skip


def curve(steps: int, turns: bool) -> list[dict[str, float]]:
    rows = []
    for step in range(1, steps + 1):
        done = step / steps
        gold = 3.4 + 2.2 * done - (4.6 * max(0.0, done - 0.55) if turns else 0.0)
        row = {
            "step": step,
            "reward": 2.4 * (1 - math.exp(-3 * done)) + 0.2 * math.sin(step),
            "k1_sum": 6 * done,
            "length": 18 + 4 * done,
        }
        if step % 15 == 1 or step == steps:
            row |= {
                "heldout_reward": 2.3 * (1 - math.exp(-3 * done)),
                "heldout_measure": gold,
                "heldout_measure_se": 0.2,
            }
        rows.append(row)
    return rows


def summary(**changes: Any) -> dict[str, Any]:
    """The whole thing; keyword arguments replace top-level keys."""
    examples = [
        {"rule": rule, "reference": "sft", "prompt": "my aunt broke my lamp at the lake . should i forgive her ?",
         "answers": {"sft": "someone broke something .", "rlaif": "my aunt broke my lamp . should i forgive her ?",
                     "d_rlaif": "my aunt broke my lamp at the lake . should i forgive her ?"},
         "scores": {"sft": 2.0, "rlaif": 6.5, "d_rlaif": 8.0}}
        for rule in ("best of all for d-RLAIF", "worst of all for d-RLAIF", "drawn by seed")
    ]  # fmt: skip
    told: dict[str, Any] = {
        "recipe": "demo",
        "description": "Three ways to align a small summariser, measured against a known truth.",
        "seed": 0,
        "versions": {"python": "3.11", "aifeedback": "0.1.0", "torch": "2.13.0"},
        "seconds": {"label": 41.2, "rlaif": 62.0, "rlhf": 61.1, "compare": 30.3, "total": 265.0},
        "cost_usd": 0.0,
        "judge": {
            "alignment_single": est(0.72, 0.025, 1100), "alignment": est(0.77, 0.024, 1100),
            "alignment_cot": est(0.84, 0.021, 1100), "fact_pairs_cot": est(0.76, 0.037, 500),
            "same_position": est(0.31, 0.027, 1100),
        },
        "reward_model": {"rlaif": est(0.79, 0.024, 1100), "rlhf": est(0.78, 0.024, 1100)},
        "policies": {
            "sft": policy(0.5, 0.5, 83, 0.0), "rlaif": policy(0.71, 0.64, 104, 2.1),
            "rlhf": policy(0.73, 0.70, 92, 2.8), "d_rlaif": policy(0.82, 0.80, 95, 1.9),
        },
        "head_to_head": {"rlaif_vs_rlhf": est(0.48), "rlaif_vs_d_rlaif": est(0.37), "rlhf_vs_d_rlaif": est(0.4)},
        "stages": {
            "label": {
                "kind": "label", "calls": 6000, "tokens": 1_200_000,
                "figures": {
                    "labels": 2990, "unknown": 10, "problems": {"unreadable": 10},
                    "position_bias": est(0.31, 0.02, 2990, slot_first=620, slot_second=307, consistency=0.69, mixed=0),
                    "judge": judge("lab:judge-a", "lab-a"),
                    "reliability": {"lab:judge-a": [{"p": p / 10 + 0.05, "share": 0.5 + (p / 10 - 0.45) * 0.8, "n": 60 + 20 * abs(p - 5)} for p in range(10)]},
                },
            },
            "rlaif": {"kind": "rl", "calls": 0, "tokens": 0, "figures": {"curve": curve(150, turns=True)}},
            "d_rlaif": {"kind": "rl", "calls": 0, "tokens": 0, "figures": {"curve": curve(150, turns=False), "judges": {"lab:judge-a": judge("lab:judge-a", "lab-a")}}},
            "compare": {
                "kind": "compare", "calls": 0, "tokens": 0,
                "figures": {
                    "judges": {"gold": {"model": "gold:lab", "family": "oracle", "prompt": None}, "lab:judge-b": judge("lab:judge-b", "lab-b", revision="99aa88bb77cc66dd")},
                    "examples": examples,
                    "rows": {"read": 500, "kept": 500, "skipped": {}},
                },
            },
        },
    }  # fmt: skip
    return told | changes
