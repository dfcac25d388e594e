"""The diagonal extended Kalman filter: a mean and a variance for each coordinate, learned by assumed-density filtering.

An event says of the logit m (variance S) the slope g and the curvature lam of its likelihood (`link.respond`). With
the slope h = dm/d(coordinate), scale and value included, Gaussian conditioning moves a coordinate of mean mu and
variance s by

    mu -= s h g          s -= (s h)^2 lam          forgetting, per touch: s += q s (1 - s / prior)

This is the update of factors. Weights are kept by their natural parameters, eta = mu / s and D, the precision that
events have brought, s = 1 / (1 / pi_f + D), so that a changed prior variance pi_f of their field acts at once on all:

    D = (1 - q) D + h^2 lamx / (1 + lamx (S - h^2 s)),     lamx the precision that the event brings to m

pi_f is learned by evidence (MacKay 1992): with gamma_i = max(0, 1 - s_i / pi_f), how well data determine weight i,

    A_f = sum_i mu_i^2    G_f = sum_i gamma_i    pi_f = (A_f + c prior) / (G_f + c)

within [1e-3, 20] times the prior. Each weight's last contributions to A_f and G_f lie in its record: computed anew with
today's pi_f they would let the sums drift. References: Opper 1998; Minka 2001; Puskorius & Feldkamp 1991;
Ollivier 2018; for click models Graepel et al., ICML 2010 and Chapelle & Li, NIPS 2011; for bilinear ones Stern et al.,
WWW 2009.

Rates: weights (q, c or 0, prior, 0, 0), factors (q, 1 / prior, prior, 0, 0). A record's head is `eta D a g`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, F64, INLINE, PANEL, PRECISION, Rates
from online_fm.model.kernels.lanes import at_least, fma, load, store, where_nonzero, zeros

__all__ = [
    "ROOM",
    "XW",
    "gather",
    "learn_bias",
    "learn_factors",
    "learn_priors",
    "learn_row",
    "memo_size",
    "moved",
    "open_row",
    "places",
    "put_weight",
    "read_row",
    "repeat",
]

NOTHING, ONE = np.float32(0.0), np.float32(1.0)
COLUMNS = 11  # of a row's memo: h, prior precision, eta, D, mu, s; then the new eta, D, mu^2, gamma; x, then x mu
XW, ROOM = 10, COLUMNS * PANEL
LEAST, MOST = 1e-3, 20.0


@njit(**INLINE)
def learn_bias(g: np.float32, lam: np.float32, bias: F32, rates: Rates) -> None:
    """bias[0], bias[1] are mean and variance; its prior variance is 1."""
    s = bias[1]
    bias[0] -= s * g
    s = s - s * s * lam
    bias[1] = s + rates[0] * s * (ONE - s)


@njit(**INLINE)
def places(n: int) -> int:
    """The end of the memo's panels that n features fill: panels, all columns of each, begin ROOM apart.

    The i-th feature of a panel has its first column i behind the panel's beginning, the next ones PANEL apart.
    """
    return (n + PANEL - 1) // PANEL * ROOM


@njit(**INLINE)
def memo_size(n: int) -> int:
    """Floats that the memo of a row of up to n features, and the bias, takes."""
    return places(n + 1)


@njit(**INLINE)
def open_row(last: int, memo: F32) -> None:
    """Clear a row's last panel, so that what lies behind its features adds nothing."""
    panel = zeros(PANEL)
    store(memo, last, panel)
    store(memo, last + PANEL, panel + ONE)
    store(memo, last + 2 * PANEL, panel)
    store(memo, last + 3 * PANEL, panel)
    store(memo, last + XW * PANEL, panel)


@njit(**INLINE)
def gather(memo: F32, here: int, x: np.float32, h: np.float32, flat: F32, at: int, base: np.float32) -> None:
    """Take a feature into the memo: value, slope, prior precision, and `eta D` of its record."""
    memo[np.uintp(here)] = h
    memo[np.uintp(here + PANEL)] = base
    memo[np.uintp(here + 2 * PANEL)] = flat[np.uintp(at)]
    memo[np.uintp(here + 3 * PANEL)] = flat[np.uintp(at + 1)]
    memo[np.uintp(here + XW * PANEL)] = x


@njit(**INLINE)
def read_row(n: int, memo: F32) -> tuple[F32, F32]:
    """(logit, variance), by lanes, that the weights of a row of n features give; x becomes x mu."""
    logit, variance = zeros(PANEL), zeros(PANEL)
    for here in range(0, places(n), ROOM):
        h, d = load(memo, here, logit), load(memo, here + 3 * PANEL, logit)
        s = ONE / (load(memo, here + PANEL, logit) + d)
        mu = load(memo, here + 2 * PANEL, logit) * s
        store(memo, here + 4 * PANEL, mu)
        store(memo, here + 5 * PANEL, s)
        store(memo, here + XW * PANEL, load(memo, here + XW * PANEL, logit) * mu)
        logit = fma(h, mu, logit)
        variance = fma(h * h, s, variance)
    return logit, variance


@njit(**INLINE)
def learn_row(n: int, g: np.float32, brings: np.float32, variance: np.float32, memo: F32, rates: Rates) -> None:
    """The step of all weights of a row at once, from what `read_row` left to `eta D mu^2 gamma`."""
    panel = zeros(PANEL)
    for here in range(0, places(n), ROOM):
        h, base = load(memo, here, panel), load(memo, here + PANEL, panel)
        d, s = load(memo, here + 3 * PANEL, panel), load(memo, here + 5 * PANEL, panel)
        mu = load(memo, here + 4 * PANEL, panel) - s * h * g
        square = h * h
        others = at_least(variance - square * s, NOTHING)
        d = d - d * rates[0] + square * brings / (others * brings + ONE)
        precision = base + d
        store(memo, here + 6 * PANEL, mu * precision)
        store(memo, here + 7 * PANEL, d)
        store(memo, here + 8 * PANEL, mu * mu)
        store(memo, here + 9 * PANEL, at_least(ONE - base / precision, NOTHING))


@njit(**INLINE)
def put_weight(memo: F32, here: int, f: int, flat: F32, at: int, evidence: F64) -> None:
    """Write the step of a feature to its record, and what it adds to its field."""
    square, gamma = memo[np.uintp(here + 8 * PANEL)], memo[np.uintp(here + 9 * PANEL)]
    evidence[0, np.uintp(f)] += np.float64(square) - np.float64(flat[np.uintp(at + 2)])
    evidence[1, np.uintp(f)] += np.float64(gamma) - np.float64(flat[np.uintp(at + 3)])
    flat[np.uintp(at)] = memo[np.uintp(here + 6 * PANEL)]
    flat[np.uintp(at + 1)] = memo[np.uintp(here + 7 * PANEL)]
    flat[np.uintp(at + 2)] = square
    flat[np.uintp(at + 3)] = gamma


@njit(**INLINE)
def moved(memo: F32, here: int, flat: F32, at: int) -> bool:
    """Whether the row has moved this feature before: its record is not what the forward pass found."""
    mean, d = memo[np.uintp(here + 2 * PANEL)], memo[np.uintp(here + 3 * PANEL)]
    return bool(flat[np.uintp(at)] != mean or flat[np.uintp(at + 1)] != d)


@njit(**INLINE)
def repeat(
    here: int, g: np.float32, brings: np.float32, variance: np.float32, flat: F32, at: int, memo: F32, rates: Rates
) -> None:
    """The step anew for a feature that the row has learned before: from the record as that left it."""
    h, base, d = memo[np.uintp(here)], memo[np.uintp(here + PANEL)], flat[np.uintp(at + 1)]
    s = ONE / (base + d)
    mu = flat[np.uintp(at)] * s - s * h * g
    square = h * h
    d = d - d * rates[0] + square * brings / (max(variance - square * s, NOTHING) * brings + ONE)
    precision = base + d
    memo[np.uintp(here + 6 * PANEL)] = mu * precision
    memo[np.uintp(here + 7 * PANEL)] = d
    memo[np.uintp(here + 8 * PANEL)] = mu * mu
    memo[np.uintp(here + 9 * PANEL)] = max(ONE - base / precision, NOTHING)


@njit(**INLINE)
def learn_priors(fields: F32, evidence: F64, rates: Rates) -> None:
    """The prior precision 1 / pi_f of all fields, from their sums; where these did not move it stays as it is."""
    c, prior = np.float64(rates[1]), np.float64(rates[2])
    low, high = 1.0 / (MOST * prior), 1.0 / (LEAST * prior)
    if c > 0.0:
        for f in range(evidence.shape[1]):
            precision = (evidence[1, np.uintp(f)] + c) / (evidence[0, np.uintp(f)] + c * prior)
            fields[PRECISION, np.uintp(f)] = np.float32(min(max(precision, low), high))


@njit(**INLINE)
def learn_factors(h: F32, g: np.float32, lam: np.float32, array: F32, at: int, width: int, rates: Rates) -> None:
    """One step on the factors `array[at:]`, whose variances are `width` further on; h lanes. h = 0 leaves a factor."""
    v = load(array, at, h)
    s = load(array, at + width, h)
    sh = s * h
    known: F32 = sh * sh * lam
    s_new = s - known
    below: F32 = ONE - s_new * rates[1]
    back: F32 = s_new * rates[0] * below
    s_new = s_new + back
    store(array, at, v - sh * g)
    store(array, at + width, where_nonzero(h, s_new, s))
