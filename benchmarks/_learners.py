"""Our learners over a stream, at their shipped settings and at neighbours of these."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import yaml
from _ours import make
from _rivals import PREFIX
from _scores import Score, score
from _streams import Stream
from numpy.typing import NDArray

from online_fm.features.batch import Rows
from online_fm.model import ModelConfig

__all__ = ["NEIGHBOURS", "SHIPPED", "Pass", "Settings", "pass_over", "plain", "times"]

BATCH = 4096
COMMITTEE = Path(__file__).parents[1] / "config" / "kuairand-committee.yaml"

Settings = dict[str, Any]


class Pass(NamedTuple):
    """What one pass gave: the score, and the scores of a committee's members."""

    score: Score
    members: dict[str, Score]


def _committee() -> Settings:
    found: Settings = yaml.safe_load(COMMITTEE.read_text())["model"]
    return found


KALMAN = {"w": {"kind": "kalman"}, "v": {"kind": "kalman"}}
SHIPPED: dict[str, Settings] = {
    "LR": {"kind": "lr"},
    "LR Kalman": {"kind": "lr", "w": {"kind": "kalman"}},
    "Poly2": {"kind": "poly2"},
    "FM": {"kind": "fm"},
    "FFM": {"kind": "ffm"},
    "FwFM": {"kind": "fwfm"},
    "FM Kalman": {"kind": "fm", **KALMAN},
    "FwFM Kalman": {"kind": "fwfm", **KALMAN},
    "Committee": _committee(),
}

NEIGHBOURS = ("LR", "FM", "FFM", "FwFM", "LR Kalman", "FM Kalman", "FwFM Kalman")  # those whose settings are varied


def plain(settings: Settings) -> Settings:
    """The same without learned scales."""
    found = {**settings, "scales": None}
    return {**found, "pairs": None} if settings["kind"] == "ffm" else found


def times(settings: Settings, factor: float) -> Settings:
    """The same with every learning rate, or prior variance, multiplied."""
    full = msgspec.to_builtins(msgspec.convert(settings, ModelConfig))
    parts = {part: full[part] for part in ("w", "v") if part in full}
    changed = {
        part: {key: value * factor if key in ("alpha", "eta", "prior") else value for key, value in optimizer.items()}
        for part, optimizer in parts.items()
    }
    return {**full, **changed}


def pass_over(stream: Stream, settings: Settings) -> Pass:
    """Predict then learn every row once."""
    return _passed(_Frozen(stream, settings))


class _Frozen:
    """A stream and settings as one key: goals ask for some passes twice."""

    def __init__(self, stream: Stream, settings: Settings) -> None:
        self.stream, self.settings = stream, settings
        self._key = stream.name, msgspec.json.encode(msgspec.convert(settings, ModelConfig))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and self._key == other._key


@cache
def _passed(asked: _Frozen) -> Pass:
    stream = asked.stream
    learner = make(asked.settings, stream.fields)
    p = np.empty(len(stream), np.float32)
    members: dict[str, NDArray[np.float32]] = {}
    for lo in range(0, len(stream), BATCH):
        part = slice(lo, min(lo + BATCH, len(stream)))
        learn = np.ones(part.stop - lo, np.bool_)
        columns = _rows(stream.rows, part), stream.label[part], stream.weight[part], learn
        outcome = learner.step(*columns, time_ms=stream.time_ms[part])
        p[part] = outcome.p
        for name, q in outcome.members.items():
            members.setdefault(name, np.empty(len(stream), np.float32))[part] = q
    scores = {name: score(q, stream.label, PREFIX) for name, q in members.items()}
    return Pass(score(p, stream.label, PREFIX), scores)


def _rows(rows: Rows, part: slice) -> Rows:
    lo, hi = int(rows.ptr[part.start]), int(rows.ptr[part.stop])
    return Rows(rows.ptr[part.start : part.stop + 1] - lo, rows.fld[lo:hi], rows.key[lo:hi], rows.val[lo:hi])
