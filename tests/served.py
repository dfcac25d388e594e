"""Serving without a port: requests to the application, and what came back."""

from __future__ import annotations

import asyncio

import httpx
from prometheus_client import CollectorRegistry

from online_fm.serve.config import ServeConfig
from online_fm.serve.http import application
from online_fm.serve.scorer import Scorer
from online_fm.serve.slot import Slot
from online_fm.telemetry.metrics import ServeMetrics

__all__ = ["CONFIG", "MODEL", "Site", "refused", "scores", "tensor"]

CONFIG = ServeConfig(name="ctr", max_rows=50, max_body_bytes=20_000)
MODEL = "/v2/models/ctr"


class Site:
    """The application without a port: one call, one request."""

    def __init__(self, scorer: Scorer | None, config: ServeConfig = CONFIG) -> None:
        self.slot = Slot()
        if scorer is not None:
            self.slot.swap(scorer)
        self.registry = CollectorRegistry()
        self.following = True
        self.app = application(self.slot, config, ServeMetrics(self.registry), lambda: self.following)

    def ask(self, method: str, path: str, **content) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
                return await client.request(method, path, **content)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def infer(self, *inputs, path: str = f"{MODEL}/infer", **more) -> httpx.Response:
        return self.ask("POST", path, json={"inputs": list(inputs), **more})

    def rank(self, **body) -> httpx.Response:
        return self.ask("POST", f"{MODEL}/rank", json=body)

    def explain(self, **body) -> httpx.Response:
        return self.ask("POST", f"{MODEL}/explain", json=body)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def tensor(name: str, data: list, datatype: str = "BYTES", shape: list[int] | None = None) -> dict:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def scores(reply: httpx.Response) -> list[float]:
    assert reply.status_code == 200, reply.text
    return reply.json()["outputs"][0]["data"]


def refused(reply: httpx.Response, status: int) -> str:
    """The error's text, after the check that the reply is nothing else."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert list(body) == ["error"]
    return body["error"]
