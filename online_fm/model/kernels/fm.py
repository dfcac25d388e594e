"""Factorization machine (Rendle, ICDM 2010), in O(n k) per row of n features, and its field-weighted form.

    u_i = rho_f(i) x_i v_i       z = sum_i u_i                                     (k lanes)
    logit = bias + sum_i tau_f x_i w_i + 1/2 sum_c (z_c^2 - sum_i u_ic^2)
    dlogit/dv_i = rho_f x_i h_i,   h_i = z - u_i

FwFM (Pan et al., WWW 2018) weighs the pairs by their fields, R; with S_f the sum of a field's u,

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
from online_fm.model.kernels.kalman import ROOM, learn_priors, memo_size
from online_fm.model.kernels.lanes import fma, load, store, total, total32, totals, zeros
from online_fm.model.kernels.linear import (
    distinct,
    gradient_of,
    idle,
    lacking,
    learn_row,
    learn_weight,
    open_row,
    read_row,
    read_weight,
    rising,
    slope_of,
)
from online_fm.model.kernels.link import moderation, prediction, respond, sound
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
    v_kind: int,
    by_pair: bool,
    head: int,
    lo: int,
    hi: int,
    fld: U16,
    key: U32,
    val: F32,
    slot: I32,
    lacks: bool,
    flat: F32,
    stride: int,
    bias: F32,
    fields: F32,
    pairs: F32,
    v_needs_w: bool,
    seed: np.uint64,
    sd: float,
    v_prior: np.float32,
    memo: F32,
    part: F32,
    sums: F32,
    zero: F32,
) -> tuple[float, float, F32, F32, np.float32]:
    """(logit without pairs, variance, z, q, largest |x|) of the features lo:hi.

    q = sum_i u_i^2, with R_ff where by_pair; u_i go to `part`, S_f to `sums` (by_pair). The variance is that of the
    linear part and, but for by_pair, of the factors: sum_i s_i (rho x (z - u_i))^2, multiplied out.
    """
    logit = np.float64(bias[0])
    variance = np.float64(bias[1]) if w_kind == KALMAN else 0.0
    k = len(zero)
    if lacks:
        for j in range(lo, hi):
            if slot[np.uintp(j)] == 0:
                draw(tag_of(fld[np.uintp(j)], key[np.uintp(j)]), seed, sd, part, (j - lo) * k, k)
    open_row(w_kind, hi - lo, memo)
    z = q = known = met = own = zero
    for first in range(lo, hi, PANEL):
        room = (first - lo) // PANEL * ROOM
        for j in range(first, min(first + PANEL, hi)):
            ask(j + 2 * (hi - lo), slot, flat, stride, 0, stride)
            x, f, at = val[np.uintp(j)], int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
            logit += read_weight(w_kind, states, room + j - first, x, f, flat, at, fields, memo)
            scale = fields[RHO, np.uintp(f)] * x
            s = zero + v_prior
            if idle(v_needs_w, flat, at):
                u = s = zero
            elif not lacks or at > 0:
                u = load(flat, at + head, zero) * scale
                if v_kind == KALMAN:
                    s = load(flat, at + head + k, zero)
            else:
                u = load(part, (j - lo) * k, zero) * scale
            store(part, (j - lo) * k, u)
            z = z + u
            if by_pair:
                store(sums, f * k, load(sums, f * k, zero) + u)
                q = q + u * u * pairs[0, f, f]
            else:
                q = fma(u, u, q)
            if v_kind == KALMAN and not by_pair:
                s = s * (scale * scale)
                known = known + s
                met = fma(s, u, met)
                own = fma(s * u, u, own)
    m, of_w, x_max = read_row(w_kind, lo, hi, val, memo)
    if v_kind == KALMAN and not by_pair:
        variance += max(total(z * (z * known - met - met) + own), 0.0)
    return logit + m, variance + of_w, z, q, x_max


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
    zero: F32,
) -> float:
    """What the factors' variances add to that of the logit, by_pair."""
    k = len(zero)
    variance = zero
    for j in range(lo, hi):
        f, at = int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
        u = load(part, (j - lo) * k, zero)
        h = _slope(True, f, zero, u, meets, pairs, zero) * (fields[RHO, np.uintp(f)] * val[np.uintp(j)])
        if idle(v_needs_w, flat, at):
            continue
        s = load(flat, at + head + k, zero) if at > 0 else zero + v_prior
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
    k: int,
    w_kind: int,
    v_kind: int,
    head: int,
    stride: int,
    v_needs_w: int,
    by_pair: int,
    fingerprint: int = FINGERPRINT,
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
        wide, some = widest(ptr), lacking(0, slot.size, slot)
        memo, part = np.zeros(memo_size(wide), np.float32), np.empty(wide * k, np.float32)
        room = n_fields if by_pair else 0
        sums, meets = np.zeros(room * k, np.float32), np.empty(room * k, np.float32)
        seen, present = np.zeros(room, np.uint8), np.empty(room, np.uint16)
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, z, q, _x = _forward(
                w_kind,
                0,
                v_kind,
                by_pair,
                head,
                lo,
                hi,
                fld,
                key,
                val,
                slot,
                some and lacking(lo, hi, slot),
                flat,
                stride,
                bias,
                fields,
                pairs,
                v_needs_w,
                seed,
                sd,
                v_prior,
                memo,
                part,
                sums,
                zero,
            )
            if by_pair:
                m += 0.5 * total(_meet(lo, hi, fld, seen, present, pairs, sums, meets, zero) - q)
            else:
                m += 0.5 * total(z * z - q)
            if v_kind == KALMAN and by_pair:
                s += _factor_variance(
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
                    zero,
                )
            if by_pair:
                _leave(lo, hi, fld, seen, sums, zero)
            margin = m * moderation(loss, s)
            p[i], logit[i], variance[i] = prediction(loss, margin), margin, s

    return predict


@cache
def make_step(
    k: int,
    w_kind: int,
    v_kind: int,
    head: int,
    stride: int,
    v_needs_w: int,
    by_pair: int,
    fingerprint: int = FINGERPRINT,
) -> Callable[..., None]:
    """Compile predict-then-learn for k factors, an optimizer for w and one for v, weights of pairs or none."""
    states, panels = STATES[w_kind], PANEL * k

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
        flat, zero, panel, none = records.reshape(records.size), zeros(k), zeros(PANEL), zeros(panels)
        wide, some, rise = widest(ptr), lacking(0, slot.size, slot), rising(ptr, fld)
        scaled = scale_rates[0] > 0.0
        memo = np.zeros(memo_size(wide), np.float32)
        part, dots = np.zeros((wide + PANEL) * k, np.float32), np.empty(wide + PANEL, np.float32)
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
                v_kind,
                by_pair,
                head,
                lo,
                hi,
                fld,
                key,
                val,
                slot,
                some and lacking(lo, hi, slot),
                flat,
                stride,
                bias,
                fields,
                pairs,
                v_needs_w,
                seed,
                sd,
                v_prior,
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
            if v_kind == KALMAN and by_pair:
                s += _factor_variance(
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
                    zero,
                )
            kappa = moderation(loss, s)
            margin = m * kappa
            predicted = prediction(loss, margin)
            p[i], logit[i], variance[i] = predicted, margin, s
            e, g, lam, brings = respond(
                loss, noise, m, s, kappa, predicted, np.float64(label[i]), np.float64(weight[i])
            )
            good = learn[i] and sound(m, s, g, brings, weight[i], np.float64(x_max), reach + np.sqrt(abs(total(q))))
            bad[i] = learn[i] and not good
            if good:
                learn_row(w_kind, states, lo, hi, val, g, lam, brings, s, bias, memo, w_rates)
                apart = rise or distinct(lo, hi, fld, slot)
                if v_needs_w:
                    for j in range(lo, hi):
                        idles[j - lo] = idle(v_needs_w, flat, int(slot[np.uintp(j)]) * stride)
                for first in range(lo, hi, PANEL):
                    room = (first - lo) // PANEL * ROOM
                    for j in range(first, min(first + PANEL, hi)):
                        here, f, at = room + j - first, int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
                        u = load(part, (j - lo) * k, zero)
                        h = _slope(by_pair, f, z, u, meets, pairs, zero)
                        if scaled:
                            slopes[np.uintp(f)] += slope_of(here, memo)
                            if by_pair:
                                slopes[np.uintp(size + f)] += total32(u * h)
                            else:
                                store(part, (j - lo) * k, u * h)
                        if at == 0:
                            continue
                        x, rho = val[np.uintp(j)], fields[RHO, np.uintp(f)]
                        learn_weight(
                            w_kind, states, here, x, g, brings, s, f, flat, at, fields, evidence, memo, apart, w_rates
                        )
                        if v_needs_w and idles[j - lo]:
                            continue
                        if v_kind == KALMAN:
                            kalman.learn_factors(
                                h * (rho * x), np.float32(g), np.float32(lam), flat, at + head, k, v_rates
                            )
                        else:
                            gx = gradient_of(w_kind, here, x, g, memo)
                            update(v_kind, h * gx, rho, flat, at + head, k, v_rates)
                if scaled and not by_pair:
                    for c in range(0, hi - lo, PANEL):
                        store(dots, c, totals(load(part, c * k, none), panel))
                    for j in range(lo, hi):
                        slopes[np.uintp(size + int(fld[np.uintp(j)]))] += dots[np.uintp(j - lo)]
                if w_kind == KALMAN:
                    learn_priors(fields, evidence, w_rates)
                if scaled:
                    learn_scales(np.float32(e), slopes, 0, per_field, TAU * size, size, False, scale_rates)
                    learn_scales(np.float32(e), slopes, size, per_field, RHO * size, size, True, scale_rates)
                if by_pair:
                    _learn_pairs(np.float32(e), lo, hi, fld, seen, part, sums, pairs, own, met, scale_rates, zero)
            if by_pair:
                _leave(lo, hi, fld, seen, sums, zero)

    return step
