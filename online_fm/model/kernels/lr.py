"""Logistic regression: logit = w0 + sum_i x_i w_i;  dlogit/dw_i = x_i.

A record is `w s1 s2 _`: sixteen bytes, so that none crosses a cache line.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, FINGERPRINT, I32, I64, INLINE, KERNEL, U16, U32, Bool, Rates
from online_fm.model.kernels.ahead import ask
from online_fm.model.kernels.link import sigmoid, sound
from online_fm.model.kernels.optim import update_weight
from online_fm.model.kernels.signatures import PREDICT, STEP

__all__ = ["make_predict", "make_step"]


@njit(**INLINE)
def _forward(lo: int, hi: int, val: F32, slot: I32, flat: F32, stride: int, w0: np.float32) -> tuple[float, float]:
    """(logit, largest |x|) of the features lo:hi; an unseen feature adds its initial weight, 0."""
    logit = np.float64(w0)
    x_max = 0.0
    for j in range(lo, hi):
        ask(j + hi - lo, slot, flat, stride, 0, stride)
        x = np.float64(val[j])
        x_max = max(x_max, abs(x))
        if slot[j] >= 0:
            logit += x * np.float64(flat[int(slot[j]) * stride])
    return logit, x_max


@cache
def make_predict(fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile p of every row."""

    @njit(PREDICT, **KERNEL)
    def predict(
        ptr: I64,
        _fld: U16,
        _key: U32,
        val: F32,
        slot: I32,
        records: F32,
        w0: F32,
        _n_fields: int,
        _seed: np.uint64,
        _sd: float,
        p: F32,
    ) -> None:
        """p[i] = sigmoid(logit of row i)."""
        _ = fingerprint
        flat, stride = records.reshape(records.size), records.shape[1]
        for i in range(ptr.size - 1):
            logit, _x_max = _forward(ptr[i], ptr[i + 1], val, slot, flat, stride, w0[0])
            p[i] = sigmoid(logit)

    return predict


@cache
def make_step(w_kind: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile predict-then-learn with an optimizer for w."""

    @njit(STEP, **KERNEL)
    def step(
        ptr: I64,
        _fld: U16,
        _key: U32,
        val: F32,
        slot: I32,
        label: F32,
        weight: F32,
        learn: Bool,
        records: F32,
        w0: F32,
        w_rates: Rates,
        _v_rates: Rates,
        _n_fields: int,
        _seed: np.uint64,
        _sd: float,
        p: F32,
        bad: Bool,
    ) -> None:
        """Row by row: p from the parameters that the rows before left; then, where learn[i], one update.

        The gradient of w_i is weight (p - y) x_i. Rows whose update is not `sound` are marked in `bad`, and left.
        """
        _ = fingerprint
        flat, stride = records.reshape(records.size), records.shape[1]
        for i in range(ptr.size - 1):
            logit, x_max = _forward(ptr[i], ptr[i + 1], val, slot, flat, stride, w0[0])
            probability = sigmoid(logit)
            p[i] = probability
            if not learn[i]:
                continue
            g = np.float64(weight[i]) * (probability - np.float64(label[i]))
            if not sound(logit, g, weight[i], x_max, 1.0):
                bad[i] = True
                continue
            update_weight(w_kind, np.float32(g), w0, 0, w_rates)
            for j in range(ptr[i], ptr[i + 1]):
                if slot[j] >= 0:
                    gx = np.float32(g * np.float64(val[j]))
                    update_weight(w_kind, gx, flat, int(slot[j]) * stride, w_rates)

    return step
