"""A grid's cells are the labels that ``label`` gives, and its differences are those of a hand calculation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aifeedback import data
from aifeedback.errors import InputError
from aifeedback.metrics import agreement_difference
from aifeedback.metrics.intervals import adjust
from aifeedback.steps.grid import Cell, Grid
from aifeedback.steps.label import Label
from aifeedback.steps.step import Context
from aifeedback.types import Completion, Prompt


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Forty pairs; people prefer the longer response of three in four."""
    rows = []
    for number in range(40):
        prompt = Prompt.of(f"question {number}")
        made = [Completion.of(prompt, "word " * size, source="x") for size in (2 + number % 5, 4 + number % 3)]
        longer = float(len(made[0].text) > len(made[1].text))
        people = longer if number % 4 else 1 - longer
        rows.append({"prompt": prompt.text, "first": made[0].text, "second": made[1].text, "human_p_first": people})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(grid: Grid, folder: Path):
    folder.mkdir(exist_ok=True)
    return grid.run(Context(folder, folder, seed=0))


def test_a_cell_is_what_label_gives(pairs: Path, tmp_path: Path) -> None:
    settings = {"comparisons": str(pairs), "judges": ["fake:noisy"], "prompts": ["helpful-base", "helpful-detailed"]}
    grid = Grid.model_validate(settings | {"shots": [0, 2], "rationales": [0, 1, 3]})
    figures = run(grid, tmp_path / "grid")
    assert len(figures.cells) == 12
    assert [(c.prompt, c.shots, c.rationales) for c in figures.cells[:4]] == [
        ("helpful-base", 0, 0), ("helpful-base", 0, 1), ("helpful-base", 0, 3), ("helpful-base", 2, 0),
    ]  # fmt: skip
    for number, judge in ((0, {"shots": 0}), (11, {"shots": 2, "rationale": {"samples": 3, "temperature": 0.7}})):
        prompt = figures.cells[number].prompt
        own = tmp_path / f"label{number}"
        own.mkdir()
        label = Label.model_validate(
            {"comparisons": str(pairs), "judge": {"model": "fake:noisy", "prompt": prompt, **judge}}
        )
        alone = label.run(Context(own, own, seed=0))
        assert figures.cells[number].alignment == alone.alignment
        assert figures.cells[number].position_bias == alone.position_bias
        assert (own / "preferences.jsonl").read_bytes() == (
            tmp_path / f"grid/preferences-{number:02}.jsonl"
        ).read_bytes()


def test_differences_are_paired_and_adjusted(pairs: Path, tmp_path: Path) -> None:
    settings = {"comparisons": str(pairs), "judges": ["fake:longer", "fake:noisy"], "prompts": ["helpful-base"]}
    figures = run(Grid.model_validate(settings | {"rationales": [0, 1]}), tmp_path / "grid")
    human = np.array(data.read_comparisons(str(pairs), 0).human, dtype=float)
    right = []
    for number in range(4):
        rows = [json.loads(line) for line in (tmp_path / f"grid/preferences-{number:02}.jsonl").open()]
        p = np.array([row["p_first"] for row in rows], dtype=float)
        right.append(np.where(p == 0.5, 0.5, (p > 0.5) == (human > 0.5)))
    tests: list[Any] = [stats.ttest_1samp(own - right[0], 0.0) for own in right[1:] if np.ptp(own - right[0]) > 0]
    shown = [cell for cell, own in zip(figures.cells[1:], right[1:], strict=True) if np.ptp(own - right[0]) > 0]
    assert tests
    for cell, own in zip(figures.cells[1:], right[1:], strict=True):
        assert difference(cell)["value"] == pytest.approx(float((own - right[0]).mean()))
    p_values = [difference(cell)["p_value"] for cell in figures.cells[1:]]
    assert [cell.p_value for cell in figures.cells[1:]] == pytest.approx(list(adjust(p_values)))
    for cell, test in zip(shown, tests, strict=True):
        assert difference(cell)["p_value"] == pytest.approx(test.pvalue)
        interval = test.confidence_interval()
        assert (difference(cell)["low"], difference(cell)["high"]) == pytest.approx((interval.low, interval.high))
    assert figures.cells[0].difference is None


def difference(cell: Cell) -> dict[str, Any]:
    assert cell.difference is not None
    return cell.difference.model_dump()


def test_a_difference_counts_only_pairs_that_both_labelled() -> None:
    found = agreement_difference([1, 0, None, 1, 0.5], [0, 0, 1, None, 1], [1, 0, 1, 1, 0.5])
    assert (found.n, found.dropped, found.value) == (2, 2, 0.5)


def test_pairs_that_share_a_prompt_count_as_one() -> None:
    own, other, people = [1, 1, 0, 0] * 8, [0, 0, 0, 0] * 8, [1] * 32
    alone = agreement_difference(own, other, people)
    clustered = agreement_difference(own, other, people, prompts=[i // 4 for i in range(32)])
    assert alone.value == clustered.value == 0.5
    assert np.isnan(clustered.p_value) or clustered.standard_error < alone.standard_error


def test_pairs_without_people_are_labelled_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{i}", "first": "a", "second": "b c"}) + "\n" for i in range(4)))
    grid = Grid.model_validate({"comparisons": str(path), "judges": ["fake:longer"], "prompts": ["helpful-base"]})
    figures = run(grid, tmp_path / "grid")
    assert figures.cells[0].labels == 4
    assert figures.cells[0].alignment is None
    verdict = figures.verdict()
    assert (verdict.level, "human labels" in verdict.meaning) == ("watch", True)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"shots": [-1]}, "0 or more"),
        ({"rationales": [-2]}, "0 or more"),
        ({"judges": []}, "judges"),
        ({"how": {"by": "ratings", "clamp": [0.4, 0.6]}}, "clamp"),
        ({"base_url": "http://localhost:1/v1"}, "only a server"),
    ],
)
def test_settings_that_fit_no_judge_are_refused(settings: dict, what: str) -> None:
    given = {"comparisons": "x.jsonl", "judges": ["fake:noisy"], "prompts": ["helpful-base"], **settings}
    with pytest.raises((ValueError, InputError), match=what):
        Grid.model_validate(given)
