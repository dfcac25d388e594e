"""Training: a pure pipeline, its checkpoints, and the worker that drives both."""

from __future__ import annotations
