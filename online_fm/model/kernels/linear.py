"""The linear part, which all models share: `sum_i tau_f x_i w_i`, how its weights learn, and the bias.

A weight that is kept as a Gaussian is read as its mean, and adds (tau x)^2 s^2 to the variance of the logit; a feature
without a record has weight 0, and its field's prior variance. With `v_needs_w`, a feature whose weight is exactly 0
is `idle`: its factors take no part.

What a row's weights need is gathered into a `memo`, where whole panels of them are worked on at once: 40 roots are
three vectors. Panels follow one another, each with all of its columns, so that one address serves all: with an array
per column the addresses did not fit into registers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, F64, I32, I64, INLINE, KALMAN, PANEL, PRECISION, TAU, U16, Rates, kalman
from online_fm.model.kernels.kalman import ROOM, XW, places
from online_fm.model.kernels.lanes import farther, largest, load, load_first, store, total, zeros
from online_fm.model.kernels.optim import update

__all__ = [
    "distinct",
    "gradient_of",
    "idle",
    "lacking",
    "learn_row",
    "learn_weight",
    "open_row",
    "read_row",
    "read_weight",
    "rising",
    "slope_of",
]

NOTHING, ONE = np.float32(0.0), np.float32(1.0)


@njit(**INLINE)
def lacking(lo: int, hi: int, slot: I32) -> bool:
    """Whether any of the features lo:hi has no record."""
    found = 0
    for j in range(lo, hi):
        found += slot[np.uintp(j)] == 0
    return found > 0


@njit(**INLINE)
def open_row(kind: int, n: int, memo: F32) -> None:
    """Clear the memo behind a row of n features."""
    if kind == KALMAN:
        kalman.open_row(n // PANEL * ROOM, memo)


@njit(**INLINE)
def read_weight(
    kind: int, states: int, here: int, x: np.float32, f: int, flat: F32, at: int, fields: F32, memo: F32
) -> np.float32:
    """What the weight of a feature, of field f and value x, adds to the logit.

    With `states` it is taken, with its state, into its place in the memo. Of kind Kalman it always is, and added by
    `read_row`.
    """
    tau, h = fields[TAU, np.uintp(f)], fields[TAU, np.uintp(f)] * x
    if kind == KALMAN:
        kalman.gather(memo, here, x, h, flat, at, fields[PRECISION, np.uintp(f)])
        return NOTHING
    w = flat[np.uintp(at)]
    if states > 0:
        memo[np.uintp(here + PANEL)] = tau
        memo[np.uintp(here + 2 * PANEL)] = w
        for c in range(1, 1 + states):
            memo[np.uintp(here + (2 + c) * PANEL)] = flat[np.uintp(at + c)]
    return h * w


@njit(**INLINE)
def read_row(kind: int, lo: int, hi: int, val: F32, memo: F32) -> tuple[float, float, np.float32]:
    """(logit, variance) that the weights of kind Kalman of the features lo:hi give; the largest |x|, of any kind."""
    logit, variance, x_max = zeros(PANEL), zeros(PANEL), zeros(PANEL)
    if kind == KALMAN:
        logit, variance = kalman.read_row(hi - lo, memo)
    for j in range(lo, hi, PANEL):
        x_max = farther(x_max, load_first(val, j, hi - j, x_max))
    return total(logit), total(variance), largest(x_max)


@njit(**INLINE)
def slope_of(here: int, memo: F32) -> np.float32:
    """The slope of the logit by tau that the feature at this place has: x w."""
    return memo[np.uintp(here + XW * PANEL)]


@njit(**INLINE)
def gradient_of(kind: int, here: int, x: np.float32, g: float, memo: F32) -> np.float32:
    """The slope g x of the feature, of value x, at this place, after `learn_row`."""
    return np.float32(g) * x if kind == KALMAN else memo[np.uintp(here)]


@njit(**INLINE)
def idle(v_needs_w: bool, flat: F32, at: int) -> bool:
    """Whether the factors of the record at `at` take no part."""
    return flat[np.uintp(at)] == 0.0 if v_needs_w else False


@njit(**INLINE)
def rising(ptr: I64, fld: U16) -> bool:
    """Whether in no row a field comes twice or out of order: then no row has a feature twice."""
    falls = 0
    for j in range(1, fld.size):
        falls += fld[np.uintp(j - 1)] >= fld[np.uintp(j)]
    between = 0
    for i in range(1, ptr.size - 1):
        at = ptr[i]
        if 0 < at < ptr[i + 1]:
            between += fld[np.uintp(at - 1)] >= fld[np.uintp(at)]
    return falls == between


@njit(**INLINE)
def distinct(lo: int, hi: int, fld: U16, slot: I32) -> bool:
    """Whether surely no two of the features lo:hi share a record: fields rise, or do not fall while slots differ."""
    falls = 0
    for j in range(lo + 1, hi):
        falls += fld[np.uintp(j - 1)] >= fld[np.uintp(j)]
    rise = falls == 0
    if not rise:
        rise = True
        for j in range(lo + 1, hi):
            i = j - 1
            rise &= fld[np.uintp(i)] <= fld[np.uintp(j)]
            while rise and i >= lo and fld[np.uintp(i)] == fld[np.uintp(j)]:
                rise = slot[np.uintp(i)] != slot[np.uintp(j)] or slot[np.uintp(j)] == 0
                i -= 1
    return rise


@njit(**INLINE)
def learn_row(
    kind: int,
    states: int,
    lo: int,
    hi: int,
    val: F32,
    g: float,
    lam: float,
    brings: float,
    variance: float,
    bias: F32,
    memo: F32,
    rates: Rates,
) -> None:
    """The steps of the bias and, in the memo, of all weights of the features lo:hi at once.

    But for Kalman the bias is one more weight, with x = tau = 1; what lies behind it in the memo means nothing.
    """
    n, panel = hi - lo, zeros(PANEL)
    if kind == KALMAN:
        kalman.learn_bias(np.float32(g), np.float32(lam), bias, rates)
        kalman.learn_row(n, np.float32(g), np.float32(brings), np.float32(variance), memo, rates)
    else:
        for j in range(lo, hi, PANEL):
            here, x = (j - lo) // PANEL * ROOM, load_first(val, j, hi - j, panel)
            store(memo, here, x * np.float32(g))
            store(memo, here + XW * PANEL, x * load(memo, here + 2 * PANEL, panel))
        own = n // PANEL * ROOM + n % PANEL
        memo[np.uintp(own)], memo[np.uintp(own + PANEL)] = np.float32(g), ONE
        for c in range(1 + states):
            memo[np.uintp(own + (2 + c) * PANEL)] = bias[np.uintp(c)]
        for here in range(0, places(n + 1), ROOM):
            update(kind, load(memo, here, panel), load(memo, here + PANEL, panel), memo, here + 2 * PANEL, PANEL, rates)
        for c in range(1 + states):
            bias[np.uintp(c)] = memo[np.uintp(own + (2 + c) * PANEL)]


@njit(**INLINE)
def learn_weight(
    kind: int,
    states: int,
    here: int,
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
    """Write the step of the weight of a feature, of field f and value x, from its place to its record at `at`.

    Where features of the row may share a record (not `apart`) the step is taken anew, from what the others left.
    """
    if kind == KALMAN:
        if x != 0.0:
            if not apart and kalman.moved(memo, here, flat, at):
                kalman.repeat(here, np.float32(g), np.float32(brings), np.float32(variance), flat, at, memo, rates)
            kalman.put_weight(memo, here, f, flat, at, evidence)
    elif apart:
        for c in range(1 + states):
            flat[np.uintp(at + c)] = memo[np.uintp(here + (2 + c) * PANEL)]
    else:
        update(kind, zeros(1) + memo[np.uintp(here)], fields[TAU, np.uintp(f)], flat, at, 1, rates)
