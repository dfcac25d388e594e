"""Our learners as benchmarks take them: made from settings as in YAML, timed with and without their table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import numpy as np
from _zipf import FIELDS, batches, cover
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model import Learner, ModelConfig, make_learner
from online_fm.model.committee import AnyLearner

__all__ = ["Timed", "make"]

Batches = list[tuple[Rows, NDArray[np.float32]]]


def make(settings: dict[str, Any], fields: Sequence[str]) -> AnyLearner:
    """A learner, or a committee of them."""
    return make_learner(msgspec.convert(settings, ModelConfig), fields)


class Timed:
    """One learner, whose table knows every record, over the same events again and again; ns of the processor's time."""

    def __init__(self, settings: dict[str, Any], size: int, batched: Batches) -> None:
        self._batched = batched
        fields = [f"f{field}" for field in range(FIELDS)]
        self._learner = cast("Learner", make({**settings, "max_features": size}, fields))
        for rows, label in batches(cover(size)):
            self._learner.step(*_arguments(rows, label))
        assert self._learner.features == size // FIELDS * FIELDS

    def step(self) -> float:
        """`Learner.step`: finding the records, prediction, learning."""
        return self._timed([lambda one=one: self._learner.step(*_arguments(*one)) for one in self._batched])

    def kernel(self) -> float:
        """Prediction and learning, the records found before: `Learner._learn` without its look-up."""
        return self._timed([self._kernel(*one) for one in self._batched])

    def _kernel(self, rows: Rows, label: NDArray[np.float32]) -> Callable[[], object]:
        learner, known, design = self._learner, self._learner._known, self._learner._design  # noqa: SLF001
        _, _, weight, learn = _arguments(rows, label)
        slot = known.table.resolve(rows, learn)
        given = [np.empty(len(rows), np.float32) for _ in range(3)]
        return lambda: learner._step(  # noqa: SLF001
            rows.ptr, rows.fld, rows.key, rows.val, slot, label, weight, learn,
            known.table.records, known.bias, known.fields, known.pairs, known.evidence,
            *design.rates, *design.meaning, *given, np.zeros(len(rows), np.bool_),
        )  # fmt: skip

    def _timed(self, calls: list[Callable[[], object]]) -> float:
        began_s = time.process_time()
        for call in calls:
            call()
        return 1e9 * (time.process_time() - began_s) / sum(len(label) for _, label in self._batched)


def _arguments(
    rows: Rows, label: NDArray[np.float32]
) -> tuple[Rows, NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    return rows, label, np.ones_like(label), np.ones(len(label), np.bool_)
