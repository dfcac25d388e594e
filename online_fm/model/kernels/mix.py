"""Mixing the logits of a committee by exponentiated gradient, row by row (`model.committee` has the formula)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit, types

from online_fm.model.kernels import F32, F64, FINGERPRINT, INLINE, KERNEL, LOG, SQUARED, Bool, array_of
from online_fm.model.kernels.link import prediction

__all__ = ["make_mix"]

CUT = 12.0
SMALLEST = 1e-30  # of a weight: from there a member can still come back
STEEPEST = 30.0  # what one example may say, in nats

_GIVEN = array_of(types.float32)
_MADE = array_of(types.float32, written=True)


@cache
def make_mix(fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile the mixing."""

    @njit(
        types.void(
            array_of(types.float32, dims=2),
            array_of(types.float32, dims=2),
            _GIVEN,
            _GIVEN,
            array_of(types.boolean),
            types.int64,
            types.float64,
            array_of(types.float64, written=True),
            _MADE,
            _MADE,
            _MADE,
        ),
        **KERNEL,
    )
    def mix(
        logits: F32,
        variances: F32,
        label: F32,
        weight: F32,
        learn: Bool,
        loss: int,
        rate: float,
        omega: F64,
        p: F32,
        logit: F32,
        variance: F32,
    ) -> None:
        """p, logit, variance f32[n] of logits, variances f32[n, K]; omega f64[K + 2] is learned where learn[i]."""
        _ = fingerprint
        n, k = logits.shape
        for i in range(n):
            m, spread = 0.0, 0.0
            for j in range(k):
                m += omega[j] * _cut(loss, np.float64(logits[i, j]))
                spread += omega[j] * math.sqrt(np.float64(variances[i, j]))
            predicted = prediction(loss, m)
            p[i], logit[i], variance[i] = predicted, m, spread * spread
            if not learn[i]:
                continue
            y, c = np.float64(label[i]), np.float64(weight[i])
            e = c * (predicted - y)
            if loss == SQUARED:
                omega[k] += c * (predicted - y) ** 2
                omega[k + 1] += c
                e /= max(omega[k] / omega[k + 1], SMALLEST)
            elif loss != LOG:
                sign = 2.0 * y - 1.0
                e = -c * sign if sign * m < 1.0 else 0.0
            total = 0.0
            for j in range(k):
                step = -rate * e * (_cut(loss, np.float64(logits[i, j])) - m)
                omega[j] = max(omega[j] * math.exp(min(max(step, -STEEPEST), STEEPEST)), SMALLEST)
                total += omega[j]
            for j in range(k):
                omega[j] /= total

    return mix


@njit(**INLINE)
def _cut(loss: int, logit: float) -> float:
    if loss == LOG:
        return min(max(logit, -CUT), CUT)
    return logit
