"""A learner whose fields are found on the way: those of River's streams have no list.

Invariant: the learner has all fields that the encoder knows, and after each widening goes on bit for bit as if it had
had them from the start (`Learner.widened`). The first learned row sets their number; later ones add a quarter at least,
so that a stream that brings new names all the time is copied a few times and not at every row.

What is pickled or copied is configuration, names and arrays (`state()`); compiled kernels are made anew.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model.config import Ffm, Fm, Fwfm, Lr, check_fields
from online_fm.model.learner import Learner, Prediction
from online_fm.river.encode import Encoder, Features

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["GrowingLearner", "Kind"]

Kind: TypeAlias = Lr | Fm | Ffm | Fwfm


class GrowingLearner:
    """Encoder and learner: dicts and frames in, predictions out."""

    def __init__(self, config: Kind, separator: str | None, max_fields: int) -> None:
        self.config, self.separator, self.max_fields = config, separator, max_fields
        check_fields(config, _names(max_fields))
        self.quarantined = 0
        self._encoder = Encoder(separator, max_fields)
        self._learner = Learner(config, _names(1))

    @property
    def features(self) -> int:
        """Features with a record."""
        return self._learner.features

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of their numbers."""
        return self._encoder.fields

    @property
    def nbytes(self) -> int:
        """What names, parameters and optimizer state take; room that the table has kept for later is not counted."""
        arrays = sum(array.nbytes for array in self._learner.state().values())
        return arrays + sum(map(sys.getsizeof, self.fields))

    def field_scales(self) -> dict[str, dict[str, float]]:
        """How much each field counts, by its name: see `Learner.field_scales`."""
        return {
            part: dict(zip(self.fields, scales.values(), strict=False))
            for part, scales in self._learner.field_scales().items()
        }

    def learn_one(self, x: Features, label: float, weight: float) -> None:
        """Learn a dict."""
        self._learn(self._encoder.one(x, learning=weight != 0), np.array([label]), np.array([weight]))

    def learn_many(self, frame: pd.DataFrame, label: NDArray[Any], weight: NDArray[Any]) -> None:
        """Learn a frame's rows, one after another."""
        self._learn(self._encoder.many(frame, learning=True), label, weight)

    def predict_one(self, x: Features) -> Prediction:
        """Predict a dict."""
        rows = self._encoder.one(x, learning=False)
        return self._wide_enough().predict(rows)

    def predict_many(self, frame: pd.DataFrame) -> Prediction:
        """Predict a frame's rows."""
        rows = self._encoder.many(frame, learning=False)
        return self._wide_enough().predict(rows)

    def retune(self, config: Kind) -> None:
        """Go on under other settings; raise ValueError where these need another optimizer state."""
        learner = Learner(config, _names(self._learner.n_fields))
        learner.restore(self._learner.state())
        self.config, self._learner = config, learner

    def _learn(self, rows: Rows, label: NDArray[Any], weight: NDArray[Any]) -> None:
        with np.errstate(over="ignore"):  # what no float32 holds is infinite, and quarantined
            label, weight = label.astype(np.float32), weight.astype(np.float32)
        outcome = self._wide_enough().step(rows, label, weight, np.ones(len(rows), np.bool_))
        self.quarantined += int(outcome.quarantined.sum())

    def _wide_enough(self) -> Learner:
        """The learner, with the fields that the encoder has found: before learning, or by a row that then failed."""
        have, need = self._learner.n_fields, self._encoder.n_fields
        if need > have:
            n_fields = need if have == 1 else min(self.max_fields, max(need, have * 5 // 4))
            self._learner = self._learner.widened(_names(n_fields))
        return self._learner

    def __getstate__(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("config", "separator", "max_fields")}
        learned = {"n_fields": self._learner.n_fields, "fields": self.fields, "state": self._learner.state()}
        return {**settings, **learned, "quarantined": self.quarantined}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.config, self.separator, self.max_fields = state["config"], state["separator"], state["max_fields"]
        self.quarantined = state["quarantined"]
        self._encoder = Encoder(self.separator, self.max_fields)
        self._encoder.restore(state["fields"])
        self._learner = Learner(self.config, _names(state["n_fields"]))
        self._learner.restore(state["state"])


def _names(n_fields: int) -> list[str]:
    """The learner counts its fields, and need not know what they are called."""
    return [str(f) for f in range(n_fields)]
