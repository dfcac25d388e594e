"""Open Inference Protocol v2 and the ranking call: bytes to features, scores to bytes. No I/O.

One tensor per input, shape [n] or [n, 1], one value per row; null is a missing value, and an input that is left out
is missing in all rows. A multi-valued input is a tensor [n, m], or [n] whose data are lists of any length (JSON
allows it, tensors do not). A tensor that no field reads is ignored, as in training. The datatype must fit the data,
and the field must take the data: 7 and "7" are one category, "7" is no number.

A probability is written with the fewest digits that give back the same float32 (most are ten characters), so that a
client that reads it as a 32-bit float has the learner's own bits.
https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from online_fm.serve.scorer import Input, Scorer, put

__all__ = ["InferRequest", "RankRequest", "infer_reply", "metadata", "parse", "rank_reply", "tensors_to_rows"]

OUTPUT = "probability"

_INTEGERS = {
    **{f"INT{bits}": range(-(2 ** (bits - 1)), 2 ** (bits - 1)) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": range(2**bits) for bits in (8, 16, 32, 64)},
}
_NOTHING = type(None)
_TYPES: dict[str, set[type]] = {
    "BYTES": {str, _NOTHING},
    "BOOL": {bool, _NOTHING},
    **{name: {int, _NOTHING} for name in _INTEGERS},
    **{name: {int, float, _NOTHING} for name in ("FP16", "FP32", "FP64")},
}

Size = Annotated[int, Meta(ge=0)]


class Tensor(Struct):
    """An input: a value or a list of values per row."""

    name: str
    shape: Annotated[list[Size], Meta(min_length=1, max_length=2)]
    datatype: str
    data: list[Any]


class RequestedOutput(Struct):
    """There is one: `probability`."""

    name: str


class InferRequest(Struct):
    """`POST .../infer`; `parameters` are accepted and mean nothing here."""

    inputs: Annotated[list[Tensor], Meta(min_length=1)]
    id: str | None = None
    outputs: list[RequestedOutput] | None = None


class Candidate(Struct):
    """An item that could be shown; its features add to the context's, and win over them."""

    id: str | int
    features: dict[str, Any] = field(default_factory=dict)


class RankRequest(Struct):
    """`POST .../rank`: order candidates by click probability, and give the `top` ones or all."""

    candidates: list[Candidate]
    context: dict[str, Any] = field(default_factory=dict)
    top: Annotated[int, Meta(ge=1)] | None = None
    id: str | None = None


Request = TypeVar("Request", InferRequest, RankRequest)


def parse(body: bytes, kind: type[Request]) -> Request:
    """Raises ValueError with the place of what does not fit."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


def tensors_to_rows(request: InferRequest, inputs: Mapping[str, Input]) -> list[dict[str, object]]:
    """Features of each row. Raises ValueError naming the tensor that does not fit."""
    for output in request.outputs or ():
        if output.name != OUTPUT:
            raise ValueError(f"there is no output '{output.name}', only '{OUTPUT}'")
    n = request.inputs[0].shape[0]
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        if tensor.name in columns:
            raise ValueError(f"input '{tensor.name}' comes twice")
        if tensor.shape[0] != n:
            raise ValueError(f"input '{tensor.name}' has {tensor.shape[0]} rows, and '{request.inputs[0].name}' {n}")
        columns[tensor.name] = _column(tensor)
    known = {name: column for name, column in columns.items() if name in inputs}
    rows: list[dict[str, object]] = [{} for _ in range(n)]
    for name, column in known.items():
        path = inputs[name].path
        for row, value in zip(rows, column, strict=True):
            put(row, path, value)
    return rows


def _column(tensor: Tensor) -> list[Any]:
    """The tensor's value or list of values, row by row."""
    n, *inner = tensor.shape
    width = inner[0] if inner else 1
    flat = _flat(tensor, width) if inner else tensor.data
    if len(flat) != n * width:
        raise ValueError(f"input '{tensor.name}': shape {tensor.shape} needs {n * width} values, not {len(flat)}")
    column = flat if width == 1 else [flat[row * width : (row + 1) * width] for row in range(n)]
    _check_types(tensor, column)
    return column


def _flat(tensor: Tensor, width: int) -> list[Any]:
    """The values of a tensor of two dimensions, row after row; nested data are as good as flat ones."""
    if not any(type(row) is list for row in tensor.data):
        return tensor.data
    if any(type(row) is not list or len(row) != width for row in tensor.data):
        raise ValueError(f"input '{tensor.name}': a row does not have {width} values")
    return list(chain.from_iterable(tensor.data))


def _check_types(tensor: Tensor, column: Sequence[Any]) -> None:
    types = _TYPES.get(tensor.datatype)
    if types is None:
        raise ValueError(f"input '{tensor.name}': datatype {tensor.datatype} is not one of {', '.join(_TYPES)}")
    within = _INTEGERS.get(tensor.datatype)
    for row, value in enumerate(column):
        for each in value if type(value) is list else (value,):
            if type(each) not in types or (each is not None and within is not None and each not in within):
                raise ValueError(f"input '{tensor.name}', row {row}: {each!r:.60} is not {tensor.datatype}")


def infer_reply(model: str, scorer: Scorer, request_id: str | None, scores: NDArray[np.float32]) -> bytes:
    """The reply to `infer`."""
    output = {"name": OUTPUT, "datatype": "FP32", "shape": [len(scores)], "data": _shortest(scores)}
    return msgspec.json.encode({**_head(model, scorer, request_id), "outputs": [output]})


def rank_reply(model: str, scorer: Scorer, request: RankRequest, scores: NDArray[np.float32]) -> bytes:
    """The reply to `rank`: highest probability first, equal ones in the order of the request."""
    order = np.argsort(-scores, kind="stable")[: request.top].tolist()
    ranking = [
        {"id": request.candidates[index].id, "probability": probability, "index": index}
        for index, probability in zip(order, _shortest(scores[order]), strict=True)
    ]
    return msgspec.json.encode({**_head(model, scorer, request.id), "ranking": ranking})


def metadata(model: str, scorer: Scorer) -> bytes:
    """What the model reads and gives; any datatype that the field takes may be sent."""
    inputs = [
        {"name": name, "datatype": "BYTES" if each.text else "FP64", "shape": [-1, -1] if each.several else [-1]}
        for name, each in scorer.inputs.items()
    ]
    return msgspec.json.encode(
        {
            "name": model,
            "versions": [str(scorer.version)],
            "platform": "online_fm",
            "inputs": inputs,
            "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}],
        }
    )


def _head(model: str, scorer: Scorer, request_id: str | None) -> dict[str, str]:
    head = {"model_name": model, "model_version": str(scorer.version)}
    return head if request_id is None else {**head, "id": request_id}


def _shortest(scores: NDArray[np.float32]) -> list[float]:
    return [float(str(score)) for score in scores]
