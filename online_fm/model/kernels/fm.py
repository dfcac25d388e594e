"""Factorization machine (Rendle, ICDM 2010), in O(n k) per row of n features, and its field-weighted form.

    u_i = rho_f(i) x_i v_i       z = sum_i u_i                                     (k lanes)
    logit = bias + sum_i tau_f x_i w_i + 1/2 sum_c (z_c^2 - sum_i u_ic^2)
    dlogit/dv_i = rho_f x_i h_i,   h_i = z - u_i

FwFM (Pan et al., WWW 2018) weighs the pairs by their fields, R, and has rho = 1; with S_f the sum of a field's u,

    H_f = sum_f' R_ff' S_f'      logit = ... + 1/2 (sum_f <S_f, H_f> - sum_i R_ff |u_i|^2),   h_i = H_f - R_ff u_i

in O(F^2 k) for the row's F fields; an FM is R = 1, with z in place of every H_f. Where a kernel asks `by_pair` the two
differ, and nowhere else.

A record is `w s1 s2 _ | v[k] | state of v`, the head wider where w has more state. The u_i of the forward pass are kept
until the row has been learned: where a feature comes twice in a row, both gradients are those of the forward pass,
applied one after another. Product and sum are rounded apart on purpose: a feature alone in its row has then h = 0
exactly.
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
    RHO,
    STATES,
    TAU,
    U8,
    U16,
    U32,
    Bool,
    Rates,
    kalman,
)
from online_fm.model.kernels.ahead import ask, widest
from online_fm.model.kernels.kalman import learn_priors, memo_size
from online_fm.model.kernels.lanes import load, store, total, total32, zeros
from online_fm.model.kernels.linear import distinct, idle, learn_row, learn_weight, read_row, read_weight
from online_fm.model.kernels.link import margin_of, prediction, respond, sound
from online_fm.model.kernels.optim import update
from online_fm.model.kernels.scales import learn_pair_row, learn_scales
from online_fm.model.kernels.signatures import PREDICT, STEP
from online_fm.model.kernels.table import draw, tag_of

__all__ = ["make_predict", "make_step"]

HALF = np.float32(0.5)


@njit(**INLINE)
def _forward(
    w_kind: int,
    states: int,
    by_pair: bool,
    head: int,
    lo: int,
    hi: int,
    fld: U16,
    key: U32,
    val: F32,
    slot: I32,
    flat: F32,
    stride: int,
    bias: F32,
    fields: F32,
    pairs: F32,
    v_needs_w: bool,
    seed: np.uint64,
    sd: float,
    hw: F32,
    memo: F32,
    part: F32,
    sums: F32,
    zero: F32,
) -> tuple[float, float, F32, F32, np.float32]:
    """(logit without pairs, variance of the linear part, z, q, largest |x|) of the features lo:hi.

    q = sum_i u_i^2, with R_ff where by_pair; h_i w_i go to `hw`, u_i to `part`, S_f to `sums` (by_pair).
    """
    logit = np.float64(bias[0])
    variance = np.float64(bias[1]) if w_kind == KALMAN else 0.0
    x_max = np.float32(0.0)
    z = zero
    q = zero
    k = len(zero)
    for j in range(lo, hi):
        ask(j + 2 * (hi - lo), slot, flat, stride, 0, stride)
        x, f, at = val[np.uintp(j)], int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
        x_max = max(x_max, abs(x))
        read_weight(w_kind, states, j - lo, x, f, flat, at, fields, hw, memo)
        if idle(v_needs_w, flat, at):
            u = zero
        elif at >= 0:
            u = load(flat, at + head, zero) * (fields[RHO, np.uintp(f)] * x)
        else:
            draw(tag_of(fld[np.uintp(j)], key[j]), seed, sd, part, (j - lo) * k, k)
            u = load(part, (j - lo) * k, zero) * (fields[RHO, np.uintp(f)] * x)
        store(part, (j - lo) * k, u)
        if by_pair:
            store(sums, f * k, load(sums, f * k, zero) + u)
            q = q + u * u * pairs[0, f, f]
        else:
            q = q + u * u
        z = z + u
    m, s = read_row(w_kind, hi - lo, hw, memo)
    logit += m
    variance += s
    return logit, variance, z, q, x_max


@njit(**INLINE)
def _meet(lo: int, hi: int, fld: U16, seen: U8, present: U16, pairs: F32, sums: F32, meets: F32, zero: F32) -> F32:
    """H_f of the row's fields, to `meets`; return sum_f S_f H_f, lane by lane. Lists the fields in `present`."""
    k = len(zero)
    n = 0
    for j in range(lo, hi):
        f = fld[np.uintp(j)]
        if seen[f] == 0:
            seen[f] = 1
            present[n] = f
            n += 1
    product = zero
    for a in range(n):
        f = int(present[a])
        h = zero
        for b in range(n):
            other = int(present[b])
            h = h + load(sums, other * k, zero) * pairs[0, f, other]
        store(meets, f * k, h)
        product = product + load(sums, f * k, zero) * h
    return product


@njit(**INLINE)
def _leave(lo: int, hi: int, fld: U16, seen: U8, sums: F32, zero: F32) -> None:
    """Clear what the row's fields added up."""
    for j in range(lo, hi):
        f = int(fld[np.uintp(j)])
        seen[f] = 0
        store(sums, f * len(zero), zero)


@njit(**INLINE)
def _slope(by_pair: bool, f: int, z: F32, u: F32, meets: F32, pairs: F32, zero: F32) -> F32:
    """H of a feature of field f: what the others of its row show it."""
    if by_pair:
        return load(meets, f * len(zero), zero) - u * pairs[0, f, f]
    return z - u


@njit(**INLINE)
def _factor_variance(
    by_pair: bool,
    head: int,
    lo: int,
    hi: int,
    fld: U16,
    val: F32,
    slot: I32,
    flat: F32,
    stride: int,
    fields: F32,
    pairs: F32,
    v_needs_w: bool,
    v_prior: np.float32,
    part: F32,
    meets: F32,
    z: F32,
    zero: F32,
) -> float:
    """What the factors' variances add to that of the logit."""
    k = len(zero)
    variance = zero
    for j in range(lo, hi):
        f, at = int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
        u = load(part, (j - lo) * k, zero)
        h = _slope(by_pair, f, z, u, meets, pairs, zero) * (fields[RHO, np.uintp(f)] * val[np.uintp(j)])
        if idle(v_needs_w, flat, at):
            continue
        s = load(flat, at + head + k, zero) if at >= 0 else zero + v_prior
        variance = variance + h * (h * s)
    return total(variance)


@njit(**INLINE)
def _learn_pairs(
    e: np.float32,
    lo: int,
    hi: int,
    fld: U16,
    seen: U8,
    part: F32,
    sums: F32,
    pairs: F32,
    own: F32,
    slopes: F32,
    rates: Rates,
    zero: F32,
) -> None:
    """R of all pairs of the row's fields; `own`, `slopes` are scratch, cleared before and after."""
    k = len(zero)
    for j in range(lo, hi):
        u = load(part, (j - lo) * k, zero)
        own[fld[np.uintp(j)]] += total32(u * u)
    for j in range(lo, hi):
        f = int(fld[np.uintp(j)])
        if seen[f] == 1:
            seen[f] = 2
            mine = load(sums, f * k, zero)
            for i in range(lo, hi):
                other = int(fld[np.uintp(i)])
                slopes[np.uintp(other)] = total32(mine * load(sums, other * k, zero))
            slopes[np.uintp(f)] = HALF * (slopes[np.uintp(f)] - own[f])
            own[f] = 0.0
            learn_pair_row(e, slopes, 0, pairs.reshape(pairs.size), f, pairs.shape[2], rates)


@cache
def make_predict(
    k: int, w_kind: int, v_kind: int, head: int, stride: int, by_pair: int, fingerprint: int = FINGERPRINT
) -> Callable[..., None]:
    """Compile p, logit and variance of every row."""

    @njit(PREDICT, **KERNEL)
    def predict(
        ptr: I64,
        fld: U16,
        key: U32,
        val: F32,
        slot: I32,
        records: F32,
        bias: F32,
        fields: F32,
        pairs: F32,
        loss: int,
        v_needs_w: bool,
        n_fields: int,
        seed: np.uint64,
        sd: float,
        v_prior: np.float32,
        p: F32,
        logit: F32,
        variance: F32,
    ) -> None:
        """Row by row, changing nothing."""
        _ = fingerprint
        flat, zero = records.reshape(records.size), zeros(k)
        wide = widest(ptr)
        hw, part = np.empty(wide + PANEL, np.float32), np.empty(wide * k, np.float32)
        memo = np.zeros(memo_size(wide) if w_kind == KALMAN else 0, np.float32)
        room = n_fields if by_pair else 0
        sums, meets = np.zeros(room * k, np.float32), np.empty(room * k, np.float32)
        seen, present = np.zeros(room, np.uint8), np.empty(room, np.uint16)
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, z, q, _x = _forward(
                w_kind,
                0,
                by_pair,
                head,
                lo,
                hi,
                fld,
                key,
                val,
                slot,
                flat,
                stride,
                bias,
                fields,
                pairs,
                v_needs_w,
                seed,
                sd,
                hw,
                memo,
                part,
                sums,
                zero,
            )
            if by_pair:
                m += 0.5 * total(_meet(lo, hi, fld, seen, present, pairs, sums, meets, zero) - q)
            else:
                m += 0.5 * total(z * z - q)
            if v_kind == KALMAN:
                s += _factor_variance(
                    by_pair,
                    head,
                    lo,
                    hi,
                    fld,
                    val,
                    slot,
                    flat,
                    stride,
                    fields,
                    pairs,
                    v_needs_w,
                    v_prior,
                    part,
                    meets,
                    z,
                    zero,
                )
            if by_pair:
                _leave(lo, hi, fld, seen, sums, zero)
            margin = margin_of(loss, m, s)
            p[i], logit[i], variance[i] = prediction(loss, margin), margin, s

    return predict


@cache
def make_step(
    k: int, w_kind: int, v_kind: int, head: int, stride: int, by_pair: int, fingerprint: int = FINGERPRINT
) -> Callable[..., None]:
    """Compile predict-then-learn for k factors, an optimizer for w and one for v, weights of pairs or none."""
    states = STATES[w_kind]

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
        bias: F32,
        fields: F32,
        pairs: F32,
        evidence: F64,
        w_rates: Rates,
        v_rates: Rates,
        scale_rates: Rates,
        noise: float,
        loss: int,
        v_needs_w: bool,
        n_fields: int,
        seed: np.uint64,
        sd: float,
        v_prior: np.float32,
        p: F32,
        logit: F32,
        variance: F32,
        bad: Bool,
    ) -> None:
        """Row by row: p from the parameters that the rows before left; then, where learn[i], one update.

        In size h is at most |z| + sqrt(sum q), by pair |H| + sqrt(|sum q|) over all fields. Rows whose update is not
        `sound` are marked in `bad`, and left.
        """
        _ = fingerprint
        flat, zero = records.reshape(records.size), zeros(k)
        wide, scaled = widest(ptr), scale_rates[0] > 0.0
        hw, part = np.empty(wide + PANEL, np.float32), np.empty(wide * k, np.float32)
        memo = np.zeros(memo_size(wide), np.float32)
        idles = np.zeros(wide, np.bool_)
        slopes = np.zeros(2 * fields.shape[1], np.float32)
        room = n_fields if by_pair else 0
        sums, meets = np.zeros(room * k, np.float32), np.empty(room * k, np.float32)
        seen, present = np.zeros(room, np.uint8), np.empty(room, np.uint16)
        own, met = np.zeros(room, np.float32), np.zeros(fields.shape[1], np.float32)
        per_field, size = fields.reshape(fields.size), fields.shape[1]
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, z, q, x_max = _forward(
                w_kind,
                states,
                by_pair,
                head,
                lo,
                hi,
                fld,
                key,
                val,
                slot,
                flat,
                stride,
                bias,
                fields,
                pairs,
                v_needs_w,
                seed,
                sd,
                hw,
                memo,
                part,
                sums,
                zero,
            )
            reach = np.sqrt(total(z * z))
            if by_pair:
                m += 0.5 * total(_meet(lo, hi, fld, seen, present, pairs, sums, meets, zero) - q)
                for j in range(lo, hi):
                    h = load(meets, int(fld[np.uintp(j)]) * k, zero)
                    reach = max(reach, np.sqrt(total(h * h)))
            else:
                m += 0.5 * total(z * z - q)
            if v_kind == KALMAN:
                s += _factor_variance(
                    by_pair,
                    head,
                    lo,
                    hi,
                    fld,
                    val,
                    slot,
                    flat,
                    stride,
                    fields,
                    pairs,
                    v_needs_w,
                    v_prior,
                    part,
                    meets,
                    z,
                    zero,
                )
            margin = margin_of(loss, m, s)
            predicted = prediction(loss, margin)
            p[i], logit[i], variance[i] = predicted, margin, s
            e, g, lam, brings = respond(loss, noise, m, s, predicted, np.float64(label[i]), np.float64(weight[i]))
            good = learn[i] and sound(m, s, g, brings, weight[i], np.float64(x_max), reach + np.sqrt(abs(total(q))))
            bad[i] = learn[i] and not good
            if good:
                learn_row(w_kind, states, hi - lo, g, lam, brings, s, bias, memo, w_rates)
                apart = distinct(lo, hi, fld, slot)
                if v_needs_w:
                    for j in range(lo, hi):
                        idles[j - lo] = idle(v_needs_w, flat, int(slot[np.uintp(j)]) * stride)
                for j in range(lo, hi):
                    f, at = int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
                    u = load(part, (j - lo) * k, zero)
                    h = _slope(by_pair, f, z, u, meets, pairs, zero)
                    if scaled:
                        slopes[np.uintp(f)] += hw[np.uintp(j - lo)]
                        if not by_pair:
                            slopes[np.uintp(size + f)] += total32(u * h)
                    if at >= 0:
                        x = val[np.uintp(j)]
                        learn_weight(
                            w_kind, states, j - lo, x, g, brings, s, f, flat, at, fields, evidence, memo, apart, w_rates
                        )
                        if v_needs_w and idles[j - lo]:
                            continue
                        rho = fields[RHO, np.uintp(f)]
                        if v_kind == KALMAN:
                            kalman.learn_factors(
                                h * (rho * x), np.float32(g), np.float32(lam), flat, at + head, k, v_rates
                            )
                        else:
                            update(v_kind, h * np.float32(g * np.float64(x)), rho, flat, at + head, k, v_rates)
                if w_kind == KALMAN:
                    learn_priors(fields, evidence, w_rates)
                if scaled:
                    learn_scales(np.float32(e), slopes, 0, per_field, TAU * size, size, scale_rates)
                    if not by_pair:
                        learn_scales(np.float32(e), slopes, size, per_field, RHO * size, size, scale_rates)
                if by_pair:
                    _learn_pairs(np.float32(e), lo, hi, fld, seen, part, sums, pairs, own, met, scale_rates, zero)
            if by_pair:
                _leave(lo, hi, fld, seen, sums, zero)

    return step
