"""Serving over HTTP: Open Inference Protocol v2, a ranking call, an explaining one, metrics.

    GET  /v2                       GET  /v2/models/{name}[/versions/{version}][/ready]
    GET  /v2/health/live|ready     POST /v2/models/{name}[/versions/{version}]/infer|rank|explain
    GET  /metrics

Invariant: a reply comes from one snapshot, the one named in it, and every failure is `{"error": "..."}` with 400, 404,
405, 408, 413 or 503. There is one version at a time: a request for another is 404. Before the first snapshot the
process is live, not ready, and has no scores to give (503); nor is it ready once nobody follows the snapshots. A
request takes the scorer when its body is there, so that a caller who stalls keeps no old model in memory.

Rows are scored on the event loop, between requests. Encoding holds the interpreter's lock, so that a thread's
detour made neither requests of 1,000 rows quicker (7.5 ms, 8.9 with threads) nor those of one row beside them
(p99 12 ms either way). `max_rows` bounds how long others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from online_fm import __version__
from online_fm.errors import StateError
from online_fm.serve.config import ServeConfig
from online_fm.serve.protocol import (
    Answer,
    ExplainRequest,
    InferRequest,
    RankRequest,
    answer,
    explain_reply,
    infer_reply,
    metadata,
    parse,
    rank_reply,
    tensors_to_rows,
    wanted_outputs,
)
from online_fm.serve.scorer import Features, Scorer
from online_fm.serve.slot import Slot
from online_fm.telemetry.http import metrics_route
from online_fm.telemetry.metrics import ServeMetrics

__all__ = ["application"]

Endpoint = Callable[[Request], Awaitable[Response]]
Asked = TypeVar("Asked", InferRequest, RankRequest, ExplainRequest)
Given = TypeVar("Given")

_BINARY: Final = "inference-header-content-length"
_ROWS: Final = "online_fm.rows"
_REPEATED: Final = 16  # contexts, one per candidate, may take so many times `max_body_bytes`
_GONE: Final = 499  # the caller left before the reply; never seen by anyone, but counted


def application(
    slot: Slot, config: ServeConfig, metrics: ServeMetrics, following: Callable[[], bool] = lambda: True
) -> ASGIApp:
    """The ASGI application that serves what the slot holds; `following` tells whether somebody still fills it."""
    endpoints = _Endpoints(slot, config, following)
    routes = [*endpoints.routes(), metrics_route(metrics.registry)]
    templates = {route.endpoint: route.path for route in reversed(routes)}
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _refusal,
            StateError: _not_yet,
            ClientDisconnect: _gone,
            Exception: _failure,
        },
    )
    return _Observed(app, metrics, templates)


class _Endpoints:
    """One method per endpoint."""

    def __init__(self, slot: Slot, config: ServeConfig, following: Callable[[], bool]) -> None:
        self._slot = slot
        self._config = config
        self._following = following

    def routes(self) -> list[Route]:
        model = "/v2/models/{name}"
        both = (model, model + "/versions/{version}")
        paths: list[tuple[str, Endpoint, str]] = [
            ("/v2", self.server, "GET"),
            ("/v2/health/live", self.live, "GET"),
            ("/v2/health/ready", self.ready, "GET"),
            *((path, self.model, "GET") for path in both),
            *((path + "/ready", self.model_ready, "GET") for path in both),
            *((path + "/infer", self.infer, "POST") for path in both),
            *((path + "/rank", self.rank, "POST") for path in both),
            *((path + "/explain", self.explain, "POST") for path in both),
        ]
        return [Route(path, endpoint, methods=[method]) for path, endpoint, method in paths]

    async def server(self, _: Request) -> Response:
        return _json({"name": "online_fm", "version": __version__, "extensions": ["rank", "explain"]})

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self._ready()
        return _json({"live": True, "ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        self._check_name(request)
        ready = self._ready()
        if ready:
            self._scorer(request)
        return _json({"name": self._config.name, "ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        return _reply(metadata(self._config.name, self._scorer(request)))

    async def infer(self, request: Request) -> Response:
        self._check_name(request)
        if _BINARY in request.headers:
            raise HTTPException(400, "tensors in binary form are not supported: send them as JSON")
        body = await self._body(request)
        scorer = self._scorer(request)
        asked = _parsed(body, InferRequest)
        self._check_rows(asked.inputs[0].shape[0])
        wanted = _tried(lambda: wanted_outputs(asked, scorer))
        rows = _tried(lambda: tensors_to_rows(asked, scorer.inputs))
        given = _scored(request, lambda: answer(scorer, asked.parameters, rows))
        return _reply(infer_reply(self._config.name, scorer, asked, wanted, given))

    async def rank(self, request: Request) -> Response:
        self._check_name(request)
        body = await self._body(request)
        scorer = self._scorer(request)
        asked = _parsed(body, RankRequest)
        self._check_rows(len(asked.candidates))
        context = scorer.known(asked.context)
        self._check_repeated(context, len(asked.candidates))
        rows = scorer.candidates(context, [each.features for each in asked.candidates])
        given = _scored(request, lambda: answer(scorer, asked.parameters, rows))
        return _reply(rank_reply(self._config.name, scorer, asked, given))

    async def explain(self, request: Request) -> Response:
        self._check_name(request)
        body = await self._body(request)
        scorer = self._scorer(request)
        asked = _parsed(body, ExplainRequest)
        given = _tried(lambda: scorer.explain(asked.features))
        return _reply(explain_reply(self._config.name, scorer, asked, given))

    def _ready(self) -> bool:
        return self._slot.scorer is not None and self._following()

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._config.name:
            raise HTTPException(404, f"there is no model '{name}', only '{self._config.name}'")

    def _scorer(self, request: Request) -> Scorer:
        """The scorer that is served, if the path asks for it."""
        self._check_name(request)
        scorer = self._slot.take()
        version = request.path_params.get("version", str(scorer.version))
        if version != str(scorer.version):
            raise HTTPException(404, f"version {version} is not served, version {scorer.version} is")
        return scorer

    async def _body(self, request: Request) -> bytes:
        """The body, given up as soon as it is too long or too late, whatever its header says."""
        limit, limit_s = self._config.max_body_bytes, self._config.body_timeout_s
        body = bytearray()
        try:
            async with asyncio.timeout(limit_s):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > limit:
                        raise HTTPException(413, f"the request's body is longer than {limit} bytes")
        except TimeoutError as exc:
            why = f"the request's body did not come within {limit_s:g} s"
            raise HTTPException(408, why, {"Connection": "close"}) from exc
        return bytes(body)

    def _check_rows(self, n: int) -> None:
        if n > self._config.max_rows:
            raise HTTPException(413, f"{n} rows in a request, and at most {self._config.max_rows} are scored")

    def _check_repeated(self, context: Features, n: int) -> None:
        """What is sent once is read n times: a text of megabytes would become gigabytes."""
        size = len(msgspec.json.encode(context))
        limit = _REPEATED * self._config.max_body_bytes
        if size * n > limit:
            raise HTTPException(
                413, f"a context of {size} bytes for {n} candidates, and at most {limit // n} are scored"
            )


def _parsed(body: bytes, kind: type[Asked]) -> Asked:
    return _tried(lambda: parse(body, kind))


def _scored(request: Request, score: Callable[[], Answer]) -> Answer:
    given = _tried(score)
    request.scope[_ROWS] = len(given.scores)
    return given


def _tried(work: Callable[[], Given]) -> Given:
    """What `work` gives; what it cannot do with the request is 400."""
    try:
        return work()
    except ValueError as exc:
        raise HTTPException(400, str(exc)) from exc


def _reply(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return _reply(msgspec.json.encode(content), status)


async def _refusal(_: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    response = _json({"error": exc.detail}, exc.status_code)
    response.headers.update(exc.headers or {})
    return response


async def _not_yet(_: Request, exc: Exception) -> Response:
    return _json({"error": str(exc)}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _gone(_: Request, __: Exception) -> Response:
    return _json({"error": "the caller left"}, _GONE)


async def _failure(_: Request, __: Exception) -> Response:
    """Starlette raises the exception again, and uvicorn logs it."""
    return _json({"error": "internal error"}, HTTPStatus.INTERNAL_SERVER_ERROR)


class _Observed:
    """Counts and times every request, by the template of its path."""

    def __init__(self, app: ASGIApp, metrics: ServeMetrics, templates: dict[Any, str]) -> None:
        self._app = app
        self._metrics = metrics
        self._templates = templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = HTTPStatus.INTERNAL_SERVER_ERROR.value
        started_s = time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            route = self._templates.get(scope.get("endpoint"), "other")
            self._metrics.request(route, status, time.perf_counter() - started_s, scope.get(_ROWS, 0))
