"""The model at work: `Learner` predicts and learns a stream; `Predictor` serves what was learned.

Invariant: the rows of a batch are taken one after another, so that a batch of n gives bit for bit what n batches of one
give; predicting changes nothing. Kind and optimizers are chosen once, at construction, where the kernels are
compiled (or come from Numba's cache): the first event is as quick as the rest.

Units: p and label are probabilities, weights multiply the gradient (a row of weight 0 is predicted, not learned).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model.config import AdaGrad, Ftrl, ModelConfig, check_size
from online_fm.model.kernels import ADAGRAD, FTRL, ffm, fm, lr
from online_fm.model.state import Layout, Table, tensor

__all__ = ["Learner", "Outcome", "Predictor"]


class Outcome(NamedTuple):
    """What a batch gave.

    p f32[n], each made before its own row was learned; quarantined bool[n]: learned rows whose update would not have
    been finite. These changed no parameter; their p is a number, but not one to judge the model by.
    """

    p: NDArray[np.float32]
    quarantined: NDArray[np.bool_]


class Learner:
    """A model with its optimizer state: predicts each row, then learns it."""

    def __init__(self, config: ModelConfig, n_fields: int) -> None:
        check_size(config, n_fields)
        self.config, self.n_fields = config, n_fields
        layout = Layout.of(config.kind, config.k, n_fields, _states(config.w), _states(config.v))
        self._table = Table(layout, config.max_features, config.seed, config.init_sd)
        self._w0 = np.zeros(3, np.float32)
        self._rates = _rates(config.w), _rates(config.v)
        self._initial = n_fields, np.uint64(config.seed), config.init_sd
        self._step, self._predict = _make_step(config), _make_predict(config)

    @property
    def features(self) -> int:
        """Features with a record."""
        return self._table.size

    @property
    def overflowed(self) -> int:
        """How often a feature of a learned row found no place in the table."""
        return self._table.overflowed

    def step(
        self, rows: Rows, label: NDArray[np.float32], weight: NDArray[np.float32], learn: NDArray[np.bool_]
    ) -> Outcome:
        """Predict every row in order and learn those marked in `learn`; label, weight f32[n], learn bool[n]."""
        _check(rows, self.n_fields)
        if not len(rows) == len(label) == len(weight) == len(learn):
            raise ValueError(f"{len(rows)} rows with {len(label)} labels, {len(weight)} weights, {len(learn)} to learn")
        learn = learn & (weight != 0)
        slot = self._table.resolve(rows, learn)
        outcome = Outcome(np.empty(len(rows), np.float32), np.zeros(len(rows), np.bool_))
        self._step(
            *_columns(rows),
            slot,
            label,
            weight,
            learn,
            self._table.records,
            self._w0,
            *self._rates,
            *self._initial,
            *outcome,
        )
        return outcome

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        """Every row's p, f32[n], as `step` would make it; changes nothing."""
        return _predict_rows(self._predict, self._table, self._w0, self._initial, rows)

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is needed to go on bit for bit, in canonical form (features in the order of first learning)."""
        columns = {name: np.ascontiguousarray(column) for name, column in self._table.columns().items()}
        states = 1 + self._table.layout.w_states
        return {
            **{name: column for name, column in columns.items() if 0 not in column.shape[1:]},
            "w0": self._w0[:states].copy(),
            "overflowed": np.array([self.overflowed], np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`; raise ValueError naming the tensor that does not fit, and stay as before."""
        states = 1 + self._table.layout.w_states
        w0 = tensor(state, "w0", np.float32, (states,))
        overflowed = tensor(state, "overflowed", np.int64, (1,))
        self._table.fill(state, self.n_fields, int(overflowed[0]))
        self._w0[:states] = w0

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What serving needs: tags u64[n], w f32[n], v f32[n, factors] (none in LR), w0 f32[1]."""
        columns = self._table.columns()
        names = ("tags", "w", "v") if self._table.layout.factors else ("tags", "w")
        return {**{name: np.ascontiguousarray(columns[name]) for name in names}, "w0": self._w0[:1].copy()}

    def state_hash(self) -> str:
        """SHA-256 over parameters and optimizer state in canonical form: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self.state().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


class Predictor:
    """A model's parameters, immutable: predicts bit for bit what their learner would; thread-safe."""

    def __init__(self, config: ModelConfig, n_fields: int, parameters: Mapping[str, NDArray[Any]]) -> None:
        check_size(config, n_fields)
        self.config, self.n_fields = config, n_fields
        n = len(tensor(parameters, "tags", np.uint64, (None,)))
        layout = Layout.of(config.kind, config.k, n_fields, 0, 0)
        self._table = Table(layout, max(n, 1), config.seed, config.init_sd)
        self._table.fill(parameters, n_fields)
        self._w0 = tensor(parameters, "w0", np.float32, (1,)).copy()
        self._initial = n_fields, np.uint64(config.seed), config.init_sd
        self._predict = _make_predict(config)

    @property
    def features(self) -> int:
        """Features with a record."""
        return self._table.size

    def predict(self, rows: Rows) -> NDArray[np.float32]:
        """Every row's p, f32[n]; features that were never learned contribute their initial value."""
        return _predict_rows(self._predict, self._table, self._w0, self._initial, rows)


def _make_step(config: ModelConfig) -> Callable[..., None]:
    w, v = _kind(config.w), _kind(config.v)
    match config.kind:
        case "lr":
            return lr.make_step(w)
        case "fm":
            return fm.make_step(config.k, w, v)
        case "ffm":
            return ffm.make_step(config.k, w, v)


def _make_predict(config: ModelConfig) -> Callable[..., None]:
    match config.kind:
        case "lr":
            return lr.make_predict()
        case "fm":
            return fm.make_predict(config.k)
        case "ffm":
            return ffm.make_predict(config.k)


def _predict_rows(
    kernel: Callable[..., None], table: Table, w0: NDArray[np.float32], initial: tuple[Any, ...], rows: Rows
) -> NDArray[np.float32]:
    _check(rows, initial[0])
    p = np.empty(len(rows), np.float32)
    kernel(*_columns(rows), table.lookup(rows), table.records, w0, *initial, p)
    return p


def _check(rows: Rows, n_fields: int) -> None:
    """Kernels do not check bounds: columns of other lengths, or a field beyond the last, must not reach them."""
    if not rows.nnz == len(rows.fld) == len(rows.key) == len(rows.val):
        raise ValueError(
            f"rows of {rows.nnz} features with {len(rows.fld)}, {len(rows.key)}, {len(rows.val)} in columns"
        )
    if rows.nnz and int(rows.fld.max()) >= n_fields:
        raise ValueError(f"a row has field {int(rows.fld.max())}, but the model has {n_fields} fields")


def _columns(rows: Rows) -> tuple[NDArray[Any], ...]:
    return rows.ptr, rows.fld, rows.key, rows.val


def _kind(optimizer: Ftrl | AdaGrad) -> int:
    return FTRL if isinstance(optimizer, Ftrl) else ADAGRAD


def _states(optimizer: Ftrl | AdaGrad) -> int:
    return 2 if isinstance(optimizer, Ftrl) else 1


def _rates(optimizer: Ftrl | AdaGrad) -> tuple[np.float32, ...]:
    """The tuple that the kernels take (`kernels.optim`)."""
    if isinstance(optimizer, Ftrl):
        rates = 1.0 / optimizer.alpha, optimizer.beta, optimizer.l1, optimizer.l2
    else:
        rates = optimizer.eta, optimizer.a0, 0.0, optimizer.l2
    return tuple(np.float32(rate) for rate in rates)
