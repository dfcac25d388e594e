"""The configuration: all rooms' own structs in one, from a file, the environment and `--set`."""

from __future__ import annotations

from online_fm.config.sections import Config, learning, load, parse

__all__ = ["Config", "learning", "load", "parse"]
