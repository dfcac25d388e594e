"""Open Inference Protocol v2, the ranking call and the explaining one: bytes to features, scores to bytes. No I/O.

One tensor per input, shape [n] or [n, 1], one value per row; null is a missing value, and an input that is left out
is missing in all rows. A multi-valued input is a tensor [n, m], or [n] whose data are lists of any length (JSON
allows it, tensors do not). A tensor that no field reads is ignored, as in training. The datatype must fit the data,
and the field must take the data: 7 and "7" are one category, "7" is no number.

A model of clicks gives the output `probability`; one that learned by squared loss `prediction`, by hinge `margin`.
Where a model knows how sure it is (Kalman parts), there are two outputs more: `logit`, before the link, and `variance`,
the logit's. `infer` gives them if `outputs` names them. `parameters` of `infer` and `rank` ask for more than scores:

    {"variance": true}             gives logit and variance beside the score
    {"sample": true, "seed": 7}    gives a score drawn from what the model knows (Thompson sampling), and ranks by it;
                                   same rows, version and seed: same draws; without a seed new ones each time

`logit` and `variance` are the model's own, whatever was drawn. Without Kalman parts both are refused. Other parameters
mean nothing here and are ignored. `explain` takes the features of one row, and gives an `Explanation`.

A score is written with the fewest digits that give back the same float32 (most are ten characters), so that a
client that reads it as a 32-bit float has the learner's own bits.
https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct, field
from numpy.typing import NDArray

from online_fm.model.config import Loss
from online_fm.model.learner import Prediction
from online_fm.serve.explanation import Explanation
from online_fm.serve.scorer import Features, Input, NoVariance, Scorer, put

__all__ = [
    "Answer",
    "ExplainRequest",
    "InferRequest",
    "Parameters",
    "RankRequest",
    "answer",
    "explain_reply",
    "infer_reply",
    "metadata",
    "parse",
    "rank_reply",
    "tensors_to_rows",
    "wanted_outputs",
]

SCORES: dict[Loss, str] = {"log": "probability", "squared": "prediction", "hinge": "margin"}

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
    """The name of an output."""

    name: str


class Parameters(Struct, frozen=True):
    """What `infer` and `rank` may be asked for beyond scores."""

    variance: bool = False
    sample: bool = False
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and not self.sample:
            raise ValueError("a seed is for 'sample': true")


class InferRequest(Struct):
    """`POST .../infer`."""

    inputs: Annotated[list[Tensor], Meta(min_length=1)]
    id: str | None = None
    outputs: list[RequestedOutput] | None = None
    parameters: Parameters | None = None


class Candidate(Struct):
    """An item that could be shown; its features add to the context's, and win over them."""

    id: str | int
    features: dict[str, Any] = field(default_factory=dict)


class RankRequest(Struct):
    """`POST .../rank`: order candidates by their scores, and give the `top` ones or all."""

    candidates: list[Candidate]
    context: dict[str, Any] = field(default_factory=dict)
    top: Annotated[int, Meta(ge=1)] | None = None
    id: str | None = None
    parameters: Parameters | None = None


class ExplainRequest(Struct):
    """`POST .../explain`: why a row of these features has its score."""

    features: dict[str, Any]
    id: str | None = None


class Answer(NamedTuple):
    """Scores f32[n], drawn or not, and the prediction behind them."""

    scores: NDArray[np.float32]
    prediction: Prediction


Request = TypeVar("Request", InferRequest, RankRequest, ExplainRequest)


def parse(body: bytes, kind: type[Request]) -> Request:
    """Raises ValueError with the place of what does not fit."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc


def answer(scorer: Scorer, parameters: Parameters | None, rows: Sequence[Features]) -> Answer:
    """Score the rows as the request wants it. Raises ValueError for what cannot be scored, or not so."""
    asked = parameters or Parameters()
    if (asked.variance or asked.sample) and not scorer.has_variance:
        raise NoVariance
    prediction = scorer.predict(rows)
    return Answer(scorer.draw(prediction, asked.seed) if asked.sample else prediction.p, prediction)


def tensors_to_rows(request: InferRequest, inputs: Mapping[str, Input]) -> list[dict[str, object]]:
    """Features of each row. Raises ValueError naming the tensor that does not fit."""
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


def wanted_outputs(request: InferRequest, scorer: Scorer) -> list[str]:
    """The names of the outputs that the reply holds. Raises ValueError naming one that there is not."""
    there = _output_names(scorer)
    for output in request.outputs or ():
        if output.name not in there:
            raise ValueError(f"there is no output '{output.name}', only {', '.join(map(repr, there))}")
    if request.outputs:
        return [output.name for output in request.outputs]
    return there if _with_variance(request) else there[:1]


def infer_reply(model: str, scorer: Scorer, request: InferRequest, wanted: Sequence[str], given: Answer) -> bytes:
    """The reply to `infer`, with these outputs."""
    tensors = _outputs(scorer, given)
    outputs = [
        {"name": name, "datatype": "FP32", "shape": [len(given.scores)], "data": _shortest(tensors[name])}
        for name in wanted
    ]
    return msgspec.json.encode({**_head(model, scorer, request.id), "outputs": outputs})


def rank_reply(model: str, scorer: Scorer, request: RankRequest, given: Answer) -> bytes:
    """The reply to `rank`: highest score first, equal ones in the order of the request."""
    order = np.argsort(-given.scores, kind="stable")[: request.top]
    tensors = {name: _shortest(tensor[order]) for name, tensor in _outputs(scorer, given).items()}
    name, *more = tensors
    shown = (name, "index", *(more if _with_variance(request) else ()))
    columns = {**tensors, "index": order.tolist()}
    ids = [request.candidates[index].id for index in columns["index"]]
    ranking = [
        {"id": each, **dict(zip(shown, row, strict=True))}
        for each, row in zip(ids, zip(*(columns[name] for name in shown), strict=True), strict=True)
    ]
    return msgspec.json.encode({**_head(model, scorer, request.id), "ranking": ranking})


def explain_reply(model: str, scorer: Scorer, request: ExplainRequest, given: Explanation) -> bytes:
    """The reply to `explain`."""
    return msgspec.json.encode({**_head(model, scorer, request.id), "explanation": given})


def _with_variance(request: InferRequest | RankRequest) -> bool:
    return request.parameters is not None and request.parameters.variance


def _output_names(scorer: Scorer) -> list[str]:
    """The outputs that there are, the score's first."""
    return [SCORES[scorer.loss], *["logit", "variance"] * scorer.has_variance]


def _outputs(scorer: Scorer, given: Answer) -> dict[str, NDArray[np.float32]]:
    every = (given.scores, given.prediction.logit, given.prediction.variance)
    return dict(zip(_output_names(scorer), every, strict=False))


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
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1]} for name in _output_names(scorer)],
        }
    )


def _head(model: str, scorer: Scorer, request_id: str | None) -> dict[str, str]:
    head = {"model_name": model, "model_version": str(scorer.version)}
    return head if request_id is None else {**head, "id": request_id}


def _shortest(scores: NDArray[np.float32]) -> list[float]:
    return [float(str(score)) for score in scores]
