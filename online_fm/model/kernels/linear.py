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

__all__ = ["idle", "learn_bias", "learn_weight", "read_weight"]

NOTHING, ONE = np.float32(0.0), np.float32(1.0)


@njit(**INLINE)
def read_weight(kind: int, i: int, x: np.float32, f: int, flat: F32, at: int, fields: F32, hw: F32, memo: F32) -> float:
    """What the row's i-th feature, of field f and value x, adds to the logit: h w, also put into `hw`, h = tau x.

    Of kind Kalman it adds nothing yet: it is gathered in the memo, for `read_row` to work on a row at once.
    One way in and one way out: with several, Numba counts references to the arrays in the loop, at twice its cost.
    """
    h = fields[TAU, np.uintp(f)] * x
    term = NOTHING
    if kind == KALMAN:
        kalman.gather(memo, i, h, flat, at, fields[PRECISION, np.uintp(f)])
    else:
        w = flat[max(at, 0)]
        term = h * (w if at >= 0 else NOTHING)
        hw[np.uintp(i)] = term
    return np.float64(term)


@njit(**INLINE)
def idle(v_needs_w: bool, flat: F32, at: int) -> bool:
    """Whether the factors of the record at `at` take no part."""
    w = np.float32(1.0)
    if v_needs_w:
        w = flat[np.uintp(at)] if at >= 0 else np.float32(0.0)
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
    i: int,
    x: np.float32,
    g: float,
    brings: float,
    variance: float,
    f: int,
    flat: F32,
    at: int,
    fields: F32,
    evidence: F64,
    memo: F32,
    rates: Rates,
) -> None:
    """One step of the weight of the row's i-th feature, of field f and value x, whose record is at `at`."""
    if kind == KALMAN:
        if x != 0.0:
            if kalman.moved(memo, i, flat, at):
                kalman.repeat(i, np.float32(g), np.float32(brings), np.float32(variance), flat, at, memo, rates)
            kalman.put_weight(memo, i, f, flat, at, evidence)
    else:
        update_weight(kind, np.float32(g * np.float64(x)), fields[TAU, np.uintp(f)], flat, at, rates)
