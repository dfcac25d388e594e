"""How good the predictions of a stream are: log-loss, AUC, normalized entropy, calibration; since start and lately.

Invariant: a function of the examples in their order, bit for bit, whatever the batches. Examples of weight 0 count
for nothing.

- Log-loss: natural logarithm, float64 sums, p clipped to [2^-24, 1 - 2^-24] (the last float32 below 1), so one example
  costs at most 16.6 nats.
- AUC: from histograms of the logit of positives and negatives, 8192 bins of .0041 between the logits of the clipped ps.
  Only pairs within one bin are guessed (as one half), so the error is at most half their share: `auc_error`. Bins of
  equal width in p, as elsewhere, put all of a stream with a click rate of .1 % into a few bins.
- Normalized entropy: log-loss over the entropy of the mean label (He et al., ADKDD 2014, section 3): below 1 is
  better than always saying the click rate.
- Calibration: sum of p over sum of labels; 1 is right on average.

The sliding window is a ring of 20 panes of `window / 20` examples; the pane being filled replaces the oldest, so the
window holds 95 to 100 % of `window` once that many have come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["Quality", "QualityConfig", "Scores"]

PANES = 20
BINS = 8192
P_MIN = 2.0**-24
LOGIT_MAX = math.log(1.0 - P_MIN) - math.log(P_MIN)
SUMS = 5  # examples, weight, weighted log-loss, weighted p, weighted label


class QualityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sliding window, in examples.

    A pane of the largest window has 13.4 million: in float32 a bin stops counting at 2^24 examples of equal weight.
    """

    window: Annotated[int, Meta(ge=PANES, le=2**28)] = 100_000


@dataclass(frozen=True, slots=True)
class Scores:
    """The quality of some examples; NaN where it is not defined (no example; one class only)."""

    examples: int
    weight: float
    log_loss: float
    log_loss_sum: float
    auc: float
    auc_error: float
    normalized_entropy: float
    calibration: float
    ctr: float


F32_IN = types.Array(types.float32, 1, "C", readonly=True)


@njit(
    types.void(
        F32_IN,
        F32_IN,
        F32_IN,
        types.float64[::1],
        types.float64[:, ::1],
        types.float64[:, ::1],
        types.float32[:, :, ::1],
        types.int64[::1],
        types.int64,
    ),
    cache=True,
    nogil=True,
    fastmath=False,
    error_model="numpy",
)
def _observe(
    p: NDArray[np.float32],
    label: NDArray[np.float32],
    weight: NDArray[np.float32],
    sums: NDArray[np.float64],
    masses: NDArray[np.float64],
    pane_sums: NDArray[np.float64],
    pane_masses: NDArray[np.float32],
    cursor: NDArray[np.int64],
    pane_size: int,
) -> None:
    """Add examples in order, to the sums since start and to the pane `cursor[0]`, which holds `cursor[1]` of them."""
    scale = BINS / (2.0 * LOGIT_MAX)
    for i in range(p.size):
        w = np.float64(weight[i])
        if w == 0.0:
            continue
        if cursor[1] == pane_size:
            cursor[0] = (cursor[0] + 1) % PANES
            cursor[1] = 0
            pane_sums[cursor[0]] = 0.0
            pane_masses[cursor[0]] = 0.0
        cursor[1] += 1
        y = np.float64(label[i])
        q = min(max(np.float64(p[i]), P_MIN), 1.0 - P_MIN)
        log_p, log_not_p = math.log(q), math.log1p(-q)
        place = min(max(int((log_p - log_not_p + LOGIT_MAX) * scale), 0), BINS - 1)
        loss = -(y * log_p + (1.0 - y) * log_not_p)
        for to in (sums, pane_sums[cursor[0]]):
            to[0] += 1.0
            to[1] += w
            to[2] += w * loss
            to[3] += w * np.float64(p[i])
            to[4] += w * y
        masses[0, place] += w * (1.0 - y)
        masses[1, place] += w * y
        pane_masses[cursor[0], 0, place] += np.float32(w * (1.0 - y))
        pane_masses[cursor[0], 1, place] += np.float32(w * y)


class Quality:
    """The running quality of one stream of (p, label, weight)."""

    def __init__(self, window: int) -> None:
        self._pane_size = -(-window // PANES)
        self._sums = np.zeros(SUMS)
        self._masses = np.zeros((2, BINS))
        self._clear_window()

    def _clear_window(self) -> None:
        self._pane_sums = np.zeros((PANES, SUMS))
        self._pane_masses = np.zeros((PANES, 2, BINS), np.float32)
        self._cursor = np.zeros(2, np.int64)

    def observe(self, p: NDArray[np.float32], label: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
        """Add n examples in their order."""
        _observe(
            p,
            label,
            weight,
            self._sums,
            self._masses,
            self._pane_sums,
            self._pane_masses,
            self._cursor,
            self._pane_size,
        )

    def since_start(self) -> Scores:
        """Over all examples."""
        return _scores(self._sums, self._masses)

    def window(self) -> Scores:
        """Over the last examples."""
        return _scores(self._pane_sums.sum(axis=0), self._pane_masses.sum(axis=0, dtype=np.float64))

    def totals(self) -> tuple[float, float, int]:
        """Weighted log-loss in nats, weight, and number of examples since start: what counters want."""
        return float(self._sums[2]), float(self._sums[1]), round(float(self._sums[0]))

    def mark(self) -> dict[str, NDArray[Any]]:
        """A point in the stream, for `since`."""
        return {"sums": self._sums.copy(), "masses": self._masses.copy()}

    def since(self, mark: Mapping[str, NDArray[Any]]) -> Scores:
        """Over the examples after the mark."""
        return _scores(self._sums - mark["sums"], self._masses - mark["masses"])

    def state(self) -> dict[str, NDArray[Any]]:
        """All that is needed to go on bit for bit."""
        return {
            **self.mark(),
            "pane_sums": self._pane_sums.copy(),
            "pane_masses": self._pane_masses.copy(),
            "cursor": np.append(self._cursor, self._pane_size),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from `state()`; a window of another size begins anew. ValueError names the tensor that does not fit."""
        shapes = {name: (array.shape, array.dtype) for name, array in self.state().items()}
        for name, (shape, dtype) in shapes.items():
            if name not in state or state[name].shape != shape or state[name].dtype != dtype:
                raise ValueError(f"{name}: {dtype}{list(shape)} is needed")
        self._sums, self._masses = state["sums"].copy(), state["masses"].copy()
        self._clear_window()
        pane, filled, pane_size = (int(x) for x in state["cursor"])
        if pane_size == self._pane_size:
            if not (0 <= pane < PANES and 0 <= filled <= pane_size):
                raise ValueError("cursor: outside the window")
            self._pane_sums, self._pane_masses = state["pane_sums"].copy(), state["pane_masses"].copy()
            self._cursor[:] = pane, filled


def _scores(sums: NDArray[np.float64], masses: NDArray[np.float64]) -> Scores:
    examples, weight, loss, p, y = (float(x) for x in sums)
    log_loss = _ratio(loss, weight)
    ctr = _ratio(y, weight)
    entropy = -(ctr * math.log(ctr) + (1.0 - ctr) * math.log1p(-ctr)) if 0.0 < ctr < 1.0 else 0.0
    auc, auc_error = _auc(masses[0], masses[1])
    return Scores(
        examples=round(examples),
        weight=weight,
        log_loss=log_loss,
        log_loss_sum=loss,
        auc=auc,
        auc_error=auc_error,
        normalized_entropy=_ratio(log_loss, entropy),
        calibration=_ratio(p, y),
        ctr=ctr,
    )


def _auc(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> tuple[float, float]:
    """(P[score of a positive > that of a negative] with ties as one half, half the tied share), by weight."""
    pairs = float(positives.sum()) * float(negatives.sum())
    below = np.cumsum(negatives) - negatives
    tied = 0.5 * float(positives @ negatives)
    return _ratio(float(positives @ below) + tied, pairs), _ratio(tied, pairs)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0.0 else math.nan
