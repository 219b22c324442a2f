"""A server that plants faults in 30 % of its answers gives right labels, or none, and always says which."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from aifeedback.models import connect
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import OPEN, Journaled
from aifeedback.types import Message, Problem
from models.faults import FAULTS, FINAL, FaultyServer
from models.stub import StubServer, truth

PATIENCE_S, ON_ITS_WAY_S = 3.0, 1.0
SHARED = "Which of the two is better? " * 4


def prompts(count: int) -> list[list[Message]]:
    return [[Message(role="user", content=f"{SHARED} item {n}\n\nBetter:")] for n in range(count)]


def label_through_faults(count: int, folder: Path, *, seed: int, whole_seconds: int = 20) -> dict[str, float]:
    """Labels ``count`` prompts, asserts that each label is right or unknown by name, and returns what was counted.

    Client and server share one interpreter, and perhaps a starved machine: a healthy answer may be a second late. So
    an attempt has ``PATIENCE_S``, a planted stall lasts longer, and a call that was on its way when the server asked
    to wait may arrive ``ON_ITS_WAY_S`` after.
    """
    faulty = FaultyServer(
        rate=0.3, seed=seed, stall_s=3 * PATIENCE_S, whole_seconds=whole_seconds, whole_s=2 * ON_ITS_WAY_S
    )
    with StubServer(faulty) as server:
        model = connect(
            "openai:stub", base_url=server.url, attempt_timeout_s=PATIENCE_S, backoff_first_s=0.002, backoff_most_s=0.05
        )
        journal = Journal(folder / "journal.sqlite")
        readings = Journaled(model, journal).read_labels(prompts(count), ["1", "2"])
        model.close()
        requests = list(server.requests)
    wrong = unrecovered = 0
    for prompt, reading in zip(prompts(count), readings, strict=True):
        expected = truth(prompt[0].content)
        for label, value in zip(("1", "2"), reading.logprobs, strict=True):
            assert value is None or math.isfinite(value)
            wrong += value is not None and value != expected[label]
        if reading.problem is None:
            assert None not in reading.logprobs
        else:
            unrecovered += 1
            allowed = faulty.final.get(prompt[0].content, set()) | OPEN
            assert reading.problem in allowed, reading
            assert reading.problem is not Problem.OVER_BUDGET
    assert wrong == 0
    early = [
        (request.at, until)
        for text, asked, until in faulty.gates
        for request in requests
        if asked < request.at < until and (request.text == text or request.at > asked + ON_ITS_WAY_S)
    ]
    assert not early
    assert journal.verify().rows == len(list(journal.rows()))
    return {
        "calls": count,
        "attempts": len(requests),
        "faults planted": faulty.planted.total(),
        "kinds": len(faulty.planted),
        "waits asked for": len(faulty.gates),
        "unrecovered": unrecovered,
        "wrong": wrong,
    }


def test_faults_never_become_labels(tmp_path: Path) -> None:
    counted = label_through_faults(500, tmp_path, seed=1, whole_seconds=200)
    assert counted["kinds"] >= 20


@pytest.mark.campaign
def test_campaign_ten_thousand_calls(tmp_path: Path) -> None:
    counted = label_through_faults(10_000, tmp_path, seed=2)
    print(counted)
    assert counted["kinds"] == len(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_alone(name: str, tmp_path: Path) -> None:
    """Planted in every first attempt: the second one gives the label, unless the answer was final."""
    faulty = FaultyServer(rate=0.0, seed=0, wait_ms=5, stall_s=3.0, whole_seconds=10**9)

    def first_time(request):
        if sum(earlier.text == request.text for earlier in server.requests) > 1:
            return faulty(request)
        if name in FINAL:
            faulty.final.setdefault(request.text, set()).add(FINAL[name])
        return FAULTS[name](faulty, request)

    with StubServer(first_time) as server:
        model = connect(
            "openai:stub", base_url=server.url, attempt_timeout_s=1.0, backoff_first_s=0.001, backoff_most_s=0.01
        )
        reading = model.read_labels(prompts(1), ["1", "2"])[0]
        model.close()
    if name in FINAL:
        assert reading.problem is FINAL[name]
        assert None in reading.logprobs
    else:
        assert reading.problem is None, reading
        assert reading.logprobs == tuple(truth(prompts(1)[0][0].content).values())
