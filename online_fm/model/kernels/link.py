"""Losses and their links: from the logit to a prediction and to what the loss says of it; the guard of updates.

The example's likelihood is taken over the Gaussian that the logit is known by, mean m and variance S (0 without Kalman
parts), so that prediction and update are those of assumed-density filtering (Opper 1998; Minka 2001):

    log        kappa = 1 / sqrt(1 + pi S / 8) (MacKay 1992)     p = sigmoid(kappa m)    e = p - y
               dloss/dm = kappa e      curvature lam = kappa^2 p (1 - p)
    squared    p = m     e = m - y     dloss/dm = e / (S + noise)      lam = 1 / (S + noise)
    hinge      p = m     e = -(2 y - 1) where (2 y - 1) m < 1, else 0   (no likelihood, so never with S)

An example of weight c is c such examples: the precision that one brings, lam / (1 - lam S), is multiplied by c, and the
two derivatives follow: c times theirs, over 1 + (c - 1) lam S. For the squared loss that is exact; with S = 0 it is c
times the gradient. lam S < 1 always.
"""

from __future__ import annotations

import math

from numba import njit

from online_fm.model.kernels import INLINE, LOG, SQUARED

__all__ = ["LARGEST_GRADIENT", "moderation", "prediction", "respond", "sigmoid", "sound"]

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
def moderation(loss: int, variance: float) -> float:
    """Of the logit by its variance: kappa where the loss is log, else 1."""
    return 1.0 / math.sqrt(1.0 + math.pi / 8.0 * variance) if loss == LOG and variance > 0.0 else 1.0


@njit(**INLINE)
def prediction(loss: int, margin: float) -> float:
    """p: a probability with the log loss, else the margin itself; a number whatever comes."""
    if loss == LOG:
        return sigmoid(margin)
    return margin if abs(margin) <= 3e38 else 0.0


@njit(**INLINE)
def respond(
    loss: int, noise: float, logit: float, variance: float, kappa: float, p: float, y: float, c: float
) -> tuple[float, float, float, float]:
    """(c e, dloss/dm, lam, the precision that the example brings) for an example of weight c.

    kappa: the logit's `moderation`; p: the prediction.
    """
    if loss == LOG:
        e = p - y
        g = kappa * e
        lam = kappa * kappa * p * (1.0 - p)
        one = lam / (1.0 - lam * variance)
    elif loss == SQUARED:
        e = logit - y
        lam = 1.0 / (variance + noise)
        one = 1.0 / noise  # lam / (1 - lam S), without its cancellation
        g = e * lam
    else:
        sign = 2.0 * y - 1.0
        e = -sign if sign * logit < 1.0 else 0.0
        g = e
        lam = one = 0.0
    if variance <= 0.0:
        return c * e, c * g, 0.0, 0.0
    often = c / (1.0 + (c - 1.0) * lam * variance)
    return c * e, g * often, lam * often, c * one


@njit(**INLINE)
def sound(logit: float, variance: float, g: float, brings: float, weight: float, x_max: float, reach: float) -> bool:
    """Whether an update with dloss/dlogit `g` leaves every parameter finite, in constant time per row.

    The gradient of a w is g x, that of a factor g x h, with |h| <= reach (each model says how it bounds h by its
    forward sums), so |g| max(1, |x|) max(1, reach) bounds every coordinate's. At most 1e9 (`LARGEST_GRADIENT`) of
    it is enough: squares are at most 1e18, so 1e20 such events fit in float32; an AdaGrad step is at most eta, an
    FTRL step at most alpha (|g| / sqrt(n + g^2) <= 1), so |w| grows linearly and |z| <= |w| (beta + sqrt(n)) / alpha
    + l1 stays far below 3e38. The precision that the example brings to a coordinate is bounded like those squares.
    NaN anywhere makes a comparison false.
    """
    slope = max(1.0, x_max) * max(1.0, reach)
    known = math.isfinite(logit) and 0.0 <= variance <= LARGEST_GRADIENT and weight >= 0.0
    return known and abs(g) * slope <= LARGEST_GRADIENT and brings * slope * slope <= LARGEST_GRADIENT**2
