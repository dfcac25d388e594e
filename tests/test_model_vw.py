"""LR with FTRL gives Vowpal Wabbit's progressive loss on the same events.

The number is what Vowpal Wabbit 9.11 (PyPI: vowpalwabbit) prints as "average loss" for `events()`, written as
`1 | f0_KEY f1_KEY ...` (or `-1`), one line an event:

    python -m vowpalwabbit -d events.txt --ftrl --ftrl_alpha 0.1 --ftrl_beta 1 --loss_function logistic -b 22
"""

from __future__ import annotations

import numpy as np
import pytest
from model_cases import as_python

from online_fm.features.batch import Rows
from online_fm.model import make_learner
from online_fm.model.config import Ftrl, Lr

pytestmark = as_python
N, FIELDS, KEYS = 20_000, 6, 50
VOWPAL_WABBIT = 0.509802


def events() -> tuple[np.ndarray, np.ndarray]:
    """Keys i64[N, FIELDS] and clicks bool[N] of a planted logistic model."""
    rng = np.random.default_rng(3)
    key = np.minimum(rng.geometric(0.08, (N, FIELDS)) - 1, KEYS - 1)
    weights = rng.normal(0, 0.7, (FIELDS, KEYS))
    logit = weights[np.arange(FIELDS), key].sum(axis=1) - 1
    return key, rng.random(N) < 1 / (1 + np.exp(-logit))


def test_lr_with_ftrl_has_the_progressive_loss_of_vowpal_wabbit():
    key, clicked = events()
    rows = Rows(
        np.arange(0, N * FIELDS + 1, FIELDS, dtype=np.int64),
        np.tile(np.arange(FIELDS), N).astype(np.uint16),
        key.ravel().astype(np.uint32),
        np.ones(N * FIELDS, np.float32),
    )
    learner = make_learner(Lr(w=Ftrl(alpha=0.1, beta=1.0), scales=None), [f"f{i}" for i in range(FIELDS)])
    label, ones = clicked.astype(np.float32), np.ones(N, np.float32)
    p = learner.step(rows, label, ones, ones > 0).p.astype(np.float64)
    assert -np.log(np.where(clicked, p, 1 - p)).mean() == pytest.approx(VOWPAL_WABBIT, abs=5e-6)
