"""Bytes read where they lie, eight at once: what hashing and scanning are made of.

`text = origin(data)` stands for an array of bytes; `byte(text, at)`, `half(text, at)` and `word(text, at)` read 1, 4
and 8 of them as one number, little end first, and `first_byte(flags)` is the place of the lowest byte that has a bit
set. Compiled, nothing is checked, and no reference to the array is held: who calls keeps it, and reads within it.

Two bodies: LLVM loads (`words_llvm`), and NumPy with every bound checked (`words_numpy`): with `NUMBA_DISABLE_JIT=1`,
and for the type checker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING or numba.config.DISABLE_JIT:
    from online_fm.features.words_numpy import Text, byte, first_byte, half, origin, word
else:
    from online_fm.features.words_llvm import Text, byte, first_byte, half, origin, word

__all__ = ["Text", "byte", "first_byte", "half", "origin", "word"]
