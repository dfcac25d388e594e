"""Field-aware factorization machine (Juan et al., RecSys 2016; libffm's meaning):

    logit = w0 + sum_i x_i w_i + sum_{i<j} x_i x_j <v_{i,f(j)}, v_{j,f(i)}>

over all pairs of features of the row, those of the same field (several values in one field) included. With

    T[f, f'] = sum_{j in f'} x_j v_{j,f}          (what field f' shows to field f; k factors)

the pairs of different fields are sum_{f<f'} <T[f, f'], T[f', f]>, those within one field
1/2 (|T[f, f]|^2 - sum_j |x_j v_{j,f}|^2), and the gradient of v_{i,f'} is

    g x_i (T[f(i), f'] - [f' = f(i)] x_i v_{i,f'})

once per feature and field, however many values the field has. So a row of n features costs O(n F k), not O(n^2 k), and
both passes run over contiguous factors, 16 at a time: row f(i) of T lies exactly as v_i does. T is made before anything
is learned, which settles repeated features as in FM. Fields that the row lacks have zeros in T, and a gradient of 0
changes nothing. T has F^2 k floats, whatever the row has, and a call clears them all: `config.check_size` bounds them.

A record is `w s1 s2 _... | v[F k, padded to 16] | state of v`; the head takes a cache line, so that the factors are
aligned.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, FINGERPRINT, I32, I64, INLINE, KERNEL, U8, U16, U32, Bool, Rates
from online_fm.model.kernels.ahead import ask, widest
from online_fm.model.kernels.lanes import load, store, total, zeros
from online_fm.model.kernels.link import sigmoid, sound
from online_fm.model.kernels.optim import update_factors, update_weight
from online_fm.model.kernels.signatures import PREDICT, STEP
from online_fm.model.kernels.table import draw, tag_of

__all__ = ["HEAD", "WIDTH", "make_predict", "make_step"]

HEAD = 16
WIDTH = 16


@njit(**INLINE)
def _enter(lo: int, hi: int, fld: U16, k: int, seen: U8, present: U16, towards: F32, zero: F32) -> int:
    """List the row's fields in `present`, and clear their predecessors' columns of T; return how many there are.

    seen[f]: 0 = column f of T is zero, 1 = it holds an earlier row's values, 2 = f is in this row and still empty.
    """
    n = 0
    for j in range(lo, hi):
        f = fld[j]
        if seen[f] != 2:
            seen[f] = 2
            present[n] = f
            n += 1
    for f in range(seen.size):
        if seen[f] == 1:
            seen[f] = 0
            for other in range(seen.size):
                store(towards, other * (towards.size // seen.size) + f * k, zero)
    return n


@njit(**INLINE)
def _scatter(source: F32, at: int, x: np.float32, f: int, first: bool, towards: F32, n_fields: int, q: F32) -> F32:
    """T[:, f] += x v (or = x v, where it is the field's first); return q + sum over fields of (x v)^2."""
    row = towards.size // n_fields
    k = len(q)
    for other in range(n_fields):
        vx = load(source, at + other * k, q) * x
        q = q + vx * vx
        to = other * row + f * k
        store(towards, to, vx if first else load(towards, to, q) + vx)
    return q


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
    n_fields: int,
    seed: np.uint64,
    sd: float,
    seen: U8,
    present: U16,
    towards: F32,
    own: F32,
    spare: F32,
    zero: F32,
) -> tuple[float, F32, float]:
    """(logit, q, largest |x|) of the features lo:hi; T goes to `towards`, x_i v_{i,f(i)} to `own`."""
    logit = np.float64(w0)
    x_max = 0.0
    k = len(zero)
    row = towards.size // n_fields
    n = _enter(lo, hi, fld, k, seen, present, towards, zero)
    q = zero
    alone = zero
    for j in range(lo, hi):
        ask(j + hi - lo, slot, flat, stride, 0, HEAD + row)
        x = val[j]
        f = int(fld[j])
        x_max = max(x_max, abs(np.float64(x)))
        at = int(slot[j]) * stride
        first = seen[f] == 2
        seen[f] = 1
        if at >= 0:
            logit += np.float64(x) * np.float64(flat[at])
            vx = load(flat, at + HEAD + f * k, zero) * x
            q = _scatter(flat, at + HEAD, x, f, first, towards, n_fields, q)
        else:
            draw(tag_of(fld[j], key[j]), seed, sd, spare, 0, n_fields * k)
            vx = load(spare, f * k, zero) * x
            q = _scatter(spare, 0, x, f, first, towards, n_fields, q)
        store(own, (j - lo) * k, vx)
        alone = alone + vx * vx
    pairs = zero
    within = zero
    for a in range(n):
        f = int(present[a])
        t = load(towards, f * row + f * k, zero)
        within = within + t * t
        for b in range(a):
            other = int(present[b])
            pairs = pairs + load(towards, f * row + other * k, zero) * load(towards, other * row + f * k, zero)
    logit += total(pairs) + 0.5 * total(within - alone)
    return logit, q, x_max


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
        n_fields: int,
        seed: np.uint64,
        sd: float,
        p: F32,
    ) -> None:
        """p[i] = sigmoid(logit of row i)."""
        _ = fingerprint
        flat, stride, zero = records.reshape(records.size), records.shape[1], zeros(k)
        row = (n_fields * k + WIDTH - 1) // WIDTH * WIDTH
        towards, spare = np.zeros(n_fields * row, np.float32), np.empty(row, np.float32)
        own = np.empty(widest(ptr) * k, np.float32)
        seen, present = np.zeros(n_fields, np.uint8), np.empty(n_fields, np.uint16)
        for i in range(ptr.size - 1):
            logit, _, _ = _forward(
                ptr[i],
                ptr[i + 1],
                fld,
                key,
                val,
                slot,
                flat,
                stride,
                w0[0],
                n_fields,
                seed,
                sd,
                seen,
                present,
                towards,
                own,
                spare,
                zero,
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
        n_fields: int,
        seed: np.uint64,
        sd: float,
        p: F32,
        bad: Bool,
    ) -> None:
        """Row by row: p from the parameters that the rows before left; then, where learn[i], one update.

        With g = weight (p - y), the gradient of w_i is g x_i, that of v_i as above: in size at most
        |g x_i| (1 + sqrt(n)) sqrt(sum q) (Cauchy-Schwarz). Rows whose update is not `sound` are marked in `bad`, and
        left.
        """
        _ = fingerprint
        flat, stride, zero, wide = records.reshape(records.size), records.shape[1], zeros(k), zeros(WIDTH)
        row = (n_fields * k + WIDTH - 1) // WIDTH * WIDTH
        towards, spare = np.zeros(n_fields * row, np.float32), np.empty(row, np.float32)
        own = np.empty(widest(ptr) * k, np.float32)
        seen, present = np.zeros(n_fields, np.uint8), np.empty(n_fields, np.uint16)
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            logit, q, x_max = _forward(
                lo,
                hi,
                fld,
                key,
                val,
                slot,
                flat,
                stride,
                w0[0],
                n_fields,
                seed,
                sd,
                seen,
                present,
                towards,
                own,
                spare,
                zero,
            )
            probability = sigmoid(logit)
            p[i] = probability
            if not learn[i]:
                continue
            g = np.float64(weight[i]) * (probability - np.float64(label[i]))
            reach = (1.0 + np.sqrt(hi - lo)) * np.sqrt(total(q))
            if not sound(logit, g, weight[i], x_max, reach):
                bad[i] = True
                continue
            update_weight(w_kind, np.float32(g), w0, 0, w_rates)
            for j in range(lo, hi):
                ask(j + hi - lo, slot, flat, stride, HEAD + row, stride)
                at = int(slot[j]) * stride
                if at >= 0:
                    f = int(fld[j])
                    gx = np.float32(g * np.float64(val[j]))
                    update_weight(w_kind, gx, flat, at, w_rates)
                    whole = load(towards, f * row + f * k, zero)
                    store(towards, f * row + f * k, whole - load(own, (j - lo) * k, zero))
                    for c in range(0, row, WIDTH):
                        update_factors(v_kind, load(towards, f * row + c, wide) * gx, flat, at + HEAD + c, row, v_rates)
                    store(towards, f * row + f * k, whole)

    return step
