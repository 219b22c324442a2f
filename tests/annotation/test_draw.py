"""Samples for people: drawn at random, with weights that keep estimates of the whole unbiased."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random
from statistics import fmean

import pytest
from typer.testing import CliRunner

from aifeedback.annotation.assignment import sampled
from aifeedback.annotation.sampling import draw, draw_file, is_due, weighted_mean
from aifeedback.cli import app
from aifeedback.errors import InputError

from .pages import pairs


def test_every_row_is_drawn_equally_often() -> None:
    counts = Counter(d.row for seed in range(2000) for d in draw(10, 3, seed=seed))
    assert all(abs(counts[row] - 600) < 3.5 * (2000 * 0.3 * 0.7) ** 0.5 for row in range(10))


def test_a_limit_is_a_random_sample_and_a_larger_one_keeps_a_smaller_one() -> None:
    items = pairs(10)
    counts = Counter(item.id for seed in range(1000) for item in sampled(items, 3, seed))
    assert all(abs(counts[item.id] - 300) < 3.5 * (1000 * 0.3 * 0.7) ** 0.5 for item in items)
    small, large = ({item.id for item in sampled(items, n, 5)} for n in (3, 7))
    assert small < large


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_weights_add_up_to_the_population(share: float) -> None:
    strata = ["a"] * 70 + ["b"] * 25 + ["c"] * 5
    uncertain = [i % 4 == 0 for i in range(100)]
    sample = draw(100, 30, strata=strata, uncertain=uncertain, uncertain_share=share, seed=1)
    assert len(sample) == 30
    assert sum(d.weight for d in sample) == pytest.approx(100)
    for tag in "abc":
        assert sum(d.weight for d in sample if strata[d.row] == tag) == pytest.approx(strata.count(tag))
    if share:
        assert sum(uncertain[d.row] for d in sample) == 15


def test_weighted_rates_are_unbiased_and_covered_however_many_uncertain_rows_were_added() -> None:
    random = Random(0)
    uncertain = [random.random() < 0.15 for _ in range(1500)]
    strata = [random.choice(["de", "en", "en", "en"]) for _ in range(1500)]
    truth = [float(random.random() < (0.5 if mark else 0.9)) for mark in uncertain]
    target, covered, estimates, plain = fmean(truth), 0, [], []
    for seed in range(400):
        sample = draw(1500, 150, strata=strata, uncertain=uncertain, uncertain_share=0.5, seed=seed)
        values = [truth[d.row] for d in sample]
        found = weighted_mean(values, [d.weight for d in sample], [d.stratum for d in sample])
        estimates.append(found.value)
        plain.append(fmean(values))
        covered += found.low <= target <= found.high
    assert fmean(estimates) == pytest.approx(target, abs=0.005)
    assert abs(fmean(plain) - target) > 0.1  # what the weights are for
    assert 0.92 <= covered / 400 <= 0.98


def test_unknown_values_keep_their_stratums_size() -> None:
    found = weighted_mean([1.0, None, 0.0, 0.0], [3, 3, 1, 1], ["a", "a", "b", "b"])
    assert found.value == pytest.approx(6 / 8)
    assert found.dropped == 1
    assert "one known value" in found.notes[0]
    assert not weighted_mean([None, None], [3, 3], ["a", "a"]).is_known
    assert not weighted_mean([], [], []).is_known
    whole = weighted_mean([1.0, 1.0], [1, 1], ["a", "a"])
    assert (whole.low, whole.high) == (1.0, 1.0)
    flat = weighted_mean([1.0, 1.0], [5, 5], ["a", "a"])
    assert flat.low != flat.low  # no spread seen: no interval, and a note


@pytest.mark.parametrize(
    "settings",
    [
        {"n": 0},
        {"n": 11},
        {"n": 3, "strata": list("aabbccddee")},
        {"n": 3, "uncertain": [False] * 10, "uncertain_share": 0.5},
        {"n": 3, "uncertain": [True], "uncertain_share": 0.5},
        {"n": 3, "uncertain_share": 1.0},
    ],
)
def test_what_cannot_be_drawn_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        draw(10, **settings)  # type: ignore[arg-type]


def test_the_command_keeps_rows_and_adds_weights(tmp_path: Path) -> None:
    data, out = tmp_path / "a.jsonl", tmp_path / "s.jsonl"
    rows = [
        {"prompt": f"Q{i}", "first": "x", "second": "y", "p_first": 0.55 if i % 5 == 0 else 0.95, "judge": "j",
         "tags": {"topic": "law" if i % 2 else "tea"}}
        for i in range(100)
    ]  # fmt: skip
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["draw", str(data), "-o", str(out), "-n", "20", "--by", "topic", "--uncertain", "0.5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    drawn = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(drawn) == 20
    assert sum(row["sampling_weight"] for row in drawn) == pytest.approx(100)
    assert sum(row["p_first"] == 0.55 for row in drawn) == 10
    assert "uncertain · law" in result.output
    first = out.read_text()
    CliRunner().invoke(app, arguments)
    assert out.read_text() == first


def test_the_size_follows_from_a_half_width(tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"Q{i}", "first": "x", "second": "y"}) + "\n" for i in range(500)))
    assert 200 < draw_file(data, tmp_path / "s.jsonl", half_width=0.05).n < 230  # 384, finite population of 500
    for wrong in ({}, {"n": 5, "half_width": 0.1}, {"n": 501}, {"n": 5, "by": "none"}, {"n": 5, "uncertain": 0.5}):
        with pytest.raises(InputError):
            draw_file(data, tmp_path / "t.jsonl", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="overwritten"):
        draw_file(data, data, n=5)
    with pytest.raises(InputError, match="is a sample"):
        draw_file(tmp_path / "s.jsonl", tmp_path / "t.jsonl", n=5)


def test_spot_checks_fall_due_every_so_many_batches() -> None:
    assert [n for n in range(10) if is_due(n, every=4, start=1)] == [1, 5, 9]
