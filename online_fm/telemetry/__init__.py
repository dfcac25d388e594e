"""Telemetry: metrics, logs and health of a running process, and the port that shows them."""

from __future__ import annotations
