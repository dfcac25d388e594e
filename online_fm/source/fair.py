"""Fair shares: how many records each partition gives to a batch of a bounded size.

Invariant: the shares add up to `min(limit, sum(available))`, none is larger than what is available, and two
partitions that both have more to give differ by at most one record.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["shares"]


def shares(available: Sequence[int], limit: int) -> list[int]:
    """Divide `limit` records over partitions that have `available` ones; the first get the odd record."""
    given = [0] * len(available)
    hungry = [i for i, n in enumerate(available) if n > 0]
    while hungry and limit >= len(hungry):
        each = limit // len(hungry)
        for i in hungry:
            more = min(each, available[i] - given[i])
            given[i] += more
            limit -= more
        hungry = [i for i in hungry if given[i] < available[i]]
    for i in hungry[:limit]:
        given[i] += 1
    return given
