"""The learning core: numbers in, predictions out. LR, Poly2, MF, FM, FwFM, FFM, and committees of them.

Legend, the papers' letters throughout: x_i value of feature i, f(i) its field; w0, w_i, v_i (FFM: v_{i,f}) bias, weight
and k factors; tau_f, rho_f, R_ff' the learned scales; m logit, S its variance, p prediction, y label, c weight of the
example, e = p - y, g = dloss/dm; FTRL: z, n; AdaGrad: A, the sum of g^2; Kalman: mean mu, variance s.
Rows come as `ptr fld key val` (`features.batch`), and `slot` is where a feature's record lies.
"""

from __future__ import annotations

from online_fm.model.committee import make_learner, make_predictor
from online_fm.model.config import ModelConfig
from online_fm.model.learner import Learner, Outcome, Prediction, Predictor

__all__ = ["Learner", "ModelConfig", "Outcome", "Prediction", "Predictor", "make_learner", "make_predictor"]
