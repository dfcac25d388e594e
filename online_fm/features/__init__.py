"""From an impression's features to numbers: one encoder for training and serving."""

from __future__ import annotations
