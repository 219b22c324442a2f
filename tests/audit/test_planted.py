"""The audit finds planted faults of 10 points with n = 400, and passes judges that have none."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import pytest

from aifeedback.audit.finding import ALPHA
from aifeedback.audit.judge import JudgeAudit, audit_judge
from aifeedback.audit.probes import PROBES

from .planted import DETECTS, FAMILY, FAULTS, PlantedJudge, World, world

UNTESTED = ("agreement", "clusters", "calibration", "refusal", "transitivity", "repeatability", "wording", "constants",
            "near_empty")  # fmt: skip
TESTING = [name for name in PROBES if name not in UNTESTED]
PROBE_OF = {
    "position": ["position"], "length": ["padding"], "self": ["self"], "group": ["groups"], "language": ["language"],
}  # fmt: skip


@lru_cache(maxsize=2)
def prepared(n: int) -> tuple[World, dict[str, Any]]:
    """Pairs, and the texts that probes make of them, shared by all judges."""
    return world(n), {}


def audited(
    fault: str | None, seed: int, *, n: int = 400, effect: float = 0.1, probes: list[str] = TESTING
) -> JudgeAudit:
    where, made = prepared(n)
    judge = PlantedJudge(where, fault, seed=seed, effect=effect)
    return audit_judge(judge, where.comparisons, where.human, probes=probes, n=n, family=FAMILY, made=made)


def count_of_tests() -> int:
    return sum(f.p_value == f.p_value for f in audited(None, 0, n=40).findings)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_of_ten_points_is_found(fault: str) -> None:
    """Each of its probes alone, held to the threshold that Holm sets for the smallest of all tests of a full audit."""
    threshold = ALPHA / 26
    for seed in range(2):
        found = audited(fault, seed, probes=PROBE_OF.get(fault, [fault]))
        seen = [f for f in found.findings if f.probe in DETECTS[fault] and f.p_value < threshold]
        assert seen, (fault, seed)
        assert all(f.value > 0 for f in seen)


def test_the_threshold_of_the_test_above_is_that_of_a_full_audit() -> None:
    assert count_of_tests() <= 26


def test_judges_without_fault_raise_no_alarm() -> None:
    """At most one of six, by chance 98 times in 100; the campaign counts a thousand."""
    assert sum(bool(false_alarms(seed, 100)) for seed in range(6)) <= 1


def false_alarms(seed: int, n: int = 400) -> list[str]:
    return [f.probe for f in audited(None, 1_000_003 + seed, n=n).findings if f.p_adjusted < ALPHA]


def is_found(fault: str, seed: int) -> bool:
    return any(f.p_adjusted < ALPHA and f.probe in DETECTS[fault] for f in audited(fault, seed).findings)


@pytest.mark.campaign
def test_campaign_power() -> None:
    """200 judges per fault, every test of the audit in one correction."""
    draws = 200
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for fault in FAULTS:
            found = sum(pool.map(is_found, [fault] * draws, range(draws), chunksize=10))
            print(f"power, {fault}: {found} of {draws}")
            assert found >= 0.95 * draws, fault


@pytest.mark.campaign
def test_campaign_false_alarms() -> None:
    """1,000 unbiased judges: the share with any false alarm."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        alarmed = sum(bool(alarms) for alarms in pool.map(false_alarms, range(1000), chunksize=10))
    print(f"false alarms: {alarmed} of 1000 judges")
    assert alarmed <= 50
