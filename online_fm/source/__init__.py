"""Where records come from: batches with offsets behind one port."""

from __future__ import annotations
