"""How a configuration becomes a model: its kernels, its record, the rows that it sees, and what the kernels are told.

Everything about a kind of model is said here once; `learner` knows none. Poly2 and MF have no kernels of their own:
Poly2 is LR over rows to which their pairs of features were added, MF an FM over the two fields that it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model.config import (
    AdaGrad,
    Adam,
    FactorOptimizer,
    Ffm,
    Ftrl,
    Fwfm,
    Kalman,
    KalmanFactors,
    Lr,
    Mf,
    PairScales,
    Poly2,
    SingleConfig,
    WeightOptimizer,
)
from online_fm.model.kernels import ADAGRAD, ADAM, FTRL, HINGE, KALMAN, LOG, SGD, SQUARED, STATES, ffm, fm, lr
from online_fm.model.kernels.pairs import make_pairs, make_select
from online_fm.model.state import Layout

__all__ = ["Design"]

_LOSSES = {"log": LOG, "squared": SQUARED, "hinge": HINGE}


class Design:
    """What follows from a configuration and the names of the fields."""

    def __init__(self, config: SingleConfig, fields: Sequence[str], *, learns: bool) -> None:
        self.config = config
        self.given = tuple(fields)
        self.fields = self._fields()
        self.v: FactorOptimizer | None = None if isinstance(config, Lr | Poly2) else config.v
        self._pairs = config.pairs if isinstance(config, Ffm | Fwfm) else None
        self.by_pair = isinstance(config, Ffm | Fwfm)
        self.learns_pairs = self._pairs is not None
        self.pair_start = self._pairs.start if self._pairs else 1.0
        self.scaled = config.scales is not None
        self.precision = 1.0 / config.w.prior if isinstance(config.w, Kalman) else 1.0
        self.seed, self.init_sd = (0, 0.0) if isinstance(config, Lr | Poly2) else (config.seed, config.init_sd)
        self.served_w_states = int(isinstance(config.w, Kalman))
        self.served_v_states = int(isinstance(self.v, KalmanFactors))
        self.served_bias = 1 + self.served_w_states
        self._w_kind, self._v_kind = _kind(config.w), _kind(self.v) if self.v else 0
        self.layout = self._layout(learns=learns)
        self.rates = (_rates(config.w), _rates(self.v), self._scale_rates(), self._noise())
        self.v_needs_w = not isinstance(config, Lr | Poly2) and config.v_needs_w
        self.meaning = (
            _LOSSES[config.loss],
            len(self.fields),
            np.uint64(self.seed),
            self.init_sd,
            np.float32(self.layout.v_start),
        )
        self._rows = self._view()

    def _fields(self) -> tuple[str, ...]:
        """The names of the fields of the rows that the model sees."""
        config = self.config
        if isinstance(config, Mf):
            return config.user, config.item
        if isinstance(config, Poly2):
            return self.given + tuple(f"{a}*{b}" for a, b in combinations_with_replacement(self.given, 2))
        return self.given

    def _view(self) -> Callable[[Rows], Rows]:
        n, config = len(self.given), self.config
        if isinstance(config, Poly2):
            pairs = make_pairs()
            return lambda rows: Rows(*pairs(rows.ptr, rows.fld, rows.key, rows.val, n))
        if isinstance(config, Mf):
            select = make_select()
            place = np.full(n, -1, np.int64)
            place[self.given.index(config.item)] = 1
            place[self.given.index(config.user)] = 0
            return lambda rows: Rows(*select(rows.ptr, rows.fld, rows.key, rows.val, place))
        return lambda rows: rows

    def rows(self, rows: Rows) -> Rows:
        """The rows as the model sees them."""
        return self._rows(rows)

    @property
    def rows_at_once(self) -> int:
        """How many rows to work on at a time: all, but where a row becomes hundreds of features."""
        return 512 if isinstance(self.config, Poly2) else 1 << 62

    def _layout(self, *, learns: bool) -> Layout:
        config, n = self.config, len(self.fields)
        w_states = STATES[self._w_kind] if learns else self.served_w_states
        if isinstance(config, Lr | Poly2):
            return Layout(1 + w_states, 0, 0, w_states, 0)
        v_states = self.served_v_states
        if learns:
            v_states = 1 if self._v_kind == KALMAN else STATES[self._v_kind]
        start = config.v.prior if isinstance(config.v, KalmanFactors) else 0.0
        if isinstance(config, Ffm):
            return Layout(ffm.HEAD, n * config.k, ffm.row_of(n, config.k), w_states, v_states, start)
        return Layout(self._head, config.k, config.k, w_states, v_states, start)

    @property
    def _head(self) -> int:
        """Floats before an FM's factors: the weight and its state."""
        return -(-(1 + STATES[self._w_kind]) // 4) * 4

    def first_bias(self) -> NDArray[np.float32]:
        """The bias with its state: f32[1 + states]; a Gaussian one has variance 1."""
        if isinstance(self.config.w, Kalman):
            return np.array([0.0, 1.0], np.float32)
        return np.zeros(1 + STATES[self._w_kind], np.float32)

    def make_step(self) -> Callable[..., None]:
        """Compile predict-then-learn."""
        config = self.config
        if isinstance(config, Lr | Poly2):
            return lr.make_step(self._w_kind, self.layout.stride)
        if isinstance(config, Ffm):
            return ffm.make_step(config.k, self._w_kind, self._v_kind, int(self.v_needs_w))
        return fm.make_step(config.k, self._w_kind, self._v_kind, *self._fm_form)

    def make_predict(self) -> Callable[..., None]:
        """Compile prediction, which knows only whether a part is a Gaussian."""
        config = self.config
        w, v = (kind if kind == KALMAN else FTRL for kind in (self._w_kind, self._v_kind))
        if isinstance(config, Lr | Poly2):
            return lr.make_predict(w, self.layout.stride)
        if isinstance(config, Ffm):
            return ffm.make_predict(config.k, w, v, int(self.v_needs_w))
        return fm.make_predict(config.k, w, v, *self._fm_form)

    @property
    def _fm_form(self) -> tuple[int, int, int, int]:
        """(head, stride, v_needs_w, by_pair): what else an FM's kernels are compiled for."""
        return self._head, self.layout.stride, int(self.v_needs_w), int(self.by_pair)

    def _noise(self) -> float:
        """Of the label around its prediction; it is a Gaussian's question only."""
        return float(self.config.noise) if self.served_w_states or self.served_v_states else 1.0

    def _scale_rates(self) -> tuple[np.float32, ...]:
        scales, pairs = self.config.scales, self._pairs or PairScales(eta=1e-9)
        own = (scales.eta, scales.a0, scales.floor) if scales else (0.0, 1.0, 1.0)
        return _floats(*own, pairs.eta if self._pairs else 0.0, pairs.a0)


def _kind(optimizer: WeightOptimizer | FactorOptimizer) -> int:
    if isinstance(optimizer, Kalman | KalmanFactors):
        return KALMAN
    return {Ftrl: FTRL, AdaGrad: ADAGRAD, Adam: ADAM}.get(type(optimizer), SGD)


def _rates(optimizer: WeightOptimizer | FactorOptimizer | None) -> tuple[np.float32, ...]:
    """The tuple that the kernels take (`kernels.optim`, `kernels.kalman`)."""
    match optimizer:
        case Ftrl():
            return _floats(1.0 / optimizer.alpha, optimizer.beta, optimizer.l1, optimizer.l2, optimizer.decay)
        case AdaGrad():
            return _floats(optimizer.eta, optimizer.a0, 0.0, optimizer.l2, optimizer.decay)
        case Adam():
            return _floats(optimizer.eta, optimizer.beta1, optimizer.beta2, optimizer.l2, optimizer.eps)
        case Kalman():
            return _floats(optimizer.q, optimizer.evidence or 0.0, optimizer.prior, 0.0, 0.0)
        case KalmanFactors():
            return _floats(optimizer.q, 1.0 / optimizer.prior, optimizer.prior, 0.0, 0.0)
        case None:
            return _floats(0.0, 0.0, 0.0, 0.0, 0.0)
    return _floats(optimizer.eta, optimizer.decay, 0.0, optimizer.l2, 0.0)


def _floats(*numbers: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(number) for number in numbers)
