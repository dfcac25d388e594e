"""The model at work: `Learner` predicts and learns a stream; `Predictor` serves what was learned.

Invariant: the rows of a batch are taken one after another, so that a batch of n gives bit for bit what n batches of one
give; predicting changes nothing. Kind and optimizers are chosen once, at construction, where the kernels are
compiled (or come from Numba's cache): the first event is as quick as the rest.

With a half-life, what was learned loses half its weight against what comes in so much event time (`forget`): the table
is swept 64 times in a half-life, when an example's time passes a multiple of a 64th of it, whatever the batches are.

Units: p and label are probabilities (with another loss: numbers), weights multiply the gradient (a row of weight 0 is
predicted, not learned), times are ms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model import forget
from online_fm.model.config import Kalman, Poly2, SingleConfig, check_fields
from online_fm.model.design import Design
from online_fm.model.kernels import FIELD_ROWS, PANEL, PRECISION, RHO, RHO_SUM, TAU, TAU_SUM
from online_fm.model.state import Table, tensor

__all__ = ["Learner", "OfFeatures", "Outcome", "Prediction", "Predictor"]

TICKS = 64  # sweeps of forgetting in a half-life: steps of 1.1 %


class Prediction(NamedTuple):
    """What a model says of n rows.

    p f32[n]: probabilities (with another loss the logit); logit f32[n]: before the link, moderated by its variance;
    variance f32[n]: of the logit, 0 without Kalman parts.
    """

    p: NDArray[np.float32]
    logit: NDArray[np.float32]
    variance: NDArray[np.float32]


class Outcome(NamedTuple):
    """What a batch gave.

    p, logit, variance f32[n] as in `Prediction`, each made before its own row was learned; quarantined bool[n]: learned
    rows whose update would not have been finite. These changed no parameter; their p is a number, but not one to judge
    the model by. members: each member's p, in a committee.
    """

    p: NDArray[np.float32]
    logit: NDArray[np.float32]
    variance: NDArray[np.float32]
    quarantined: NDArray[np.bool_]
    members: Mapping[str, NDArray[np.float32]] = {}


class OfFeatures(NamedTuple):
    """What a prediction takes for each of n features, by their order in `rows`, which are as the model sees them.

    learned bool[n]: has a record, else the values are initial ones; w f32[n], v f32[n, factors]: mean weight and
    factors, these 0 where they take no part; tau, rho f32[n]: their scales; bias; pairs f32[F, F]: R, or empty.
    """

    rows: Rows
    learned: NDArray[np.bool_]
    w: NDArray[np.float32]
    v: NDArray[np.float32]
    tau: NDArray[np.float32]
    rho: NDArray[np.float32]
    bias: float
    pairs: NDArray[np.float32]


class _Parameters:
    """What a model knows: the table of its features, the bias, and what it keeps per field and pair of fields.

    fields f32[FIELD_ROWS, F padded]; pairs f32[2, F, F padded] of R and its sum, empty without them.
    """

    def __init__(self, config: SingleConfig, fields: Sequence[str], max_features: int, *, learns: bool) -> None:
        check_fields(config, fields)
        self.config = config
        self.design = design = Design(config, fields, learns=learns)
        self.table = Table(design.layout, max_features, design.seed, design.init_sd)
        self.bias = design.first_bias()
        n = len(design.fields)
        width = -(-n // PANEL) * PANEL
        self.fields = np.ones((FIELD_ROWS, width), np.float32)
        self.fields[[TAU_SUM, RHO_SUM]] = 0.0
        self.fields[PRECISION] = design.precision
        self.evidence = np.zeros((2, n), np.float64)
        self.pairs = np.zeros((2, n, width) if design.by_pair else (2, 0, 0), np.float32)
        self.pairs[0] = design.pair_start

    def named(self) -> dict[str, NDArray[Any]]:
        """All that is not of one feature, by its name in a file, as views; without what the design does not have."""
        n, design = len(self.design.fields), self.design
        fields, pairs = self.fields[:, :n], self.pairs[:, :, :n]
        found: dict[str, NDArray[Any]] = {"w0": self.bias}
        if design.scaled:
            found |= {"tau": fields[TAU], "tau_sum": fields[TAU_SUM]}
        if design.scaled and design.v is not None:
            found |= {"rho": fields[RHO], "rho_sum": fields[RHO_SUM]}
        if isinstance(self.config.w, Kalman):
            found |= {"precision": fields[PRECISION], "evidence": self.evidence}
        if design.learns_pairs:
            found |= {"pairs": pairs[0], "pairs_sum": pairs[1]}
        return found

    def served(self) -> dict[str, NDArray[Any]]:
        """Those of `named` that a prediction needs."""
        found = {name: array for name, array in self.named().items() if name in _SERVED}
        return found | {"w0": self.bias[: self.design.served_bias]}

    def fill(self, tensors: Mapping[str, NDArray[Any]], views: Mapping[str, NDArray[Any]], overflowed: int) -> None:
        """Take over a state, or what was served of one; ValueError names the tensor that does not fit."""
        if self.design.by_pair and not {"rho", "rho_sum"} & set(tensors):  # before format 3: 1, which begins to learn
            n = len(self.design.fields)
            tensors = {**tensors, "rho": np.ones(n, np.float32), "rho_sum": np.zeros(n, np.float32)}
        new = {name: tensor(tensors, name, view.dtype.type, view.shape) for name, view in views.items()}
        for name in ("tau", "rho", "precision"):
            if name in new and (new[name] <= 0).any():
                raise ValueError(f"{name}: must be greater than 0")
        self.table.fill(tensors, len(self.design.fields), overflowed)
        for name, view in views.items():
            view[...] = new[name]

    def take(self, old: _Parameters) -> None:
        """Take over what a model over the first of these fields knows; features get initial factors towards the new."""
        columns, self.table.overflowed = old.table.columns(), old.table.overflowed
        tags = columns["tags"]
        ends = np.array([0, len(tags)], np.int64)
        features = Rows(ends, (tags >> 32).astype(np.uint16), tags.astype(np.uint32), np.ones(len(tags), np.float32))
        self.table.resolve(features, np.ones(1, np.bool_))
        views = self.table.columns()
        for name, column in columns.items():
            views[name][..., : column.shape[-1]] = column
        mine = self.named()
        for name, array in old.named().items():
            mine[name][tuple(slice(size) for size in array.shape)] = array

    def columns(self, rows: Rows) -> tuple[Rows, tuple[NDArray[Any], ...]]:
        """The rows as the model takes them, and the kernels' first arguments."""
        n_fields = len(self.design.given)
        if not rows.nnz == len(rows.fld) == len(rows.key) == len(rows.val):
            raise ValueError(
                f"rows of {rows.nnz} features with {len(rows.fld)}, {len(rows.key)}, {len(rows.val)} in columns"
            )
        if rows.nnz and int(rows.fld.max()) >= n_fields:
            raise ValueError(f"a row has field {int(rows.fld.max())}, but the model has {n_fields} fields")
        rows = self.design.rows(rows)
        return rows, (rows.ptr, rows.fld, rows.key, rows.val)

    def mean_weights(self, slot: NDArray[np.int32], fld: NDArray[np.uint16]) -> NDArray[np.float32]:
        """The weights of the features in these slots, of these fields."""
        w: NDArray[np.float32] = self.table.records[slot, 0]
        if isinstance(self.config.w, Kalman):
            w /= self.fields[PRECISION, fld] + self.table.records[slot, 1]
        return w

    def of_features(self, rows: Rows) -> OfFeatures:
        """As `Predictor.of_features`."""
        design, (rows, _) = self.design, self.columns(rows)
        first = Table(design.layout, max(rows.nnz, 1), design.seed, design.init_sd)
        drawn = first.resolve(rows, np.ones(len(rows), np.bool_))
        v = first.columns()["v"][drawn - 1]
        slot = self.table.lookup(rows)
        learned = slot > 0
        w = self.mean_weights(slot, rows.fld)
        v[learned] = self.table.columns()["v"][slot[learned] - 1]
        if design.v_needs_w:
            v[w == 0.0] = 0.0
        tau, rho = self.fields[TAU, rows.fld], self.fields[RHO, rows.fld]
        pairs = self.pairs[0, :, : len(design.fields)]
        return OfFeatures(rows, learned, w, v, tau, rho, float(self.bias[0]), pairs)

    def predict(self, kernel: Callable[..., None], rows: Rows) -> Prediction:
        """Every row's prediction; changes nothing."""
        most = self.design.rows_at_once
        parts = [
            self._predict(kernel, rows.part(at, min(at + most, len(rows)))) for at in range(0, max(len(rows), 1), most)
        ]
        return parts[0] if len(parts) == 1 else Prediction(*_joined(parts))

    def _predict(self, kernel: Callable[..., None], rows: Rows) -> Prediction:
        rows, columns = self.columns(rows)
        given = _empty(len(rows))
        slot = self.table.lookup(rows)
        kernel(*columns, slot, self.table.records, self.bias, self.fields, self.pairs, *self.design.meaning, *given)
        return given


class Learner:
    """A model with its optimizer state: predicts each row, then learns it. `fields` names the fields, by number."""

    def __init__(self, config: SingleConfig, fields: Sequence[str]) -> None:
        self.config, self._known = config, _Parameters(config, fields, config.max_features, learns=True)
        self._design = self._known.design
        self._step, self._predict = self._design.make_step(), self._design.make_predict()
        self._tick = np.full(1, -1, np.int64)

    @property
    def n_fields(self) -> int:
        """Fields of the rows that it takes."""
        return len(self._design.given)

    @property
    def features(self) -> int:
        """Features with a record."""
        return self._known.table.size

    @property
    def overflowed(self) -> int:
        """How often a feature of a learned row found no place in the table."""
        return self._known.table.overflowed

    def step(
        self,
        rows: Rows,
        label: NDArray[np.float32],
        weight: NDArray[np.float32],
        learn: NDArray[np.bool_],
        time_ms: NDArray[np.int64] | None = None,
    ) -> Outcome:
        """Predict every row in order and learn those marked in `learn`.

        label, weight f32[n], learn bool[n]; time_ms i64[n], the event times that a half-life is counted in: they never
        fall, and without them nothing is forgotten by time.
        """
        if not len(rows) == len(label) == len(weight) == len(learn):
            raise ValueError(f"{len(rows)} rows with {len(label)} labels, {len(weight)} weights, {len(learn)} to learn")
        parts = []
        for start, end, tick in self._pieces(len(rows), time_ms):
            if tick is not None:
                self._pass(tick)
            piece = slice(start, end)
            parts.append(self._learn(rows.part(start, end), label[piece], weight[piece], learn[piece]))
        p, logit, variance, quarantined = _joined(part[:4] for part in parts)
        return Outcome(p, logit, variance, quarantined)

    def _pieces(self, n: int, time_ms: NDArray[np.int64] | None) -> Iterator[tuple[int, int, int | None]]:
        """(start, end, tick) of rows to work on at once: at least one, however empty."""
        most = self._design.rows_at_once
        if self.config.half_life_h is None or time_ms is None or not n:
            yield from ((start, min(start + most, n), None) for start in range(0, max(n, 1), most))
            return
        tick = np.maximum.accumulate(time_ms // max(1, round(self.config.half_life_h * 3_600_000 / TICKS)))
        starts = [0, *(np.flatnonzero(np.diff(tick)) + 1).tolist()]
        for start, end in zip(starts, [*starts[1:], n], strict=True):
            yield from ((at, min(at + most, end), int(tick[start])) for at in range(start, end, most))

    def _learn(
        self, rows: Rows, label: NDArray[np.float32], weight: NDArray[np.float32], learn: NDArray[np.bool_]
    ) -> Outcome:
        known = self._known
        learn = learn & (weight != 0)
        rows, columns = known.columns(rows)
        slot = known.table.resolve(rows, learn)
        given, quarantined = _empty(len(rows)), np.zeros(len(rows), np.bool_)
        self._step(
            *columns,
            slot,
            label,
            weight,
            learn,
            known.table.records,
            known.bias,
            known.fields,
            known.pairs,
            known.evidence,
            *self._design.rates,
            *self._design.meaning,
            *given,
            quarantined,
        )
        return Outcome(*given, quarantined)

    def _pass(self, tick: int) -> None:
        """Forget what the time that has passed says."""
        before = int(self._tick[0])
        if before >= 0 and tick > before:
            known, config = self._known, self.config
            forget.table(known.table, config.w, self._design.v, 0.5 ** ((tick - before) / TICKS))
            forget.bias(known.bias, config.w, 0.5 ** ((tick - before) / TICKS))
            known.fields[[TAU_SUM, RHO_SUM]] *= np.float32(0.5 ** ((tick - before) / TICKS))
            known.pairs[1] *= np.float32(0.5 ** ((tick - before) / TICKS))
        self._tick[0] = max(before, tick)

    def predict(self, rows: Rows) -> Prediction:
        """What `step` would predict of every row; changes nothing."""
        return self._known.predict(self._predict, rows)

    def widened(self, fields: Sequence[str]) -> Learner:
        """A learner that goes on from here over these fields, which begin with its own.

        It is bit for bit what it would be, had the new fields been there from the start and in no row. Not for Poly2,
        whose pairs of fields are numbered.
        """
        if tuple(fields[: self.n_fields]) != self._design.given or isinstance(self.config, Poly2):
            raise ValueError("new fields go behind those that are there, and not in a poly2")
        wide = Learner(self.config, fields)
        wide._known.take(self._known)  # of its own class
        wide._tick[:] = self._tick  # as above
        return wide

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is needed to go on bit for bit, in canonical form (features in the order of first learning)."""
        columns = {name: np.array(column, order="C") for name, column in self._known.table.columns().items()}
        return {
            **{name: column for name, column in columns.items() if 0 not in column.shape[1:]},
            **{name: np.array(array, order="C") for name, array in self._views().items()},
            "overflowed": np.array([self.overflowed], np.int64),
        }

    def _views(self) -> dict[str, NDArray[Any]]:
        views = self._known.named()
        return views if self.config.half_life_h is None else {**views, "tick": self._tick}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`; raise ValueError naming the tensor that does not fit, and stay as before."""
        overflowed = tensor(state, "overflowed", np.int64, (1,))
        self._known.fill(state, self._views(), int(overflowed[0]))

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What serving needs: tags u64[n], w f32[n], v f32[n, factors], w0, and what is kept per field and pair.

        Of Kalman parts the first state too: D f32[n, 1], variances f32[n, 1, factors].
        """
        columns = self._known.table.columns()
        kept = {
            "tags": columns["tags"],
            "w": columns["w"],
            "w_state": columns["w_state"][:, : self._design.served_w_states],
            "v": columns["v"],
            "v_state": columns["v_state"][:, : self._design.served_v_states],
        }
        return {
            **{name: np.array(column, order="C") for name, column in kept.items() if 0 not in column.shape[1:]},
            **{name: np.array(array, order="C") for name, array in self._known.served().items()},
        }

    def field_scales(self) -> dict[str, dict[str, float]]:
        """What each field counts: "w" -> field -> tau, "v" -> field -> rho (by pairs: mean |R| rho rho'), or none."""
        return _field_scales(self._known)

    def state_hash(self) -> str:
        """SHA-256 over parameters and optimizer state in canonical form: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self.state().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
        return digest.hexdigest()


class Predictor:
    """A model's parameters, immutable: predicts bit for bit what their learner would; thread-safe."""

    def __init__(self, config: SingleConfig, fields: Sequence[str], parameters: Mapping[str, NDArray[Any]]) -> None:
        self.config = config
        n = len(tensor(parameters, "tags", np.uint64, (None,)))
        self._known = _Parameters(config, fields, max(n, 1), learns=False)
        self._known.fill(parameters, self._known.served(), 0)
        self._predict = self._known.design.make_predict()

    @property
    def features(self) -> int:
        """Features with a record."""
        return self._known.table.size

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the fields of the rows that it takes, by number."""
        return self._known.design.given

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that the model sees, by number."""
        return self._known.design.fields

    def predict(self, rows: Rows) -> Prediction:
        """Every row's prediction; features that were never learned contribute their initial value."""
        return self._known.predict(self._predict, rows)

    def of_features(self, rows: Rows) -> OfFeatures:
        """The parameters that a prediction of these rows reads."""
        return self._known.of_features(rows)

    def mean_weights(self) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Field and weight of every feature with a record."""
        fld = (self._known.table.columns()["tags"] >> 32).astype(np.uint16)
        return fld, self._known.mean_weights(np.arange(1, 1 + len(fld), dtype=np.int32), fld)

    def field_scales(self) -> dict[str, dict[str, float]]:
        """As `Learner.field_scales`."""
        return _field_scales(self._known)


_SERVED = ("w0", "tau", "rho", "precision", "pairs")


def _joined(parts: Iterable[tuple[NDArray[Any], ...]]) -> Iterator[NDArray[Any]]:
    return map(np.concatenate, zip(*parts, strict=True))


def _empty(n: int) -> Prediction:
    return Prediction(*(np.empty(n, np.float32) for _ in range(3)))


def _field_scales(known: _Parameters) -> dict[str, dict[str, float]]:
    design, n = known.design, len(known.design.fields)
    found = {}
    if design.scaled:
        found["w"] = known.fields[TAU, :n]
    if design.scaled and design.v is not None:
        found["v"] = known.fields[RHO, :n]
    if design.learns_pairs:
        rho = known.fields[RHO, :n]
        found["v"] = rho * (np.abs(known.pairs[0, :, :n]) * rho).mean(axis=1)
    return {part: dict(zip(design.fields, map(float, scales), strict=True)) for part, scales in found.items()}
