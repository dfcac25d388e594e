"""Checkpoints and snapshots: their bytes (`format`) and where the bytes rest (`store`)."""

from __future__ import annotations
