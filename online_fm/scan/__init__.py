"""Scan: bytes to facts and rows in one compiled pass, and the general way for what is unusual."""

from __future__ import annotations
