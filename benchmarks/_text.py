"""Rows as the text that peers read: Vowpal Wabbit's, libFM's and libffm's."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from online_fm.features.batch import Rows

__all__ = ["LETTERS", "write_ffm", "write_fm", "write_vw"]

NAMESPACES = string.ascii_letters + string.digits
LETTERS = len(NAMESPACES)
Word = Callable[[int, int, int], str]


def write_vw(path: Path, rows: Rows, label: NDArray[np.float32]) -> None:
    """A namespace for each field; of one letter where these suffice: `-q ::` then means all pairs of fields."""
    letters = rows.fld.max(initial=0) < LETTERS
    names = NAMESPACES if letters else [f"n{field}" for field in range(1 << 16)]
    _write(path, rows, label, ("-1 ", "1 "), lambda field, key, _number: f"|{names[field]} {key}")


def write_fm(path: Path, rows: Rows, label: NDArray[np.float32], *, exact_keys: bool = False) -> None:
    """`label number:value ...`; features are numbered in the order of (field, key), or by their keys themselves."""
    _write(path, rows, label, ("0 ", "1 "), lambda _field, key, number: f"{key if exact_keys else number}")


def write_ffm(path: Path, rows: Rows, label: NDArray[np.float32], *, exact_keys: bool = False) -> None:
    """`label field:number:value ...`"""
    _write(path, rows, label, ("0 ", "1 "), lambda field, key, number: f"{field}:{key if exact_keys else number}")


def _write(path: Path, rows: Rows, label: NDArray[np.float32], labels: tuple[str, str], word: Word) -> None:
    tags, feature = np.unique(rows.fld.astype(np.uint64) << np.uint64(32) | rows.key, return_inverse=True)
    values, value = np.unique(rows.val, return_inverse=True)
    words = np.array([word(tag >> 32, tag & 0xFFFFFFFF, number) for number, tag in enumerate(tags.tolist())], object)
    ends = np.array([f":{x:g}" for x in values.tolist()], object)
    ptr = rows.ptr.tolist()
    clicked = (label > 0).tolist()
    beside = path.with_suffix(".part")
    with beside.open("w") as file:
        for lo in range(0, len(rows), 4096):  # the words of all rows at once would be gigabytes of pointers
            hi = min(lo + 4096, len(rows))
            part = slice(ptr[lo], ptr[hi])
            found = (words[feature[part]] + ends[value[part]]).tolist()
            for i in range(lo, hi):
                row = found[ptr[i] - ptr[lo] : ptr[i + 1] - ptr[lo]]
                file.write(f"{labels[clicked[i]]}{' '.join(row)}\n")
    beside.replace(path)
