"""Forgetting by event time: everything that was learned loses a share of its weight against what comes.

keep in (0, 1) is that weight. Sums of squared gradients are multiplied by it, so that steps grow again; of FTRL `z` is
moved so that the weight stays what it is. A Gaussian's precision beyond its prior is multiplied by it: its variance
returns to the prior's, and a weight's mean to 0. Adam and SGD keep no such memory.

Per touch the optimizers forget by themselves (`decay`, `q`); by time also what is not touched fades.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from online_fm.model.config import AdaGrad, FactorOptimizer, Ftrl, Kalman, KalmanFactors, WeightOptimizer
from online_fm.model.state import Table

__all__ = ["bias", "table"]

_ROWS = 1 << 14  # records at a time: what is computed in between stays in the cache


def table(table: Table, w: WeightOptimizer, v: FactorOptimizer | None, keep: float) -> None:
    """Sweep all records of a table."""
    columns = table.columns()
    for start in range(0, table.size, _ROWS):
        part = {name: column[start : start + _ROWS] for name, column in columns.items()}
        _weights(part["w"], part["w_state"], w, np.float32(keep))
        if v is not None:
            _factors(part["v"], part["v_state"], v, np.float32(keep))


def bias(bias: NDArray[np.float32], w: WeightOptimizer, keep: float) -> None:
    """The bias, f32[1 + states]; as a Gaussian its prior variance is 1, and it keeps its mean."""
    if isinstance(w, Kalman):
        _variances(bias[1:2], 1.0, np.float32(keep))
    else:
        _weights(bias[:1], bias[None, 1:], w, np.float32(keep))


def _weights(w: NDArray[np.float32], state: NDArray[np.float32], kind: WeightOptimizer, keep: np.float32) -> None:
    match kind:
        case Ftrl():
            _ftrl(w, state[:, 0], state[:, 1], kind.alpha, keep)
        case AdaGrad():
            state[:, 0] *= keep
        case Kalman():
            w *= keep
            state[:, 0] *= keep


def _factors(v: NDArray[np.float32], state: NDArray[np.float32], kind: FactorOptimizer, keep: np.float32) -> None:
    match kind:
        case Ftrl():
            _ftrl(v, state[:, 0], state[:, 1], kind.alpha, keep)
        case AdaGrad():
            state[:, 0] *= keep
        case KalmanFactors():
            _variances(state[:, 0], kind.prior, keep)


def _ftrl(
    w: NDArray[np.float32], z: NDArray[np.float32], n: NDArray[np.float32], alpha: float, keep: np.float32
) -> None:
    root = np.sqrt(n)
    n *= keep
    z += (root - np.sqrt(n)) * np.float32(1.0 / alpha) * w


def _variances(s: NDArray[np.float32], prior: float, keep: np.float32) -> None:
    floor = np.float32(1.0 / prior)
    s[...] = 1.0 / (floor + np.maximum(1.0 / s - floor, np.float32(0.0)) * keep)
