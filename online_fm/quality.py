"""How good the predictions of a stream are, since start and lately.

For clicks: log-loss, AUC, normalized entropy, calibration; for numbers (squared loss): mean squared and absolute error,
R^2, calibration; for margins (hinge loss): hinge loss, AUC.

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
- Squared loss: p is a number on the label's own scale. R^2 is 1 - squared error / squared error of always saying the
  mean label: above 0 is better than that.
- Hinge loss: p is the margin m, and the loss max(0, 1 - (2y - 1) m). AUC as above, by margins of -8 to 8.

The sliding window is a ring of 20 panes of `window / 20` examples; the pane being filled replaces the oldest, so the
window holds 95 to 100 % of `window` once that many have come.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal

import numpy as np
from msgspec import Meta, Struct
from numba import njit, types
from numpy.typing import NDArray

__all__ = ["SCORED_BY", "LossName", "Quality", "QualityConfig", "Scores"]

LossName = Literal["log", "squared", "hinge"]
# loss -> the scores that it defines, the one to compare models by first
SCORED_BY: Final[Mapping[LossName, tuple[str, ...]]] = {
    "log": ("log_loss", "auc", "auc_error", "normalized_entropy", "calibration"),
    "squared": ("rmse", "mae", "r2", "calibration"),
    "hinge": ("hinge_loss", "auc", "auc_error"),
}

PANES = 20
BINS = 8192
P_MIN = 2.0**-24
LOGIT_MAX = math.log(1.0 - P_MIN) - math.log(P_MIN)
MARGIN_MAX = 8.0
SUMS = 5  # examples, then weighted: 1, loss, p, label
SUMS_OF_SQUARED = 7  # then absolute error, square of the label


class QualityConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sliding window, in examples.

    A pane of the largest window has 13.4 million: in float32 a bin stops counting at 2^24 examples of equal weight.
    """

    window: Annotated[int, Meta(ge=PANES, le=2**28)] = 100_000


@dataclass(frozen=True, slots=True)
class Scores:
    """The quality of some examples; NaN where it is not defined: no example; one class only; another loss.

    `ctr` is the mean label.
    """

    examples: int
    weight: float
    ctr: float
    log_loss: float = math.nan
    log_loss_sum: float = math.nan
    auc: float = math.nan
    auc_error: float = math.nan
    normalized_entropy: float = math.nan
    calibration: float = math.nan
    mse: float = math.nan
    rmse: float = math.nan
    mae: float = math.nan
    r2: float = math.nan
    hinge_loss: float = math.nan


F32_IN = types.Array(types.float32, 1, "C", readonly=True)
EXAMPLES = (F32_IN, F32_IN, F32_IN)
SUMMED = (types.float64[::1], types.float64[:, ::1])
COUNTED = (types.float64[:, ::1], types.float32[:, :, ::1])
PLACE = (types.int64[::1], types.int64)


@njit(
    types.void(*EXAMPLES, types.boolean, *SUMMED, *COUNTED, *PLACE),
    cache=True,
    nogil=True,
    fastmath=False,
    error_model="numpy",
)
def _observe_ranked(
    p: NDArray[np.float32],
    label: NDArray[np.float32],
    weight: NDArray[np.float32],
    hinge: bool,
    sums: NDArray[np.float64],
    pane_sums: NDArray[np.float64],
    masses: NDArray[np.float64],
    pane_masses: NDArray[np.float32],
    cursor: NDArray[np.int64],
    pane_size: int,
) -> None:
    """Add examples in order, to the sums since start and to the pane `cursor[0]`, which holds `cursor[1]` of them."""
    most = MARGIN_MAX if hinge else LOGIT_MAX
    scale = BINS / (2.0 * most)
    for i in range(p.size):
        w = np.float64(weight[i])
        if w == 0.0 or math.isnan(p[i]):
            continue
        if cursor[1] == pane_size:
            cursor[0] = (cursor[0] + 1) % PANES
            cursor[1] = 0
            pane_sums[cursor[0]] = 0.0
            pane_masses[cursor[0]] = 0.0
        cursor[1] += 1
        y, rank = float(label[i]), float(p[i])
        if hinge:
            loss = max(0.0, 1.0 - (2.0 * y - 1.0) * rank)
            rank = min(max(rank, -most), most)
        else:
            q = min(max(rank, P_MIN), 1.0 - P_MIN)
            log_p, log_not_p = math.log(q), math.log1p(-q)
            loss = -(y * log_p + (1.0 - y) * log_not_p)
            rank = log_p - log_not_p
        for to in (sums, pane_sums[cursor[0]]):
            to[0] += 1.0
            to[1] += w
            to[2] += w * loss
            to[3] += w * np.float64(p[i])
            to[4] += w * y
        place = min(max(int((rank + most) * scale), 0), BINS - 1)
        masses[0, place] += w * (1.0 - y)
        masses[1, place] += w * y
        pane_masses[cursor[0], 0, place] += np.float32(w * (1.0 - y))
        pane_masses[cursor[0], 1, place] += np.float32(w * y)


@njit(types.void(*EXAMPLES, *SUMMED, *PLACE), cache=True, nogil=True, fastmath=False, error_model="numpy")
def _observe_squared(
    p: NDArray[np.float32],
    label: NDArray[np.float32],
    weight: NDArray[np.float32],
    sums: NDArray[np.float64],
    pane_sums: NDArray[np.float64],
    cursor: NDArray[np.int64],
    pane_size: int,
) -> None:
    """As above, for predictions that are numbers: nothing is ranked."""
    for i in range(p.size):
        w = np.float64(weight[i])
        if w == 0.0 or math.isnan(p[i]):
            continue
        if cursor[1] == pane_size:
            cursor[0] = (cursor[0] + 1) % PANES
            cursor[1] = 0
            pane_sums[cursor[0]] = 0.0
        cursor[1] += 1
        y = np.float64(label[i])
        error = np.float64(p[i]) - y
        for to in (sums, pane_sums[cursor[0]]):
            to[0] += 1.0
            to[1] += w
            to[2] += w * error * error
            to[3] += w * np.float64(p[i])
            to[4] += w * y
            to[5] += w * abs(error)
            to[6] += w * y * y


class Quality:
    """The running quality of one stream of (p, label, weight), judged by the loss that the model learns by.

    p: a probability for the log loss, a number on the label's scale for the squared one, a margin for the hinge.
    """

    def __init__(self, window: int, loss: LossName = "log") -> None:
        self.loss: LossName = loss
        self._pane_size = -(-window // PANES)
        self._sums = np.zeros(SUMS_OF_SQUARED if loss == "squared" else SUMS)
        self._masses = np.zeros((2, 0 if loss == "squared" else BINS))
        self._clear_window()

    def _clear_window(self) -> None:
        self._pane_sums = np.zeros((PANES, *self._sums.shape))
        self._pane_masses = np.zeros((PANES, *self._masses.shape), np.float32)
        self._cursor = np.zeros(2, np.int64)

    def observe(self, p: NDArray[np.float32], label: NDArray[np.float32], weight: NDArray[np.float32]) -> None:
        """Add n examples in their order; what has no weight or no prediction (NaN) is none."""
        sums, counted = (self._sums, self._pane_sums), (self._masses, self._pane_masses)
        place = (self._cursor, self._pane_size)
        if self.loss == "squared":
            _observe_squared(p, label, weight, *sums, *place)
        else:
            _observe_ranked(p, label, weight, self.loss == "hinge", *sums, *counted, *place)

    def since_start(self) -> Scores:
        """Over all examples."""
        return self._scores(self._sums, self._masses)

    def window(self) -> Scores:
        """Over the last examples."""
        return self._scores(self._pane_sums.sum(axis=0), self._pane_masses.sum(axis=0, dtype=np.float64))

    def totals(self) -> tuple[float, float, int]:
        """Weighted loss (the log loss in nats), weight, and number of examples since start: what counters want."""
        return float(self._sums[2]), float(self._sums[1]), round(float(self._sums[0]))

    def mark(self) -> dict[str, NDArray[Any]]:
        """A point in the stream, for `since`."""
        return {"sums": self._sums.copy(), "masses": self._masses.copy()}

    def since(self, mark: Mapping[str, NDArray[Any]]) -> Scores:
        """Over the examples after the mark."""
        return self._scores(self._sums - mark["sums"], self._masses - mark["masses"])

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

    def _scores(self, sums: NDArray[np.float64], masses: NDArray[np.float64]) -> Scores:
        examples, weight, loss, p, y = (float(x) for x in sums[:SUMS])
        mean, rate = _ratio(loss, weight), _ratio(y, weight)
        scores = Scores(round(examples), weight, rate)
        if self.loss == "squared":
            mae, r2 = _ratio(float(sums[5]), weight), 1.0 - _ratio(loss, float(sums[6]) - y * rate)
            return replace(scores, mse=mean, rmse=math.sqrt(mean), mae=mae, r2=r2, calibration=_ratio(p, y))
        auc, auc_error = _auc(masses[0], masses[1])
        if self.loss == "hinge":
            return replace(scores, hinge_loss=mean, auc=auc, auc_error=auc_error)
        return replace(
            scores,
            log_loss=mean,
            log_loss_sum=loss,
            auc=auc,
            auc_error=auc_error,
            normalized_entropy=_ratio(mean, _entropy(rate)),
            calibration=_ratio(p, y),
        )


def _entropy(rate: float) -> float:
    return -(rate * math.log(rate) + (1.0 - rate) * math.log1p(-rate)) if 0.0 < rate < 1.0 else 0.0


def _auc(negatives: NDArray[np.float64], positives: NDArray[np.float64]) -> tuple[float, float]:
    """(P[score of a positive > that of a negative] with ties as one half, half the tied share), by weight."""
    pairs = float(positives.sum()) * float(negatives.sum())
    below = np.cumsum(negatives) - negatives
    tied = 0.5 * float(positives @ negatives)
    return _ratio(float(positives @ below) + tied, pairs), _ratio(tied, pairs)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0.0 else math.nan
