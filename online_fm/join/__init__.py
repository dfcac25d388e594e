"""Impressions and clicks become examples: merge by event time, wait for the label, release.

Symbols, here and below: `ts` event time of a record; `key` the running maximum of `ts` within its partition, the
merge's order; `stream` the stream time, the key of the last merged record; `window` how long after an impression a
click counts; `grace` how long records may come late; `horizon = window + grace`. All in ms.
"""

from __future__ import annotations
