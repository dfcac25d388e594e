"""Run by the peers' interpreter: xLearn over one text file, with AdaGrad, on one thread; prints a line per epoch.

    python _run_xlearn.py fm|ffm FILE K RATE EPOCHS [normed] [--disk]

Each line has the training loss, of which every term is from before its own update, and the seconds. With --disk the
rows are taken in the order of the file, else they are shuffled. The model is not kept.
"""

from __future__ import annotations

import sys

import xlearn

kind, path, k, rate, epochs = sys.argv[1:6]
model = xlearn.create_fm() if kind == "fm" else xlearn.create_ffm()
model.setTrain(path)
if "normed" not in sys.argv:
    model.disableNorm()
model.disableLockFree()
if "--disk" in sys.argv:
    model.setOnDisk()
settings = {"task": "binary", "opt": "adagrad", "lr": float(rate), "lambda": 0.0, "k": int(k), "epoch": int(epochs)}
model.fit({**settings, "nthread": 1}, "none")
