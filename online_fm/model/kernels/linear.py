"""The linear part, which all models share: `sum_i tau_f x_i w_i`, how its weights learn, and the bias.

A weight that is kept as a Gaussian is read as its mean, and adds (tau x)^2 s^2 to the variance of the logit; a feature
without a record has weight 0, and its field's prior variance. With `v_needs_w`, a feature whose weight is exactly 0
is `idle`: its factors take no part.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, F64, INLINE, KALMAN, PRECISION, TAU, Rates, kalman
from online_fm.model.kernels.optim import update_weight

__all__ = ["idle", "learn_bias", "learn_weight", "mean_weight", "weight_variance"]

ONE = np.float32(1.0)


@njit(**INLINE)
def mean_weight(kind: int, flat: F32, at: int, f: int, fields: F32) -> np.float32:
    """The weight of the record at `at`, of field f; 0 where at < 0."""
    first = max(at, 0)
    w = flat[first]
    if kind == KALMAN:
        w = w / (fields[PRECISION, f] + flat[first + 1])
    return w if at >= 0 else np.float32(0.0)


@njit(**INLINE)
def weight_variance(flat: F32, at: int, f: int, fields: F32) -> np.float32:
    """The variance of the weight, of kind Kalman."""
    brought = flat[max(at, 0) + 1]
    return ONE / (fields[PRECISION, f] + (brought if at >= 0 else np.float32(0.0)))


@njit(**INLINE)
def idle(v_needs_w: bool, flat: F32, at: int) -> bool:
    """Whether the factors of the record at `at` take no part."""
    w = np.float32(1.0)
    if v_needs_w:
        w = flat[at] if at >= 0 else np.float32(0.0)
    return w == 0.0


@njit(**INLINE)
def learn_bias(kind: int, g: float, lam: float, bias: F32, rates: Rates) -> None:
    """One step of the bias."""
    if kind == KALMAN:
        kalman.learn_bias(np.float32(g), np.float32(lam), bias, rates)
    else:
        update_weight(kind, np.float32(g), ONE, bias, 0, rates)


@njit(**INLINE)
def learn_weight(
    kind: int,
    x: np.float32,
    g: float,
    brings: float,
    variance: float,
    f: int,
    flat: F32,
    at: int,
    fields: F32,
    evidence: F64,
    rates: Rates,
) -> None:
    """One step of the weight of a feature of field f and value x, whose record is at `at`."""
    tau = fields[TAU, f]
    if kind == KALMAN:
        kalman.learn_weight(
            tau * x,
            np.float32(g),
            np.float32(brings),
            np.float32(variance),
            f,
            flat,
            at,
            fields,
            evidence,
            rates,
        )
    else:
        update_weight(kind, np.float32(g * np.float64(x)), tau, flat, at, rates)
