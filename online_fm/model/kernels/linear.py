"""The linear part, which all models share: `sum_i tau_f x_i w_i`, how its weights learn, and the bias.

A weight that is kept as a Gaussian is read as its mean, and adds (tau x)^2 s^2 to the variance of the logit; a feature
without a record has weight 0, and its field's prior variance. With `v_needs_w`, a feature whose weight is exactly 0
is `idle`: its factors take no part.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, F64, I32, INLINE, KALMAN, PANEL, PRECISION, TAU, U16, Rates, kalman
from online_fm.model.kernels.kalman import COLUMNS
from online_fm.model.kernels.lanes import load, store, total, zeros
from online_fm.model.kernels.optim import update

__all__ = ["distinct", "idle", "learn_row", "learn_weight", "read_row", "read_weight"]

NOTHING, ONE = np.float32(0.0), np.float32(1.0)


@njit(**INLINE)
def read_weight(
    kind: int, states: int, i: int, x: np.float32, f: int, flat: F32, at: int, fields: F32, hw: F32, memo: F32
) -> None:
    """Take the weight of the row's i-th feature, of field f and value x: h w into `hw`, h = tau x.

    With `states`, weight and state go to the memo too (what is there of a feature without a record means nothing, and
    goes nowhere); of kind Kalman they go there alone. One way in and one way out: with several, Numba counts references
    to the arrays in the loop, at twice its cost.
    """
    tau = fields[TAU, np.uintp(f)]
    if kind == KALMAN:
        kalman.gather(memo, i, tau * x, flat, at, fields[PRECISION, np.uintp(f)])
    else:
        size, first = memo.size // COLUMNS, max(at, 0)
        w = flat[np.uintp(first)]
        hw[np.uintp(i)] = tau * x * (w if at >= 0 else NOTHING)
        if states > 0:
            memo[np.uintp(i)] = x
            memo[np.uintp(size + i)] = tau
            memo[np.uintp(2 * size + i)] = w
            for c in range(states):
                memo[np.uintp((3 + c) * size + i)] = flat[np.uintp(first + 1 + c)]


@njit(**INLINE)
def read_row(kind: int, n: int, hw: F32, memo: F32) -> tuple[float, float]:
    """(logit, variance) that the weights of a row of n features give; of kind Kalman, h w go to `hw` now."""
    logit, variance = 0.0, 0.0
    if kind == KALMAN:
        logit, variance = kalman.read_row(n, memo, hw)
    else:
        panel = zeros(PANEL)
        store(hw, n, panel)
        for i in range(0, n, PANEL):
            logit += total(load(hw, i, panel))
    return logit, variance


@njit(**INLINE)
def idle(v_needs_w: bool, flat: F32, at: int) -> bool:
    """Whether the factors of the record at `at` take no part."""
    w = np.float32(1.0)
    if v_needs_w:
        w = flat[np.uintp(at)] if at >= 0 else np.float32(0.0)
    return w == 0.0


@njit(**INLINE)
def distinct(lo: int, hi: int, fld: U16, slot: I32) -> bool:
    """Whether surely no two of the features lo:hi share a record: fields rise, or do not fall while slots differ."""
    rise = True
    for j in range(lo + 1, hi):
        rise &= fld[np.uintp(j - 1)] < fld[np.uintp(j)]
    if not rise:
        rise = True
        for j in range(lo + 1, hi):
            i = j - 1
            rise &= fld[np.uintp(i)] <= fld[np.uintp(j)]
            while rise and i >= lo and fld[np.uintp(i)] == fld[np.uintp(j)]:
                rise = slot[np.uintp(i)] != slot[np.uintp(j)] or slot[np.uintp(j)] < 0
                i -= 1
    return rise


@njit(**INLINE)
def learn_row(
    kind: int,
    states: int,
    n: int,
    g: float,
    lam: float,
    brings: float,
    variance: float,
    bias: F32,
    memo: F32,
    rates: Rates,
) -> None:
    """The steps of the bias and, in the memo, of all weights of a row of n features at once: 40 roots as three vectors.

    But for Kalman the bias is one more weight, with x = tau = 1; what lies behind it in the memo means nothing.
    """
    if kind == KALMAN:
        kalman.learn_bias(np.float32(g), np.float32(lam), bias, rates)
        kalman.learn_row(n, np.float32(g), np.float32(brings), np.float32(variance), memo, rates)
    else:
        size, panel = memo.size // COLUMNS, zeros(PANEL)
        memo[np.uintp(n)] = memo[np.uintp(size + n)] = ONE
        for c in range(1 + states):
            memo[np.uintp((2 + c) * size + n)] = bias[np.uintp(c)]
        for i in range(0, n + 1, PANEL):
            gradient = load(memo, i, panel) * np.float32(g)
            update(kind, gradient, load(memo, size + i, panel), memo, 2 * size + i, size, rates)
        for c in range(1 + states):
            bias[np.uintp(c)] = memo[np.uintp((2 + c) * size + n)]


@njit(**INLINE)
def learn_weight(
    kind: int,
    states: int,
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
    apart: bool,
    rates: Rates,
) -> None:
    """Write the step of the weight of the row's i-th feature, of field f and value x, to its record at `at`.

    Where features of the row may share a record (not `apart`) the step is taken anew, from what the others left.
    """
    if kind == KALMAN:
        if x != 0.0:
            if not apart and kalman.moved(memo, i, flat, at):
                kalman.repeat(i, np.float32(g), np.float32(brings), np.float32(variance), flat, at, memo, rates)
            kalman.put_weight(memo, i, f, flat, at, evidence)
    elif apart:
        size = memo.size // COLUMNS
        for c in range(1 + states):
            flat[np.uintp(at + c)] = memo[np.uintp((2 + c) * size + i)]
    else:
        update(kind, zeros(1) + np.float32(g * np.float64(x)), fields[TAU, np.uintp(f)], flat, at, 1, rates)
