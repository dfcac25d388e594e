"""The learned scales: tau and rho per field, R per pair of fields, learned by AdaGrad once per row.

    T += d^2        tau = max(floor, tau - eta d / sqrt(a0 + T)),       d = dloss/dtau

The slopes of all features of a field are added up first, so that several values in one field are one gradient. A
field that the row lacks has d = 0, which changes nothing: so whole panels of fields are updated at once, absent ones
included, and 39 fields cost three vector roots instead of 39. d is cut to what float32 can square: AdaGrad's steps do
not depend on how large a gradient is.

A field's scale is FwFM's weight of a pair of fields (Pan et al., WWW 2018) cut to rank one; for weights it is an online
mixer over fields (Mahoney 2005). Models with R have rho besides: a pair sees few gradients, its two fields sum those of
all their pairs, and find the size of the steps long before R tells good pairs from useless ones.

Rates: (eta, a0, floor, eta of pairs, a0 of pairs); eta 0 is off.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import F32, INLINE, PANEL, Rates
from online_fm.model.kernels.lanes import at_least, fma, load, sqrt, store, total32, totals, within, zeros

__all__ = ["learn_pair_row", "learn_products_row", "learn_scales"]

LARGEST = np.float32(1e15)


@njit(**INLINE)
def learn_scales(
    e: np.float32, slopes: F32, start: int, fields: F32, at: int, width: int, times_scale: bool, rates: Rates
) -> None:
    """The scales `fields[at:]` of all fields; their sums are `width` further on.

    slopes[start:] hold dm/dscale or, `times_scale`, scale dm/dscale; they are cleared.
    """
    eta, a0, floor, _, _ = rates
    panel = zeros(PANEL)
    for c in range(0, width, PANEL):
        scale = load(fields, at + c, panel)
        slope = load(slopes, start + c, panel) * e
        if times_scale:
            slope = slope / scale
        d = within(slope, LARGEST)
        square = fma(d, d, load(fields, at + width + c, panel))
        store(fields, at + c, at_least(scale - d * eta / sqrt(square + a0), floor))
        store(fields, at + width + c, square)
        store(slopes, start + c, panel)


@njit(**INLINE)
def learn_pair_row(e: np.float32, slopes: F32, start: int, pairs: F32, f: int, width: int, rates: Rates) -> None:
    """R of field f with all fields, from d = e slopes[start:], which are cleared; pairs is flat: R, then its sums."""
    panel = zeros(PANEL)
    for c in range(0, width, PANEL):
        _learn_pairs(load(slopes, start + c, panel) * e, pairs, f * width + c, rates)
        store(slopes, start + c, panel)


@njit(**INLINE)
def learn_products_row(
    e: np.float32, products: F32, none: F32, pairs: F32, f: int, width: int, rates: Rates
) -> np.float32:
    """The same from the sums of k neighbours in products f32[F, width, k], which are cleared; none: PANEL k zeros.

    Return the sum over the row of R, as it was, times these sums.
    """
    panel = weighted = zeros(PANEL)
    for c in range(f * width, (f + 1) * width, PANEL):
        start = c // PANEL * len(none)
        slope = totals(load(products, start, none), panel)
        weighted = fma(slope, load(pairs, c, panel), weighted)
        _learn_pairs(slope * e, pairs, c, rates)
        store(products, start, none)
    return total32(weighted)


@njit(**INLINE)
def _learn_pairs(slope: F32, pairs: F32, at: int, rates: Rates) -> None:
    _, _, _, eta, a0 = rates
    half = pairs.size // 2
    d = within(slope, LARGEST)
    square = fma(d, d, load(pairs, half + at, d))
    store(pairs, at, load(pairs, at, d) - d * eta / sqrt(square + a0))
    store(pairs, half + at, square)
