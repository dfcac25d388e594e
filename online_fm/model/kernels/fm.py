"""Factorization machine (Rendle, ICDM 2010), in O(n k) per row of n features:

    z = sum_i x_i v_i                                              (k lanes)
    logit = w0 + sum_i x_i w_i + 1/2 sum_c (z_c^2 - sum_i (x_i v_ic)^2)
    dlogit/dv_i = x_i h_i,   h_i = z - x_i v_i

A record is `w s1 s2 _ | v[k] | state of v`. The products x_i v_i of the forward pass are kept until the row has been
learned: where a feature comes twice in a row, both gradients are those of the forward pass, applied one after another.
Product and sum are rounded apart on purpose: a feature alone in its row has then h = 0 exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, FINGERPRINT, I32, I64, INLINE, KERNEL, U16, U32, Bool, Rates
from online_fm.model.kernels.ahead import ask, widest
from online_fm.model.kernels.lanes import load, store, total, zeros
from online_fm.model.kernels.link import sigmoid, sound
from online_fm.model.kernels.optim import update_factors, update_weight
from online_fm.model.kernels.signatures import PREDICT, STEP
from online_fm.model.kernels.table import draw, tag_of

__all__ = ["HEAD", "make_predict", "make_step"]

HEAD = 4


@njit(**INLINE)
def _forward(
    lo: int,
    hi: int,
    fld: U16,
    key: U32,
    val: F32,
    slot: I32,
    flat: F32,
    stride: int,
    w0: np.float32,
    seed: np.uint64,
    sd: float,
    part: F32,
    zero: F32,
) -> tuple[float, F32, F32, float]:
    """(logit, z, q, largest |x|) of the features lo:hi, with q = sum_i (x_i v_i)^2; x_i v_i go to `part`."""
    logit = np.float64(w0)
    x_max = 0.0
    z = zero
    q = zero
    k = len(zero)
    for j in range(lo, hi):
        ask(j + hi - lo, slot, flat, stride, 0, stride)
        x = val[j]
        x_max = max(x_max, abs(np.float64(x)))
        at = int(slot[j]) * stride
        if at >= 0:
            logit += np.float64(x) * np.float64(flat[at])
            vx = load(flat, at + HEAD, zero) * x
        else:
            draw(tag_of(fld[j], key[j]), seed, sd, part, (j - lo) * k, k)
            vx = load(part, (j - lo) * k, zero) * x
        store(part, (j - lo) * k, vx)
        z = z + vx
        q = q + vx * vx
    logit += 0.5 * total(z * z - q)
    return logit, z, q, x_max


@cache
def make_predict(k: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile p of every row."""

    @njit(PREDICT, **KERNEL)
    def predict(
        ptr: I64,
        fld: U16,
        key: U32,
        val: F32,
        slot: I32,
        records: F32,
        w0: F32,
        _n_fields: int,
        seed: np.uint64,
        sd: float,
        p: F32,
    ) -> None:
        """p[i] = sigmoid(logit of row i)."""
        _ = fingerprint
        flat, stride, zero = records.reshape(records.size), records.shape[1], zeros(k)
        part = np.empty(widest(ptr) * k, np.float32)
        for i in range(ptr.size - 1):
            logit, _, _, _ = _forward(
                ptr[i], ptr[i + 1], fld, key, val, slot, flat, stride, w0[0], seed, sd, part, zero
            )
            p[i] = sigmoid(logit)

    return predict


@cache
def make_step(k: int, w_kind: int, v_kind: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile predict-then-learn for k factors, an optimizer for w and one for v."""

    @njit(STEP, **KERNEL)
    def step(
        ptr: I64,
        fld: U16,
        key: U32,
        val: F32,
        slot: I32,
        label: F32,
        weight: F32,
        learn: Bool,
        records: F32,
        w0: F32,
        w_rates: Rates,
        v_rates: Rates,
        _n_fields: int,
        seed: np.uint64,
        sd: float,
        p: F32,
        bad: Bool,
    ) -> None:
        """Row by row: p from the parameters that the rows before left; then, where learn[i], one update.

        With g = weight (p - y), the gradient of w_i is g x_i, of v_i g x_i h_i, and |h_i| <= |z| + sqrt(sum q). Rows
        whose update is not `sound` are marked in `bad`, and left.
        """
        _ = fingerprint
        flat, stride, zero = records.reshape(records.size), records.shape[1], zeros(k)
        part = np.empty(widest(ptr) * k, np.float32)
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            logit, z, q, x_max = _forward(lo, hi, fld, key, val, slot, flat, stride, w0[0], seed, sd, part, zero)
            probability = sigmoid(logit)
            p[i] = probability
            if not learn[i]:
                continue
            g = np.float64(weight[i]) * (probability - np.float64(label[i]))
            reach = np.sqrt(total(z * z)) + np.sqrt(total(q))
            if not sound(logit, g, weight[i], x_max, reach):
                bad[i] = True
                continue
            update_weight(w_kind, np.float32(g), w0, 0, w_rates)
            for j in range(lo, hi):
                at = int(slot[j]) * stride
                if at >= 0:
                    gx = np.float32(g * np.float64(val[j]))
                    update_weight(w_kind, gx, flat, at, w_rates)
                    h = z - load(part, (j - lo) * k, zero)
                    update_factors(v_kind, h * gx, flat, at + HEAD, k, v_rates)

    return step
