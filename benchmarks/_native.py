"""The hand-written C of `_kernels.c`, compiled where it runs: what this machine allows, to judge our kernels by."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _peers import CACHE
from numpy.typing import NDArray

from online_fm.model.state import reserved

__all__ = ["compile_kernels", "lr", "pairwise"]

SOURCE = Path(__file__).with_name("_kernels.c")
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")  # without errno: roots in vector registers
HEAD = 4

Train = Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32]]


def compile_kernels(k: int, fields: int, lanes: int) -> ctypes.CDLL:
    """The library for k factors, so many fields, vectors of `lanes` floats; made once for each source and host."""
    made_of = repr((SOURCE.read_text(), FLAGS, os.uname())).encode()
    library = CACHE / f"kernels-{k}-{fields}-{lanes}-{hashlib.sha256(made_of).hexdigest()[:12]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(".new")
        defines = f"-DK={k}", f"-DFIELDS={fields}", f"-DLANES={lanes}"
        subprocess.run([os.environ.get("CC", "cc"), *FLAGS, *defines, str(SOURCE), "-o", fresh, "-lm"], check=True)
        fresh.rename(library)
    return ctypes.CDLL(str(library))


def lr(size: int, fields: int) -> Train:
    """LR with FTRL (alpha .1, beta 1) over `size` records."""
    return _trainer("lr_ftrl", compile_kernels(8, fields, 8), reserved(size, HEAD), 0.1, 1.0)


def pairwise(kind: str, k: int, size: int, fields: int) -> Train:
    """FM or FFM with AdaGrad (eta .1, a0 1) over `size` records, factors of standard deviation .03."""
    used, lanes = (k, min(k, 16)) if kind == "fm" else (fields * k, 16)
    wide = -(-used // lanes) * lanes
    stride = HEAD + 2 * wide if kind == "fm" else -(-(HEAD + 2 * wide) // 16) * 16
    records = reserved(size, stride)
    rng = np.random.default_rng(1)
    for part in range(0, size, 1 << 14):
        rows = records[part : part + (1 << 14)]
        rows[:, HEAD : HEAD + used] = 0.03 * rng.standard_normal((len(rows), used), np.float32)
    return _trainer(f"{kind}_adagrad", compile_kernels(k, fields, lanes), records, 0.1, 1.0)


def _trainer(name: str, library: ctypes.CDLL, records: NDArray[np.float32], rate: float, start: float) -> Train:
    function = library[name]
    function.restype = None
    w0 = np.zeros(3, np.float32)

    def train(slot: NDArray[np.int32], label: NDArray[np.float32]) -> NDArray[np.float32]:
        """Predict, then learn each row; slot i32[n, fields]."""
        p = np.empty(len(label), np.float32)
        function(
            ctypes.c_int64(len(label)), _at(slot), _at(label), _at(records), _at(w0),
            ctypes.c_float(rate), ctypes.c_float(start), _at(p),
        )  # fmt: skip
        return p

    return train


def _at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
