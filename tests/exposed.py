"""What the two processes expose, and what a PromQL expression asks for."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from online_fm.telemetry.metrics import ServeMetrics, WorkerMetrics

SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
}


def families() -> dict[str, set[str]]:
    """Names of samples, per family, of the worker and of serving together."""
    registries = CollectorRegistry(), CollectorRegistry()
    WorkerMetrics(registries[0])
    ServeMetrics(registries[1])
    return {
        family.name: {family.name + suffix for suffix in SUFFIXES[family.type]}
        for registry in registries
        for family in registry.collect()
    }


def asked_for(expression: str) -> set[str]:
    """Names of samples in a PromQL expression."""
    return set(re.findall(r"\b(?:online_fm|process|python)_[a-z0-9_]+", expression))
