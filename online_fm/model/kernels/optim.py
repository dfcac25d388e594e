"""FTRL-Proximal and AdaGrad, per coordinate: for one weight, and for lanes of factors.

FTRL (McMahan et al., KDD 2013, Algorithm 1), gradient g, state z, n:

    sigma = (sqrt(n + g^2) - sqrt(n)) / alpha        z += g - sigma w        n += g^2
    w = 0                                                    if |z| <= l1
      = -(z - sgn(z) l1) / ((beta + sqrt(n)) / alpha + l2)   otherwise

The difference of roots is computed as g^2 / (sqrt(n + g^2) + sqrt(n)): in float32 it would lose all its digits
once n is large. Factors start at their initial value with z = 0 (alphaFM): the first gradient that is not 0 turns
them into the weight that z, n give; until then (n = 0) they stay.

AdaGrad (Duchi et al., JMLR 2011), state A:   g += l2 w;  A += g^2;  w -= eta g / sqrt(a0 + A).

A gradient of exactly 0 leaves weight and state as they are. Rates are tuples of float32: (1 / alpha, beta, l1, l2)
or (eta, a0, 0, l2): roots and divisions are what an update costs, so FTRL has two of each per coordinate and no more.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, FTRL, INLINE, Rates
from online_fm.model.kernels.lanes import load, shrink, sqrt, store, where_nonzero

__all__ = ["update_factors", "update_weight"]

TINY = np.float32(1e-30)  # keeps 0 / 0 out where a squared gradient is 0 in float32


@njit(**INLINE)
def update_weight(kind: int, g: np.float32, array: F32, at: int, rates: Rates) -> None:
    """One step on the weight `array[at]`, whose state is `array[at + 1], array[at + 2]`; g float32."""
    if g != 0.0:
        if kind == FTRL:
            _ftrl_weight(g, array, at, rates)
        else:
            _adagrad_weight(g, array, at, rates)


@njit(**INLINE)
def _ftrl_weight(g: np.float32, array: F32, at: int, rates: Rates) -> None:
    per_alpha, beta, l1, l2 = rates
    n = array[at + 2]
    n_new = n + g * g
    root = np.sqrt(n_new)
    z = array[at + 1] + g - g * g / (root + np.sqrt(n) + TINY) * per_alpha * array[at]
    size = abs(z) - l1
    denominator = (beta + root) * per_alpha + l2
    w = np.float32(0.0)
    if size > 0.0 and denominator > 0.0:
        w = -np.copysign(size, z) / denominator
    array[at] = w
    array[at + 1] = z
    array[at + 2] = n_new


@njit(**INLINE)
def _adagrad_weight(g: np.float32, array: F32, at: int, rates: Rates) -> None:
    eta, a0, _, l2 = rates
    g = g + l2 * array[at]
    a = array[at + 1] + g * g
    array[at] -= eta * g / np.sqrt(a0 + a)
    array[at + 1] = a


@njit(**INLINE)
def update_factors(kind: int, g: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    """One step on the factors `array[at:]`; their state begins `width` further on; g lanes of float32."""
    if kind == FTRL:
        _ftrl_factors(g, array, at, width, rates)
    else:
        _adagrad_factors(g, array, at, width, rates)


@njit(**INLINE)
def _ftrl_factors(g: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    per_alpha, beta, l1, l2 = rates
    v = load(array, at, g)
    z = load(array, at + width, g)
    n = load(array, at + 2 * width, g)
    g2 = g * g
    n_new = n + g2
    root = sqrt(n_new)
    sigma: F32 = g2 / (root + sqrt(n) + TINY) * per_alpha
    z = z + g - sigma * v
    weight: F32 = np.float32(0.0) - shrink(z, l1) / ((root + beta) * per_alpha + l2 + TINY)
    store(array, at, where_nonzero(n_new, weight, v))
    store(array, at + width, z)
    store(array, at + 2 * width, n_new)


@njit(**INLINE)
def _adagrad_factors(g: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    eta, a0, _, l2 = rates
    v = load(array, at, g)
    g = where_nonzero(g, g + v * l2, g)
    a = load(array, at + width, g) + g * g
    store(array, at, v - g * eta / sqrt(a + a0))
    store(array, at + width, a)
