"""Optimizers that know a gradient: FTRL-Proximal, AdaGrad, Adam, SGD; on lanes of weights or factors.

G is the gradient of the loss without the learned scale s of the coordinate (tau or rho; in FFM R rho), which
multiplies the step only. With it inside the accumulators, which divide by their root, it would act once where it has to
act twice: measured, that is worse on drifting streams. State of a coordinate:

FTRL    z, n   n' = (1 - decay) n + G^2;  z += s G - (sqrt(n') - sqrt(n)) / alpha w
               w = 0 if |z| <= l1, else -(z - sgn(z) l1) / ((beta + sqrt(n')) / alpha + l2)
               (McMahan et al., KDD 2013)
AdaGrad A      G' = G + l2 w;  A = (1 - decay) A + G'^2;  w -= eta (s G + l2 w) / sqrt(a0 + A)
               (Duchi et al., JMLR 2011)
Adam    m r c d   m += (1 - beta1) (G' - m);  r += (1 - beta2) (G'^2 - r);  w -= eta s (m / c) / (sqrt(r / d) + eps)
               (Kingma & Ba, ICLR 2015; c, d = 1 - beta^t are running sums, so that each coordinate has its own t)
SGD     t      w -= eta / (1 + decay t) (s G + l2 w);  t += 1

The difference of roots is computed as (n' - n) / (sqrt(n') + sqrt(n)): in float32 it would lose all its digits
once n is large. As z is moved by what w asks of it, w stays as it is while n fades. Factors start at their initial
value with z = 0 (alphaFM): the first gradient that is not 0 turns them into the weight that z, n give; until then they
stay.

A gradient of exactly 0 leaves weight and state as they are. Rates are tuples of float32: (1 / alpha, beta, l1, l2,
decay), (eta, a0, 0, l2, decay), (eta, beta1, beta2, l2, eps), (eta, decay, 0, l2, 0). Roots and divisions are what an
update costs: FTRL has two of each per coordinate, AdaGrad one.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from online_fm.model.kernels import ADAGRAD, ADAM, F32, FTRL, INLINE, Rates
from online_fm.model.kernels.lanes import fma, load, shrink, sqrt, store, where_nonzero

__all__ = ["update"]

TINY = np.float32(1e-30)  # keeps 0 / 0 out where a squared gradient is 0 in float32
ONE = np.float32(1.0)


@njit(**INLINE)
def update(kind: int, g: F32, s: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    """One step on the coordinates `array[at:]`; each column of their state is `width` further on.

    g: lanes of G; s: the scale, one number or lanes. With one lane and a width of 1 it is the step of a single record.
    """
    if kind == FTRL:
        _ftrl(g, s, array, at, width, rates)
    elif kind == ADAGRAD:
        _adagrad(g, s, array, at, width, rates)
    elif kind == ADAM:
        _adam(g, s, array, at, width, rates)
    else:
        _sgd(g, s, array, at, width, rates)


@njit(**INLINE)
def _ftrl(g: F32, s: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    per_alpha, beta, l1, l2, decay = rates
    v = load(array, at, g)
    z = load(array, at + width, g)
    n = load(array, at + 2 * width, g)
    g2 = g * g
    new = where_nonzero(g, g2 - n * decay, g2)
    n_new = n + new
    root = sqrt(n_new)
    sigma: F32 = new / (root + sqrt(n) + TINY) * per_alpha
    z = z + g * s - sigma * v
    weight: F32 = np.float32(0.0) - shrink(z, l1) / ((root + beta) * per_alpha + l2 + TINY)
    store(array, at, where_nonzero(n_new, weight, v))
    store(array, at + width, z)
    store(array, at + 2 * width, n_new)


@njit(**INLINE)
def _adagrad(g: F32, s: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    eta, a0, _, l2, decay = rates
    v = load(array, at, g)
    a = load(array, at + width, g)
    if l2 == 0.0 and decay == 0.0:  # the same to the bit, in half the instructions
        a = fma(g, g, a)
        step: F32 = g * s * eta / sqrt(a + a0)
    else:
        pull: F32 = where_nonzero(g, v * l2, g)
        a = fma(g + pull, g + pull, a - where_nonzero(g, a * decay, g))
        step = (g * s + pull) * eta / sqrt(a + a0)
    store(array, at, v - step)
    store(array, at + width, a)


@njit(**INLINE)
def _adam(g: F32, s: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    eta, beta1, beta2, l2, eps = rates
    v = load(array, at, g)
    m = load(array, at + width, g)
    r = load(array, at + 2 * width, g)
    c = load(array, at + 3 * width, g)
    d = load(array, at + 4 * width, g)
    pulled = g + v * l2
    m_new = m + (pulled - m) * (ONE - beta1)
    r_new = r + (pulled * pulled - r) * (ONE - beta2)
    c_new = c * beta1 + (ONE - beta1)
    d_new = d * beta2 + (ONE - beta2)
    step: F32 = m_new / c_new / (sqrt(r_new / d_new) + eps) * eta * s
    store(array, at, where_nonzero(g, v - step, v))
    store(array, at + width, where_nonzero(g, m_new, m))
    store(array, at + 2 * width, where_nonzero(g, r_new, r))
    store(array, at + 3 * width, where_nonzero(g, c_new, c))
    store(array, at + 4 * width, where_nonzero(g, d_new, d))


@njit(**INLINE)
def _sgd(g: F32, s: F32, array: F32, at: int, width: int, rates: Rates) -> None:
    eta, decay, _, l2, _ = rates
    v = load(array, at, g)
    t = load(array, at + width, g)
    rate: F32 = eta / (t * decay + ONE)
    store(array, at, where_nonzero(g, v - rate * (g * s + v * l2), v))
    store(array, at + width, where_nonzero(g, t + ONE, t))
