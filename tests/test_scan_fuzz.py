"""Whichever way a record goes, the result is the same to the bit: generated and mutated records, scanned and decoded.

python tests/test_scan_fuzz.py [RECORDS [SEED]]    many more than here
"""

from __future__ import annotations

import sys

import pytest
from scan_cases import CASES, Case, Maker, bits

from online_fm.scan.scanner import Scanner
from online_fm.source.port import Records


def one_by_one(records: Records) -> list[Records]:
    places = [slice(i, i + 1) for i in range(len(records))]
    return [records[p] for p in places]


def compare(scanner: Scanner, records: Records, *, clicks: bool) -> None:
    """Fail with the records that make the difference."""
    scan, decode = (
        (scanner.clicks, scanner.general_clicks) if clicks else (scanner.impressions, scanner.general_impressions)
    )
    if bits(scan(records)) != bits(decode(records)):
        guilty = [each for each in one_by_one(records) if bits(scan(each)) != bits(decode(each))]
        culprits = [(each.values[0], int(each.timestamps[0])) for each in guilty] or "only together"
        raise AssertionError(f"differ: {culprits}")


def fuzz(case: Case, batches: int, seed: int) -> int:
    """Compare this many batches of a hundred records; how many records that was."""
    scanner = case.scanner()
    compared = 0
    for batch in range(batches):
        maker = Maker(case, seed + batch, odd=(0.0, 0.01, 0.1)[batch % 3])
        for clicks in (False, True):
            records = maker.records(80 - 60 * clicks, clicks=clicks, broken=(0.0, 0.5, 0.8, 0.2)[batch % 4])
            compare(scanner, records, clicks=clicks)
            compared += len(records)
    return compared


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scanned_and_decoded_records_are_the_same_to_the_bit(case) -> None:
    assert fuzz(case, 3000 // 100, seed=0) == 3000


if __name__ == "__main__":
    wanted, first = (int(each) for each in [*sys.argv[1:], "1000000", "1"][:2])
    done = sum(fuzz(case, max(1, wanted // 100 // len(CASES)), first * 10**9) for case in CASES)
    print(f"{done} records: equal")  # noqa: T201
