"""The types of the models' kernels: compiled when a learner is made, never in the middle of a stream.

All models take the same arguments; LR leaves those of factors alone.
"""

from __future__ import annotations

from numba import types

from online_fm.model.kernels import array_of

__all__ = ["PREDICT", "STEP"]

_ROWS = (
    array_of(types.int64),  # ptr[n + 1]
    array_of(types.uint16),  # fld[nnz]
    array_of(types.uint32),  # key[nnz]
    array_of(types.float32),  # val[nnz]
    array_of(types.int32),  # slot[nnz], 0 where the feature has no record
)
_F32 = array_of(types.float32)
_RATES = types.UniTuple(types.float32, 5)  # type: ignore[no-untyped-call]
_MEANING = (
    types.int64,  # loss: LOG, SQUARED or HINGE
    types.int64,  # n_fields
    types.uint64,  # seed of the initial factors
    types.float64,  # and their standard deviation
    types.float32,  # the variance of a factor without a record
)
_WRITTEN = array_of(types.float32, written=True)
_GIVEN = (_WRITTEN, _WRITTEN, _WRITTEN)  # p[n], logit[n], variance[n]


def _parameters(*, written: bool) -> tuple[types.Array, ...]:
    return (
        array_of(types.float32, dims=2, written=written),  # records[1 + capacity, stride]
        array_of(types.float32, written=written),  # bias[1 + states]
        array_of(types.float32, dims=2, written=written),  # fields[FIELD_ROWS, n_fields padded]
        array_of(types.float32, dims=3, written=written),  # pairs[2, n_fields, n_fields padded]
    )


PREDICT = types.void(*_ROWS, *_parameters(written=False), *_MEANING, *_GIVEN)
STEP = types.void(
    *_ROWS,
    _F32,  # label[n]
    _F32,  # weight[n]
    array_of(types.boolean),  # learn[n]
    *_parameters(written=True),
    array_of(types.float64, dims=2, written=True),  # evidence[2, n_fields]
    _RATES,  # of w
    _RATES,  # of v
    _RATES,  # of the scales
    types.float64,  # noise
    *_MEANING,
    *_GIVEN,
    array_of(types.boolean, written=True),  # bad[n]
)
