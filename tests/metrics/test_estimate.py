"""The shape of results, clean columns, and a package that is light to import."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from aifeedback import metrics
from aifeedback.errors import InputError
from aifeedback.metrics import Estimate, win_rate
from aifeedback.metrics.intervals import groups, known_rows, numbers, table


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, aifeedback.metrics as e; e.win_rate; print([m for m in ('scipy', 'pandas') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_every_public_name_is_there_and_documented() -> None:
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__ or name == "Source"
        assert name in dir(metrics)
    with pytest.raises(AttributeError):
        metrics.no_such_name  # noqa: B018


def test_results_are_plain_json() -> None:
    text = json.dumps(win_rate([1.0, None]).as_dict())
    assert json.loads(text)["standard_error"] is None
    assert json.loads(text)["dropped"] == 1


def test_results_read_as_one_line() -> None:
    assert str(Estimate(0.5, 0.4, 0.6, 10, "")) == "0.500 [0.400, 0.600], n = 10"
    assert str(Estimate(np.nan, np.nan, np.nan, 0, "")) == "unknown (n = 0)"


def test_columns_are_checked() -> None:
    assert np.isnan(numbers([None, 1], "x")[0])
    with pytest.raises(InputError, match="differ in length"):
        known_rows(a=np.zeros(2), b=np.zeros(3))
    with pytest.raises(InputError, match="one id per row"):
        groups([1, 2], np.ones(3, dtype=bool))
    assert groups(["x", "y", "x"], np.array([True, False, True])).tolist() == [0, 0]


def test_text_tables_are_coded_and_none_stays_missing() -> None:
    coded = table([["b", None], ["a", "b"]])
    assert coded[1].tolist() == [0.0, 1.0]
    assert np.isnan(coded[0, 1])
