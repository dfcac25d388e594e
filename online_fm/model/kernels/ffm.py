"""Field-aware factorization machine (Juan et al., RecSys 2016; libffm's meaning), with a learned scale per field pair:

    logit = bias + sum_i tau_f x_i w_i + sum_{i<j} R_{f(i) f(j)} <u_{i,f(j)}, u_{j,f(i)}>,    u_i = rho_f(i) x_i v_i

over all pairs of features of the row, those of the same field (several values in one field) included. With

    T[f, f'] = sum_{j in f'} u_{j,f}          (what field f' shows to field f; k factors)

the pairs of different fields are sum_{f<f'} R <T[f, f'], T[f', f]>, those within one field
R/2 (|T[f, f]|^2 - sum_j |u_{j,f}|^2), and the slope of v_{i,f'} is R_{f(i) f'} rho_f(i) x_i h with

    h = T[f(i), f'] - [f' = f(i)] u_{i,f'}

once per feature and field, however many values the field has. So a row of n features costs O(n F k), not O(n^2 k), and
both passes run over contiguous factors, `row_of` lanes at a time: row f(i) of T lies exactly as v_i does. T is made
before anything is learned, which settles repeated features as in FM. Fields that the row lacks have zeros in T, and a
slope of 0 changes nothing. T has F^2 k floats, whatever the row has, and so have the products of its pairs, which
learning keeps for the scales; a call clears them all: `config.check_fields` bounds them.

A record is `w states... | v[F k, padded] | state of v`; the head takes a cache line, so that the factors are aligned.
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
from online_fm.model.kernels.lanes import load, spread, store, total, total32, zeros
from online_fm.model.kernels.linear import (
    distinct,
    gradient_of,
    idle,
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
from online_fm.model.kernels.scales import learn_products_row, learn_scales
from online_fm.model.kernels.signatures import PREDICT, STEP
from online_fm.model.kernels.table import draw, tag_of

__all__ = ["HEAD", "make_predict", "make_step", "row_of"]

HEAD = 16
HALF = np.float32(0.5)


def _lanes_of(k: int) -> int:
    """How many factors are worked on at once: those of as many fields as 16 lanes take."""
    return k * max(1, 16 // k)


def row_of(n_fields: int, k: int) -> int:
    """Floats of a feature's factors towards all fields, padded to whole lanes and to a cache line's quarter."""
    lanes = _lanes_of(k)
    return -(-n_fields * k // lanes) * lanes


@njit(**INLINE)
def _enter(lo: int, hi: int, fld: U16, k: int, seen: U8, present: U16, towards: F32, zero: F32) -> int:
    """List the row's fields in `present`, in order; clear their predecessors' columns of T; return how many there are.

    seen[f]: 0 = column f of T is zero, 1 = it holds an earlier row's values, 2 = f is in this row and still empty.
    """
    for j in range(lo, hi):
        seen[np.uintp(fld[np.uintp(j)])] = 2
    n = 0
    for f in range(seen.size):
        if seen[np.uintp(f)] == 2:
            present[np.uintp(n)] = f
            n += 1
        elif seen[np.uintp(f)] == 1:
            seen[np.uintp(f)] = 0
            for other in range(seen.size):
                store(towards, other * (towards.size // seen.size) + f * k, zero)
    return n


@njit(**INLINE)
def _scatter(source: F32, at: int, scale: np.float32, f: int, first: bool, towards: F32, n_fields: int, q: F32) -> F32:
    """T[:, f] += u = scale v (or = u, where it is the field's first); return q + sum over fields of u^2."""
    row = towards.size // n_fields
    k = len(q)
    for other in range(n_fields):
        u = load(source, at + other * k, q) * scale
        q = q + u * u
        to = other * row + f * k
        store(towards, to, u if first else load(towards, to, q) + u)
    return q


@njit(**INLINE)
def _forward(
    w_kind: int,
    states: int,
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
    n_fields: int,
    seed: np.uint64,
    sd: float,
    seen: U8,
    present: U16,
    towards: F32,
    own: F32,
    memo: F32,
    spare: F32,
    keep: bool,
    products: F32,
    zero: F32,
) -> tuple[float, float, F32, np.float32, int]:
    """(logit, variance of the linear part, q, largest |x|, number of fields) of the features lo:hi.

    T goes to `towards`, the row's fields to `present`, u_{i,f(i)} to `own`; with `keep`, what
    `_learn_pairs` needs to `products`.
    """
    logit = np.float64(bias[0])
    variance = np.float64(bias[1]) if w_kind == KALMAN else 0.0
    open_row(w_kind, hi - lo, memo)
    k = len(zero)
    row = towards.size // n_fields
    n = _enter(lo, hi, fld, k, seen, present, towards, zero)
    q = zero
    alone = zero
    for start in range(lo, hi, PANEL):
        room = (start - lo) // PANEL * ROOM
        for j in range(start, min(start + PANEL, hi)):
            ask(j + hi - lo, slot, flat, stride, 0, HEAD + row)
            x, f, at = val[np.uintp(j)], int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
            logit += read_weight(w_kind, states, room + j - start, x, f, flat, at, fields, memo)
            scale = fields[RHO, np.uintp(f)] * x
            first = seen[np.uintp(f)] == 2
            seen[np.uintp(f)] = 1
            if idle(v_needs_w, flat, at):
                u = zero
                if first:
                    for other in range(n_fields):
                        store(towards, other * row + f * k, zero)
            elif at > 0:
                u = load(flat, at + HEAD + f * k, zero) * scale
                q = _scatter(flat, at + HEAD, scale, f, first, towards, n_fields, q)
            else:
                draw(tag_of(fld[np.uintp(j)], key[np.uintp(j)]), seed, sd, spare, 0, n_fields * k)
                u = load(spare, f * k, zero) * scale
                q = _scatter(spare, 0, scale, f, first, towards, n_fields, q)
            store(own, (j - lo) * k, u)
            alone = alone + u * u * pairs[0, f, f]
    m, s, x_max = read_row(w_kind, lo, hi, val, memo)
    logit += m
    variance += s
    met = within = zero
    width = pairs.shape[2]
    for a in range(n):
        f = int(present[np.uintp(a)])
        t = load(towards, f * row + f * k, zero)
        within = within + t * t * pairs[0, f, f]
        if keep:
            store(products, (f * width + f) * k, t * t * HALF)
        for b in range(a):
            other = int(present[np.uintp(b)])
            product = load(towards, f * row + other * k, zero) * load(towards, other * row + f * k, zero)
            met = met + product * pairs[0, f, other]
            if keep:
                store(products, (f * width + other) * k, product)
                store(products, (other * width + f) * k, product)
    logit += total(met) + 0.5 * total(within - alone)
    return logit, variance, q, x_max, n


@njit(**INLINE)
def _set_apart(j: int, lo: int, f: int, row: int, towards: F32, own: F32, zero: F32) -> F32:
    """Take a feature's own share out of T[f, f], so that row f of T is its h; return what was there."""
    at = f * row + f * len(zero)
    whole = load(towards, at, zero)
    store(towards, at, whole - load(own, (j - lo) * len(zero), zero))
    return whole


@njit(**INLINE)
def _factor_variance(
    k: int,
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
    row: int,
    towards: F32,
    own: F32,
    zero: F32,
    lanes: F32,
) -> float:
    """What the factors' variances add to that of the logit."""
    variance = lanes
    scales = pairs.reshape(pairs.size)
    for j in range(lo, hi):
        f, at = int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
        if idle(v_needs_w, flat, at):
            continue
        whole = _set_apart(j, lo, f, row, towards, own, zero)
        for c in range(0, row, len(lanes)):
            r = spread(scales, f * pairs.shape[2] + c // k, k, lanes)
            h = load(towards, f * row + c, lanes) * (r * (fields[RHO, np.uintp(f)] * val[np.uintp(j)]))
            if at > 0:
                variance = variance + h * (h * load(flat, at + HEAD + row + c, lanes))
            else:
                variance = variance + h * (h * v_prior)
        store(towards, f * row + f * k, whole)
    return total(variance)


@njit(**INLINE)
def _learn_pairs(
    e: np.float32,
    lo: int,
    hi: int,
    fld: U16,
    n: int,
    present: U16,
    own: F32,
    products: F32,
    pairs: F32,
    slopes: F32,
    start: int,
    rates: Rates,
    zero: F32,
    none: F32,
) -> None:
    """R of all pairs of the row's fields; slopes[start:] = rho dlogit/drho of these fields, by the R before.

    products f32[F, F padded, k] holds T[f, f'] T[f', f] by factors, and on the diagonal |T[f, f]|^2 / 2, from which the
    features' own shares are taken here. It is left at 0.
    """
    k, width, flat = len(zero), pairs.shape[2], pairs.reshape(pairs.size)
    for j in range(lo, hi):
        at = int(fld[np.uintp(j)]) * (width + 1) * k
        u = load(own, (j - lo) * k, zero)
        store(products, at, load(products, at, zero) - u * u * HALF)
    for a in range(n):
        f = int(present[np.uintp(a)])
        within = total32(load(products, f * (width + 1) * k, zero)) * pairs[0, f, f]
        slopes[np.uintp(start + f)] = within + learn_products_row(e, products, none, flat, f, width, rates)


@njit(**INLINE)
def _forget(n: int, present: U16, products: F32, width: int, zero: F32) -> None:
    """Clear the products of a row that is not learned."""
    if len(products):
        for a in range(n):
            for b in range(n):
                pair = int(present[np.uintp(a)]) * width + int(present[np.uintp(b)])
                store(products, pair * len(zero), zero)


@cache
def make_predict(
    k: int, w_kind: int, v_kind: int, v_needs_w: int, fingerprint: int = FINGERPRINT
) -> Callable[..., None]:
    """Compile p, logit and variance of every row."""
    width = _lanes_of(k)

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
        flat, stride, zero, lanes = records.reshape(records.size), records.shape[1], zeros(k), zeros(width)
        row = (n_fields * k + width - 1) // width * width
        towards, spare = np.zeros(n_fields * row, np.float32), np.empty(row, np.float32)
        wide = widest(ptr)
        own, memo = np.empty(wide * k, np.float32), np.zeros(memo_size(wide), np.float32)
        seen, present = np.zeros(n_fields, np.uint8), np.empty(n_fields, np.uint16)
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, _q, _x, _n = _forward(
                w_kind,
                0,
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
                n_fields,
                seed,
                sd,
                seen,
                present,
                towards,
                own,
                memo,
                spare,
                False,
                memo,
                zero,
            )
            if v_kind == KALMAN:
                s += _factor_variance(
                    k,
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
                    row,
                    towards,
                    own,
                    zero,
                    lanes,
                )
            margin = m * moderation(loss, s)
            p[i], logit[i], variance[i] = prediction(loss, margin), margin, s

    return predict


@cache
def make_step(k: int, w_kind: int, v_kind: int, v_needs_w: int, fingerprint: int = FINGERPRINT) -> Callable[..., None]:
    """Compile predict-then-learn for k factors, an optimizer for w and one for v."""
    states, width, panels = STATES[w_kind], _lanes_of(k), PANEL * k

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

        In size the slope of a factor, without its R, is at most |x_i| (1 + sqrt(n)) sqrt(sum q) (Cauchy-Schwarz). Rows
        whose update is not `sound` are marked in `bad`, and left.
        """
        _ = fingerprint
        flat, stride, zero, lanes = records.reshape(records.size), records.shape[1], zeros(k), zeros(width)
        row = (n_fields * k + width - 1) // width * width
        towards, spare = np.zeros(n_fields * row, np.float32), np.empty(row, np.float32)
        wide = widest(ptr)
        own, idles = np.empty(wide * k, np.float32), np.zeros(wide, np.bool_)
        memo = np.zeros(memo_size(wide), np.float32)
        seen, present = np.zeros(n_fields, np.uint8), np.empty(n_fields, np.uint16)
        scales, slopes = pairs.reshape(pairs.size), np.zeros(2 * fields.shape[1], np.float32)
        scaled, rise = scale_rates[0] > 0.0, rising(ptr, fld)
        keep = scaled or scale_rates[3] > 0.0
        products, none = np.zeros(n_fields * pairs.shape[2] * k if keep else 0, np.float32), zeros(panels)
        per_field, size = fields.reshape(fields.size), fields.shape[1]
        for i in range(ptr.size - 1):
            lo, hi = ptr[i], ptr[i + 1]
            m, s, q, x_max, n = _forward(
                w_kind,
                states,
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
                n_fields,
                seed,
                sd,
                seen,
                present,
                towards,
                own,
                memo,
                spare,
                keep and learn[i],
                products,
                zero,
            )
            if v_kind == KALMAN:
                s += _factor_variance(
                    k,
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
                    row,
                    towards,
                    own,
                    zero,
                    lanes,
                )
            kappa = moderation(loss, s)
            margin = m * kappa
            predicted = prediction(loss, margin)
            p[i], logit[i], variance[i] = predicted, margin, s
            if not learn[i]:
                continue
            e, g, lam, brings = respond(
                loss, noise, m, s, kappa, predicted, np.float64(label[i]), np.float64(weight[i])
            )
            reach = (1.0 + np.sqrt(hi - lo)) * np.sqrt(total(q))
            if not sound(m, s, g, brings, weight[i], np.float64(x_max), reach):
                bad[i] = True
                _forget(n, present, products, pairs.shape[2], zero)
                continue
            learn_row(w_kind, states, lo, hi, val, g, lam, brings, s, bias, memo, w_rates)
            apart = rise or distinct(lo, hi, fld, slot)
            if v_needs_w:
                for j in range(lo, hi):
                    idles[j - lo] = idle(v_needs_w, flat, int(slot[np.uintp(j)]) * stride)
            for first in range(lo, hi, PANEL):
                room = (first - lo) // PANEL * ROOM
                for j in range(first, min(first + PANEL, hi)):
                    ask(j + hi - lo, slot, flat, stride, HEAD + row, stride)
                    here, f, at = room + j - first, int(fld[np.uintp(j)]), int(slot[np.uintp(j)]) * stride
                    if scaled:
                        slopes[np.uintp(f)] += slope_of(here, memo)
                    if at == 0:
                        continue
                    x, rho = val[np.uintp(j)], fields[RHO, np.uintp(f)]
                    learn_weight(
                        w_kind, states, here, x, g, brings, s, f, flat, at, fields, evidence, memo, apart, w_rates
                    )
                    if v_needs_w and idles[j - lo]:
                        continue
                    gx = gradient_of(w_kind, here, x, g, memo)
                    whole = _set_apart(j, lo, f, row, towards, own, zero)
                    for c in range(0, row, width):
                        h = load(towards, f * row + c, lanes)
                        r = spread(scales, f * pairs.shape[2] + c // k, k, lanes)
                        if v_kind == KALMAN:
                            kalman.learn_factors(
                                h * (r * (rho * x)), np.float32(g), np.float32(lam), flat, at + HEAD + c, row, v_rates
                            )
                        else:
                            update(v_kind, h * gx, r * rho, flat, at + HEAD + c, row, v_rates)
                    store(towards, f * row + f * k, whole)
            if w_kind == KALMAN:
                learn_priors(fields, evidence, w_rates)
            if keep:
                _learn_pairs(
                    np.float32(e), lo, hi, fld, n, present, own, products, pairs, slopes, size, scale_rates, zero, none
                )
            if scaled:
                learn_scales(np.float32(e), slopes, 0, per_field, TAU * size, size, False, scale_rates)
                learn_scales(np.float32(e), slopes, size, per_field, RHO * size, size, True, scale_rates)

    return step
