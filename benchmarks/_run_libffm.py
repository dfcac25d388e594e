"""Run by the peers' interpreter: libffm over one .npz file, on one thread; prints a line per epoch.

    python _run_libffm.py FILE K RATE EPOCHS [normed]

The file holds ptr, number, val, label and field (of each numbered feature). Each line has the training loss, of which
every term is from before its own update, and the seconds since the first epoch began. libffm shuffles the rows.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress

import numpy as np
import pylibffm
from scipy.sparse import csr_matrix

path, k, rate, epochs = sys.argv[1:5]
with np.load(path) as data:
    shape = len(data["ptr"]) - 1, len(data["field"])
    rows = csr_matrix((data["val"], data["number"], data["ptr"]), shape)
    label, field = data["label"], data["field"]
settings = {
    "eta": float(rate),
    "lambda": 0.0,
    "k": int(k),
    "nr_iters": int(epochs),
    "normalization": "normed" in sys.argv,
}
with tempfile.TemporaryDirectory() as folder, suppress(ValueError):  # after the losses: a diverged model has no shape
    pylibffm.train(rows, label, field, folder, settings)
