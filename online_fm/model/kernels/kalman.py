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

from online_fm.model.kernels import F32, F64, INLINE, PRECISION, U16, Rates
from online_fm.model.kernels.lanes import load, store, where_nonzero

__all__ = ["learn_bias", "learn_factors", "learn_priors", "learn_weight"]

ONE = np.float32(1.0)
LEAST, MOST = 1e-3, 20.0


@njit(**INLINE)
def learn_bias(g: np.float32, lam: np.float32, bias: F32, rates: Rates) -> None:
    """bias[0], bias[1] are mean and variance; its prior variance is 1."""
    s = bias[1]
    bias[0] -= s * g
    s = s - s * s * lam
    bias[1] = s + rates[0] * s * (ONE - s)


@njit(**INLINE)
def learn_weight(
    h: np.float32,
    g: np.float32,
    brings: np.float32,
    variance: np.float32,
    f: int,
    array: F32,
    at: int,
    fields: F32,
    evidence: F64,
    rates: Rates,
) -> None:
    """One step on the weight of a feature of field f, and on what its field adds up."""
    if h != 0.0:
        base = fields[PRECISION, f]
        d = array[at + 1]
        s = ONE / (base + d)
        mu = array[at] * s - s * h * g
        square = h * h
        d = d - rates[0] * d + square * brings / (ONE + brings * max(np.float32(0.0), variance - square * s))
        s = ONE / (base + d)
        gamma = max(np.float32(0.0), ONE - s * base)
        evidence[0, f] += np.float64(mu * mu) - np.float64(array[at + 2])
        evidence[1, f] += np.float64(gamma) - np.float64(array[at + 3])
        array[at] = mu * (base + d)
        array[at + 1] = d
        array[at + 2] = mu * mu
        array[at + 3] = gamma


@njit(**INLINE)
def learn_priors(lo: int, hi: int, fld: U16, fields: F32, evidence: F64, rates: Rates) -> None:
    """The prior precision 1 / pi_f of each field of the row, from its sums."""
    c, prior = np.float64(rates[1]), np.float64(rates[2])
    if c > 0.0:
        for j in range(lo, hi):
            f = int(fld[j])
            precision = (evidence[1, f] + c) / (evidence[0, f] + c * prior)
            fields[PRECISION, f] = np.float32(min(max(precision, 1.0 / (MOST * prior)), 1.0 / (LEAST * prior)))


@njit(**INLINE)
def learn_factors(h: F32, g: np.float32, lam: np.float32, array: F32, at: int, width: int, rates: Rates) -> None:
    """One step on the factors `array[at:]`, whose variances are `width` further on; h lanes. h = 0 leaves a factor."""
    v = load(array, at, h)
    s = load(array, at + width, h)
    sh = s * h
    s_new = s - sh * sh * lam
    back: F32 = s_new * rates[0] - s_new * s_new * (rates[0] * rates[1])
    store(array, at, v - sh * g)
    store(array, at + width, where_nonzero(h, s_new + back, s))
