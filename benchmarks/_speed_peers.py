"""Nanoseconds per event of peers in one pass over the events of `_zipf`, without reading text and starting up.

All are differences of two runs, in the processor's time:

VW      a pass over its own cache with --ftrl, less the same pass with --noop, which reads the cache and learns nothing
xLearn  four epochs less one, rows parsed before and in memory
libffm  five epochs less one
River   predict_proba_one and learn_one, dictionaries made before (no difference: it runs in this process)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _peers import CACHE, run_peer, work_of
from _text import write_ffm, write_fm, write_vw
from _zipf import FIELDS, Events
from numpy.typing import NDArray
from river import facto, optim

from online_fm.features.batch import Rows

__all__ = ["libffm", "river", "vw_ftrl", "xlearn"]

HERE = Path(__file__).parent
ANSI = re.compile(r"\x1b\[[0-9;]*m")
FTRL = ("--ftrl", "--ftrl_alpha", "0.1", "--ftrl_beta", "1")


def _rows(events: Events) -> tuple[Rows, NDArray[np.float32]]:
    n = len(events.label)
    ptr, fld = np.arange(n + 1, dtype=np.int64) * FIELDS, np.tile(np.arange(FIELDS, dtype=np.uint16), n)
    return Rows(ptr, fld, events.slot.ravel().astype(np.uint32), np.ones(n * FIELDS, np.float32)), events.label


def _text(events: Events, size: int, ending: str, write: Callable[[Path, Rows, NDArray[np.float32]], None]) -> Path:
    path = CACHE / "texts" / f"zipf-{len(events.label)}-{size}.{ending}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, *_rows(events))
    return path


def vw_ftrl(events: Events, size: int) -> Callable[[], float]:
    """LR with FTRL; 2^22 weights."""
    text = _text(events, size, "vw", write_vw)
    common = ("-m", "vowpalwabbit", "-d", text, "--cache_file", text.with_suffix(".cache"), "-b", "22")
    run_peer(*common, "--noop")

    def seconds(*arguments: str) -> float:
        spent_s, told = work_of(*common, "--loss_function", "logistic", *arguments)
        assert "in favor of cache input" in told
        assert f"number of examples = {len(events.label)}" in told
        return spent_s

    return lambda: 1e9 * (seconds(*FTRL) - seconds("--noop")) / len(events.label)


def xlearn(kind: str, k: int, events: Events, size: int) -> Callable[[], float]:
    """FM or FFM with AdaGrad."""
    path = _text(events, size, kind, _with_exact_keys(kind))

    def seconds(epochs: int) -> float:
        spent_s, told = work_of(HERE / "_run_xlearn.py", kind, path, str(k), "0.1", str(epochs))
        assert len(re.findall(r"%\s*\]", ANSI.sub("", told))) == epochs
        return spent_s

    return lambda: 1e9 * (seconds(4) - seconds(1)) / 3 / len(events.label)


def _with_exact_keys(kind: str) -> Callable[[Path, Rows, NDArray[np.float32]], None]:
    write = write_fm if kind == "fm" else write_ffm
    return lambda path, rows, label: write(path, rows, label, exact_keys=True)


def libffm(k: int, events: Events, size: int) -> Callable[[], float]:
    """FFM with AdaGrad."""
    rows, label = _rows(events)
    field = np.zeros(size, np.int32)
    field[events.slot] = np.arange(FIELDS, dtype=np.int32)
    path = CACHE / f"libffm-{len(label)}-{size}.npz"
    np.savez(path, ptr=rows.ptr, number=rows.key.astype(np.int32), val=rows.val, label=label, field=field)

    def seconds(epochs: int) -> float:
        spent_s, told = work_of(HERE / "_run_libffm.py", path, str(k), "0.1", str(epochs))
        assert len(re.findall(r"^\s+\d+\s+\S+\s+\S+$", told, re.MULTILINE)) == epochs
        return spent_s

    return lambda: 1e9 * (seconds(5) - seconds(1)) / 4 / len(label)


def river(events: Events, n: int = 300) -> Callable[[], float]:
    """FM k=8 with AdaGrad, the first n events."""
    rows = [{f"{field}_{slot}": 1.0 for field, slot in enumerate(row)} for row in events.slot[:n].tolist()]
    labels = [bool(label) for label in events.label[:n]]

    def run() -> float:
        model = facto.FMClassifier(8, optim.AdaGrad(0.1), optim.AdaGrad(0.1), seed=1)
        began_s = time.process_time()
        for features, label in zip(rows, labels, strict=True):
            model.predict_proba_one(features)
            model.learn_one(features, label)
        return 1e9 * (time.process_time() - began_s) / len(rows)

    return run
