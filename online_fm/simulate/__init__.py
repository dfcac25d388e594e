"""Synthetic traffic whose true click probability, and therefore the best reachable log-loss, is known."""

from __future__ import annotations

from online_fm.simulate.config import SimulateConfig
from online_fm.simulate.sink import FileSink, Sink, run
from online_fm.simulate.stream import Chunk, Lines, Simulator
from online_fm.simulate.truth import Truth

__all__ = ["Chunk", "FileSink", "Lines", "SimulateConfig", "Simulator", "Sink", "Truth", "run"]
