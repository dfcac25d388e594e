"""Serving: the newest good snapshot, behind HTTP (`server`) or inside a user's own service (`live`)."""

from __future__ import annotations
