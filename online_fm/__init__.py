"""online_fm: learn click-through models event by event from Kafka, and serve them while they learn."""

from __future__ import annotations

__all__ = ["__version__"]

__version__ = "0.1.0"
