"""Exploration: predictions drawn from what a model with Kalman parts knows of its logit (Thompson sampling).

The logit of a row is Gaussian, of the mean m before moderation and of variance S. A draw is one sample of it through
the link. Whoever shows the item of the highest draw tries items as often as they may be the best (Thompson 1933;
Chapelle & Li, NIPS 2011). The prediction itself is, up to MacKay's approximation, the mean of its draws.

m is taken from the reported logit, m = logit sqrt(1 + pi S / 8) under the log loss, so that a committee is drawn from
as a single model is. Rows are drawn independently of each other, although rows that share features share their errors.
A row whose logit is no number has the p that `link.prediction` gives it, .5 or 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from online_fm.model.config import Committee, Kalman, Loss, Lr, ModelConfig, Poly2
from online_fm.model.config import KalmanFactors as Factors
from online_fm.model.learner import Prediction

__all__ = ["draw", "has_variance", "mean_logit"]


def has_variance(config: ModelConfig) -> bool:
    """Whether predictions of such a model come with a variance: Kalman weights or factors (in a mixed member)."""
    if isinstance(config, Committee):
        return any(member.mixed and has_variance(member.model) for member in config.members.values())
    return isinstance(config.w, Kalman) or (not isinstance(config, Lr | Poly2) and isinstance(config.v, Factors))


def mean_logit(prediction: Prediction, loss: Loss) -> NDArray[np.float64]:
    """The logits' means f64[n], before moderation."""
    logit = prediction.logit.astype(np.float64)
    return logit * np.sqrt(1.0 + math.pi / 8.0 * prediction.variance) if loss == "log" else logit


def draw(prediction: Prediction, loss: Loss, rng: np.random.Generator) -> NDArray[np.float32]:
    """A drawn p for each row, f32[n]: a probability under the log loss, else a number."""
    normal = rng.standard_normal(len(prediction.p))
    with np.errstate(all="ignore"):
        drawn = mean_logit(prediction, loss) + np.sqrt(prediction.variance, dtype=np.float64) * normal
        p = np.exp(-np.logaddexp(0.0, -drawn)) if loss == "log" else drawn
        p = p.astype(np.float32)
    return np.where(np.isfinite(p) & np.isfinite(drawn), p, np.float32(0.5 if loss == "log" else 0.0))
