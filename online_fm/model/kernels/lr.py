"""Logistic regression, and with another loss linear regression: logit = bias + sum_i tau_f x_i w_i, in float64 sums.

A record is `w` and its state: one cache line, or part of one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from online_fm.model.kernels import (
    F32,
    F64,
    FINGERPRINT,
    I32,
    I64,
    INLINE,
    KALMAN,
    KERNEL,
    PANEL,
    STATES,
    TAU,
    U16,
    U32,
    Bool,
    Rates,
)
from online_fm.model.kernels.ahead import ask, widest
from online_fm.model.kernels.kalman import ROOM, learn_priors, memo_size
from online_fm.model.kernels.linear import (
    distinct,
    learn_row,
    learn_weight,
    open_row,
    read_row,
    read_weight,
    rising,
    slope_of,
)
from online_fm.model.kernels.link import moderation, prediction, respond, sound
from online_fm.model.kernels.scales import learn_scales
from online_fm.model.kernels.signatures import PREDICT, STEP

__all__ = ["make_predict", "make_step"]


@njit(**INLINE)
def _forward(
    w_kind: int,
    states: int,
    lo: int,
    hi: int,
    fld: U16,
    val: F32,
    slot: I32,
    flat: F32,
    stride: int,
    bias: F32,
    fields: F32,
    memo: F32,
) -> tuple[float, float, np.float32]:
    """(logit, its variance, largest |x|) of the features lo:hi."""
    logit = np.float64(bias[0])
    variance = np.float64(bias[1]) if w_kind == KALMAN else 0.0
    open_row(w_kind, hi - lo, memo)
    for first in range(lo, hi, PANEL):
        room = (first - lo) // PANEL * ROOM
        for j in range(first, min(first + PANEL, hi)):
            ask(j + 2 * (hi - lo), slot, flat, stride, 0, stride)
            f, at = int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
            logit += read_weight(w_kind, states, room + j - first, val[np.uintp(j)], f, flat, at, fields, memo)
    m, s, x_max = read_row(w_kind, lo, hi, val, memo)
    return logit + m, variance + s, x_max


@cache
def make_predict(w_kind: int, stride: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile p, logit and variance of every row."""

    @njit(PREDICT, **KERNEL)
    def predict(
        ptr: I64,
        fld: U16,
        _key: U32,
        val: F32,
        slot: I32,
        records: F32,
        bias: F32,
        fields: F32,
        _pairs: F32,
        loss: int,
        _n_fields: int,
        _seed: np.uint64,
        _sd: float,
        _v_prior: np.float32,
        p: F32,
        logit: F32,
        variance: F32,
    ) -> None:
        """Row by row, changing nothing."""
        _ = fingerprint
        flat = records.reshape(records.size)
        wide = widest(ptr)
        memo = np.zeros(memo_size(wide), np.float32)
        for i in range(ptr.size - 1):
            m, s, _x = _forward(w_kind, 0, ptr[i], ptr[i + 1], fld, val, slot, flat, stride, bias, fields, memo)
            margin = m * moderation(loss, s)
            p[i], logit[i], variance[i] = prediction(loss, margin), margin, s

    return predict


@cache
def make_step(w_kind: int, stride: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile predict-then-learn with an optimizer for w."""
    states = STATES[w_kind]

    @njit(STEP, **KERNEL)
    def step(
        ptr: I64,
        fld: U16,
        _key: U32,
        val: F32,
        slot: I32,
        label: F32,
        weight: F32,
        learn: Bool,
        records: F32,
        bias: F32,
        fields: F32,
        _pairs: F32,
        evidence: F64,
        w_rates: Rates,
        _v_rates: Rates,
        scale_rates: Rates,
        noise: float,
        loss: int,
        _n_fields: int,
        _seed: np.uint64,
        _sd: float,
        _v_prior: np.float32,
        p: F32,
        logit: F32,
        variance: F32,
        bad: Bool,
    ) -> None:
        """Row by row: p from the parameters that the rows before left; then, where learn[i], one update.

        Rows whose update is not `sound` are marked in `bad`, and left.
        """
        _ = fingerprint
        flat = records.reshape(records.size)
        wide = widest(ptr)
        memo, slopes = np.zeros(memo_size(wide), np.float32), np.zeros(fields.shape[1], np.float32)
        scaled, rise = scale_rates[0] > 0.0, rising(ptr, fld)
        per_field, size = fields.reshape(fields.size), fields.shape[1]
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, x_max = _forward(w_kind, states, lo, hi, fld, val, slot, flat, stride, bias, fields, memo)
            kappa = moderation(loss, s)
            margin = m * kappa
            predicted = prediction(loss, margin)
            p[i], logit[i], variance[i] = predicted, margin, s
            if not learn[i]:
                continue
            e, g, lam, brings = respond(
                loss, noise, m, s, kappa, predicted, np.float64(label[i]), np.float64(weight[i])
            )
            if not sound(m, s, g, brings, weight[i], np.float64(x_max), 1.0):
                bad[i] = True
                continue
            learn_row(w_kind, states, lo, hi, val, g, lam, brings, s, bias, memo, w_rates)
            apart = rise or distinct(lo, hi, fld, slot)
            for first in range(lo, hi, PANEL):
                room = (first - lo) // PANEL * ROOM
                for j in range(first, min(first + PANEL, hi)):
                    here, f, at = room + j - first, int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
                    if scaled:
                        slopes[np.uintp(f)] += slope_of(here, memo)
                    if at > 0:
                        x = val[np.uintp(j)]
                        learn_weight(
                            w_kind, states, here, x, g, brings, s, f, flat, at, fields, evidence, memo, apart, w_rates
                        )
            if w_kind == KALMAN:
                learn_priors(fields, evidence, w_rates)
            if scaled:
                learn_scales(np.float32(e), slopes, 0, per_field, TAU * size, size, False, scale_rates)

    return step
