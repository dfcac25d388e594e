"""From logit to probability, and the guard against updates that are not finite."""

from __future__ import annotations

import math

from numba import njit

from online_fm.model.kernels import INLINE

__all__ = ["LARGEST_GRADIENT", "sigmoid", "sound"]

LARGEST_GRADIENT = 1e9


@njit(**INLINE)
def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)) in float64; .5 where the logit is not finite, so that a p is always a number."""
    if not math.isfinite(logit):
        return 0.5
    if logit >= 0.0:
        return 1.0 / (1.0 + math.exp(-logit))
    e = math.exp(logit)
    return e / (1.0 + e)


@njit(**INLINE)
def sound(logit: float, g: float, weight: float, x_max: float, reach: float) -> bool:
    """Whether an update with dloss/dlogit `g` leaves every parameter finite, in constant time per row.

    The gradient of a w is g x, that of a factor g x h, with |h| <= reach (each model says how it bounds h by its
    forward sums), so |g| max(1, |x|) max(1, reach) bounds every coordinate's. At most 1e9 (`LARGEST_GRADIENT`) of
    it is enough: squares are at most 1e18, so 1e20 such events fit in float32; an AdaGrad step is at most eta, an
    FTRL step at most alpha (|g| / sqrt(n + g^2) <= 1), so |w| grows linearly and |z| <= |w| (beta + sqrt(n)) / alpha
    + l1 stays far below 3e38. NaN anywhere makes the comparison false.
    """
    size = abs(g) * max(1.0, x_max) * max(1.0, reach)
    return math.isfinite(logit) and weight >= 0.0 and size <= LARGEST_GRADIENT
