"""FM with AdaGrad in Numba as one writes it first: an array for each thing, a loop for each sum, nothing else.

This is the number to beat, and what CI holds our kernel against: code that silently lost its vector instructions
is about as slow. (Numba's default keeps a check for division by 0 in the inner loop, and with it any vector code out.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["fm"]


def fm(k: int, size: int) -> Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]:
    """A learner over `size` records: eta .1, a0 1, factors of standard deviation .03."""
    w, g2_w, bias = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(2, np.float32)
    v = np.random.default_rng(1).standard_normal((size, k), np.float32) * np.float32(0.03)
    g2_v = np.zeros((size, k), np.float32)
    eta, a0 = np.float32(0.1), np.float32(1.0)

    def train(slot: NDArray[np.int32], label: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict, then learn each row; slot i32[n, fields]."""
        p = np.empty(len(label), np.float32)
        _train(slot, label, w, g2_w, v, g2_v, bias, eta, a0, p)
        return p

    return train


@njit
def _train(slot, label, w, g2_w, v, g2_v, bias, eta, a0, p):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    n, fields = slot.shape
    k = v.shape[1]
    z = np.empty(k, np.float32)
    for i in range(n):
        m = bias[0]
        z[:] = 0.0
        squares = np.float32(0.0)
        for j in range(fields):
            s = slot[i, j]
            m += w[s]
            for c in range(k):
                z[c] += v[s, c]
                squares += v[s, c] * v[s, c]
        total = np.float32(0.0)
        for c in range(k):
            total += z[c] * z[c]
        m += np.float32(0.5) * (total - squares)
        p[i] = np.float32(1.0) / (np.float32(1.0) + np.exp(-m))
        e = p[i] - label[i]
        bias[1] += e * e
        bias[0] -= eta * e / np.sqrt(a0 + bias[1])
        for j in range(fields):
            s = slot[i, j]
            g2_w[s] += e * e
            w[s] -= eta * e / np.sqrt(a0 + g2_w[s])
            for c in range(k):
                g = e * (z[c] - v[s, c])
                g2_v[s, c] += g * g
                v[s, c] -= eta * g / np.sqrt(a0 + g2_v[s, c])
