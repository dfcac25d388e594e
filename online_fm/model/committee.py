"""A committee: several learners over the same rows, mixed in the logit by exponentiated gradient.

    m = sum_k omega_k m_k        omega_k *= exp(-rate c (p - y) m_k),  then divided by their sum

(Kivinen & Warmuth 1997; in the logit it is geometric mixing, Mattern 2012.) Each member learns from its own loss, and
knows nothing of the others; m_k is its reported logit, cut to +-12 under the log loss. Under the squared loss, whose
numbers have any size, the exponent is divided by the mean squared error so far. A member that is only watched has
weight 0.

The variance of a committee is (sum_k omega_k sqrt(S_k))^2: members that saw the same rows err together.

A row is quarantined when a mixed member quarantines it: it then moves no weight and is not judged; members that could
learn it did. A single learner is its own committee: `make_learner` gives a plain `Learner`, which pays nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model.config import Committee as CommitteeConfig
from online_fm.model.config import ModelConfig, SingleConfig, check_fields
from online_fm.model.kernels import HINGE, LOG, SQUARED
from online_fm.model.kernels.mix import make_mix
from online_fm.model.learner import Learner, Outcome, Prediction, Predictor
from online_fm.model.state import tensor

__all__ = ["AnyLearner", "AnyPredictor", "Committee", "CommitteePredictor", "make_learner", "make_predictor"]

_LOSSES = {"log": LOG, "squared": SQUARED, "hinge": HINGE}


class Committee:
    """Learners over the same rows, with one score; the interface is `Learner`'s."""

    def __init__(self, config: CommitteeConfig, fields: Sequence[str]) -> None:
        check_fields(config, fields)
        self.config = config
        self.members = {name: Learner(member.model, fields) for name, member in config.members.items()}
        self._mixer = _Mixer(config)

    @property
    def n_fields(self) -> int:
        """Fields of the rows that it takes."""
        return next(iter(self.members.values())).n_fields

    @property
    def features(self) -> int:
        """Records of all members."""
        return sum(member.features for member in self.members.values())

    @property
    def overflowed(self) -> int:
        """How often a feature of a learned row found no place in a member's table."""
        return sum(member.overflowed for member in self.members.values())

    def step(
        self,
        rows: Rows,
        label: NDArray[np.float32],
        weight: NDArray[np.float32],
        learn: NDArray[np.bool_],
        time_ms: NDArray[np.int64] | None = None,
    ) -> Outcome:
        """As `Learner.step`; members holds each one's p."""
        outcomes = {name: member.step(rows, label, weight, learn, time_ms) for name, member in self.members.items()}
        quarantined = np.zeros(len(rows), np.bool_)
        for name in self._mixer.mixed:
            quarantined |= outcomes[name].quarantined
        learn = learn & (weight != 0) & ~quarantined
        predicted = {name: Prediction(*outcome[:3]) for name, outcome in outcomes.items()}
        given = self._mixer.mix(predicted, label, weight, learn)
        return Outcome(*given, quarantined, {name: outcome.p for name, outcome in outcomes.items()})

    def predict(self, rows: Rows) -> Prediction:
        """What `step` would predict of every row; changes nothing."""
        return self._mixer.predict({name: member.predict(rows) for name, member in self.members.items()})

    def weights(self) -> dict[str, float]:
        """Each member's weight in the logit; 0 for one that is only watched."""
        return self._mixer.weights()

    def field_scales(self) -> dict[str, dict[str, float]]:
        """As `Learner.field_scales`, of the member with the largest weight."""
        return self.members[self._mixer.largest()].field_scales()

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is needed to go on bit for bit: members' tensors behind `NAME/`, and the weights."""
        return {**_tensors({name: m.state() for name, m in self.members.items()}), **self._mixer.state()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`; raise ValueError naming the tensor that does not fit, and stay as before."""
        before = {name: member.state() for name, member in self.members.items()}
        try:
            for name, member in self.members.items():
                _of(name, state, member.restore)
            self._mixer.restore(state)
        except ValueError:
            for name, member in self.members.items():
                member.restore(before[name])
            raise

    def parameters(self) -> dict[str, NDArray[Any]]:
        """What serving needs: members' parameters behind `NAME/`, and the weights."""
        return {**_tensors({name: m.parameters() for name, m in self.members.items()}), **self._mixer.state()}

    def state_hash(self) -> str:
        """SHA-256 over the members' hashes and the weights."""
        parts = [f"{name} {member.state_hash()}\n" for name, member in sorted(self.members.items())]
        return hashlib.sha256("".join(parts).encode() + self._mixer.state()["omega"].tobytes()).hexdigest()


class CommitteePredictor:
    """A committee's parameters, immutable; the interface is `Predictor`'s."""

    def __init__(self, config: CommitteeConfig, fields: Sequence[str], parameters: Mapping[str, NDArray[Any]]) -> None:
        self.config = config
        self.members: dict[str, Predictor] = {}
        for name, member in config.members.items():
            _of(name, parameters, partial(self._add, name, member.model, fields))
        self._mixer = _Mixer(config)
        self._mixer.restore(parameters)

    def _add(self, name: str, model: SingleConfig, fields: Sequence[str], part: Mapping[str, NDArray[Any]]) -> None:
        self.members[name] = Predictor(model, fields, part)

    @property
    def features(self) -> int:
        """Records of all members."""
        return sum(member.features for member in self.members.values())

    def predict(self, rows: Rows) -> Prediction:
        """Every row's prediction, bit for bit the committee's."""
        return self._mixer.predict({name: member.predict(rows) for name, member in self.members.items()})

    def weights(self) -> dict[str, float]:
        """As `Committee.weights`."""
        return self._mixer.weights()

    def field_scales(self) -> dict[str, dict[str, float]]:
        """As `Committee.field_scales`."""
        return self.members[self._mixer.largest()].field_scales()


class _Mixer:
    """The weights of the mixed members: omega f64[K + 2], behind them the sum and number of squared errors."""

    def __init__(self, config: CommitteeConfig) -> None:
        self.mixed = [name for name, member in config.members.items() if member.mixed]
        self._names = list(config.members)
        self._loss, self._rate = _LOSSES[config.loss], config.rate
        self._omega = np.append(np.full(len(self.mixed), 1.0 / len(self.mixed)), (0.0, 0.0))
        self._mix = make_mix()

    def mix(
        self,
        members: Mapping[str, Prediction],
        label: NDArray[np.float32],
        weight: NDArray[np.float32],
        learn: NDArray[np.bool_],
    ) -> Prediction:
        """Mix row by row, and learn the weights from the rows marked."""
        n = len(label)
        logits = np.ascontiguousarray(np.stack([members[name].logit for name in self.mixed], axis=1))
        variances = np.ascontiguousarray(np.stack([members[name].variance for name in self.mixed], axis=1))
        given = Prediction(*(np.empty(n, np.float32) for _ in range(3)))
        self._mix(logits, variances, label, weight, learn, self._loss, self._rate, self._omega, *given)
        return given

    def predict(self, members: Mapping[str, Prediction]) -> Prediction:
        """Mix with the weights as they are."""
        n = len(next(iter(members.values())).p)
        nothing = np.zeros(n, np.float32)
        return self.mix(members, nothing, nothing, np.zeros(n, np.bool_))

    def weights(self) -> dict[str, float]:
        mixed = dict(zip(self.mixed, self._omega.tolist(), strict=False))
        return {name: mixed.get(name, 0.0) for name in self._names}

    def largest(self) -> str:
        return self.mixed[int(np.argmax(self._omega[: len(self.mixed)]))]

    def state(self) -> dict[str, NDArray[Any]]:
        return {"omega": self._omega.copy()}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        omega = tensor(state, "omega", np.float64, self._omega.shape)
        if (omega < 0).any() or not omega[: len(self.mixed)].sum() > 0:
            raise ValueError("omega: weights are not negative, and not all 0")
        self._omega[:] = omega


AnyLearner: TypeAlias = Learner | Committee
AnyPredictor: TypeAlias = Predictor | CommitteePredictor


def make_learner(config: ModelConfig, fields: Sequence[str]) -> AnyLearner:
    """The learner of a configuration, over fields of these names."""
    return Committee(config, fields) if isinstance(config, CommitteeConfig) else Learner(config, fields)


def make_predictor(config: ModelConfig, fields: Sequence[str], parameters: Mapping[str, NDArray[Any]]) -> AnyPredictor:
    """The predictor of what a learner's `parameters` gave."""
    if isinstance(config, CommitteeConfig):
        return CommitteePredictor(config, fields, parameters)
    return Predictor(config, fields, parameters)


def _tensors(members: Mapping[str, Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {f"{name}/{key}": array for name, part in members.items() for key, array in part.items()}


def _of(name: str, tensors: Mapping[str, NDArray[Any]], take: Callable[[dict[str, NDArray[Any]]], None]) -> None:
    """Hand a member its tensors; what is wrong with them is said with its name."""
    part = {key.removeprefix(f"{name}/"): array for key, array in tensors.items() if key.startswith(f"{name}/")}
    try:
        take(part)
    except ValueError as problem:
        raise ValueError(f"{name}/{problem}") from problem
