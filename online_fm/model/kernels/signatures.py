"""The types of the models' kernels: compiled when a learner is made, never in the middle of a stream."""

from __future__ import annotations

from numba import types

from online_fm.model.kernels import array_of

__all__ = ["PREDICT", "STEP"]

_ROWS = (
    array_of(types.int64),  # ptr[n + 1]
    array_of(types.uint16),  # fld[nnz]
    array_of(types.uint32),  # key[nnz]
    array_of(types.float32),  # val[nnz]
    array_of(types.int32),  # slot[nnz], -1 where the feature has no record
)
_F32 = array_of(types.float32)
_RATES = types.UniTuple(types.float32, 4)  # type: ignore[no-untyped-call]
_INITIAL = (types.int64, types.uint64, types.float64)  # n_fields, seed, init_sd
_WRITTEN = array_of(types.float32, written=True)

PREDICT = types.void(
    *_ROWS,
    array_of(types.float32, dims=2),  # records[capacity, stride]
    _F32,  # w0[1 or 3]
    *_INITIAL,
    _WRITTEN,  # p[n]
)
STEP = types.void(
    *_ROWS,
    _F32,  # label[n]
    _F32,  # weight[n]
    array_of(types.boolean),  # learn[n]
    array_of(types.float32, written=True, dims=2),  # records
    _WRITTEN,  # w0[3]
    _RATES,  # of w
    _RATES,  # of v
    *_INITIAL,
    _WRITTEN,  # p[n]
    array_of(types.boolean, written=True),  # bad[n]
)
