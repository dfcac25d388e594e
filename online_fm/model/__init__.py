"""The learning core: numbers in, probability out. LR, FM and FFM with FTRL-Proximal or AdaGrad, for `w` and for `v`.

Legend, the papers' letters throughout: x_i value of feature i, f(i) its field; w0, w_i, v_i (FFM: v_{i,f}) bias, weight
and k factors; m logit, p probability, y label, g = weight (p - y); FTRL: z, n; AdaGrad: A, the sum of g^2.
Rows come as `ptr fld key val` (`features.batch`), and `slot` is where a feature's record lies.
"""

from __future__ import annotations

from online_fm.model.config import AdaGrad, Ftrl, ModelConfig
from online_fm.model.learner import Learner, Outcome, Predictor

__all__ = ["AdaGrad", "Ftrl", "Learner", "ModelConfig", "Outcome", "Predictor"]
