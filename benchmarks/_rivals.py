"""Each peer over one stream, one pass, predict then learn, at every setting of its small grid; the best one counts.

Vowpal Wabbit and River give their prediction of every row from before it was learned, and are judged by our own
log-loss and AUC. xLearn gives only its loss of one pass, in the order of the stream; libffm too, but it shuffles, which
helps it where the stream drifts. What was found is kept in .cache/peers/scores, under a hash of settings, versions
and rows. River's FFM takes 33 ms for a row of 39 features and is left out.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator
from math import inf, isfinite
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import river
from _peers import CACHE, PINNED, available, run_peer
from _scores import Score, score
from _streams import Stream
from _text import LETTERS, write_ffm, write_fm, write_vw
from numpy.typing import NDArray
from river import facto, linear_model, optim

from online_fm.features.batch import Rows

__all__ = ["PREFIX", "RIVALS", "Found", "judge"]

ALL_PAIRS = "VW all pairs"
PREFIX = 10_000  # rows that River gets: it takes milliseconds for each
HERE = Path(__file__).parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")
RATES = ("0.02", "0.05", "0.1", "0.2", "0.5")
NORMED = ("0.2 normed", "0.5 normed", "1.0 normed", "1.5 normed", "2.0 normed")  # rows scaled to length 1


class Rival(NamedTuple):
    """A peer: the module that must be there, its grid, and what runs one setting of it."""

    module: str
    grid: tuple[str, ...]
    run: Callable[[Stream, str], Score]


class Found(NamedTuple):
    """The best setting of a peer's grid on one stream."""

    setting: str
    score: Score


def judge(name: str, stream: Stream, *, refresh: bool) -> Found | None:
    """A peer at the best of its grid; None where it does not install, or cannot tell all fields apart."""
    rival = RIVALS[name]
    if rival.module != "river" and not available(rival.module):
        return None
    if name == ALL_PAIRS and len(stream.fields) > LETTERS:
        return None
    found = [Found(setting, _scored(name, rival, stream, setting, refresh)) for setting in rival.grid]
    return min(found, key=lambda one: inf if one.score.log_loss is None else one.score.log_loss)


def _scored(name: str, rival: Rival, stream: Stream, setting: str, refresh: bool) -> Score:
    """What a peer scores; nothing where it fails, for want of memory or by diverging, which is told."""
    try:
        return _remembered(name, rival, stream, setting, refresh)
    except RuntimeError as failed:
        print(f"{name}, {setting}: {failed}", file=sys.stderr)
        return Score(None)


def _remembered(name: str, rival: Rival, stream: Stream, setting: str, refresh: bool) -> Score:
    parts = repr((name, setting, PINNED, river.__version__, PREFIX)).encode(), *_bytes(stream)
    place = CACHE / "scores" / f"{hashlib.sha256(b''.join(parts)).hexdigest()[:24]}.json"
    if refresh or not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        found = rival.run(stream, setting)
        place.write_bytes(msgspec.json.encode(found))
    return msgspec.json.decode(place.read_bytes(), type=Score)


def _bytes(stream: Stream) -> Iterator[bytes]:
    rows = stream.rows
    for column in (rows.ptr, rows.fld, rows.key, rows.val, stream.label):
        yield column.tobytes()


def _file(stream: Stream, ending: str, write: Callable[[Path, Rows, NDArray[np.float32]], None]) -> Path:
    """The stream as a peer's text, written once."""
    digest = hashlib.sha256(b"".join(_bytes(stream))).hexdigest()[:12]
    path = CACHE / "texts" / f"{stream.name}-{digest}.{ending}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, stream.rows, stream.label)
    return path


def _vw(stream: Stream, setting: str) -> Score:
    text, told = _file(stream, "vw", write_vw), CACHE / "vw-predictions.txt"
    run_peer(
        "-m", "vowpalwabbit", "-d", text, "-p", told, "--loss_function", "logistic", "--quiet", "--random_seed", "1",
        *setting.split(),
    )  # fmt: skip
    logit = np.array(told.read_text().split(), np.float64)
    return score(1.0 / (1.0 + np.exp(-logit)), stream.label, PREFIX)


def _xlearn(kind: str, k: int) -> Callable[[Stream, str], Score]:
    def run(stream: Stream, setting: str) -> Score:
        text = _file(stream, kind, write_fm if kind == "fm" else write_ffm)
        rate, *normed = setting.split()
        told = ANSI.sub("", run_peer(HERE / "_run_xlearn.py", kind, text, str(k), rate, "1", *normed, "--disk"))
        return _loss_only(re.findall(r"100%\s*\]\s+1\s+(\S+)", told)[0])

    return run


def _libffm(stream: Stream, setting: str) -> Score:
    path = CACHE / "libffm.npz"
    rows = stream.rows
    tags, number = np.unique(rows.fld.astype(np.uint64) << np.uint64(32) | rows.key, return_inverse=True)
    field = (tags >> np.uint64(32)).astype(np.int32)
    np.savez(path, ptr=rows.ptr, number=number, val=rows.val, label=stream.label, field=field)
    rate, *normed = setting.split()
    told = run_peer(HERE / "_run_libffm.py", path, "4", rate, "1", *normed)
    return _loss_only(re.findall(r"^\s+1\s+(\S+)", told, re.MULTILINE)[0])


def _loss_only(told: str) -> Score:
    return Score(float(told) if isfinite(float(told)) else None)


def _river(stream: Stream, setting: str) -> Score:
    model = _RIVER[setting]()
    rows, n = stream.rows, min(PREFIX, len(stream))
    p = np.empty(n)
    for i in range(n):
        part = slice(rows.ptr[i], rows.ptr[i + 1])
        found = zip(rows.fld[part].tolist(), rows.key[part].tolist(), rows.val[part].tolist(), strict=True)
        features = {f"{field}_{key}": value for field, key, value in found}
        p[i] = model.predict_proba_one(features).get(True, 0.0)
        model.learn_one(features, bool(stream.label[i]))
    return score(p, stream.label[:n], PREFIX)


_RIVER: dict[str, Callable[[], facto.FMClassifier | linear_model.LogisticRegression]] = {
    "LR FTRL .1": lambda: linear_model.LogisticRegression(optim.FTRLProximal(alpha=0.1, beta=1.0, l1=0.0, l2=0.0)),
    "LR AdaGrad .1": lambda: linear_model.LogisticRegression(optim.AdaGrad(0.1)),
    "FM SGD .02": lambda: facto.FMClassifier(8, optim.SGD(0.02), optim.SGD(0.02), seed=1),
    "FM AdaGrad .1": lambda: facto.FMClassifier(8, optim.AdaGrad(0.1), optim.AdaGrad(0.1), seed=1),
}

RIVALS = {
    "VW linear": Rival("vowpalwabbit", tuple(f"-b 24 -l {rate}" for rate in (*RATES, "1")), _vw),
    "VW --ftrl": Rival(
        "vowpalwabbit",
        tuple(
            f"-b 24 --ftrl --ftrl_alpha {rate} --ftrl_beta {beta}"
            for rate in ("0.02", "0.05", "0.1", "0.2")
            for beta in ("0.1", "1")
        ),
        _vw,
    ),
    ALL_PAIRS: Rival(
        "vowpalwabbit",
        (
            *(f"-b 25 -q :: -l {rate}" for rate in ("0.01", "0.02", "0.05", "0.1")),
            *(f"-b 25 -q :: --ftrl --ftrl_alpha {rate} --ftrl_beta 1" for rate in ("0.005", "0.01", "0.02", "0.05")),
        ),
        _vw,
    ),
    "xLearn FM k=8": Rival("xlearn", (*RATES, *NORMED), _xlearn("fm", 8)),
    "xLearn FFM k=4": Rival("xlearn", (*RATES, *NORMED), _xlearn("ffm", 4)),
    "libffm k=4, shuffled": Rival("pylibffm", (*RATES, *NORMED), _libffm),
    "River": Rival("river", tuple(_RIVER), _river),
}
