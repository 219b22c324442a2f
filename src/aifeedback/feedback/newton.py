"""Newton's method with step halving, for the small convex fits of this package (a handful of parameters)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Local(NamedTuple):
    """A function at one point."""

    value: float
    gradient: Floats
    hessian: Floats


def minimise(function: Callable[[Floats], Local], start: Floats, *, steps: int = 200) -> Floats:
    """The minimum of a strictly convex function; a step is halved until it brings the function down.

    Halving is needed: from a saturated start plain Newton steps of a logistic loss jump back and forth for ever.
    """
    x, here = start, function(start)
    for _ in range(steps):
        step = np.linalg.solve(here.hessian, here.gradient)
        slope = float(here.gradient @ step)
        if slope < 1e-18:
            break
        size, there = 1.0, function(x - step)
        while there.value > here.value - 1e-4 * size * slope and size > 1e-12:
            size /= 2
            there = function(x - size * step)
        x, here = x - size * step, there
    return x


def log1p_exp(z: Floats) -> Floats:
    """log(1 + e^z) without overflow."""
    return np.logaddexp(0.0, z)
