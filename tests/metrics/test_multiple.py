"""Corrections for many tests against statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from aifeedback.errors import InputError
from aifeedback.metrics import benjamini_hochberg, holm
from aifeedback.metrics.intervals import adjust


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_holm_and_benjamini_hochberg_equal_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1])


def test_worked_example() -> None:
    # sorted .01 .03 .04: Holm .03, max(.03, .06) = .06, max(.06, .04) = .06; BH .03, .04 (3/2·.03 = .045 > .04), .04
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert benjamini_hochberg([0.04, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])


def test_an_unknown_p_value_stays_unknown_and_is_not_a_test() -> None:
    assert np.isnan(holm([0.01, np.nan])[1])
    assert holm([0.01, np.nan])[0] == 0.01


def test_unknown_correction_is_refused() -> None:
    with pytest.raises(InputError):
        adjust([0.1], "bonferoni")  # type: ignore[arg-type]
