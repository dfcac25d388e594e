"""Judging predictions: log-loss in nats, exact AUC, calibration error. Weights are 1 in every stream here."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Score", "auc", "calibration_error", "log_loss", "score"]

Column = NDArray[np.floating[Any]]
SMALLEST = 1e-15


class Score(msgspec.Struct, frozen=True):
    """What one pass gave: over all rows, over the last quarter, over the first `PREFIX`.

    auc and what depends on single predictions is None where a peer tells only its loss; log_loss where it diverged.
    """

    log_loss: float | None
    auc: float | None = None
    last_quarter: float | None = None
    prefix: float | None = None
    ece: float | None = None


def score(p: Column, label: Column, prefix: int) -> Score:
    """All that is asked of progressive predictions p in the order of the stream."""
    late = len(p) * 3 // 4
    return Score(
        log_loss=log_loss(p, label),
        auc=auc(p, label),
        last_quarter=log_loss(p[late:], label[late:]),
        prefix=log_loss(p[:prefix], label[:prefix]),
        ece=calibration_error(p, label),
    )


def log_loss(p: Column, label: Column) -> float:
    """The mean of -log of the probability that was given to what happened."""
    right = np.where(label > 0, p, 1.0 - p.astype(np.float64))
    return float(-np.log(np.maximum(right, SMALLEST)).mean())


def auc(p: Column, label: Column) -> float:
    """The share of pairs (clicked, not clicked) in which the clicked one got more; equals count one half."""
    values, index, counts = np.unique(p, return_inverse=True, return_counts=True)
    del values
    rank = (np.cumsum(counts) - (counts - 1) / 2)[index]
    clicked = label > 0
    n, m = int(clicked.sum()), int((~clicked).sum())
    return float((rank[clicked].sum() - n * (n + 1) / 2) / (n * m)) if n and m else 0.5


def calibration_error(p: Column, label: Column, bins: int = 20) -> float:
    """ECE over bins of equal width (Guo et al., ICML 2017): sum_b n_b / n |mean p - mean label|."""
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    apart = np.bincount(place, p.astype(np.float64) - label, minlength=bins)
    return float(np.abs(apart).sum() / len(p))
